"""A picture saved anew: upright, its first frame, without metadata, and small enough to be sent.

For what cannot be had by leaving out bytes (`worker.metadata`). As little as possible is lost: a JPEG keeps its own
quantisation and subsampling, whatever is not JPEG or WEBP becomes a PNG, and the colour profile stays. What is then
larger than the provider takes, as some are that were packed better, is saved in coarser steps until it fits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, BinaryIO, cast

from PIL import Image, JpegImagePlugin

from models.errors import NotSent, PackshotError, PictureError
from models.pictures import BYTES_MAX, DEEP, LARGE_PX, PIXELS_MAX, SIDE_MAX_PX, SIDE_MAX_PX_ELSE, orientation_of
from worker.disk import of_reading, writing

# A decoded picture is 30 times its file and a turned one twice that: two at once, not a thousand; one large one.
_decoding = threading.BoundedSemaphore(2)
_one_large = threading.Lock()

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")
_COLOURS = {"P": "RGB", "RGBA": "RGB", "1": "L", "LA": "L", "I;16": "L", "I;16B": "L"}  # modes that share a profile
_SIDEWAYS = (5, 6, 7, 8)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# When the first way is too large: (longest side in px or None, quality). The last fits whatever the picture shows.
_COARSER = ((None, 95), (None, 85), (SIDE_MAX_PX_ELSE, 90), (min(SIDE_MAX_PX.values()), 85))


def save(name: str, source: BinaryIO, kind: str, target: BinaryIO, *, limit: int = BYTES_MAX) -> str:
    """Write the picture to `target`; returns the kind it has there.

    Raises PictureError for whatever Pillow makes of a damaged file, NotSent where the target's disk takes no more.
    """
    with _decoding, _opened(name, source, kind) as image, _alone(image):
        image.load()
        if image.mode in DEEP:
            raise PictureError("PictureUnreadable", f"{name} has 32 bits a sample; save it with 8 or 16")
        turn = 1 if kind == "TIFF" else orientation_of(image.info.get("exif", b""))  # Pillow turns TIFF by itself
        for kind_then, shown, how in _ways(image, kind, turn):
            room = _Room(target, limit)
            try:
                shown.save(cast(BinaryIO, room), kind_then, **how)
                room.flush()
            except _Full:
                continue
            return kind_then
    raise PictureError("PictureTooLarge", f"{name} is larger than 10 MB without its metadata; make it smaller")


def check_whole(name: str, source: BinaryIO, kind: str) -> None:
    """A picture nobody opened at planning is decoded once, small where that is possible, before it is bought for."""
    with _decoding, _opened(name, source, kind) as image:
        image.draft("RGB", (image.width // 8, image.height // 8))
        with _alone(image):
            image.load()


def _alone(image: Image.Image) -> AbstractContextManager[Any]:
    return _one_large if image.width * image.height > LARGE_PX else nullcontext()


def _ways(image: Image.Image, kind: str, turn: int) -> Iterator[tuple[str, Image.Image, dict[str, Any]]]:
    """(kind, picture, options of saving), the best first."""
    profile, colours = image.info.get("icc_profile"), _COLOURS.get(image.mode, image.mode)
    upright = image.transpose(_TURNS[turn]) if turn in _TURNS else image
    upright.info = {name: value for name, value in image.info.items() if name == "transparency"}
    if kind == "JPEG":
        best, how = "JPEG", _as_it_was(image, turn)
    elif kind == "WEBP":
        best, how = "WEBP", {"quality": 95}
    else:
        best, how = "PNG", {}
        if upright.mode not in _PNG_MODES:
            upright = _plain(upright)
    fitting = _COLOURS.get(upright.mode, upright.mode) == colours
    yield best, upright, {**how, "icc_profile": profile if fitting else None}
    if upright.mode not in ("L", "RGB", "RGBA", "CMYK"):
        upright = _plain(upright)
    fitting = _COLOURS.get(upright.mode, upright.mode) == colours
    coarser = "WEBP" if kind == "WEBP" or upright.mode == "RGBA" else "JPEG"
    for side, quality in _COARSER:
        if side is not None:
            upright.thumbnail((side, side), Image.Resampling.LANCZOS)
        yield coarser, upright, {"quality": quality, "icc_profile": profile if fitting else None}


def _as_it_was(image: Image.Image, turn: int) -> dict[str, Any]:
    """A JPEG's own tables, turned with it, so that it is neither coarser nor larger afterwards."""
    tables = getattr(image, "quantization", {})
    if not tables:
        return {"quality": 95, "subsampling": 0}
    own = [list(tables[number]) for number in sorted(tables)]
    if turn in _SIDEWAYS:
        own = [[table[8 * (i % 8) + i // 8] for i in range(64)] for table in own]
    found = JpegImagePlugin.get_sampling(cast(JpegImagePlugin.JpegImageFile, image))
    halved_one_way = 0 if turn in _SIDEWAYS else 1  # lying down it would be halved the other way, which Pillow cannot
    return {"qtables": own, "subsampling": {0: 0, 1: halved_one_way, 2: 2}.get(found, 0)}


def _plain(image: Image.Image) -> Image.Image:
    """In a mode every format takes. Pillow clips 16 bits instead of scaling them."""
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value / 256).convert("L")
    plain = image.convert("RGBA" if image.has_transparency_data else "RGB")
    plain.info = {}
    return plain


class _Full(Exception):
    """More was written than may be sent."""


class _Room:
    """What Pillow writes to: a file emptied first, with an end, whose own troubles are not taken for the picture's."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file, self._left = file, limit
        with writing():
            file.seek(0)
            file.truncate()

    def write(self, data: bytes) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise _Full
        with writing():
            return self._file.write(data)

    def flush(self) -> None:
        with writing():
            self._file.flush()


@contextmanager
def _opened(name: str, source: BinaryIO, kind: str) -> Iterator[Image.Image]:
    try:
        source.seek(0)
        with Image.open(source, formats=[kind]) as image:
            if image.width * image.height > PIXELS_MAX:
                raise PictureError("PictureTooLarge", f"{name} has {image.width}x{image.height} pixels")
            yield image
    except PackshotError:
        raise
    except MemoryError as error:
        raise NotSent("NoRoom", f"{name} cannot be made ready: this machine has no memory left for it") from error
    except Exception as error:  # Pillow raises nearly anything on damaged bytes
        if isinstance(error, OSError) and error.errno is not None:  # the file's disk; Pillow's own have no number
            raise of_reading(name, error) from error
        said = str(error) or type(error).__name__
        raise PictureError("PictureUnreadable", f"{name} is not a whole {kind}: {said}") from error

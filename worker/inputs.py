"""The pictures of an edit, made ready to be sent: whole, unchanged since planning, without metadata, from disk.

A local file is hashed before the call and again while it streams; its last byte is followed by the request's end, so
a file that changes in between breaks the call off before the server can carry it out. What decides the way:

    https, http, oss    goes as it is
    file, s3, data      Base64 inside the request up to 7 MB each and 11 MB together (the provider limits the encoded
                        item to 10 MB and the decoded body to 16 MiB), else the provider's temporary upload
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from botocore.exceptions import BotoCoreError, ClientError
from PIL import Image, ImageOps

from models.edit import Edit, Picture
from models.errors import NotSent, PictureError
from models.settings import Settings
from worker import metadata
from worker.metadata import Cut, NotWhole

MAX_BYTES = 10 * 1024 * 1024  # of one picture
INLINE_EACH = 7_000_000
INLINE_TOGETHER = 11_000_000
CHUNK = 3 * 64 * 1024  # a multiple of 3, so that every chunk is whole Base64
MAX_PX = 100_000_000

# Tags of a TIFF file that tell about people, places and machines; those that describe the picture itself stay.
_TELLING = {270, 271, 272, 305, 306, 315, 316, 700, 33432, 33723, 34377, 34665, 34853}
_ORIENTATION = 0x0112
_decoding = threading.BoundedSemaphore(2)  # a decoded picture is 30 times its file: two at once, not a thousand

Upload = Callable[["LocalPicture"], str]


@dataclass
class LocalPicture:
    """An open picture of known content. name: fit to print; sha256: of the file as opened."""

    name: str
    file: BinaryIO
    kind: str
    size: int
    sha256: str
    cuts: list[Cut]

    @property
    def mime(self) -> str:
        return metadata.MIMES[self.kind]

    @property
    def sent_bytes(self) -> int:
        return metadata.sent_size(self.size, self.cuts)

    @property
    def base64_bytes(self) -> int:
        return 4 * ((self.sent_bytes + 2) // 3)

    def chunks(self) -> Iterator[bytes]:
        """The bytes to be sent, from disk. Raises PictureError at the end if they are not those that were hashed."""
        digest, at = hashlib.sha256(), 0
        self.file.seek(0)
        for cut in [*self.cuts, Cut(self.size, self.size)]:
            for block in self._blocks(cut.start - at):
                digest.update(block)
                yield block
            if cut.instead:
                yield cut.instead
            for block in self._blocks(cut.end - cut.start):
                digest.update(block)
            at = cut.end
        if digest.hexdigest() != self.sha256:
            raise PictureError("PictureChanged", f"{self.name} changed while it was being sent")

    def base64_chunks(self) -> Iterator[bytes]:
        rest = b""
        for block in self.chunks():
            data = rest + block if rest else block
            whole = len(data) - len(data) % 3
            rest = data[whole:]
            yield binascii.b2a_base64(data[:whole] if rest else data, newline=False)
        yield binascii.b2a_base64(rest, newline=False)

    def _blocks(self, count: int) -> Iterator[bytes]:
        while count > 0:
            try:
                block = self.file.read(min(count, CHUNK))
            except OSError as error:
                raise PictureError("PictureUnreadable", f"{self.name}: {error.strerror}") from error
            if not block:
                raise PictureError("PictureChanged", f"{self.name} became shorter while it was being sent")
            count -= len(block)
            yield block


class Inputs:
    """Shared by all threads. s3: gives the client for `s3://` pictures, asked for when the first one comes."""

    def __init__(self, settings: Settings, s3: Callable[[], Any] | None = None) -> None:
        self._settings = settings
        self._s3 = s3 or (lambda: _shared_client(settings))

    @contextmanager
    def prepare(self, edit: Edit, upload: Upload) -> Iterator[list[str | LocalPicture]]:
        """What goes into the request for each picture: an address, or an open picture to be sent as Base64.

        Raises PictureError, or NotSent where a store or the upload cannot be reached; nothing was bought then.
        """
        with ExitStack() as stack:
            ready = [self._ready(picture, stack) for picture in edit.pictures]
            for index in _too_much([p.sent_bytes if isinstance(p, LocalPicture) else 0 for p in ready]):
                ready[index] = upload(cast(LocalPicture, ready[index]))
            yield ready

    def _ready(self, picture: Picture, stack: ExitStack) -> str | LocalPicture:
        if picture.ref.startswith("data:"):
            data = _decoded(picture.ref)
            if data is None:
                return picture.ref
            return self._opened("a data: picture", stack.enter_context(BytesIO(data)), Picture(""), stack)
        if picture.ref.startswith("s3://"):
            file = stack.enter_context(_temporary())
            self._fetch(picture.ref, file)
            opened = self._opened(picture.ref, file, picture, stack)
            _check_whole(opened)
            return opened
        if not picture.is_local:
            return picture.ref
        try:
            file = stack.enter_context(Path(picture.ref).open("rb"))  # noqa: SIM115 - the stack closes it
        except FileNotFoundError:
            raise PictureError("PictureMissing", f"{picture.ref} is not there any more") from None
        except OSError as error:
            raise PictureError("PictureUnreadable", f"{picture.ref}: {error.strerror}") from error
        return self._opened(picture.ref, file, picture, stack)

    def _opened(self, name: str, file: BinaryIO, planned: Picture, stack: ExitStack) -> LocalPicture:
        size, sha256 = _measure(name, file)
        if planned.size not in (None, size) or planned.sha256 not in (None, sha256):
            raise PictureError("PictureChanged", f"{name} is not the file that was planned; plan the batch anew")
        file.seek(0)
        kind = metadata.kind_of(file.read(metadata.HEAD_BYTES))
        if kind is None:
            raise PictureError("PictureUnreadable", f"{name} is not a JPG, PNG, WEBP, GIF, BMP or TIFF picture")
        picture = LocalPicture(name, file, kind, size, sha256, [])
        return picture if self._settings.keep_metadata else _without_metadata(picture, stack)

    def _fetch(self, ref: str, file: BinaryIO) -> None:
        bucket, _, key = ref.removeprefix("s3://").partition("/")
        try:
            body = self._s3().get_object(Bucket=bucket, Key=key)["Body"]
            try:
                count = 0
                for block in body.iter_chunks(1 << 18):
                    count += len(block)
                    if count > MAX_BYTES:
                        raise _too_large(ref)
                    file.write(block)
            finally:
                body.close()
        except ClientError as error:
            raise _of_store(ref, error) from error
        except BotoCoreError as error:
            raise NotSent("PictureUnavailable", f"{ref}: {error}") from error


def _without_metadata(picture: LocalPicture, stack: ExitStack) -> LocalPicture:
    """By leaving out byte ranges where that is possible, else by saving it anew: turned, TIFF and GIF, odd files."""
    try:
        picture.cuts = metadata.cuts(picture.file, picture.kind, picture.size)
        if metadata.orientation(picture.file, picture.cuts) == 1 and not _tells(picture):
            return picture
    except NotWhole:
        pass  # Pillow forgives some junk between blocks; what it cannot read either is refused there
    file = stack.enter_context(_temporary())
    kind = _save_anew(picture, file)
    size, sha256 = _measure(picture.name, file)
    return LocalPicture(picture.name, file, kind, size, sha256, [])


def _tells(picture: LocalPicture) -> bool:
    if picture.kind not in ("TIFF", "GIF"):
        return False
    with _image(picture) as image:
        if picture.kind == "GIF":
            return bool({"comment", "xmp"} & set(image.info))
        tags = image.getexif()
        return bool(_TELLING & set(tags)) or tags.get(_ORIENTATION, 1) != 1


def _save_anew(picture: LocalPicture, file: BinaryIO) -> str:
    """Upright and without metadata; colour profile kept. Returns the kind: TIFF and GIF become PNG."""
    kind = picture.kind if picture.kind in ("JPEG", "WEBP") else "PNG"
    quality: dict[str, Any] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}.get(kind, {})
    with _decoding, _image(picture) as image:
        upright = ImageOps.exif_transpose(image)
        if kind == "PNG" and upright.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            upright = upright.convert("RGB")
        profile = image.info.get("icc_profile") if upright.mode == image.mode else None
        upright.info = {k: v for k, v in upright.info.items() if k == "transparency"}
        upright.save(file, kind, icc_profile=profile, **quality)
    return kind


def _check_whole(picture: LocalPicture) -> None:
    """A picture nobody opened at planning is decoded once, small, before it is bought for."""
    with _decoding, _image(picture) as image:
        image.draft("RGB", (image.width // 8, image.height // 8))
        image.load()


@contextmanager
def _image(picture: LocalPicture) -> Iterator[Image.Image]:
    picture.file.seek(0)
    try:
        with Image.open(picture.file, formats=[picture.kind]) as image:
            if image.width * image.height > MAX_PX:
                raise PictureError("PictureTooLarge", f"{picture.name} has {image.width}x{image.height} pixels")
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError("PictureUnreadable", f"{picture.name} is not a whole {picture.kind}: {error}") from error


def _measure(name: str, file: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    file.seek(0)
    try:
        while block := file.read(CHUNK):
            size += len(block)
            if size > MAX_BYTES:
                raise _too_large(name)
            digest.update(block)
    except OSError as error:
        raise PictureError("PictureUnreadable", f"{name}: {error.strerror}") from error
    return size, digest.hexdigest()


def _too_much(sizes: list[int]) -> Iterator[int]:
    """Which pictures do not fit into the request: those too large alone, then the largest until the rest fits."""
    together = sum(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        if sizes[index] > INLINE_EACH or together > INLINE_TOGETHER:
            together -= sizes[index]
            yield index


def _decoded(uri: str) -> bytes | None:
    """The bytes of a Base64 `data:` picture of a kind we know, else None: then it goes as it is."""
    head, _, data = uri.partition(",")
    if not head.endswith(";base64") or len(data) > 4 * MAX_BYTES // 3 + 4:
        return None
    try:
        decoded = base64.b64decode(data, validate=True)
    except ValueError:
        return None
    return decoded if metadata.kind_of(decoded[: metadata.HEAD_BYTES]) else None


def _too_large(name: str) -> PictureError:
    return PictureError("PictureTooLarge", f"{name} is larger than 10 MB; make it smaller")


def _of_store(ref: str, error: ClientError) -> PictureError | NotSent:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if status == 404:
        return PictureError("PictureMissing", f"{ref} is not there ({code})")
    if status in (400, 401, 403):
        return PictureError("PictureForbidden", f"{ref} may not be read with these AWS settings ({code})")
    return NotSent("PictureUnavailable", f"{ref}: {code or status}")


def _temporary() -> Any:
    return tempfile.TemporaryFile(prefix="packshot-")


def _shared_client(settings: Settings) -> Any:
    from worker.bucket import s3_client  # boto3 takes a while to import; most batches read no s3:// pictures

    return s3_client(settings)

"""Is a TIFF file one picture and nothing else? Its parts lie anywhere, joined by addresses, so none can be cut out.

It goes as it is only where every byte is accounted for by tags that draw the one frame it has. Otherwise it is saved
anew: more frames, any other tag (names, places, machines, Photoshop's layers), strips that are files of their own
(JPEG brings its own blocks), or bytes that nothing points to.
Source: TIFF 6.0, sections 2 and 8; https://www.loc.gov/preservation/digital/formats/content/tiff_tags.shtml
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

_COMPRESSION, _ORIENTATION = 259, 274
_PLACES = {273: 279, 324: 325}  # where strips and tiles begin: how long they are
_DRAWS = {
    *(254, 255, 256, 257, 258, _COMPRESSION, 262, 263, 264, 265, 266),
    *(273, _ORIENTATION, 277, 278, 279, 280, 281, 282, 283, 284),
    *(290, 291, 292, 293, 296, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325),
    *(332, 334, 336, 338, 339, 340, 341, 529, 530, 531, 532, 34675),
}
_PIXELS_ONLY = {1, 2, 3, 4, 5, 8, 32773, 32946}  # none, fax, LZW, deflate, PackBits: a stream without blocks of its own
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_GAP_MAX = 4096  # of zeros, as writers leave to begin parts at round addresses


class SaveAnew(Exception):
    """The file cannot be had clean by leaving bytes out, or is broken. `str()` says why."""


def read(file: BinaryIO, at: int, count: int) -> bytes:
    """Exactly `count` bytes. Raises SaveAnew where the file ends before."""
    file.seek(at)
    data = file.read(count)
    if len(data) < count:
        raise SaveAnew(f"it ends at byte {at + len(data)} in the middle of a block")
    return data


def check(file: BinaryIO, size: int) -> None:
    """Raises SaveAnew unless the file may be sent as it is."""
    head = read(file, 0, 8)
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(head[:4])
    if order is None:
        raise SaveAnew("it is a BigTIFF")
    (at,) = struct.unpack(f"{order}I", head[4:])
    (count,) = struct.unpack(f"{order}H", read(file, at, 2))
    directory = read(file, at + 2, 12 * count + 4)
    if any(directory[-4:]):
        raise SaveAnew("it holds several frames")
    used = [(0, 8), (at, at + 6 + 12 * count)]
    numbers: dict[int, list[int]] = {}
    for tag, form, length, value in struct.iter_unpack(f"{order}HHI4s", directory[:-4]):
        bytes_ = _WIDTHS.get(form, 0) * length
        if tag not in _DRAWS or not 0 < bytes_ < size:
            raise SaveAnew(f"tag {tag} is not needed for drawing")
        if bytes_ > 4:
            (place,) = struct.unpack(f"{order}I", value)
            used.append((place, place + bytes_))
            value = read(file, place, bytes_)
        if form in (3, 4):
            numbers[tag] = list(struct.unpack_from(f"{order}{length}{'H' if form == 3 else 'I'}", value))
    if numbers.get(_ORIENTATION, [1]) != [1]:
        raise SaveAnew("it lies on its side")
    if not set(numbers.get(_COMPRESSION, [1])) <= _PIXELS_ONLY:
        raise SaveAnew("its strips are files of their own")
    used.extend(_pixels(numbers))
    _check_all_used(file, sorted(used), size)


def _pixels(numbers: dict[int, list[int]]) -> Iterator[tuple[int, int]]:
    for place, length in _PLACES.items():
        places, lengths = numbers.get(place, []), numbers.get(length, [])
        if len(places) != len(lengths):
            raise SaveAnew("its strips have no length")
        yield from ((at, at + count) for at, count in zip(places, lengths, strict=True))


def _check_all_used(file: BinaryIO, used: list[tuple[int, int]], size: int) -> None:
    reached = 0
    for start, end in [*used, (size, size)]:
        gap = start - reached
        if gap > _GAP_MAX or (gap > 0 and any(read(file, reached, gap))):
            raise SaveAnew(f"nothing points to byte {reached}")
        reached = max(reached, end)
    if reached > size:
        raise SaveAnew(f"it should have {reached} bytes and has {size}")

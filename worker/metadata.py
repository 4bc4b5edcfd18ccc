"""What a picture file tells besides the picture, and how to leave it out without touching a pixel.

JPEG, PNG and WEBP are containers: metadata are blocks with a length, so leaving them out is skipping byte ranges
(`Cut`) while the file streams by. Kept is what decides colours: ICC profile, JFIF, Adobe's colour transform, gamma.
Dropped is everything that is not known to be needed: EXIF with GPS and its thumbnail, XMP, IPTC, comments, maker's
blocks, and what phones append after the picture's end. Reads headers only; holds no file in memory.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MIMES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
HEAD_BYTES = 16

_BLOCK = 1 << 20
_PNG_DROPPED = {b"eXIf", b"tEXt", b"iTXt", b"zTXt", b"tIME"}
_WEBP_DROPPED = {b"EXIF", b"XMP "}
_WEBP_EXIF_FLAG, _WEBP_XMP_FLAG = 0x08, 0x04
# Inside JPEG's picture data: FF 00 is a byte, FF D0-D7 restarts, FF FF is padding; anything else is a marker.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class NotWhole(Exception):
    """The file ends or breaks before its structure does. `str()` says where."""


@dataclass(frozen=True)
class Cut:
    """Bytes start..end of the file are left out and `instead` is sent in their place."""

    start: int
    end: int
    instead: bytes = b""


def kind_of(head: bytes) -> str | None:
    """`JPEG`, `PNG`, ... by the file's first bytes; names of files and servers' words lie. None: not one we know."""
    if head[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:2] == b"BM":
        return "BMP"
    if head[:4] in (b"II*\x00", b"MM\x00*"):
        return "TIFF"
    return None


def cuts(file: BinaryIO, kind: str, size: int) -> list[Cut]:
    """What to leave out, in file order; empty for kinds that carry their metadata otherwise. Raises NotWhole."""
    finder = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp}.get(kind)
    return list(finder(file, size)) if finder else []


def sent_size(size: int, left_out: list[Cut]) -> int:
    return size - sum(cut.end - cut.start - len(cut.instead) for cut in left_out)


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    data = file.read(count)
    if len(data) < count:
        raise NotWhole(f"it ends at byte {at + len(data)} in the middle of a block")
    return data


def _jpeg(file: BinaryIO, size: int) -> Iterator[Cut]:
    at = 2
    while True:
        lead, marker = _read(file, at, 2)
        if lead != 0xFF or marker <= 0x01 or 0xD0 <= marker <= 0xD8:
            raise NotWhole(f"no JPEG block at byte {at}")
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        if marker == 0xD9:
            break
        (length,) = struct.unpack(">H", _read(file, at + 2, 2))
        end = at + 2 + length
        if marker == 0xFE or (0xE0 <= marker <= 0xEF and not _needed(marker, file, at + 4, length - 2)):
            yield Cut(at, end)
        at = _next_marker(file, end) if marker == 0xDA else end
    if at + 2 < size:  # a second picture, a film, a maker's trailer: each with metadata of its own
        yield Cut(at + 2, size)


def _needed(marker: int, file: BinaryIO, at: int, length: int) -> bool:
    start = _read(file, at, min(length, 12))
    return (
        (marker == 0xE0 and start[:5] == b"JFIF\x00")
        or (marker == 0xE2 and start[:12] == b"ICC_PROFILE\x00")
        or (marker == 0xEE and start[:5] == b"Adobe")
    )


def _next_marker(file: BinaryIO, at: int) -> int:
    """The first marker after picture data that begins at `at`."""
    while True:
        file.seek(at)
        block = file.read(_BLOCK)
        found = _MARKER.search(block)
        if found:
            return at + found.start()
        if len(block) < 2:
            raise NotWhole(f"its picture data has no end within {at + len(block)} bytes")
        at += len(block) - 1  # a marker may lie across the border


def _png(file: BinaryIO, size: int) -> Iterator[Cut]:
    at = 8
    while True:
        length, name = struct.unpack(">I4s", _read(file, at, 8))
        end = at + 12 + length
        if end > size:
            raise NotWhole(f"its block {name!r} at byte {at} goes beyond the end")
        if name in _PNG_DROPPED:
            yield Cut(at, end)
        at = end
        if name == b"IEND":
            break
    if at < size:
        yield Cut(at, size)


def _webp(file: BinaryIO, size: int) -> Iterator[Cut]:
    """Also corrects the file's length and the flags that announce what was dropped."""
    (inside,) = struct.unpack("<I", _read(file, 4, 4))
    whole = min(inside + 8, size)
    if inside + 8 > size:
        raise NotWhole(f"it should have {inside + 8} bytes and has {size}")
    dropped: list[Cut] = []
    flags: Cut | None = None
    at = 12
    while at + 8 <= whole:
        name, length = struct.unpack("<4sI", _read(file, at, 8))
        end = min(at + 8 + length + length % 2, whole)
        if name == b"VP8X":
            old = _read(file, at + 8, 1)[0]
            new = old & ~(_WEBP_EXIF_FLAG | _WEBP_XMP_FLAG)
            flags = Cut(at + 8, at + 9, bytes([new])) if new != old else None
        elif name in _WEBP_DROPPED:
            dropped.append(Cut(at, end))
        at = end
    if dropped:
        yield Cut(4, 8, struct.pack("<I", inside - sum(cut.end - cut.start for cut in dropped)))
        if flags is not None:
            yield flags
        yield from dropped
    if whole < size:
        yield Cut(whole, size)


def orientation(file: BinaryIO, left_out: list[Cut]) -> int:
    """EXIF orientation 1..8 found in the blocks to be left out; 1 (upright) where there is none or it is broken."""
    for cut in left_out:
        file.seek(cut.start)
        block = file.read(min(cut.end - cut.start, 1 << 16))
        found = re.search(rb"^(?:\xff\xe1..Exif\x00\x00|....eXIf|EXIF....(?:Exif\x00\x00)?)", block, re.DOTALL)
        if found:
            return _tiff_orientation(block[found.end() :])
    return 1


def _tiff_orientation(tiff: bytes) -> int:
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    try:
        if order is None:
            return 1
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == 0x0112:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1

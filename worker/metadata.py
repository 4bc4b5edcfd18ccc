"""What a picture file tells besides the picture, and how to leave it out without touching a pixel.

Most kinds are containers: blocks with a length, so leaving one out is skipping a byte range (`Cut`) while the file
streams by. Kept is only what is known to be needed for drawing, colours included (ICC profile, gamma, JFIF, Adobe's
colour transform). All else goes, whether we know it or not: EXIF with GPS and thumbnails, XMP, IPTC, comments, maker's
and private blocks, frames after the first (the provider draws that one alone), and whatever follows the picture's end.
A file that cannot be had clean in this way is to be saved anew. Reads headers only; holds no file in memory.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from models.pictures import orientation_of
from worker import tiff
from worker.tiff import SaveAnew, read

_BLOCK = 1 << 20
# Tables, frames and scans; the rest is applications' (E0-EF), comments (FE) or reserved.
_JPEG_DRAWS = {*range(0xC0, 0xD0), *range(0xDA, 0xE0)}
_JFIF, _ICC, _ADOBE = 0xE0, 0xE2, 0xEE
# Inside JPEG's picture data: FF 00 is a byte, FF D0-D7 restarts, FF FF is padding; anything else is a marker.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_PNG_DRAWS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"bKGD", b"sBIT", b"pHYs"}
_PNG_COLOURS = {b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"mDCV", b"cLLI"}
_WEBP_DRAWS = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ICCP"}
_WEBP_FRAMES = {b"ANIM", b"ANMF"}
_WEBP_EXIF_FLAG, _WEBP_XMP_FLAG = 0x08, 0x04
_BMP_HEADERS = {40, 52, 56, 108, 124}


@dataclass(frozen=True)
class Cut:
    """Bytes start..end of the file are left out and `instead` is sent in their place."""

    start: int
    end: int
    instead: bytes = b""


def cuts(file: BinaryIO, kind: str, size: int) -> list[Cut]:
    """What to leave out, in file order. Raises SaveAnew where leaving out does not do."""
    if kind == "TIFF":
        tiff.check(file, size)
        return []
    finder = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "GIF": _gif, "BMP": _bmp}[kind]
    return sorted(finder(file, size), key=lambda cut: cut.start)


def sent_size(size: int, left_out: list[Cut]) -> int:
    return size - sum(cut.end - cut.start - len(cut.instead) for cut in left_out)


def orientation(file: BinaryIO, left_out: list[Cut]) -> int:
    """EXIF orientation 1..8 found in the blocks to be left out; 1 (upright) where there is none or it is broken."""
    for cut in left_out:
        file.seek(cut.start)
        block = file.read(min(cut.end - cut.start, 1 << 16))
        found = re.search(rb"^(?:\xff\xe1..Exif\x00\x00|....eXIf|EXIF....)", block, re.DOTALL)
        if found:
            return orientation_of(block[found.end() :])
    return 1


def _jpeg(file: BinaryIO, size: int) -> Iterator[Cut]:
    at = 2
    while True:
        lead, marker = read(file, at, 2)
        if lead != 0xFF or marker <= 0x01 or 0xD0 <= marker <= 0xD8:
            raise SaveAnew(f"no JPEG block at byte {at}")
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        if marker == 0xD9:
            break
        (length,) = struct.unpack(">H", read(file, at + 2, 2))
        end = at + 2 + length
        if marker not in _JPEG_DRAWS:
            yield from _application(marker, file, at, end)
        at = _next_marker(file, end) if marker == 0xDA else end
    if at + 2 < size:  # a second picture, a film, a maker's trailer: each with metadata of its own
        yield Cut(at + 2, size)


def _application(marker: int, file: BinaryIO, at: int, end: int) -> Iterator[Cut]:
    """Three kinds decide how the picture looks. Two of them have a fixed length; JFIF may add a thumbnail."""
    start = read(file, at, min(end - at, 18))
    if marker == _ICC and start[4:16] == b"ICC_PROFILE\x00":
        return
    if marker == _JFIF and start[4:9] == b"JFIF\x00" and len(start) == 18:
        if end - at > 18 or start[16:] != b"\x00\x00":
            yield Cut(at, end, b"\xff\xe0\x00\x10" + start[4:16] + b"\x00\x00")
    elif marker == _ADOBE and start[4:9] == b"Adobe" and len(start) >= 16:
        if end - at > 16:
            yield Cut(at, end, b"\xff\xee\x00\x0e" + start[4:16])
    else:
        yield Cut(at, end)


def _next_marker(file: BinaryIO, at: int) -> int:
    """The first marker after picture data that begins at `at`."""
    while True:
        file.seek(at)
        block = file.read(_BLOCK)
        found = _MARKER.search(block)
        if found:
            return at + found.start()
        if len(block) < 2:
            raise SaveAnew(f"its picture data has no end within {at + len(block)} bytes")
        at += len(block) - 1  # a marker may lie across the border


def _png(file: BinaryIO, size: int) -> Iterator[Cut]:
    at = 8
    while True:
        length, name = struct.unpack(">I4s", read(file, at, 8))
        end = at + 12 + length
        if end > size:
            raise SaveAnew(f"its block {name!r} at byte {at} goes beyond the end")
        if name not in _PNG_DRAWS | _PNG_COLOURS:
            if not name[0] & 0x20:  # a capital: who does not know it cannot draw the picture
                raise SaveAnew(f"block {name!r} at byte {at} is not known")
            yield Cut(at, end)
        at = end
        if name == b"IEND":
            break
    if at < size:
        yield Cut(at, size)


def _webp(file: BinaryIO, size: int) -> Iterator[Cut]:
    """Also corrects the file's length and the flags that announce what was dropped."""
    (inside,) = struct.unpack("<I", read(file, 4, 4))
    whole = inside + 8
    if whole > size:
        raise SaveAnew(f"it should have {whole} bytes and has {size}")
    dropped: list[Cut] = []
    at = 12
    while at + 8 <= whole:
        name, length = struct.unpack("<4sI", read(file, at, 8))
        end = min(at + 8 + length + length % 2, whole)
        if name in _WEBP_FRAMES:
            raise SaveAnew("it holds several frames")
        if name == b"VP8X":
            old = read(file, at + 8, 1)[0]
            new = old & ~(_WEBP_EXIF_FLAG | _WEBP_XMP_FLAG)
            if new != old:
                yield Cut(at + 8, at + 9, bytes([new]))
        elif name not in _WEBP_DRAWS:
            dropped.append(Cut(at, end))
        at = end
    if at < whole:  # too short for a block
        dropped.append(Cut(at, whole))
    if dropped:
        yield Cut(4, 8, struct.pack("<I", inside - sum(cut.end - cut.start for cut in dropped)))
        yield from dropped
    if whole < size:
        yield Cut(whole, size)


def _gif(file: BinaryIO, size: int) -> Iterator[Cut]:
    """Up to the first frame, without its comments and applications' blocks; then the end."""
    (flags,) = read(file, 10, 1)
    at = 13 + _gif_colours(flags)
    while (block := read(file, at, 1)) == b"!":
        (label,) = read(file, at + 1, 1)
        end = _gif_data_end(file, at + 2)
        if label != 0xF9:  # how the next frame is drawn: its transparent colour
            yield Cut(at, end)
        at = end
    if block != b",":
        raise SaveAnew(f"no GIF frame at byte {at}")
    (flags,) = read(file, at + 9, 1)
    end = _gif_data_end(file, at + 10 + _gif_colours(flags) + 1)
    file.seek(end)
    if file.read(2) != b";":
        yield Cut(end, size, b";")


def _gif_colours(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_data_end(file: BinaryIO, at: int) -> int:
    while length := read(file, at, 1)[0]:
        at += 1 + length
    return at + 1


def _bmp(file: BinaryIO, size: int) -> Iterator[Cut]:
    """A plain one is header, palette, pixels. Anything else (gaps, profiles or links to them, RLE) is not parted."""
    (begin, header) = struct.unpack("<II", read(file, 10, 8))
    fields = struct.unpack("<iiHHIIiiI", read(file, 18, 32))
    width, height, _, bits, packing, _, _, _, colours = fields
    if header not in _BMP_HEADERS or packing not in (0, 3) or width <= 0:
        raise SaveAnew("it is no plain BMP")
    if header == 124 and any(read(file, 14 + 112, 8)):
        raise SaveAnew("it holds a profile")
    masks = 12 if header == 40 and packing == 3 else 0
    palette = 4 * (colours or (1 << bits if bits <= 8 else 0))
    end = begin + (width * bits + 31) // 32 * 4 * abs(height)
    if begin != 14 + header + masks + palette or end > size:
        raise SaveAnew("its pixels are not where they belong")
    if end < size:
        yield Cut(2, 6, struct.pack("<I", end))
        yield Cut(end, size)

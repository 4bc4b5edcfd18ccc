"""What the provider takes as a picture, said once: planning judges by it what sending will make of a file.

Formats, sizes and advice are of the API reference, section 3.
"""

from __future__ import annotations

import re
import struct

MIMES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "WEBP": "image/webp",
    "GIF": "image/gif",
}
HEAD_BYTES = 16  # as many as `kind_of` wants
BYTES_MAX = 10 * 1024 * 1024
PIXELS_MAX = 80_000_000  # a decompression bomb, not a photo: larger than any camera's file below 10 MB
LARGE_PX = 12_000_000  # about 50 MB unfolded: up to here several are opened at once, larger ones one at a time
SIDE_MIN_PX = 384
SIDE_MAX_PX = {"3.0": 2048}  # by family; advice, not a rule
SIDE_MAX_PX_ELSE = 3072  # 2.0 and edit; the catalogue says of each model whether anything is advised at all
DEEP = ("I", "F")  # 32 bits a sample: nobody can say which of its values are black and white

_TIFF = {b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"}  # the two last are BigTIFF
_ORIENTATION, _SHORT, _LONG = 0x0112, 3, 4


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
    return "TIFF" if head[:4] in _TIFF else None


def orientation_of(exif: bytes) -> int:
    """Orientation 1..8 of an EXIF block; 1 (upright) where there is none or it is in disorder."""
    tiff = re.sub(rb"^(?:Exif\x00\x00)+", b"", exif)
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, form = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == _ORIENTATION and form in (_SHORT, _LONG):
                (value,) = struct.unpack_from(f"{order}{'H' if form == _SHORT else 'I'}", tiff, entry + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass  # it ends before it says
    return 1

"""What goes out of a file that says more than its picture: nothing that is not needed to draw it."""

import io
import itertools
import struct
import zlib

import pytest
from PIL import Image, ImageCms, ImageSequence, PngImagePlugin, TiffImagePlugin, TiffTags

from models.edit import Edit, Picture
from models.pictures import kind_of
from models.settings import Settings
from scheduler.pictures import look
from worker.inputs import Inputs

SECRET = b"Secret Street 7"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def gradient(width=48, height=32):
    image = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (image, image.rotate(180), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))


def saved(kind, image=None, **how):
    file = io.BytesIO()
    (image or gradient()).save(file, kind, **how)
    return file.getvalue()


def sent(data, tmp_path, **settings):
    path = tmp_path / "picture"
    path.write_bytes(data)
    assert look(str(path)).wrong is None
    edit = Edit("qwen-image-2.0", (Picture(str(path)),), "x")
    with Inputs(Settings(**settings)).prepare(edit, upload=None) as (ready,):
        out = b"".join(ready.chunks())
        assert len(out) == ready.sent_bytes
    return out


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGBA").tobytes()


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_with(name):
    data = saved("PNG", icc_profile=PROFILE)
    at = data.index(b"IDAT") - 4
    return data[:at] + chunk(name, SECRET) + data[at:]


def webp_with(name):
    data = saved("WEBP", icc_profile=PROFILE) + name + struct.pack("<I", len(SECRET)) + SECRET + b"\0"
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def jpeg_with(marker, content=SECRET):
    data = saved("JPEG")
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + data[2:]


def jpeg_with_a_thumbnail_in_its_head():
    data = saved("JPEG")
    assert data[2:6] == b"\xff\xe0\x00\x10"
    thumbnail = (SECRET * 2)[:27]  # of 3 x 3 pixels
    return data[:4] + struct.pack(">H", 16 + 27) + data[6:18] + b"\x03\x03" + thumbnail + data[20:]


def tiff_with(tag, kind=TiffTags.ASCII, value=SECRET, **how):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[tag] = value.decode() if kind == TiffTags.ASCII else value
    tags.tagtype[tag] = kind
    return saved("TIFF", tiffinfo=tags, **how)


def tiff_of_two_pages():
    second = gradient(20, 20)
    second.encoderinfo = {}
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[315] = SECRET.decode()
    file = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(file) as pages:
        gradient().save(pages, "TIFF")
        pages.newFrame()
        second.save(pages, "TIFF", tiffinfo=tags)
    return file.getvalue()


def gif_of_frames(comment_at):
    """Three frames; a comment before the frame of that number, 3 for after the last."""
    file = io.BytesIO()
    frames = [gradient().rotate(turn).convert("P") for turn in (0, 90, 180)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=50, loop=0)
    data, comment = file.getvalue(), b"!\xfe" + bytes([len(SECRET)]) + SECRET + b"\0"
    places = [at for at in range(len(data)) if data.startswith(b"!\xf9\x04", at)] + [len(data) - 1]
    return data[: places[comment_at]] + comment + data[places[comment_at] :]


def gif_with_xmp():
    data = saved("GIF", gradient().quantize(16), transparency=3)
    at = data.index(b"!\xf9\x04")
    block = b"!\xff\x0bXMP DataXMP" + bytes([len(SECRET)]) + SECRET + b"\0"
    return data[:at] + block + data[at:]


TELLING = {
    **{f"png {name.decode()}": png_with(name) for name in (b"tEXt", b"caBX", b"zxIf", b"prVt", b"tIME")},
    "png trailing": saved("PNG") + SECRET,
    **{f"webp {name.decode()}": webp_with(name) for name in (b"XMP ", b"C2PA", b"priv")},
    "webp trailing": saved("WEBP") + SECRET,
    **{f"jpeg {marker:x}": jpeg_with(marker) for marker in (0xE1, 0xE2, 0xE5, 0xEB, 0xEE, 0xEF, 0xFE)},
    "jpeg thumbnail": jpeg_with_a_thumbnail_in_its_head(),
    "jpeg long Adobe block": jpeg_with(0xEE, b"Adobe\0\x64\0\0\0\0\x01" + SECRET),
    "jpeg trailing": saved("JPEG") + SECRET,
    **{f"tiff {tag}": tiff_with(tag) for tag in (269, 270, 285, 305, 315, 33432, 36867, 42032, 50708, 65000)},
    **{f"tiff {tag}": tiff_with(tag, TiffTags.BYTE) for tag in (700, 40092, 40093)},
    "tiff trailing": saved("TIFF") + SECRET,
    "tiff of two pages": tiff_of_two_pages(),
    "bigtiff": tiff_with(315, big_tiff=True),
    **{f"gif comment {at}": gif_of_frames(at) for at in range(4)},
    "gif xmp": gif_with_xmp(),
    "gif trailing": saved("GIF") + SECRET,
    "bmp trailing": saved("BMP") + SECRET,
}


@pytest.mark.parametrize("way", TELLING)
def test_what_is_not_needed_to_draw_the_first_frame_is_not_sent(way, tmp_path):
    data = TELLING[way]
    assert SECRET in data
    out = sent(data, tmp_path)
    assert SECRET not in out
    assert kind_of(out) in (kind_of(data), "PNG")
    assert pixels(out) == pixels(data)


@pytest.mark.parametrize("way", TELLING)
def test_all_of_it_is_sent_where_metadata_is_asked_for(way, tmp_path):
    assert sent(TELLING[way], tmp_path, PACKSHOT_KEEP_METADATA=True) == TELLING[way]


def test_of_an_animation_only_the_first_frame_is_sent(tmp_path):
    with Image.open(io.BytesIO(sent(gif_of_frames(1), tmp_path))) as image:
        assert len(list(ImageSequence.Iterator(image))) == 1
    frames = [gradient().rotate(turn) for turn in (0, 90)]
    moving = saved("WEBP", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    with Image.open(io.BytesIO(sent(moving, tmp_path))) as image:
        assert image.format == "WEBP"
        assert not image.is_animated
        assert image.size == (48, 32)


PLAIN = {
    "png": saved("PNG", icc_profile=PROFILE, dpi=(300, 300)),
    "png palette": saved("PNG", gradient().quantize(16), transparency=3),
    "jpeg": saved("JPEG", icc_profile=PROFILE, comment=b""),
    "cmyk jpeg": saved("JPEG", gradient().convert("CMYK"), comment=b""),
    "webp": saved("WEBP", icc_profile=PROFILE),
    "gif": saved("GIF"),
    "gif transparent": saved("GIF", gradient().quantize(16), transparency=3),
    "bmp": saved("BMP"),
    "bmp palette": saved("BMP", gradient().convert("P")),
    "bmp black and white": saved("BMP", gradient().convert("1")),
    "bmp transparent": saved("BMP", gradient().convert("RGBA")),
    "tiff": saved("TIFF", icc_profile=PROFILE),
    "tiff lzw": saved("TIFF", gradient(300, 300), compression="tiff_lzw"),
    "tiff 16 bits": saved("TIFF", Image.new("I;16", (40, 30), 40_000)),
}


@pytest.mark.parametrize("way", PLAIN)
def test_a_file_that_tells_nothing_goes_byte_for_byte(way, tmp_path):
    assert sent(PLAIN[way], tmp_path) == PLAIN[way]


@pytest.mark.parametrize("way", ["jpeg", "png", "webp", "gif", "bmp", "tiff"])
def test_a_file_cut_or_changed_anywhere_is_parted_or_saved_anew_or_refused(way, tmp_path):
    """The walk over blocks ends for every file, and by no error of its own."""
    from worker import metadata
    from worker.tiff import SaveAnew

    data = PLAIN[way]
    for at in range(0, len(data), max(1, len(data) // 300)):
        for changed in (data[:at], data[:at] + bytes([data[at] ^ 0x5A]) + data[at + 1 :]):
            try:
                cuts = metadata.cuts(io.BytesIO(changed), kind_of(data), len(changed))
            except SaveAnew:
                continue
            assert all(0 <= cut.start <= cut.end <= len(changed) for cut in cuts)
            assert all(one.end <= two.start for one, two in itertools.pairwise(cuts))


def test_png_info_of_every_sort_goes_and_gamma_stays(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", struct.pack(">I", 45455))
    info.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    out = sent(saved("PNG", pnginfo=info), tmp_path)
    assert b"gAMA" in out
    assert SECRET not in out

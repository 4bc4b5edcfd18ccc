"""Pictures that must be saved anew: what comes out, and whose fault it is when nothing does."""

import io
import random
import resource
import tempfile
import zlib
from contextlib import contextmanager

import pytest
from PIL import Image

from models.edit import Edit, Picture
from models.errors import NotSent, PictureError
from models.pictures import kind_of
from models.settings import Settings
from scheduler.pictures import look
from worker import anew
from worker.inputs import Inputs

SECRET = "Secret Street 7"


def exif(orientation=6):
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010E] = SECRET
    tags[0x011A] = 72.0
    details = tags.get_ifd(0x8769)
    details[0x829A] = (1, 50)
    details[0x9003] = "2026:11:25 10:00:00"
    details[0x927C] = b"maker" * 4
    tags.get_ifd(0x8825)[1] = "N"
    tags.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    return tags.tobytes()


def saved(kind, image, **how):
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def noise(width, height, mode="RGB"):
    bands = [Image.effect_noise((width, height), 40) for _ in Image.new(mode, (1, 1)).getbands()]
    return Image.merge(mode, bands) if len(bands) > 1 else bands[0]


def scene(width, height):
    image = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (image, image.rotate(180), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))


def sent(data, tmp_path, **settings):
    path = tmp_path / "picture"
    path.write_bytes(data)
    with Inputs(Settings(**settings)).prepare(Edit("m", (Picture(str(path)),), "x"), upload=None) as (ready,):
        return b"".join(ready.chunks())


def anew_within(data, limit):
    """(kind, bytes) of the picture saved anew in at most `limit` bytes."""
    target = io.BytesIO()
    kind = anew.save("a.jpg", io.BytesIO(data), kind_of(data), target, limit=limit)
    assert kind_of(target.getvalue()) == kind
    return kind, target.getvalue()


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


# -- damaged metadata ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(("kind", "count"), [("JPEG", 300), ("WEBP", 150), ("PNG", 150), ("TIFF", 150)])
def test_whatever_is_wrong_with_its_metadata_a_picture_is_sent_or_refused(kind, count, tmp_path):
    """And what planning takes is sent: nobody finds out at night."""
    data = saved(kind, scene(48, 32), exif=exif())
    start, length = (8, 300) if kind == "TIFF" else (data.index(exif()[6:]), len(exif()) - 6)
    chance, turned = random.Random(7), 0
    for _ in range(count):
        mutated = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            mutated[start + chance.randrange(length)] = chance.randrange(256)
        if kind == "PNG":  # whose checksum would tell
            mutated[start + length : start + length + 4] = zlib.crc32(mutated[start - 4 : start + length]).to_bytes(4)
        path = tmp_path / "picture"
        path.write_bytes(mutated)
        seen = look(str(path))
        try:
            out = sent(bytes(mutated), tmp_path)
        except PictureError:
            assert seen.wrong is not None
            continue
        if seen.wrong is None:
            assert opened(out).size == (seen.width, seen.height)
            assert not opened(out).getexif()
            turned += opened(out).size == (32, 48)
    assert turned > (0 if kind == "TIFF" else count // 4)  # a TIFF is nearly all structure


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_planning_and_sending_agree_how_a_picture_stands(kind, orientation, tmp_path):
    (tmp_path / "picture").write_bytes(data := saved(kind, scene(48, 32), exif=exif(orientation)))
    seen = look(str(tmp_path / "picture"))
    out = opened(sent(data, tmp_path))
    assert out.size == (seen.width, seen.height)
    assert out.size == ((32, 48) if orientation > 4 else (48, 32))


@pytest.mark.parametrize("order", ["I", "M"])
def test_a_bigtiff_is_taken_by_planning_and_sent_as_png(order, tmp_path):
    data = saved("TIFF", scene(48, 32), big_tiff=True)
    if order == "I":
        assert kind_of(data) == "TIFF"
    (tmp_path / "picture").write_bytes(data)
    assert look(str(tmp_path / "picture")).wrong is None
    out = sent(data, tmp_path)
    assert kind_of(out) == "PNG"
    assert opened(out).tobytes() == scene(48, 32).tobytes()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_a_sample_are_refused_at_planning_already(mode, tmp_path):
    (tmp_path / "picture").write_bytes(data := saved("TIFF", Image.new(mode, (40, 30), 7), software=SECRET))
    assert "32 bits" in look(str(tmp_path / "picture")).wrong[0]
    with pytest.raises(PictureError, match="32 bits"):
        sent(data, tmp_path)


# -- size ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("quality", [60, 85, 97])
def test_a_jpeg_set_upright_is_neither_larger_nor_coarser_than_it_was(quality, subsampling, orientation):
    data = saved("JPEG", noise(320, 160), quality=quality, subsampling=subsampling, exif=exif(orientation))
    kind, out = anew_within(data, len(data) * 11 // 10)
    assert kind == "JPEG"
    assert len(out) > len(data) * 8 // 10
    turn = Image.Transpose.ROTATE_180 if orientation == 3 else Image.Transpose.ROTATE_270
    before = opened(data).transpose(turn).convert("L").tobytes()
    assert sum(abs(a - b) for a, b in zip(before, opened(out).convert("L").tobytes(), strict=True)) < 2 * len(before)


def test_what_is_too_large_upright_becomes_coarser_and_then_smaller():
    data = saved("JPEG", noise(640, 480), quality=97, subsampling=0, exif=exif())
    kind, out = anew_within(data, len(data) // 3)
    assert (kind, opened(out).size) == ("JPEG", (480, 640))
    data = saved("JPEG", noise(3200, 800), quality=90, exif=exif())
    kind, out = anew_within(data, len(data) // 2)
    assert kind == "JPEG"
    assert max(opened(out).size) in (2048, 3072)


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "JPEG"), ("L", "JPEG"), ("RGBA", "WEBP"), ("LA", "WEBP"), ("CMYK", "JPEG")]
)
def test_a_picture_that_only_as_png_is_too_large_is_saved_otherwise(mode, kind):
    data = saved("TIFF", noise(400, 300, mode), software=SECRET)
    as_png = saved("PNG", noise(400, 300, "RGB" if mode == "CMYK" else mode))
    found, out = anew_within(data, len(as_png) * 9 // 10)
    assert found == kind
    assert opened(out).size == (400, 300)
    assert SECRET.encode() not in out


def test_16_bits_are_scaled_to_8_and_not_cut_off():
    noise_then = random.Random(5).randbytes(40_000)
    for mode, order in (("I;16", "little"), ("I;16B", "big")):
        image = Image.frombytes(mode, (200, 200), noise_then + (30_000).to_bytes(2, order) * 20_000)
        data = saved("TIFF", image, software=SECRET)
        kind, out = anew_within(data, 35_000)
        assert kind == "JPEG"
        assert abs(opened(out).getpixel((100, 180)) - 30_000 // 256) <= 3


def test_a_jpeg_in_a_tiff_goes_although_it_is_too_large_as_png():
    data = saved("TIFF", noise(600, 400), compression="jpeg", software=SECRET)
    kind, out = anew_within(data, 500_000)
    assert kind == "JPEG"
    assert opened(out).size == (600, 400)


def test_a_picture_that_fits_in_no_way_is_refused_by_name():
    with pytest.raises(PictureError, match=r"a\.jpg is larger than 10 MB") as caught:
        anew_within(saved("JPEG", noise(100, 100), exif=exif()), 100)
    assert caught.value.code == "PictureTooLarge"


# -- our own disk ----------------------------------------------------------------------------------------------


@contextmanager
def disk_with_room_for(count):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(48, 32), (640, 480)])
def test_a_disk_without_room_says_nothing_against_the_picture(kind, size, tmp_path):
    data = saved(kind, noise(*size), exif=exif())
    path = tmp_path / "picture"
    path.write_bytes(data)
    prepared = Inputs(Settings()).prepare(Edit("m", (Picture(str(path)),), "x"), upload=None)
    with disk_with_room_for(100), pytest.raises(NotSent) as caught:
        prepared.__enter__()
    assert caught.value.retryable
    assert caught.value.code == "NoRoom"
    assert tempfile.gettempdir() in caught.value.message
    assert "make room" in caught.value.message


def test_a_temporary_folder_that_is_gone_is_named(tmp_path, monkeypatch):
    data = saved("JPEG", scene(48, 32), exif=exif())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(NotSent, match=r"gone.*set TMPDIR"):
        sent(data, tmp_path)


def test_no_file_handles_left_says_nothing_against_the_picture(tmp_path):
    data = saved("JPEG", scene(48, 32))
    path = tmp_path / "picture"
    path.write_bytes(data)
    Inputs(Settings())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(NotSent) as caught:
            Inputs(Settings()).prepare(Edit("m", (Picture(str(path)),), "x"), upload=None).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caught.value.code == "PictureUnavailable"


def test_a_machine_without_memory_says_nothing_against_the_picture(tmp_path, monkeypatch):
    def load(self):
        raise MemoryError

    data = saved("JPEG", scene(48, 32), exif=exif())
    monkeypatch.setattr(Image.Image, "load", load)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(NotSent, match="no memory"):
        sent(data, tmp_path)

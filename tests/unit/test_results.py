import io
import random
import struct
import zlib

import pytest
from PIL import Image

from models.errors import ResultLost
from models.settings import Settings
from worker.png import SIGNATURE, NotAPicture, png_size
from worker.results import Fetcher


def picture(width=48, height=32, mode="RGB", kind="PNG"):
    file = io.BytesIO()
    Image.effect_noise((width, height), 80).convert(mode).save(file, kind)
    return file.getvalue()


def chunk(kind, content):
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))


def header(width, height):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_a_whole_png_of_any_colour_type_tells_its_size(mode):
    assert png_size(picture(mode=mode)) == (48, 32)


def test_bytes_after_the_end_are_left_alone():
    assert png_size(picture() + b"\0trailing") == (48, 32)


def test_a_picture_cut_off_at_any_byte_is_noticed():
    whole = picture(16, 16)
    for length in range(len(whole)):
        with pytest.raises(ValueError):
            png_size(whole[:length])


def test_a_bit_turned_over_anywhere_is_noticed():
    whole, chance = picture(), random.Random(1)
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        with pytest.raises(ValueError):
            png_size(bytes(damaged))


@pytest.mark.parametrize("size", [(0, 100), (1, 1), (15, 64), (20_000, 20), (16_000, 16_000), (2**31, 2**31)])
def test_a_size_that_no_picture_has_is_refused_without_decoding_it(size):
    bomb = SIGNATURE + header(*size) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    with pytest.raises(NotAPicture, match="not plausible"):
        png_size(bomb)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_a_picture_of_another_format_is_named(kind):
    with pytest.raises(NotAPicture, match=f"{kind}, not a PNG"):
        png_size(picture(kind=kind))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"\n <!DOCTYPE html><html></html>", "HTML or XML"),
        (b'{"code": "x"}', "no PNG"),
        (SIGNATURE + chunk(b"IDAT", b"x") + chunk(b"IEND", b""), "does not begin with its header"),
        (SIGNATURE + header(64, 64) + chunk(b"IEND", b""), "no pixels"),
    ],
)
def test_what_another_download_may_mend_is_told_in_words(data, words):
    with pytest.raises(ValueError, match=words) as wrong:
        png_size(data)
    assert not isinstance(wrong.value, NotAPicture)


@pytest.mark.parametrize(
    "url", ["", "file:///etc/passwd", "ftp://host/a.png", "https://", "https://[::1/x", "https://h:x/"]
)
def test_an_address_that_is_none_is_lost_without_a_request(url):
    with pytest.raises(ResultLost, match="address"):
        Fetcher(Settings()).fetch(url)

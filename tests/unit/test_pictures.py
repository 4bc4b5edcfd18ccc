import base64
import os
from io import BytesIO

import pytest
from PIL import Image

from models.pictures import BYTES_MAX, MIMES
from scheduler import pictures
from scheduler.pictures import Album, look, see_data, wrong_url


def picture(form="JPEG", size=(400, 500), **options):
    buffer = BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", MIMES)
def test_every_format_is_known_by_its_bytes_whatever_the_name_says(form, tmp_path):
    path = tmp_path / "photo.txt"
    path.write_bytes(picture(form))

    seen = look(str(path))

    assert seen.wrong is None
    assert (seen.width, seen.height) == (400, 500)
    assert seen.picture.size == path.stat().st_size
    assert seen.stem == "photo"


def test_a_picture_that_lies_on_its_side_has_the_ratio_a_person_sees(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(picture(exif=exif))
    assert (look(str(tmp_path / "a.jpg")).width, look(str(tmp_path / "a.jpg")).height) == (500, 400)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_a_picture_cut_off_in_the_middle_is_told(form, tmp_path):
    content = picture(form)
    (tmp_path / "a").write_bytes(content[: len(content) // 2])
    assert "not whole" in look(str(tmp_path / "a")).wrong[0] or "not a picture" in look(str(tmp_path / "a")).wrong[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"hello", "not a picture of a known format"),
        (b"%PDF-1.7", "a PDF"),
        (b"<svg xmlns=''>", "an SVG"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "HEIC"),
        (b"x" * (BYTES_MAX + 1), "10.0 MB, and 10 MB is the most"),
    ],
)
def test_what_is_no_picture_is_told_in_words(content, says, tmp_path):
    (tmp_path / "a.jpg").write_bytes(content)
    assert says in look(str(tmp_path / "a.jpg")).wrong[0]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_not_unfolded(tmp_path):
    Image.new("1", (12_000, 12_000)).save(tmp_path / "bomb.png")
    Image.new("1", (15_000, 15_000)).save(tmp_path / "larger.png")
    assert "unfolds to" in look(str(tmp_path / "bomb.png")).wrong[0]
    assert "unfolds to" in look(str(tmp_path / "larger.png")).wrong[0]


@pytest.mark.parametrize(
    ("form", "options", "alone"), [("PNG", {}, 1), ("JPEG", {}, 0), ("JPEG", {"progressive": True}, 1)]
)
def test_of_pictures_that_unfold_to_much_only_one_is_open_at_a_time(form, options, alone, tmp_path, monkeypatch):
    entered = []

    class Lock:
        def __enter__(self):
            entered.append(1)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(pictures, "_one_large", Lock())
    monkeypatch.setattr(pictures, "LARGE_PX", 100_000)
    (tmp_path / "a").write_bytes(picture(form, **options))
    assert look(str(tmp_path / "a")).wrong is None
    assert len(entered) == alone


def test_a_pipe_does_not_keep_us_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "is not a file" in look(str(tmp_path / "pipe.jpg")).wrong[0]
    assert "is not a file" in look(str(tmp_path)).wrong[0]


def test_a_missing_picture_is_looked_for_by_its_name(tmp_path):
    (tmp_path / "Mug.JPG").write_bytes(picture())
    with Album() as album:
        assert album.see("mug.jpg", (tmp_path,)).wrong[1] == "did you mean Mug.JPG?"
        assert album.see("mugg.jpg", (tmp_path,)).wrong[1] == "did you mean Mug.JPG?"
        assert "slashes" in album.see("a\\b.jpg", (tmp_path,)).wrong[1]
        assert "start at the folder" in album.see("x/y.jpg", (tmp_path,)).wrong[1]


def test_a_picture_is_looked_for_in_each_folder_and_opened_once(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b.jpg").write_bytes(picture())
    opened = []
    real = pictures.look
    monkeypatch.setattr(pictures, "look", lambda path: opened.append(path) or real(path))

    with Album() as album:
        album.warm([("b.jpg", (tmp_path / "a", tmp_path)), ("../b.jpg", (tmp_path / "a",))])
        seen = album.see("b.jpg", (tmp_path / "a", tmp_path))

    assert seen.wrong is None
    assert opened == [str(tmp_path / "b.jpg")]


def test_a_data_uri_is_decoded_and_its_type_must_be_true():
    body = base64.b64encode(picture("PNG")).decode()
    assert see_data(f"data:image/png;base64,{body}").wrong is None
    assert "holds png" in see_data(f"data:image/jpeg;base64,{body}").wrong[0]
    assert "Base64" in see_data("data:image/png;base64,!!!!").wrong[0]
    assert "not a picture as a data" in see_data("data:text/plain,hello").wrong[0]


@pytest.mark.parametrize(
    "address", ["https://example.com/a.jpg", "http://example.com/a%20b.jpg?v=1", "https://8.8.8.8/a.jpg"]
)
def test_a_public_address_is_taken_as_it_is(address):
    assert wrong_url(address, allow_private_hosts=False) is None


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("https://example.com/ä.jpg", "ASCII"),
        ("https://example.com/a b.jpg", "blanks"),
        ("https://u:p@example.com/a.jpg", "password"),
        ("https://example.com/", "names no picture"),
        ("https:///a.jpg", "names no picture"),
        ("https://example.com:port/a.jpg", "is not an address"),
        ("file:///etc/passwd", "file:// is not an address"),
        ("oss://bucket/a.jpg", "oss:// is not an address"),
        *(
            (f"http://{host}/a.jpg", "not a public host")
            for host in ("localhost", "127.0.0.1", "10.1.2.3", "[::1]", "169.254.169.254", "2130706433", "0x7f000001")
        ),
    ],
)
def test_an_address_the_provider_could_not_fetch_is_refused(address, says):
    assert says in wrong_url(address, allow_private_hosts=False)[0]


def test_private_addresses_are_taken_where_the_setting_allows_them():
    assert wrong_url("http://127.0.0.1:9000/a.jpg", allow_private_hosts=True) is None

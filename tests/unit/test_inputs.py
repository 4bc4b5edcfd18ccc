import base64
import hashlib
import io
import struct
import tracemalloc
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from botocore.response import StreamingBody
from PIL import Image, ImageCms, PngImagePlugin

from models.edit import Edit, Picture
from models.errors import NotSent, PictureError
from models.pictures import BYTES_MAX, MIMES, kind_of
from models.settings import Settings
from worker import anew
from worker.inputs import CHUNK, Inputs, LocalPicture

SECRET = b"Secret Street 7"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif(orientation=1):
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010E] = SECRET.decode()
    tags.get_ifd(0x8825)[1] = "N"
    tags.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    return tags.tobytes()


def gradient(width=48, height=32):
    image = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (image, image.rotate(180), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))


def saved(path, image=None, **how):
    (image or gradient()).save(path, **how)
    return planned(path)


def planned(path):
    data = Path(path).read_bytes()
    return Picture(str(path), hashlib.sha256(data).hexdigest(), len(data))


def no_upload(_):
    raise AssertionError("nothing here is large")


def sent(*pictures, upload=no_upload, s3=None, **settings):
    """The pictures as they would go out: bytes of what is sent inline, else the reference."""
    edit = Edit("qwen-image-2.0", pictures, "x")
    with Inputs(Settings(**settings), s3=s3).prepare(edit, upload) as ready:
        out = []
        for item in ready:
            if isinstance(item, LocalPicture):
                encoded = b"".join(item.base64_chunks())
                assert len(encoded) == item.base64_bytes
                data = base64.b64decode(encoded, validate=True)
                assert data == b"".join(item.chunks())
                assert len(data) == item.sent_bytes
                assert MIMES[kind_of(data[:16])] == item.mime
                out.append(data)
            else:
                out.append(item)
        return out


def bitmap(size):
    """A black BMP of about as many bytes."""
    rows = (size - 54) // 3000
    head = struct.pack("<2sIIIIiiHHIIiiII", b"BM", 54 + 3000 * rows, 0, 54, 40, 1000, rows, 1, 24, 0, 0, 0, 0, 0, 0)
    return head + bytes(3000 * rows)


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


# -- metadata --------------------------------------------------------------------------------------------------


def png_info():
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", SECRET.decode())
    info.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    info.add_text("Comment", SECRET.decode() * 20, zip=True)
    return info


WAYS = {
    "jpeg": ("a.jpg", {"exif": exif(), "comment": SECRET, "xmp": b"<x>" + SECRET, "icc_profile": PROFILE}),
    "progressive": ("a.jpg", {"exif": exif(), "progressive": True, "icc_profile": PROFILE}),
    "png": ("a.png", {"exif": exif(), "pnginfo": png_info(), "icc_profile": PROFILE}),
    "webp": ("a.webp", {"exif": exif(), "xmp": b"<x>" + SECRET, "icc_profile": PROFILE}),
    "lossless webp": ("a.webp", {"exif": exif(), "lossless": True, "icc_profile": PROFILE}),
}


@pytest.mark.parametrize("way", WAYS)
def test_metadata_goes_and_pixels_and_colours_stay(way, tmp_path):
    name, how = WAYS[way]
    # given a picture that tells where it was taken
    picture = saved(tmp_path / name, **how)
    before = Path(picture.ref).read_bytes()
    assert SECRET in before
    # when it is made ready
    (data,) = sent(picture)
    # then nobody learns it, and it is the same picture to the bit
    after = opened(data)
    assert SECRET not in data
    assert b"Exif" not in data
    assert not after.getexif()
    assert after.info["icc_profile"] == PROFILE
    assert after.tobytes() == opened(before).tobytes()
    # and the file on disk is as it was
    assert Path(picture.ref).read_bytes() == before


@pytest.mark.parametrize("way", WAYS)
def test_metadata_is_sent_where_it_is_asked_for(way, tmp_path):
    name, how = WAYS[way]
    picture = saved(tmp_path / name, **how)
    assert sent(picture, PACKSHOT_KEEP_METADATA=True) == [Path(picture.ref).read_bytes()]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.gif", "a.tiff"])
def test_a_picture_without_metadata_goes_byte_for_byte(name, tmp_path):
    picture = saved(tmp_path / name, comment=b"") if name.endswith("jpg") else saved(tmp_path / name)
    (data,) = sent(picture)
    assert opened(data).tobytes() == opened(Path(picture.ref).read_bytes()).tobytes()
    if name not in ("a.jpg", "a.tiff"):
        assert data == Path(picture.ref).read_bytes()


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_a_picture_lying_on_its_side_is_set_upright(name, orientation, tmp_path):
    # given a picture whose EXIF says how to turn it
    picture = saved(tmp_path / name, exif=exif(orientation), icc_profile=PROFILE, quality=95)
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(Image.open(picture.ref)).convert("RGB")
    # when it is made ready
    (data,) = sent(picture)
    # then it stands as a viewer would show it, with its colours and without the EXIF
    image = opened(data)
    assert image.size == upright.size
    assert not image.getexif()
    assert SECRET not in data
    assert image.info["icc_profile"] == PROFILE
    pairs = zip(image.convert("RGB").tobytes(), upright.tobytes(), strict=True)
    assert max(abs(a - b) for a, b in pairs) <= 24


def test_what_a_phone_appends_after_the_picture_is_not_sent(tmp_path):
    picture = saved(tmp_path / "a.jpg")
    whole = Path(picture.ref).read_bytes()
    Path(picture.ref).write_bytes(whole + b"a film of " + SECRET)
    assert sent(planned(picture.ref)) == [whole]


def test_a_thumbnail_inside_the_metadata_does_not_end_the_picture(tmp_path):
    thumbnail = io.BytesIO()
    gradient(16, 16).save(thumbnail, "JPEG")
    picture = saved(tmp_path / "a.jpg", exif=exif() + thumbnail.getvalue())
    (data,) = sent(picture)
    assert opened(data).size == (48, 32)


def test_a_jpeg_with_junk_that_viewers_forgive_is_saved_anew(tmp_path):
    picture = saved(tmp_path / "a.jpg", exif=exif())
    path = Path(picture.ref)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\x00" + data[2:])
    (data,) = sent(planned(path))
    assert opened(data).size == (48, 32)
    assert SECRET not in data


@pytest.mark.parametrize(("name", "kept"), [("a.jpg", 0.5), ("a.png", 0.5), ("a.webp", 0.5)])
def test_half_a_picture_is_refused(name, kept, tmp_path):
    picture = saved(tmp_path / name, gradient(200, 200))
    path = Path(picture.ref)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(PictureError) as caught:
        sent(planned(path))
    assert caught.value.code == "PictureUnreadable"


def test_a_tiff_that_tells_about_people_becomes_a_png(tmp_path):
    picture = saved(tmp_path / "a.tiff", exif=exif())
    (data,) = sent(picture)
    assert kind_of(data[:16]) == "PNG"
    assert SECRET not in data
    assert opened(data).tobytes() == opened(Path(picture.ref).read_bytes()).tobytes()


def test_a_gif_with_a_comment_becomes_a_png(tmp_path):
    picture = saved(tmp_path / "a.gif", comment=SECRET)
    (data,) = sent(picture)
    assert SECRET not in data


def test_the_type_is_read_from_the_bytes_and_not_from_the_name(tmp_path):
    path = tmp_path / "a.jpg"
    gradient().save(path, format="PNG")
    (data,) = sent(planned(path))
    assert kind_of(data[:16]) == "PNG"


# -- the file that was planned ---------------------------------------------------------------------------------


def refusal(picture, **settings):
    with pytest.raises(PictureError) as caught:
        sent(picture, **settings)
    assert "write" in caught.value.message or Path(picture.ref).name in caught.value.message
    return caught.value.code


def test_a_file_that_is_gone_is_named(tmp_path):
    assert refusal(Picture(str(tmp_path / "gone.jpg"))) == "PictureMissing"


def test_a_folder_is_no_picture(tmp_path):
    assert refusal(Picture(str(tmp_path))) == "PictureUnreadable"


def test_a_file_that_is_no_picture_is_named(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"<html>not found</html>")
    assert refusal(planned(path)) == "PictureUnreadable"


def test_a_file_other_than_the_planned_one_is_not_sent(tmp_path):
    picture = saved(tmp_path / "a.png")
    gradient(49, 32).save(picture.ref)
    assert refusal(picture) == "PictureChanged"


def test_the_same_size_with_other_bytes_is_another_file(tmp_path):
    picture = saved(tmp_path / "a.bmp")
    data = bytearray(Path(picture.ref).read_bytes())
    data[-1] ^= 1
    Path(picture.ref).write_bytes(data)
    assert refusal(picture) == "PictureChanged"


def test_more_than_ten_megabytes_are_refused(tmp_path):
    path = tmp_path / "a.bmp"
    path.write_bytes(b"BM" + bytes(BYTES_MAX))
    assert refusal(planned(path)) == "PictureTooLarge"


@pytest.mark.parametrize("change", [b"X", b""])
def test_a_file_that_changes_while_it_streams_breaks_off_before_the_end(change, tmp_path):
    picture = saved(tmp_path / "a.bmp", gradient(400, 400))
    edit = Edit("qwen-image-2.0", (picture,), "x")
    with Inputs(Settings()).prepare(edit, no_upload) as (ready,):
        chunks = ready.base64_chunks()
        next(chunks)
        # when somebody writes over its end, or cuts it
        with open(picture.ref, "r+b") as file:
            if change:
                file.seek(-1, io.SEEK_END)
                file.write(change)
            else:
                file.truncate(CHUNK + 10)
        with pytest.raises(PictureError) as caught:
            list(chunks)
    assert caught.value.code == "PictureChanged"


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(anew, "PIXELS_MAX", 1000)
    assert refusal(saved(tmp_path / "a.jpg", exif=exif(6))) == "PictureTooLarge"


# -- the way it goes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ref", ["https://a/b.jpg", "http://a/b.jpg", "oss://dir/key"])
def test_an_address_goes_as_it_is(ref):
    assert sent(Picture(ref)) == [ref]


def test_a_data_uri_is_stripped_too(tmp_path):
    picture = saved(tmp_path / "a.jpg", exif=exif())
    uri = "data:image/jpeg;base64," + base64.b64encode(Path(picture.ref).read_bytes()).decode()
    (data,) = sent(Picture(uri))
    assert SECRET not in data
    assert opened(data).size == (48, 32)


@pytest.mark.parametrize("uri", ["data:image/png,plain", "data:image/x;base64,AAAA", "data:image/png;base64,@@"])
def test_a_data_uri_nobody_can_open_goes_as_it_is(uri):
    assert sent(Picture(uri)) == [uri]


@pytest.mark.parametrize(
    ("megabytes", "uploaded"),
    [
        ([6.9], []),
        ([7.1], [0]),
        ([5, 5], []),
        ([6, 6], [0]),
        ([1, 6, 6], [1]),
        ([8, 6, 6], [0, 1]),
        ([9, 9, 9], [0, 1, 2]),
    ],
)
def test_large_pictures_go_by_upload_largest_first(megabytes, uploaded, tmp_path):
    pictures = []
    for number, size in enumerate(megabytes):
        path = tmp_path / f"{number}.bmp"
        path.write_bytes(bitmap(int(size * 1e6)))
        pictures.append(planned(path))
    out = sent(*pictures, upload=lambda picture: f"oss://{Path(picture.name).name}")
    assert [number for number, item in enumerate(out) if isinstance(item, str)] == uploaded


def test_a_picture_is_never_held_whole(tmp_path):
    path = tmp_path / "a.bmp"
    path.write_bytes(bitmap(6_900_000))
    edit = Edit("qwen-image-2.0", (planned(path),), "x")
    tracemalloc.start()
    with Inputs(Settings()).prepare(edit, no_upload) as (ready,):
        total = sum(len(chunk) for chunk in ready.base64_chunks())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total > 9_000_000
    assert peak < 1_500_000


# -- s3 --------------------------------------------------------------------------------------------------------


class Bucket:
    """What Inputs needs of an S3 client: one object, or one error."""

    def __init__(self, data=b"", error=None):
        self.body, self.error = StreamingBody(io.BytesIO(data), len(data)), error

    def get_object(self, **_):
        if self.error:
            raise self.error
        return {"Body": self.body}

    @property
    def closed(self):
        return self.body._raw_stream.closed


def client_error(code, status):
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


def test_a_picture_in_s3_is_fetched_and_stripped(tmp_path):
    data = Path(saved(tmp_path / "a.jpg", exif=exif()).ref).read_bytes()
    bucket = Bucket(data)
    (out,) = sent(Picture("s3://shop/a.jpg"), s3=lambda: bucket)
    assert SECRET not in out
    assert opened(out).size == (48, 32)
    assert bucket.closed


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (client_error("NoSuchKey", 404), "PictureMissing"),
        (client_error("NoSuchBucket", 404), "PictureMissing"),
        (client_error("AccessDenied", 403), "PictureForbidden"),
        (client_error("SlowDown", 503), "PictureUnavailable"),
        (EndpointConnectionError(endpoint_url="http://x"), "PictureUnavailable"),
    ],
)
def test_a_store_that_does_not_give_the_picture_says_why(error, expected):
    with pytest.raises((PictureError, NotSent)) as caught:
        sent(Picture("s3://shop/a.jpg"), s3=lambda: Bucket(error=error))
    assert caught.value.code == expected
    assert isinstance(caught.value, NotSent) == (expected == "PictureUnavailable")
    assert "s3://shop/a.jpg" in caught.value.message


def test_an_object_larger_than_the_limit_is_not_fetched_to_its_end():
    bucket = Bucket(bytes(30_000_000))
    with pytest.raises(PictureError) as caught:
        sent(Picture("s3://shop/a.jpg"), s3=lambda: bucket)
    assert caught.value.code == "PictureTooLarge"
    assert bucket.closed


def test_half_an_object_is_refused(tmp_path):
    data = Path(saved(tmp_path / "a.png", gradient(200, 200)).ref).read_bytes()
    with pytest.raises(PictureError) as caught:
        sent(Picture("s3://shop/a.png"), s3=lambda: Bucket(data[:-100]))
    assert caught.value.code == "PictureUnreadable"

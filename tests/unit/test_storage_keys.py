import pytest

from models.errors import StorageRefused
from models.settings import Settings
from worker.storage import Found, checked_key, open_storage


@pytest.mark.parametrize(
    "key", ["a.png", "batch/sku-1.png", "春/茶 1.png", "a/..b/c.png", "a/.packshot/b.png", "x" * 250]
)
def test_an_ordinary_key_is_taken_as_it_is(key):
    assert checked_key(key) == key


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "a//b.png",
        "a/",
        "../a.png",
        "a/../../b.png",
        "./a.png",
        ".packshot/objects/a.png.json",
        "a\\..\\b.png",
        "a\nb.png",
        "a\0b.png",
        "a\x7f.png",
        "\ud800.png",
        "x" * 251,
        "茶" * 84 + "/a.png",
        "abcd/" * 205 + "a.png",
    ],
)
def test_a_key_that_could_leave_its_place_or_mislead_is_refused_with_the_way_out(key):
    with pytest.raises(StorageRefused, match="write something like"):
        checked_key(key)


@pytest.mark.parametrize("place", ["gs://bucket/x", "https://host/x", "s3://", "s3:///x", "", " ", "s3://bucket/../x"])
def test_a_place_of_no_known_kind_is_refused(place):
    with pytest.raises(StorageRefused, match="write"):
        open_storage(place, Settings())


def test_a_relative_folder_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_storage("out", Settings()).place == str(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_object_is_ours_only_with_our_metadata():
    assert Found("a", 1, {"job": "j", "sha256": "00"}).is_ours
    assert not Found("a", 1, {"sha256": "00"}).is_ours
    assert not Found("a", 1).is_ours

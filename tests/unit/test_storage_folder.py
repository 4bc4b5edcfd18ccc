import errno
import hashlib
import os
import resource
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from models.errors import StorageRefused, StorageUnavailable
from models.settings import Settings
from worker import folder
from worker.storage import Stored, open_storage

FACTS = {"batch": "spring", "sku": "茶-1", "job": "ab12", "seed": "7", "model": "qwen-image-2.0", "request-id": "r-1"}


@pytest.fixture
def storage(tmp_path):
    return open_storage(str(tmp_path / "out"), Settings())


def put(storage, key, data=b"picture", **more):
    return storage.put(key, data, sha256=hashlib.sha256(data).hexdigest(), metadata={**FACTS, **more})


def files(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def test_a_picture_is_kept_with_its_metadata_beside_the_tree(storage, tmp_path):
    stored = put(storage, "spring/a.png")
    found = storage.head("spring/a.png")
    assert stored == Stored("spring/a.png", 7, hashlib.sha256(b"picture").hexdigest())
    assert storage.read("spring/a.png") == b"picture"
    assert found.size == 7
    assert found.metadata == {**FACTS, "sha256": stored.sha256}
    assert files(tmp_path / "out") == [".packshot/objects/spring/a.png.json", "spring/a.png"]
    assert storage.address("spring/a.png") == str(tmp_path / "out" / "spring" / "a.png")


def test_the_same_picture_again_writes_nothing_and_says_so(storage, tmp_path):
    put(storage, "a.png")
    before = (tmp_path / "out" / "a.png").stat()
    assert put(storage, "a.png").existed
    assert (tmp_path / "out" / "a.png").stat().st_ino == before.st_ino
    assert not put(storage, "a.png", seed="8").existed
    assert storage.head("a.png").metadata["seed"] == "8"


def test_a_new_picture_replaces_the_old_one_whole(storage):
    put(storage, "a.png", b"old")
    assert not put(storage, "a.png", b"newer").existed
    assert storage.read("a.png") == b"newer"
    assert storage.head("a.png").size == 5


def test_a_kill_between_the_two_renames_leaves_a_picture_that_is_still_ours(storage, monkeypatch):
    # given a picture, and a death just before its successor gets its name
    put(storage, "a.png", b"old", seed="7")

    def die_at_the_picture(part, name, replace=os.replace):
        if name.endswith("a.png"):
            raise KeyboardInterrupt
        replace(part, name)

    with monkeypatch.context() as patch:
        patch.setattr(folder.os, "replace", die_at_the_picture)
        with pytest.raises(KeyboardInterrupt):
            put(storage, "a.png", b"newer", seed="8")
    # then the old one is there and ours, and the new one takes its place next time
    assert storage.read("a.png") == b"old"
    assert storage.head("a.png").metadata == {**FACTS, "seed": "7", "sha256": hashlib.sha256(b"old").hexdigest()}
    assert not put(storage, "a.png", b"newer", seed="8").existed
    assert storage.head("a.png").metadata["seed"] == "8"


def test_a_power_cut_cannot_leave_a_picture_without_its_sidecar(storage, tmp_path, monkeypatch):
    # given a disk that tells what is flushed and renamed, in order
    done = []

    def fsync(handle, really=os.fsync):
        done.append(("flushed", os.readlink(f"/proc/self/fd/{handle}")))
        really(handle)

    def replace(part, name, really=os.replace):
        assert ("flushed", part) in done
        really(part, name)
        done.append(("renamed", name))

    put(storage, "b.png")  # makes the folders
    monkeypatch.setattr(folder.os, "fsync", fsync)
    monkeypatch.setattr(folder.os, "replace", replace)
    # when a picture is kept
    put(storage, "a.png")
    # then its sidecar is on the disk, name and all, before the picture has its name
    out = str(tmp_path / "out")
    assert done[-4:] == [
        ("renamed", f"{out}/.packshot/objects/a.png.json"),
        ("flushed", f"{out}/.packshot/objects"),
        ("renamed", f"{out}/a.png"),
        ("flushed", out),
    ]


def test_nothing_is_found_where_nothing_is(storage, tmp_path):
    assert storage.head("a.png") is None
    assert list(storage.existing(["a.png", "b/c.png"])) == []
    assert not (tmp_path / "out").exists()
    put(storage, "a.png")
    assert storage.head("a.png/b.png") is None
    with pytest.raises(StorageRefused, match="is not there"):
        storage.read("b.png")


def test_a_file_of_somebody_else_is_found_and_is_foreign(storage, tmp_path):
    put(storage, "ours.png")
    (tmp_path / "out" / "theirs.png").write_bytes(b"something else")
    (tmp_path / "out" / "ours.png").write_bytes(b"replaced by hand")
    assert not storage.head("theirs.png").is_ours
    assert not storage.head("ours.png").is_ours
    assert list(storage.existing(["ours.png", "theirs.png", "none.png"])) == ["ours.png", "theirs.png"]


@pytest.mark.parametrize("note", [b"", b"[]", b"{", b'{"size": 7, "metadata": []}', b"\xff\xfe"])
def test_a_damaged_note_makes_the_picture_foreign_and_nothing_worse(storage, tmp_path, note):
    put(storage, "a.png")
    (tmp_path / "out" / ".packshot" / "objects" / "a.png.json").write_bytes(note)
    assert storage.head("a.png").metadata == {}
    assert not put(storage, "a.png").existed
    assert storage.head("a.png").is_ours


def looks(storage, key):
    return list(storage.existing([key]))


@pytest.mark.parametrize(
    "operation",
    [
        put,
        looks,
        lambda storage, key: storage.head(key),
        lambda storage, key: storage.read(key),
    ],
    ids=["put", "existing", "head", "read"],
)
def test_a_link_that_leads_out_of_the_folder_is_refused(storage, tmp_path, operation):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(b"not ours")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageRefused, match="leads out of"):
        operation(storage, "link/a.png")
    assert (tmp_path / "elsewhere" / "a.png").read_bytes() == b"not ours"


def test_a_link_in_place_of_the_notes_is_refused_too(storage, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".packshot").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageRefused, match="leads out of"):
        put(storage, "a.png")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_link_within_the_folder_and_a_linked_folder_itself_are_fine(tmp_path):
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "link").symlink_to("real")
    storage = open_storage(str(tmp_path / "out"), Settings())
    put(storage, "link/a.png")
    assert (tmp_path / "disk" / "real" / "a.png").read_bytes() == b"picture"


def test_a_file_where_a_folder_must_be_is_refused_with_the_way_out(storage, tmp_path):
    put(storage, "a.png")
    with pytest.raises(StorageRefused, match="a file is where a folder must be"):
        put(storage, "a.png/b.png")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageRefused, match="a file is where a folder must be"):
        open_storage(str(tmp_path / "file"), Settings()).check()


def test_a_folder_where_the_picture_must_go_is_refused_and_seen_beforehand(storage, tmp_path):
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    assert list(storage.existing(["a.png"])) == ["a.png"]
    assert not storage.head("a.png").is_ours
    for attempt in (lambda: put(storage, "a.png"), lambda: storage.read("a.png")):
        with pytest.raises(StorageRefused):
            attempt()
    assert list((tmp_path / "out" / ".packshot" / "parts").iterdir()) == []


@pytest.mark.parametrize("key", ["taken/a.png", "taken/below/a.png"])
def test_a_file_where_a_folder_must_be_is_seen_beforehand(storage, tmp_path, key):
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "taken").write_text("a file")

    with pytest.raises(StorageRefused, match="a file is where a folder must be; move it away"):
        list(storage.existing([key]))


def test_a_write_cut_off_by_the_system_is_refused_and_leaves_nothing(tmp_path):
    # given a process that may write files of at most 64 KB, as a disk that fills up in the middle of a picture
    script = textwrap.dedent("""
        import hashlib, resource, sys
        from models.errors import StorageRefused
        from models.settings import Settings
        from worker.storage import open_storage
        storage, data = open_storage(sys.argv[1], Settings()), bytes(1_000_000)
        storage.put("small.png", b"1", sha256=hashlib.sha256(b"1").hexdigest(), metadata={})
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        try:
            storage.put("large.png", data, sha256=hashlib.sha256(data).hexdigest(), metadata={})
        except StorageRefused as error:
            print(error)
    """)
    # when it stores a larger one
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=os.getcwd(),
    )
    # then it is told what to do, and no part of the picture is there
    assert "raise the limit" in done.stdout
    assert files(tmp_path / "out") == [".packshot/objects/small.png.json", "small.png"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
    ],
)
def test_what_only_a_person_can_mend_is_refused_and_leaves_nothing(storage, tmp_path, monkeypatch, number, words):
    put(storage, "a.png", b"old")

    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder.os, "fsync", fail)  # where a full disk is noticed last
    with pytest.raises(StorageRefused, match=words) as refused:
        put(storage, "a.png", b"new picture")
    assert "a.png" in str(refused.value)
    assert storage.read("a.png") == b"old"
    assert files(tmp_path / "out") == [".packshot/objects/a.png.json", "a.png"]
    with pytest.raises(StorageRefused, match=words):
        storage.check()


def test_a_fault_that_may_pass_is_tried_again(storage, monkeypatch):
    storage.check()

    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(folder.os, "fsync", fail)
    with pytest.raises(StorageUnavailable, match="Input/output error"):
        put(storage, "a.png")


def test_bytes_that_are_not_what_was_announced_are_never_kept(storage, tmp_path):
    with pytest.raises(StorageUnavailable, match="not what was written"):
        storage.put("a.png", b"changed", sha256=hashlib.sha256(b"picture").hexdigest(), metadata=FACTS)
    assert files(tmp_path / "out") == []


def test_a_check_makes_the_folder_and_leaves_it_empty_for_people(storage, tmp_path):
    storage.check()
    assert files(tmp_path / "out") == []
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".packshot"]


def test_a_check_removes_what_a_killed_process_left_a_day_ago(storage, tmp_path):
    storage.check()
    parts = tmp_path / "out" / ".packshot" / "parts"
    (parts / "old").write_bytes(b"half a pic")
    os.utime(parts / "old", (1, 1))
    (parts / "being-written").write_bytes(b"half a pic")
    storage.check()
    assert files(parts) == ["being-written"]


def test_many_threads_write_many_and_the_same_keys(storage, tmp_path):
    pictures = [bytes([number]) * 10_000 for number in range(8)]

    def write(number):
        return put(storage, f"shared/{number % 4}.png", pictures[number % 8])

    with ThreadPoolExecutor(16) as pool:
        assert len(list(pool.map(write, range(160)))) == 160
    for key in ("shared/0.png", "shared/1.png", "shared/2.png", "shared/3.png"):
        assert storage.read(key) in pictures
    assert files(tmp_path / "out" / ".packshot" / "parts") == []

"""Pictures in a folder, for one machine.

Files carry no metadata, so each picture `KEY` has a small JSON beside the tree, `.packshot/objects/KEY.json`; the
folders that people look at hold pictures alone. It counts only while it agrees with the picture's size: a file that
somebody else put in the place of ours is foreign, and so is one whose sidecar somebody removed.

A picture is written to `.packshot/parts/`, flushed to the disk, read back, and renamed to its name; what watches the
folder never sees a half-written one. Its sidecar is in place before, flushed like the picture, and speaks of the
picture that is replaced as well: a kill or a power cut between the two renames leaves one that is still ours. A killed
process can leave a part behind; `check` removes parts older than a day.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from models.errors import StorageError, StorageRefused, StorageUnavailable
from worker.storage import RESERVED, Found, Stored, checked_key

STALE_PART_S = 86_400


@dataclass(frozen=True)
class FolderStorage:
    """place: absolute path of the folder; made when something is first written."""

    place: str

    def put(self, key: str, data: bytes, *, sha256: str, metadata: Mapping[str, str]) -> Stored:
        path, sidecar = self._path(checked_key(key)), self._sidecar(key)
        facts = {**metadata, "sha256": sha256}
        with _in_words(path):
            if self._holds(path, sidecar, data, facts):
                return Stored(key, len(data), sha256, existed=True)
            self._make_folders(os.path.dirname(path), os.path.dirname(sidecar), self._parts)
            note = self._note(len(data), facts, replaced=self.head(key))
            with self._part(data, sha256) as picture, self._part(note, _sha256(note)) as description:
                os.replace(description, sidecar)
                _flush_folder(os.path.dirname(sidecar))
                os.replace(picture, path)
            _flush_folder(os.path.dirname(path))
        return Stored(key, len(data), sha256)

    def head(self, key: str) -> Found | None:
        path = self._path(checked_key(key))
        with _in_words(path):
            try:
                info = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            if not stat.S_ISREG(info.st_mode):
                return Found(key, 0)
            return Found(key, info.st_size, self._metadata(self._sidecar(key), info.st_size))

    def read(self, key: str) -> bytes:
        path = self._path(checked_key(key))
        with _in_words(path):
            try:
                if not stat.S_ISREG(os.stat(path).st_mode):
                    raise StorageRefused(f"{path} is no regular file; move it away")
                with open(path, "rb") as file:
                    return file.read()
            except FileNotFoundError:
                raise StorageRefused(f"{path} is not there; was it moved or deleted?") from None

    def existing(self, keys: Iterable[str]) -> Iterator[str]:
        """One lstat a key (about 10 us on a local disk): a dangling link or a folder in the way counts as something."""
        trusted: set[str] = set()  # folders known not to lead out; realpath costs several times the look
        for key in keys:
            path = os.path.join(self.place, checked_key(key))
            folder = os.path.dirname(path)
            if folder not in trusted:
                self._refuse_outside(folder)
                with _in_words(folder):
                    _refuse_file(folder)
                trusted.add(folder)
            if os.path.lexists(path):
                yield key

    def address(self, key: str) -> str:
        return os.path.join(self.place, key)

    def check(self) -> None:
        with _in_words(self.place):
            self._make_folders(self._parts)
            data = secrets.token_bytes(64)
            with self._part(data, _sha256(data)) as part:
                probe = os.path.join(self.place, f".packshot-probe-{os.path.basename(part)}")
                os.replace(part, probe)
                try:
                    now = os.stat(probe).st_mtime
                finally:
                    os.unlink(probe)
            self._sweep_parts(older_than=now - STALE_PART_S)

    @property
    def _parts(self) -> str:
        return os.path.join(self.place, RESERVED, "parts")

    def _path(self, key: str) -> str:
        """Where the key's file is. A link inside the folder may lead elsewhere in it, never out of it."""
        path = os.path.join(self.place, key)
        self._refuse_outside(path)
        return path

    def _sidecar(self, key: str) -> str:
        return os.path.join(self.place, RESERVED, "objects", f"{key}.json")

    def _refuse_outside(self, path: str) -> None:
        root, real = os.path.realpath(self.place), os.path.realpath(path)
        if real != root and not real.startswith(root.rstrip("/") + "/"):
            raise StorageRefused(f"{path} is reached by a link that leads out of {self.place}; remove the link")

    def _holds(self, path: str, sidecar: str, data: bytes, facts: Mapping[str, str]) -> bool:
        """Is exactly this there already, as after a crash between the copy and its record?"""
        try:
            if os.stat(path).st_size != len(data) or self._metadata(sidecar, len(data)) != facts:
                return False
            with open(path, "rb") as file:
                return file.read() == data
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return False

    @staticmethod
    def _note(size: int, facts: Mapping[str, str], *, replaced: Found | None) -> bytes:
        note: dict[str, Any] = {"size": size, "metadata": facts}
        if replaced is not None and replaced.is_ours:
            note["replaced"] = {"size": replaced.size, "metadata": replaced.metadata}
        return json.dumps(note, ensure_ascii=False, indent=1).encode()

    def _metadata(self, sidecar: str, size: int) -> dict[str, str]:
        self._refuse_outside(sidecar)
        try:
            with open(sidecar, encoding="utf-8") as file:
                note = json.load(file)
            if note["size"] != size:
                note = note["replaced"]
            if note["size"] == size:
                return {str(name): str(value) for name, value in note["metadata"].items()}
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
            pass  # no note, or not one of ours: the picture is foreign
        return {}

    def _make_folders(self, *paths: str) -> None:
        for path in paths:
            self._refuse_outside(path)
            if os.path.isdir(path):
                continue
            missing = [path]
            while not os.path.lexists(parent := os.path.dirname(missing[-1])):
                missing.append(parent)
            for folder in reversed(missing):
                with contextlib.suppress(FileExistsError):  # another thread was quicker
                    os.mkdir(folder)
                _flush_folder(os.path.dirname(folder))
            if not os.path.isdir(path):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)

    @contextlib.contextmanager
    def _part(self, data: bytes, sha256: str) -> Iterator[str]:
        """A file of its own name with the data in it, flushed and read back; gone afterwards unless it was renamed."""
        path = os.path.join(self._parts, f"{os.getpid()}-{secrets.token_hex(8)}")
        try:
            with open(path, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with open(path, "rb") as file:
                kept = hashlib.file_digest(file, "sha256").hexdigest()
            if kept != sha256:
                raise StorageUnavailable(f"{path}: what was read back is not what was written; look after the disk")
            yield path
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _sweep_parts(self, *, older_than: float) -> None:
        with os.scandir(self._parts) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < older_than:
                        os.unlink(entry.path)


def _refuse_file(folder: str) -> None:
    """A file where the folder must be, or anywhere on the way to it, would only show when the picture is paid."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _flush_folder(path: str) -> None:
    """Make a new name in a folder survive a power cut. Some file systems cannot flush a folder; they say EINVAL."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


# What only a person can mend. Anything else of the system (EIO, ESTALE, EMFILE...) may pass by itself.
_WAY_OUT = {
    errno.ENOSPC: "the disk is full; make room and run again",
    errno.EDQUOT: "the disk quota is used up; make room or have it raised, and run again",
    errno.EFBIG: "the file is larger than allowed here (ulimit -f, or the file system); raise the limit and run again",
    errno.EROFS: "the file system is read-only; choose another folder or mount it for writing",
    errno.EACCES: "permission denied; give this user the right to write there, or choose another folder",
    errno.EPERM: "not permitted; give this user the right to write there, or choose another folder",
    errno.ENOTDIR: "a file is where a folder must be; move it away or choose another folder",
    errno.EEXIST: "a file is where a folder must be; move it away or choose another folder",
    errno.EISDIR: "a folder is where the picture must go; move it away or choose another output",
    errno.ENAMETOOLONG: "the name is too long for this file system; shorten the output template",
    errno.ELOOP: "links go round in a circle; remove them",
    errno.EXDEV: "another file system is mounted inside the output folder; choose one without mounts in it",
    errno.EILSEQ: "the file system cannot hold that name; change the output template",
    errno.ENODEV: "the disk is gone; bring it back and run again",
    errno.ENXIO: "that is no regular file; move it away or choose another output",
}


@contextlib.contextmanager
def _in_words(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _storage_error(error, path) from error


def _storage_error(error: OSError, path: str) -> StorageError:
    way_out = _WAY_OUT.get(error.errno or 0)
    if way_out is not None:
        return StorageRefused(f"{path}: {way_out}")
    return StorageUnavailable(f"{path}: {os.strerror(error.errno) if error.errno else error}")

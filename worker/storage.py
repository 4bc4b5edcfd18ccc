"""Where pictures are kept: one interface over a folder and an S3 bucket, chosen by the address.

Promises: a key holds either nothing or a whole, verified picture, never half of one; a key cannot leave its place;
every failure is StorageUnavailable (try again) or StorageRefused (a person must act, and the sentence says how).

Leaves to others: which key a row gets (the plan), whether something may be overwritten (`existing` and `head` are
asked before money is spent; `put` replaces what it finds), and when to try again (`worker.retry`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from models.errors import StorageRefused
from models.settings import Settings

RESERVED = ".packshot"  # first part of a key that is ours: sidecars and probes live there
KEY_BYTES = 1024  # S3's limit, prefix included
PART_BYTES = 250  # 255 is the limit of common file systems; a sidecar adds `.json`


@dataclass(frozen=True)
class Stored:
    """What `put` left behind, verified.

    key:     below the storage's prefix, as given
    size:    bytes
    sha256:  hex digest of the picture
    existed: the same bytes with the same metadata were there already, so nothing was written
    """

    key: str
    size: int
    sha256: str
    existed: bool = False


@dataclass(frozen=True)
class Found:
    """What is at a key: ours where it carries our metadata, foreign where it does not.

    metadata: batch, sku, job, seed, model, request-id, sha256 as given to `put`; empty for what is not ours
    """

    key: str
    size: int
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str | None:
        return self.metadata.get("sha256")

    @property
    def is_ours(self) -> bool:
        return "sha256" in self.metadata and "job" in self.metadata


class Storage(Protocol):
    """One place. Safe to share between threads. Every method raises StorageUnavailable or StorageRefused."""

    @property
    def place(self) -> str:
        """`s3://bucket/prefix`, or the absolute path of a folder."""

    def check(self) -> None:
        """Write, list, read and delete a small probe; make the folder (never the bucket) where it is missing."""

    def put(self, key: str, data: bytes, *, sha256: str, metadata: Mapping[str, str]) -> Stored:
        """Keep one whole picture under a key, atomically, and verify it. Replaces what was there.

        sha256:   hex digest of data; joins the metadata
        metadata: short strings, in any script; values longer than `CLIP_BYTES` when encoded are cut in a bucket
        """

    def head(self, key: str) -> Found | None:
        """What is at a key, without reading it; None where nothing is."""

    def read(self, key: str) -> bytes:
        """The bytes at a key. StorageRefused where nothing is there."""

    def existing(self, keys: Iterable[str]) -> Iterator[str]:
        """Those of the keys at which something is, ours or not, in no promised order."""

    def address(self, key: str) -> str:
        """The full path or `s3://` address, for people."""


def open_storage(place: str, settings: Settings) -> Storage:
    """The storage of an address: `s3://bucket/prefix`, or a folder (made absolute here). Touches nothing yet.

    Raises StorageRefused for an address that is neither.
    """
    if place.startswith("s3://"):
        from worker.bucket import BucketStorage  # boto3 takes a while to import; a folder does not need it

        return BucketStorage.open(place, settings)
    if "://" in place or not place.strip() or "\0" in place:
        raise StorageRefused(f"{place!r} is not a place for pictures; write s3://bucket/prefix or a folder")
    from worker.folder import FolderStorage

    return FolderStorage(os.path.abspath(place))


def checked_key(key: str) -> str:
    """The key itself, or StorageRefused: relative, `/` between parts, no `.` or `..`, nothing that misleads."""
    parts = key.split("/")
    wrong = None
    if not key:
        wrong = "is empty"
    elif "" in parts:
        wrong = "begins or ends with a slash, or has two in a row"
    elif "." in parts or ".." in parts:
        wrong = "has a . or .. part and could leave its place"
    elif parts[0] == RESERVED:
        wrong = f"begins with {RESERVED}, which packshot keeps for itself"
    elif any(ord(letter) < 32 or ord(letter) == 127 or letter == "\\" for letter in key):
        wrong = "has a backslash or a control character"
    elif any(0xD800 <= ord(letter) <= 0xDFFF for letter in key):
        wrong = "is not valid Unicode"
    elif len(key.encode()) > KEY_BYTES or any(len(part.encode()) > PART_BYTES for part in parts):
        wrong = f"is too long: at most {KEY_BYTES} bytes in all and {PART_BYTES} between slashes"
    if wrong:
        raise StorageRefused(f"output key {key[:200]!r} {wrong}; write something like batch/sku-1.png")
    return key

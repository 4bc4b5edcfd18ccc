"""Where the pictures of a row go: keys below the output prefix, which they can never leave.

Nothing is replaced silently: a value that does not fit into a path is a problem, because a file by another name than
the one asked for is found by nobody.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from hashlib import blake2b

from scheduler import template
from scheduler.problems import Cell, Problems, quoted

# The storage's own limits (`worker/storage.py`; a test compares), so that nothing passes here and is refused there.
KEY_BYTES_MAX = 1024  # S3's limit, with the prefix
SEGMENT_BYTES_MAX = 250  # 255 of the usual file systems, less what a sidecar adds
RESERVED = ".packshot"

_CONTROL = re.compile("[\x00-\x1f\x7f]")
_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")


def keys(text: str, values: Mapping[str, str], n: int, prefix: str) -> tuple[str, ...]:
    """One key for each picture 1..n of a job.

    values: everything but `index`
    prefix: of the bucket, counted into the length
    Raises ValueError (MissingName where the row lacks a name), in words fit to print.
    """
    asked = template.names(text)
    for name in asked:
        _fits_a_path(name, values.get(name, ""))
    if n > 1 and "index" not in asked:
        raise ValueError(f"{n} pictures would be written to one path; put {{index}} into {quoted(text)}")
    return tuple(_key(text, {**values, "index": str(index)}, prefix) for index in range(1, n + 1))


def _fits_a_path(name: str, value: str) -> None:
    said = f"{{{name}}} is {quoted(value)}"
    if "/" in value or "\\" in value:
        raise ValueError(f"{said}, and a value may not make folders; write the slash into the template itself")
    if "{" in value or "}" in value:
        raise ValueError(f"{said}, and braces do not go into paths; write the value without them")
    if _CONTROL.search(value):
        raise ValueError(f"{said}, and line breaks do not go into paths; write the value on one line")


def _key(text: str, values: Mapping[str, str], prefix: str) -> str:
    key = template.render(text, values)
    said = quoted(key)
    if "{" in key or "}" in key:
        raise ValueError(f"{said} has braces; write the path without them")
    if "\\" in key or _CONTROL.search(key):
        raise ValueError(f"{said} has a backslash or a control character; write slashes and plain characters")
    if key.startswith("/") or re.match(r"^[A-Za-z]:", key):
        raise ValueError(f"{said} is absolute; write a path below the output, without a slash at its front")
    if "://" in key:
        raise ValueError(f"{said} is an address; write a path below the output")
    segments = key.split("/")
    if ".." in segments or "." in segments:
        raise ValueError(f"{said} has a dotted part; write a path that stays below the output")
    if segments[0] == RESERVED:
        raise ValueError(f"{said} lies in {RESERVED}, which packshot keeps for itself; write another path")
    if any(not segment.strip() for segment in segments):
        raise ValueError(f"{said} has an empty part; write a name between the slashes")
    if any(segment != segment.strip() for segment in segments):
        raise ValueError(f"{said} has a part that begins or ends with a blank; write it without")
    ending = _ENDING.search(segments[-1])
    if not segments[-1].lower().endswith(".png"):
        if ending and _is_literal(text, ending[0]):
            raise ValueError(f"{said} ends in {ending[0]}, and results are PNG; write .png")
        key += ".png"
        segments[-1] += ".png"
    if len(f"{prefix}/{key}".encode()) > KEY_BYTES_MAX or any(len(s.encode()) > SEGMENT_BYTES_MAX for s in segments):
        raise ValueError(
            f"{said} is too long; write at most {SEGMENT_BYTES_MAX} bytes a part and {KEY_BYTES_MAX} in all"
        )
    return key


def _is_literal(text: str, ending: str) -> bool:
    """The author wrote it; an ending that comes out of a value (`A.shoe`) is part of a name."""
    last, is_name = template.parts(text)[-1]
    return not is_name and last.endswith(ending)


class Claims:
    """Which row writes which key: hashes and places only, so that a million keys stay small."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self._files: list[str] = []
        self._file_numbers: dict[str, int] = {}
        self._exact: dict[int, tuple[int, int]] = {}
        self._folded: dict[int, int] = {}
        self._folders: dict[int, tuple[int, int]] = {}

    def claim(self, key: str, at: Cell) -> None:
        """An error names both rows that would write the key, or need it as a folder and as a picture.

        A key that differs only in case is a warning.
        """
        exact, above = _hash(key), _folders_like_pictures(key)
        if exact in self._exact:
            what = f"{quoted(key)} is written by {self._place(self._exact[exact], at)} already"
            self.problems.error(at, what, "make the paths differ, as with {sku} or {recipe}")
            return
        clash = self._folders.get(exact) or next((self._exact[h] for h in map(_hash, above) if h in self._exact), None)
        if clash is not None:
            what = f"{quoted(key)} and the path of {self._place(clash, at)}: one needs the other as a folder"
            self.problems.error(at, what, "give the folder another name than the picture")
            return
        number = self._file_numbers.setdefault(at.file, len(self._files))
        if number == len(self._files):
            self._files.append(at.file)
        self._exact[exact] = (number, at.line)
        for folder in above:
            self._folders.setdefault(_hash(folder), (number, at.line))
        folded = _hash(unicodedata.normalize("NFC", key).casefold())
        if self._folded.setdefault(folded, exact) != exact:
            self.problems.warn(
                ("case", at.file),
                at,
                f"{quoted(key)} differs from another path only in case",
                "some disks take them for one file",
            )

    def _place(self, claimed: tuple[int, int], at: Cell) -> str:
        number, line = claimed
        other = self._files[number]
        return f"line {line}" if other == at.file else f"{other}:{line}"

    def __contains__(self, key: str) -> bool:
        return _hash(key) in self._exact


def _folders_like_pictures(key: str) -> list[str]:
    """Of the folders above a key those that could be keys too: every key ends in .png, so other names cannot clash."""
    parts = key.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts)) if parts[i - 1].lower().endswith(".png")]


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")

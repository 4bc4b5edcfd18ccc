"""Reading files into cells: what encoding a file has, and the rows of CSV and JSON-lines tables, one at a time.

Nothing here knows what a column means. Tables are streamed, so a row costs memory only while it is looked at;
YAML is read in `scheduler/tree.py`.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import TextIOBase
from pathlib import Path
from typing import Any

from scheduler.problems import Cell, Problems, quoted

TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson")
CELL_CHARS_MAX = 64 * 1024  # a prompt is a hundredth of this
DATA_CHARS_MAX = 15 * 1024 * 1024  # a data: URI of a 10 MB picture
LINE_CHARS_MAX = 3 * DATA_CHARS_MAX
NAME_CHARS_MAX = 200
COLUMNS_MAX = 500
DELIMITERS = ",;\t"

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Row:
    """One line of a manifest: the cells that are not empty.

    folders: where its pictures are looked for, in this order
    header:  the columns of its table, empty for rows that name their columns themselves
    """

    file: str
    line: int
    cells: Mapping[str, Cell]
    folders: tuple[Path, ...]
    header: tuple[str, ...] = ()
    header_line: int = 0

    def at(self, column: str) -> Cell:
        """The row's cell, or its place where it has none."""
        return self.cells.get(column) or Cell("", self.file, self.line, column)


@dataclass(frozen=True)
class TextFile:
    """A file of known encoding. shown: its name as the user would find it"""

    path: Path
    shown: str
    encoding: str
    sha256: str


def show_path(path: Path, cwd: Path) -> str:
    """Relative to the current folder where it lies below it."""
    return path.relative_to(cwd).as_posix() if path.is_relative_to(cwd) else str(path)


def why_no_file(path: Path) -> str | None:
    """What keeps a path from being read, `does not exist`; None where a plain file is there."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "is a link to what does not exist" if path.is_symlink() else "does not exist"
    except OSError as error:  # the folder may not be entered, the name is too long, links go in a circle
        return f"cannot be read: {error.strerror}"
    if stat.S_ISDIR(mode):
        return "is a folder"
    return None if stat.S_ISREG(mode) else "is not a plain file"


def inspect(path: Path, shown: str, at: Cell, problems: Problems, *, bytes_max: int | None = None) -> TextFile | None:
    """Find the encoding, the checksum and any byte that is no text. None, and a problem, where it cannot be read.

    at: where to say so when there is no such file (the cell that names it, or the file itself)
    """
    if (why := why_no_file(path)) is not None:
        problems.error(at, f"{shown} {why}", "write the path of a file")
        return None
    here = Cell("", shown, 1, "")
    digest = hashlib.sha256()
    lines = 1
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
            encoding = _encoding(head)
            decoder = codecs.getincrementaldecoder(encoding)()
            block, size = head, 0
            while block:
                digest.update(block)
                size += len(block)
                if bytes_max is not None and size > bytes_max:
                    hint = "put the rows into a CSV table and name it under tables"
                    problems.error(here, f"larger than {bytes_max // 1024 // 1024} MB", hint)
                    return None
                text = decoder.decode(block)
                if "\0" in text:
                    lines += text[: text.index("\0")].count("\n")
                    problems.error(here._replace(line=lines), "a NUL byte: not a text file", "save it as UTF-8 text")
                    return None
                lines += text.count("\n")
                block = stream.read(1 << 20)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        lines += bytes(error.object[: error.start]).count(b"\n")
        bad = bytes(error.object[error.start : error.start + 1]).hex().upper()
        name = "UTF-8" if encoding.startswith("utf-8") else "UTF-16"
        problems.error(
            here._replace(line=lines),
            f"not {name} text: byte 0x{bad} does not belong there (an older Windows or GBK file?)",
            "save the file as UTF-8",
        )
        return None
    except OSError as error:
        problems.error(at, f"{shown} cannot be read: {error.strerror or error}", "check its permissions")
        return None
    return TextFile(path, shown, encoding, digest.hexdigest())


def _encoding(head: bytes) -> str:
    """By byte-order mark, else UTF-16 where every second byte of the beginning is zero, else UTF-8."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    start = head[:64]
    if len(start) >= 4 and not any(start[1::2]) and all(start[0::2]):
        return "utf-16-le"
    if len(start) >= 4 and not any(start[0::2]) and all(start[1::2]):
        return "utf-16-be"
    return "utf-8-sig"


def usable_name(name: str) -> bool:
    """May a column be called so? The names go into ledger, messages and tables."""
    return 0 < len(name) <= NAME_CHARS_MAX and not _UNPRINTABLE.search(name) and "\n" not in name


def clean(text: str, at: Cell, problems: Problems) -> str | None:
    """The text without blanks around it; None, and a problem, where it holds what no text should."""
    found = _UNPRINTABLE.search(text)
    if found:
        problems.error(at, f"holds the control character {found[0]!r}", "remove it")
        return None
    text = text.strip()
    if len(text) > CELL_CHARS_MAX and not (text.startswith("data:") and len(text) <= DATA_CHARS_MAX):
        problems.error(at, f"is {len(text):,} characters long", f"write at most {CELL_CHARS_MAX:,}")
        return None
    return text


def table_rows(file: TextFile, folders: tuple[Path, ...], problems: Problems) -> Iterator[Row]:
    """The rows of a CSV or JSON-lines file, by its ending; rows that cannot be read are problems and left out."""
    with file.path.open(encoding=file.encoding, newline="") as stream:
        if file.path.suffix.lower() in (".jsonl", ".ndjson"):
            yield from _json_rows(file, stream, folders, problems)
        else:
            yield from _csv_rows(file, stream, folders, problems)


def _lines(file: TextFile, stream: TextIOBase, problems: Problems) -> Iterator[str]:
    number = 0
    while line := stream.readline(LINE_CHARS_MAX):
        number += 1
        if len(line) >= LINE_CHARS_MAX:
            problems.error(Cell("", file.shown, number, ""), "a line without an end", "break it into rows")
            return
        yield line


def _csv_rows(file: TextFile, stream: TextIOBase, folders: tuple[Path, ...], problems: Problems) -> Iterator[Row]:
    csv.field_size_limit(DATA_CHARS_MAX)  # process-wide; the default is too small for a data: URI
    lines = _lines(file, stream, problems)
    skipped, first = next(((i, line) for i, line in enumerate(lines) if line.strip()), (0, ""))
    if not first:
        problems.error(Cell("", file.shown, 1, ""), "an empty table", "write a header line and rows below it")
        return
    delimiter = max(DELIMITERS, key=_outside_quotes(first).count)

    def from_first() -> Iterator[str]:
        yield first
        yield from lines

    reader = csv.reader(from_first(), delimiter=delimiter, strict=True)
    header: tuple[str, ...] | None = None
    while True:
        line = skipped + reader.line_num + 1
        here = Cell("", file.shown, line, "")
        try:
            texts = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            problems.error(here, *_csv_words(error))
            if header is None:
                return
            continue
        if header is None:
            header = _header(texts, here, problems)
            if header is None:
                return
            continue
        if not any(text.strip() for text in texts):
            continue
        if len(texts) != len(header):
            problems.error(
                here,
                f"{len(texts)} cells, and the header has {len(header)}",
                f"put quotes around values that hold {delimiter!r}" if len(texts) > len(header) else "fill it up",
            )
            continue
        cells = {}
        for name, text in zip(header, texts, strict=True):
            if text:
                cell = Cell(text, file.shown, line, name)
                cleaned = clean(text, cell, problems)
                if cleaned:
                    cells[name] = cell if cleaned == text else cell._replace(text=cleaned)
        yield Row(file.shown, line, cells, folders, header, header_line=skipped + 1)
    if header is None:
        problems.error(Cell("", file.shown, 1, ""), "an empty table", "write a header line and rows below it")


def _outside_quotes(line: str) -> str:
    return re.sub(r'"[^"]*"', "", line)


def _csv_words(error: csv.Error) -> tuple[str, str]:
    said = str(error)
    if "unexpected end" in said or "field larger" in said:
        return "a quote that is opened here is never closed", 'write "" for a quote inside a quoted value'
    if "expected after" in said:
        return "text after a closing quote", 'write "" for a quote inside a quoted value'
    return f"not CSV ({said})", "save the table again as CSV"


def _header(texts: list[str], here: Cell, problems: Problems) -> tuple[str, ...] | None:
    """The names of the columns, or None where rows could not be told apart."""
    names = tuple(text.strip() for text in texts)
    before = problems.raised
    for number, name in enumerate(names, 1):
        if not name:
            problems.error(here, f"column {number} has no name", "name it in the header, or remove it")
        elif names.index(name) != number - 1:
            problems.error(here._replace(column=name), "two columns of this name", "rename or remove one")
        elif not usable_name(name):
            problems.error(here, f"column {number} has no usable name", "write a short name")
    if len(names) > COLUMNS_MAX:
        problems.error(here, f"{len(names)} columns", f"keep at most {COLUMNS_MAX}")
    return names if problems.raised == before else None


class _Twice(ValueError):
    pass


def _json_rows(file: TextFile, stream: TextIOBase, folders: tuple[Path, ...], problems: Problems) -> Iterator[Row]:
    decoder = json.JSONDecoder(
        object_pairs_hook=_pairs, parse_int=str, parse_float=str, parse_constant=_no_constant
    )  # numbers stay as they are written: 0.10 is not 0.1
    number = 0
    for number, line in enumerate(_lines(file, stream, problems), 1):
        if not line.strip():
            continue
        here = Cell(line.strip(), file.shown, number, "")
        try:
            value = decoder.decode(line.strip())
        except _Twice as error:
            problems.error(here._replace(column=str(error)), "this key stands twice", "remove one")
            continue
        except (ValueError, RecursionError) as error:
            said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            problems.error(here, f"not JSON ({said})", 'write one {"sku": ...} object a line')
            continue
        if not isinstance(value, dict):
            problems.error(here, "not a JSON object", 'write one {"sku": ...} object a line')
            continue
        cells, good = {}, True
        for name, item in value.items():
            if not usable_name(name.strip()):
                problems.error(here, f"the key {quoted(name)} is no name", "write a short name on one line")
                good = False
                continue
            cell = Cell("", file.shown, number, name.strip())
            text = _json_text(item, cell, problems)
            cleaned = None if text is None else clean(text, cell._replace(text=text), problems)
            good = good and cleaned is not None
            if cleaned:
                cells[cell.column] = cell._replace(text=cleaned)
        if good and cells:
            yield Row(file.shown, number, cells, folders)
    if number == 0:
        problems.error(Cell("", file.shown, 1, ""), "an empty table", "write one JSON object a line")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Twice(name)
        found[name] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a value")


def _json_text(value: object, at: Cell, problems: Problems) -> str | None:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if at.column == "recipe" and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    problems.error(at._replace(text=quoted(str(value))), "holds a list or an object", "write a single value")
    return None

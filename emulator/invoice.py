"""What was billed: one line for each picture, kept in DIR/invoice.jsonl before the answer leaves.

This is the provider's side of the books: an audit compares it with the ledger. Lines are flushed to the operating
system, so they outlive a killed process. Which answers reached the caller is known only later and stands in a file of
its own (DIR/deliveries.jsonl, one request id a line), so that a billed line is never rewritten.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any


class Invoice:
    def __init__(self, folder: Path, currency: str) -> None:
        self.currency = currency
        self.micros = 0
        self.pictures = 0
        self._path = folder / "invoice.jsonl"
        self._delivered: set[str] = set()
        for line in read_lines(self._path):
            self._add(line)
        for line in read_lines(folder / "deliveries.jsonl"):
            self._delivered.add(line["request_id"])
        self._file = open_for_append(self._path)
        self._deliveries = open_for_append(folder / "deliveries.jsonl")

    def bill(self, at: float, items: list[dict[str, Any]], **facts: Any) -> None:
        """Appends the lines of one call. items: {"item", "type", "micros"} each; facts: the same for all of them."""
        text = ""
        for item in items:
            line = {"at": iso(at), **facts, **item, "currency": self.currency}
            text += json.dumps(line, ensure_ascii=False) + "\n"
            self._add(line)
        self._file.write(text)
        self._file.flush()

    def delivered(self, request_id: str) -> None:
        """The answer of this call was handed to an open connection; more cannot be known on this side."""
        self._delivered.add(request_id)
        self._deliveries.write(json.dumps({"request_id": request_id}) + "\n")
        self._deliveries.flush()

    def summary(self) -> dict[str, Any]:
        return {"currency": self.currency, "micros": self.micros, "pictures": self.pictures}

    def shown(self) -> dict[str, Any]:
        """Summary and lines, read from the file; the sums are those of the lines."""
        lines = [line | {"delivered": line["request_id"] in self._delivered} for line in read_lines(self._path)]
        return {
            "currency": self.currency,
            "micros": sum(line["micros"] for line in lines),
            "pictures": sum(line["item"] == "output" for line in lines),
            "lines": lines,
        }

    def close(self) -> None:
        self._file.close()
        self._deliveries.close()

    def _add(self, line: dict[str, Any]) -> None:
        self.micros += line["micros"]
        self.pictures += line["item"] == "output"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a JSON-lines file. A last line that a kill cut off is left out; it was never answered for."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for text in file:
            if text.endswith("\n"):
                yield json.loads(text)


def open_for_append(path: Path) -> IO[str]:
    """Opens for appending; a line that a kill cut off is removed first, so that the next one starts clean."""
    if path.exists():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
    return path.open("a", encoding="utf-8")


def iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

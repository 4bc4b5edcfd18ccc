"""The log of every generation call, refused ones included: DIR/calls.jsonl, and the youngest ones in memory."""

from __future__ import annotations

import json
import uuid
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emulator.invoice import iso, open_for_append, read_lines

KEPT = 20_000  # calls shown at the desk; the file holds all


@dataclass
class Call:
    """One call while it is served, and what became of it.

    ordinal: 1, 2, ... over all starts with the same state directory; decides which faults are drawn
    status:  None where the caller got no status line
    """

    ordinal: int
    at: float
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    model: str | None = None
    prompt: str | None = None
    n: int | None = None
    status: int | None = None
    code: str | None = None
    fault: str | None = None
    billed: int = 0

    def to_json(self, ended: float) -> dict[str, Any]:
        facts = {name: value for name, value in vars(self).items() if name != "at"}
        return {"at": iso(self.at), **facts, "took_s": round(ended - self.at, 3)}


class Calls:
    def __init__(self, folder: Path) -> None:
        path = folder / "calls.jsonl"
        self._kept: deque[dict[str, Any]] = deque(read_lines(path), maxlen=KEPT)
        self._ordinal = max((line["ordinal"] for line in self._kept), default=0)
        self._file = open_for_append(path)

    @property
    def count(self) -> int:
        """Calls begun since the state directory was new."""
        return self._ordinal

    def begin(self, now: float) -> Call:
        self._ordinal += 1
        return Call(self._ordinal, now)

    def end(self, call: Call, now: float) -> None:
        line = call.to_json(now)
        self._kept.append(line)
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def shown(self, newest: int | None = None) -> list[dict[str, Any]]:
        """In the order in which they ended, oldest first."""
        lines = list(self._kept)
        return lines if newest is None else lines[-newest:]

    def close(self) -> None:
        self._file.close()

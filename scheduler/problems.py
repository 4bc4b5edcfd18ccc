"""What is wrong with a manifest: every mistake with its place, its value and the way out, and no mistake twice.

Loading never stops at the first mistake. Errors are kept one by one; a mistake in a shared place (a default, a
recipe, a table's header) is met by every row and kept once. Warnings of a kind are gathered into one that counts
its rows, so that ten thousand small pictures give one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from models.errors import ManifestError

SET = "--set"  # stands where a file's name would, for values given on the command line


class Cell(NamedTuple):
    """One value as text, whatever it was read from, and where a person finds it.

    file: as the user would find it; `--set` for the command line
    line: from 1; 0 where there is no line
    """

    text: str
    file: str
    line: int
    column: str


@dataclass(frozen=True)
class Problem:
    """One mistake or warning. `str()` is the line to print: `catalog.csv:14 size: what is wrong; what to write`."""

    file: str
    line: int
    column: str
    message: str
    hint: str = ""
    severity: Literal["error", "warning"] = "error"
    value: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        where = f"{place} {self.column}" if self.column else place
        return f"{where}: {self.message}" + (f"; {self.hint}" if self.hint else "")


class ManifestRefused(ManifestError):
    """The manifest has problems; `problems` holds all of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = f": {problems[0]}" if len(problems) == 1 else ""
        super().__init__(f"the manifest has {len(problems)} problem{'s' * (len(problems) != 1)}{first}")
        self.problems = list(problems)


def problems_as_json(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """One object a problem, with `text` as it would be printed."""
    return [{**asdict(problem), "text": str(problem)} for problem in problems]


class Problems:
    """Gathers while the manifest is read. `raised` counts every error met, also the repeated ones."""

    def __init__(self) -> None:
        self.errors: list[Problem] = []
        self.raised = 0
        self._seen: set[Problem] = set()
        self._groups: dict[tuple[object, ...], tuple[Problem, int]] = {}

    def error(self, at: Cell, message: str, hint: str = "") -> None:
        self.raised += 1
        problem = Problem(at.file, at.line, at.column, message, hint, "error", _fit_to_print(at.text, 200))
        if problem not in self._seen:
            self._seen.add(problem)
            self.errors.append(problem)

    def wrong(self, at: Cell, error: ValueError) -> None:
        """An error whose words are `what is wrong; what to write instead`."""
        message, _, hint = str(error).rpartition("; ")
        self.error(at, message or hint, hint if message else "")

    def warn(self, kind: tuple[object, ...], at: Cell, message: str, hint: str = "") -> None:
        """The first of a kind is kept with its place, later ones are counted."""
        if kind in self._groups:
            first, count = self._groups[kind]
            self._groups[kind] = first, count + 1
        else:
            problem = Problem(at.file, at.line, at.column, message, hint, "warning", _fit_to_print(at.text, 200))
            self._groups[kind] = problem, 1

    @property
    def warnings(self) -> list[Problem]:
        return [
            first if count == 1 else replace(first, message=f"{first.message} (and {count - 1:,} more like it)")
            for first, count in self._groups.values()
        ]


def quoted(text: str) -> str:
    """The value as it stands in a message: quoted, on one line, not longer than a person wants to read."""
    return repr(_fit_to_print(text, 60))


def _fit_to_print(text: str, length: int) -> str:
    """Shortened, and an address without its password and signature, which belong into no message."""
    if "://" in text:
        text = re.sub(r"://[^/@\s]*@", "://***@", text)
        text = re.sub(r"\?.*", "?...", text, flags=re.DOTALL)
    return text if len(text) <= length else text[: length - 3] + "..."

"""How facts and tables look: aligned, one record a line, nothing cut off; on a terminal the last column wraps."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.cells import cell_len

# Panels of `packshot --help`; what one needs every day stands first, without one.
ORDERS, CLUSTER, SETUP = "Orders to a batch", "The cluster", "Reference and installation"
ROOM_MIN = 20  # columns below which wrapping makes things worse


def counted(count: int, thing: str) -> str:
    """`1 row`, `1,200 rows`; the last word is the thing counted."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def print_facts(facts: Iterable[tuple[str, str]], file: TextIO | None = None) -> None:
    """Names on the left, what they say on the right. file: stdout unless given"""
    _print(list(facts), frozenset(), file or sys.stdout)


def print_table(titles: Sequence[str], records: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Titles and records. right: titles of the columns that hold figures"""
    _print([titles, *records], frozenset(titles.index(title) for title in right), sys.stdout)


def _print(lines: Sequence[Sequence[str]], right: frozenset[int], file: TextIO) -> None:
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    indent = sum(widths[:-1]) + 2 * len(widths[:-1])
    room = shutil.get_terminal_size().columns - indent
    for line in lines:
        cells = [
            " " * (width - cell_len(value)) + value if number in right else value + " " * (width - cell_len(value))
            for number, (value, width) in enumerate(zip(line, widths, strict=True))
        ]
        last = [cells[-1].rstrip()]
        if file.isatty() and room >= ROOM_MIN:
            last = textwrap.wrap(cells[-1], room, break_long_words=False, break_on_hyphens=False) or [""]
        print("  ".join([*cells[:-1], last[0]]).rstrip(), file=file)
        for more in last[1:]:
            print(" " * indent + more, file=file)

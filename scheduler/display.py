"""How a run looks while it goes: a live panel on a terminal, plain lines in a log. Everything goes to stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from models.money import show as money

if TYPE_CHECKING:
    from models.batch import Batch
    from scheduler.report import Progress

LINE_EVERY_S = 5.0


class LiveDisplay:
    """A panel that redraws itself; needs a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=False)
        self._live.start()

    def show(self, found: Batch, seen: Progress, rate: Callable[[str], float]) -> None:
        self._live.update(_panel(found, seen, rate), refresh=True)

    def say(self, sentence: str) -> None:
        self._console.print(Text(sentence, style="yellow"))

    def close(self) -> None:
        self._live.stop()

    def abandon(self) -> None:
        """The process ends now, in a signal handler: give the terminal its cursor back, and nothing else."""
        os.write(sys.stderr.fileno(), b"\x1b[?25h\n")


class PlainDisplay:
    """One line every few seconds, and whenever something is to be said."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ("", 0.0)

    def show(self, found: Batch, seen: Progress, rate: Callable[[str], float]) -> None:
        line = _line(found, seen, rate)
        before, at = self._last
        over = not seen.in_hand and not seen.waiting
        if line == before or (time.monotonic() - at < LINE_EVERY_S and not over):
            return
        self._last = (line, time.monotonic())
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def say(self, sentence: str) -> None:
        self._console.print(sentence, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


def open_display() -> LiveDisplay | PlainDisplay:
    console = Console(stderr=True)
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


def time_left_s(seen: Progress, rate: Callable[[str], float]) -> float:
    """At the present rates; models run side by side, so the slowest decides."""
    return max((count / rate(model) for model, count in seen.left_by_model.items() if rate(model) > 0), default=0.0)


def duration(seconds: float) -> str:
    """`75.0` -> `1 min 15 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _done(seen: Progress) -> int:
    return seen.jobs["succeeded"] + seen.jobs["cancelled"]


def _spent(found: Batch, seen: Progress) -> str:
    account = seen.account
    parts = [
        f"{money(account.charged_micros, account.currency)} of {money(found.quote_micros, account.currency)} quoted"
    ]
    if account.budget_micros is not None:
        parts.append(f"budget {money(account.budget_micros, account.currency)}")
    if account.exposed_micros:
        parts.append(f"exposed {money(account.exposed_micros, account.currency)}")
    return ", ".join(parts)


def _speed(seen: Progress, rate: Callable[[str], float]) -> str:
    limit = sum(rate(model) for model in seen.left_by_model)
    shown = f"{limit:.2g}" if limit < 10 else f"{limit:,.0f}"
    return f"{seen.calls_last_10s / 10:.1f} calls/s of {shown}/s"


def _line(found: Batch, seen: Progress, rate: Callable[[str], float]) -> str:
    parts = [
        f"{found.name}: done {_done(seen)}/{seen.total}",
        f"failed {seen.jobs['failed']}",
        f"held {seen.jobs['held']}",
        f"in hand {seen.in_hand}",
        f"waiting {seen.waiting}",
        f"spent {_spent(found, seen)}",
    ]
    if seen.left_by_model and found.state == "open":
        parts.append(_speed(seen, rate))
        parts.append(f"about {duration(time_left_s(seen, rate))} left")
    if found.code:
        parts.append(f"{found.state}: {found.message}")
    return " | ".join(parts)


def _panel(found: Batch, seen: Progress, rate: Callable[[str], float]) -> Table:
    panel = Table.grid(padding=(0, 2))
    panel.add_column(style="bold")
    panel.add_column()
    bar = ProgressBar(
        total=max(1, seen.total), completed=_done(seen) + seen.jobs["failed"] + seen.jobs["held"], width=40
    )
    panel.add_row(found.name, bar)
    counts = Text()
    for label, count, style in (
        ("done", _done(seen), "green"),
        ("failed", seen.jobs["failed"], "red"),
        ("held", seen.jobs["held"], "yellow"),
        ("in hand", seen.in_hand, "cyan"),
        ("waiting", seen.waiting, ""),
    ):
        counts.append(f"{label} ", style="dim")
        counts.append(f"{count}   ", style=style if count else "dim")
    panel.add_row("jobs", counts)
    panel.add_row("spent", _spent(found, seen))
    if seen.left_by_model and found.state == "open":
        panel.add_row("speed", f"{_speed(seen, rate)}, about {duration(time_left_s(seen, rate))} left")
    if found.code:
        panel.add_row(found.state, Text(found.message or "", style="red"))
    return panel

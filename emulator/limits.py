"""How many calls a model takes: a sliding window for each model id, over all keys, as the provider counts.

A refused call does not occupy the window. A call is counted when it is read, by the moment it arrived, and one whose
body came in slowly is not refused for calls that arrived after it: its window ends with its own arrival. The window is
kept in memory: an emulator that starts again starts with an empty one, which is the only other way in which it is more
generous than the provider.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

from models.catalogue import CATALOGUE, Limit

UPLOAD_POLICIES = (Limit(100, 1.0),)  # API reference, section 3.1: per account and model


class Limits:
    """clock: seconds, any origin; passed in so that tests move it."""

    def __init__(self, clock: Callable[[], float], own: Mapping[str, tuple[Limit, ...]] | None = None) -> None:
        self._clock = clock
        self._limits = {name: model.limits for name, model in CATALOGUE.items()} | dict(own or {})
        self._calls: dict[str, deque[float]] = {}
        self._policies: dict[str, deque[float]] = {}

    def admit(self, model: str, arrived: float) -> bool:
        """Takes a place in the window for a call that arrived then; False where there is none."""
        window = self._window(self._calls, model)
        if not _has_room(window, self.of(model), arrived):
            return False
        insort(window, arrived)  # calls are read side by side: an earlier one may come to this point later
        return True

    def give_back(self, model: str, arrived: float) -> None:
        """The place of a call that was refused for another reason."""
        with suppress(ValueError):
            self._window(self._calls, model).remove(arrived)

    def admit_policy(self, model: str) -> bool:
        window = self._window(self._policies, model)
        if not _has_room(window, UPLOAD_POLICIES, self._clock()):
            return False
        window.append(self._clock())
        return True

    def change(self, own: Mapping[str, tuple[Limit, ...]]) -> None:
        """New limits from now on; calls already counted stay counted."""
        self._limits.update(own)

    def of(self, model: str) -> tuple[Limit, ...]:
        return self._limits.get(model, ())

    def shown(self) -> dict[str, list[str]]:
        return {name: [str(limit) for limit in limits] for name, limits in self._limits.items() if limits}

    @staticmethod
    def _window(windows: dict[str, deque[float]], model: str) -> deque[float]:
        return windows.setdefault(model, deque())


def _has_room(calls: deque[float], limits: tuple[Limit, ...], now: float) -> bool:
    longest = max((limit.window_s for limit in limits), default=0.0)
    while calls and calls[0] <= now - longest:
        calls.popleft()
    return all(_in_window(calls, now - limit.window_s, now) < limit.requests for limit in limits)


def _in_window(calls: deque[float], start: float, end: float) -> int:
    """How many came after `start`, until `end`; the deque is in order of time, so only the young end is walked."""
    found = 0
    for moment in reversed(calls):
        if moment <= start:
            break
        found += moment <= end
    return found

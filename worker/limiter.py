"""How fast calls may leave: the rules, and the limiter of one process. `worker.limiter_redis` shares one between many.

The provider counts calls per account and model over a window and may enforce a minute limit per second, so slots are
spread evenly over the window, a little under the limit (`margin`), and never saved up: a limiter that allowed k calls
at once would send up to limit + k in some window. That is GCRA with no burst tolerance; of several limits of one lane
the one with the longest way between two slots then holds for all. `acquire` *reserves* a slot and says how long to
wait for it: one question per admission instead of polling.

A lane is what the provider counts apart: a model id, or `region/model` where one process calls several regions.

How it can be wrong: it counts admissions, not arrivals. Two calls a window apart of which the first arrives late and
the second on time are that much closer together, which `margin` covers up to a point. So whatever takes an uneven time
(opening pictures, a commit, a connection) belongs before the wait for the slot, not after it; and who misses a slot by
more than `slack_s` all the same takes another instead. Somebody else on the account (another tool, the console) is
invisible. Both show as 429: a few are taken lightly, more slow the lane down,
and it creeps back.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from models.catalogue import Limit
from models.errors import PackshotError, SettingsError

JITTER_S = 0.04  # by how much calls may arrive unevenly, where the limit is small enough to leave that room
MARGIN_MIN, MARGIN_MAX, MARGIN_CALLS = 0.008, 0.04, 0.08
LATE_S = (
    0.025  # a call so much later than its slot still goes: it may crowd one other, and missing it is sure to cost one
)
FLOOR = 0.1  # a lane never falls below this part of its limit
CREEP_PER_S = 0.1 / 60  # a lane regains a tenth of its limit in a minute of successes
CREEP_MAX_S = 60.0  # an idle hour does not count as an hour of successes
MAX_PAUSE_S = 60.0


class LimiterUnavailable(PackshotError):
    """The shared limiter cannot be asked, so nothing may be sent now."""

    retryable = True


class Limiter(Protocol):
    """Only `acquire` may raise LimiterUnavailable; what happened to a call must be written down whatever this knows.

    All raise SettingsError for a lane without a limit: unknown means stop, not unlimited.
    """

    def acquire(self, lane: str) -> float:
        """Reserve a slot for one call; seconds until it may be sent, 0.0 for now."""

    def slack_s(self, lane: str) -> float:
        """How late after its slot a call may leave; later it would crowd others, and must take another slot."""

    def give_back(self, lane: str) -> None:
        """The slot that this thread acquired last will not be used: the next caller may have it, if it is to come."""

    def throttled(self, lane: str, kind: str) -> None:
        """The provider answered 429; kind as in `models.errors.Throttled`."""

    def succeeded(self, lane: str) -> None:
        """The provider answered a call of this lane, so the present rate is borne."""

    def rate(self, lane: str) -> float:
        """Calls per second at present, for displays and estimates of time."""


@dataclass(frozen=True)
class Reaction:
    """What a 429 of one kind does to its lane.

    slower:    the part of the rate that is left
    at_most:   part of the limit that the lane starts again with, however fast it was
    pause_s:   no slot for so long; never less than the way to the next slot nor more than the limiter's `max_pause_s`
    tolerated: so many in a row only nudge the lane (NUDGE) and pause nothing
    calm_s:    a row ends when so long nothing was throttled
    """

    slower: float
    at_most: float
    pause_s: float
    tolerated: int = 0
    calm_s: float = 0.0


BURST = Reaction(slower=0.5, at_most=0.25, pause_s=10.0)  # rose too quickly: start small and creep up
QUOTA = Reaction(slower=0.9, at_most=1.0, pause_s=60.0)  # the allocated amount is used up, until the next minute
RATE_PAUSE_MAX_S = 5.0
CALM_WINDOWS = 2
TOLERATED = 0.1  # of the calls of a window, at least one
NUDGE = 0.995


def reaction(kind: str, limits: Sequence[Limit]) -> Reaction:
    """A full window needs as long as a short window is: long enough to matter, short enough not to lose a minute.

    One call refused, or two of twenty, none before them for two windows, are most likely calls that arrived on time
    behind others that a hiccup made late. The refusal took its slot and nothing else is wrong; a pause of a window
    would cost all calls of that window.
    """
    match kind:
        case "burst":
            return BURST
        case "quota":
            return QUOTA
        case _:
            window_s = max(limit.window_s for limit in limits)
            return Reaction(
                slower=0.9,
                at_most=1.0,
                pause_s=min(RATE_PAUSE_MAX_S, window_s),
                tolerated=max(1, int(TOLERATED * min(limit.requests for limit in limits))),
                calm_s=CALM_WINDOWS * window_s,
            )


def margin(limit: Limit) -> float:
    """The part of a limit that is left unused, so that calls which arrive unevenly do not pass it: 0.008 to 0.04.

    Between one call and the one that must be a window later lies margin x window of room. For 2 calls a second 1 %
    would be 10 ms, which a connection or a commit on a busy machine takes now and then; 4 % is 40 ms, and costs such a
    lane five calls a minute. For 20 a second 4 % would cost forty-eight a minute, so the margin shrinks with the
    number of calls, and with long windows, which have their 40 ms within the least margin already.
    """
    return max(MARGIN_MIN, min(MARGIN_MAX, MARGIN_CALLS / limit.requests, JITTER_S / limit.window_s))


def slack_s(limits: Sequence[Limit]) -> float:
    """How late a call may leave: by the room that the margins leave before the call a window later, or LATE_S."""
    return max(LATE_S, min(limit.window_s * margin(limit) for limit in limits))


def spacing_s(limits: Sequence[Limit], share: float = 1.0) -> float:
    """Seconds between two slots that keep all limits; share: (0..1] part of them that is ours."""
    return max(limit.window_s / (limit.requests * share * (1 - margin(limit))) for limit in limits)


def limits_of(lane: str, limits: Mapping[str, Sequence[Limit]]) -> Sequence[Limit]:
    """`region/model` that is not listed is looked up as `model`. Raises SettingsError."""
    found = limits.get(lane) or limits.get(lane.rpartition("/")[2])
    if not found:
        raise SettingsError(f"no rate limit is known for {lane}; set PACKSHOT_LIMITS")
    return found


def checked_share(share: float) -> float:
    if not 0 < share <= 1:
        raise ValueError(f"share {share} is not between 0 and 1")
    return share


class Mine(threading.local):
    """Which slots the present thread acquired and may still give back: by lane, the latest last."""

    def __init__(self) -> None:
        self.slots: dict[str, float] = {}


@dataclass
class _Lane:
    """Seconds on the limiter's clock. What the shared limiter keeps in Redis under the same names.

    latest:       the latest slot that was handed out
    factor:       part of the pace in force, FLOOR to 1
    paused_until: no slot before
    changed_at:   when the factor last moved
    throttled_at: when the provider last said 429
    strikes:      how many times in a row it has, and the lane was only nudged
    freed:        slots that were given back and are still to come; a heap
    """

    limits: Sequence[Limit]
    spacing_s: float
    latest: float = float("-inf")
    factor: float = 1.0
    paused_until: float = float("-inf")
    changed_at: float = float("-inf")
    throttled_at: float = float("-inf")
    strikes: int = 0
    freed: list[float] = field(default_factory=list)

    @property
    def every_s(self) -> float:
        return self.spacing_s / self.factor


class LocalLimiter:
    """The limiter of one process: thread-safe, nothing shared beyond it.

    limits:      per lane; `region/model` that is not listed is looked up as `model`
    share:       (0..1] part of every limit that is ours; the rest is left to whoever else uses the account
    lead_s:      no slot sooner than this after it was asked for: what comes between asking and sending takes as long
    max_pause_s: no throttle stops a lane for longer
    clock:       seconds, any origin
    """

    def __init__(
        self,
        limits: Mapping[str, Sequence[Limit]],
        *,
        share: float = 1.0,
        lead_s: float = 0.0,
        max_pause_s: float = MAX_PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._share = checked_share(share)
        self._lead_s = lead_s
        self._max_pause_s = max_pause_s
        self._clock = clock
        self._lanes: dict[str, _Lane] = {}
        self._mine = Mine()
        self._lock = threading.Lock()

    def acquire(self, lane: str) -> float:
        with self._lock:
            now, state = self._clock(), self._lane(lane)
            earliest = max(now + self._lead_s, state.paused_until)
            while state.freed and state.freed[0] < earliest:
                heapq.heappop(state.freed)
            if state.freed:
                slot = heapq.heappop(state.freed)
            else:
                slot = state.latest = max(earliest, state.latest + state.every_s)
            self._mine.slots[lane] = slot
            return slot - now

    def slack_s(self, lane: str) -> float:
        return slack_s(limits_of(lane, self._limits))

    def give_back(self, lane: str) -> None:
        with self._lock:
            state, slot = self._lane(lane), self._mine.slots.pop(lane, None)
            if slot is not None:
                heapq.heappush(state.freed, slot)

    def throttled(self, lane: str, kind: str) -> None:
        """Calls already under way bring home the same news: only the first throttle of a pause slows the lane."""
        with self._lock:
            now, state = self._clock(), self._lane(lane)
            if now < state.paused_until:
                return
            reacts = reaction(kind, state.limits)
            state.strikes = 1 + (state.strikes if now - state.throttled_at <= reacts.calm_s else 0)
            if state.strikes <= reacts.tolerated:
                state.factor = max(FLOOR, state.factor * NUDGE)
            else:
                state.strikes = 0
                state.factor = max(FLOOR, min(reacts.at_most, state.factor * reacts.slower))
                state.paused_until = now + min(self._max_pause_s, max(reacts.pause_s, state.every_s))
            state.changed_at = state.throttled_at = now

    def succeeded(self, lane: str) -> None:
        with self._lock:
            now, state = self._clock(), self._lane(lane)
            if state.factor < 1.0 and now >= state.paused_until:
                borne_s = min(now - max(state.changed_at, state.paused_until), CREEP_MAX_S)
                state.factor = min(1.0, state.factor + CREEP_PER_S * borne_s)
                state.changed_at = now

    def rate(self, lane: str) -> float:
        with self._lock:
            return 1 / self._lane(lane).every_s

    def _lane(self, name: str) -> _Lane:
        if name not in self._lanes:
            limits = limits_of(name, self._limits)
            self._lanes[name] = _Lane(limits, spacing_s(limits, self._share))
        return self._lanes[name]

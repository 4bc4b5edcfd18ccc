"""One limiter for all workers: the lanes of `worker.limiter`, kept in Redis and moved by one script on its clock.

Promises: one round trip for each admission; nothing is admitted while Redis cannot be asked (`LimiterUnavailable`
within about a second); it finds Redis again by itself. The script lies beside this file and says what each key means.
Limits travel with each question, so workers need no set-up; workers with different limits each keep their own pace
after the lane's latest slot.

How it can be wrong, beyond what `worker.limiter` says:
- Redis wiped, or killed with its last second not yet on disk: it forgets slots that were used just now or that workers
  still wait for. Each worker names its furthest one with its next question, so a lane goes on behind what is known to
  be held, and begins anew only a window (at most `LOST_MAX_S`) later. What another worker holds beyond that and has
  not named yet is sent on top, which may be a call too many in a window, or two.
- Its clock set forward by n seconds: slots of those n seconds are handed out a second time. Set back: nothing.
- A question whose answer is lost may have taken a slot, which then stays unused.
- Another name of the account (`account`) is another counter: workers of one account must agree on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import structlog
from redis import BlockingConnectionPool, Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from models.catalogue import Limit
from models.errors import SettingsError
from worker.limiter import (
    CREEP_MAX_S,
    CREEP_PER_S,
    FLOOR,
    MAX_PAUSE_S,
    NUDGE,
    LimiterUnavailable,
    Mine,
    checked_share,
    limits_of,
    reaction,
    slack_s,
    spacing_s,
)

TIMEOUT_S = 1.0
CONNECTIONS = 8  # a question takes a tenth of a millisecond: a thousand threads need no more
RATE_FRESH_S = 1.0  # a rate known for less is told without asking
LOST_MAX_S = 5.0
GAP_DRIFT = 1e-4  # clocks part by less; by so much the memory of the quickest answer fades

log = structlog.get_logger()


@dataclass
class _Lane:
    """What this process remembers of a lane.

    factor, known_at: part of the pace in force, and when it was heard (local clock)
    held, held_until: the furthest slot handed to this process (microseconds of the server), and its local time
    """

    limits: Sequence[Limit]
    spacing_us: int
    factor: float = 1.0
    known_at: float = float("-inf")
    held: int = 0
    held_until: float = float("-inf")


class RedisLimiter:
    """Shared by all threads of a process, and through Redis by all processes of an account.

    url:         redis://, rediss:// or unix://
    limits, share, lead_s, max_pause_s: as in LocalLimiter
    account:     part of the keys, where one Redis serves several accounts
    timeout_s:   for a free connection, to connect, and to be answered. The client's own retries are off: a second
                 question behind our back would take a second slot and double the time until `LimiterUnavailable`
    clock:       seconds; for tests, which it serves as the server's time and their own
    """

    def __init__(
        self,
        url: str,
        limits: Mapping[str, Sequence[Limit]],
        *,
        share: float = 1.0,
        lead_s: float = 0.0,
        max_pause_s: float = MAX_PAUSE_S,
        account: str = "default",
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._limits = limits
        self._share = checked_share(share)
        self._lead_us = int(1e6 * lead_s)
        self._max_pause_s = max_pause_s
        self._account = account
        self._server_clock = clock
        self._clock = clock or time.monotonic
        self._lanes: dict[str, _Lane] = {}
        self._mine = Mine()
        self._lock = threading.Lock()  # guards memory only; nobody waits for the network in it
        self._gap, self._gap_at = float("inf"), 0.0
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=timeout_s,
                protocol=2,
                decode_responses=True,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),
                health_check_interval=0,
            )
        except ValueError as error:
            raise SettingsError(f"PACKSHOT_REDIS_URL: {error}") from error
        self._redis = Redis.from_pool(pool)
        self._script = self._redis.register_script(files("worker").joinpath("limiter.lua").read_text("utf-8"))

    def acquire(self, lane: str) -> float:
        state, asked_at = self._lane(lane), self._clock()
        lost_s = min(LOST_MAX_S, max(limit.window_s for limit in state.limits))
        left_s = max(-2 * lost_s, state.held_until - asked_at)
        held = state.held if left_s > -lost_s else 0
        apart_us = (int(1e6 * left_s), int(1e6 * lost_s), self._lead_us)
        now, slot, factor = self._ask(state, lane, "acquire", held, *apart_us)
        answered_at = self._clock()
        with self._lock:
            wait_s: float = max(0.0, (slot - now) / 1e6 - self._late_s(now / 1e6, asked_at, answered_at))
            state.factor, state.known_at = float(factor), answered_at
            if slot > state.held or answered_at > state.held_until:
                state.held, state.held_until = slot, answered_at + wait_s
        self._mine.slots[lane] = slot
        return wait_s

    def slack_s(self, lane: str) -> float:
        return slack_s(limits_of(lane, self._limits))

    def give_back(self, lane: str) -> None:
        state, slot = self._lane(lane), self._mine.slots.pop(lane, None)
        if slot is not None:
            self._tell(state, lane, "give_back", int(slot))

    def throttled(self, lane: str, kind: str) -> None:
        state = self._lane(lane)
        reacts = reaction(kind, state.limits)
        pause_us, longest_us, calm_us = (int(1e6 * s) for s in (reacts.pause_s, self._max_pause_s, reacts.calm_s))
        change = (reacts.slower, reacts.at_most, FLOOR, pause_us, longest_us, reacts.tolerated, calm_us, NUDGE)
        self._tell(state, lane, "throttled", *change)

    def succeeded(self, lane: str) -> None:
        """No question where the lane was last seen at its full pace: there is nothing to regain."""
        state = self._lane(lane)
        if state.factor < 1.0:
            self._tell(state, lane, "succeeded", CREEP_PER_S, CREEP_MAX_S)

    def rate(self, lane: str) -> float:
        """At most a second old. While Redis cannot be asked: what is configured."""
        state = self._lane(lane)
        if not 0 <= self._clock() - state.known_at < RATE_FRESH_S and not self._tell(state, lane, "rate"):
            state.factor, state.known_at = 1.0, self._clock()
        return state.factor / (state.spacing_us / 1e6)

    def close(self) -> None:
        self._redis.close()

    def _ask(self, state: _Lane, lane: str, verb: str, *arguments: float) -> list[Any]:
        key = f"packshot:limiter:{{{self._account}/{lane}}}"
        now = "" if self._server_clock is None else round(1e6 * self._server_clock())
        try:
            answer: list[Any] = self._script([key, f"{key}:freed"], [verb, state.spacing_us, now, *arguments])
        except RedisError as error:
            raise LimiterUnavailable(
                f"the shared limiter cannot be asked, nothing is sent: {error}; see to the Redis of PACKSHOT_REDIS_URL"
            ) from error
        return answer

    def _tell(self, state: _Lane, lane: str, verb: str, *arguments: float) -> bool:
        """News that may get lost: nothing is sent without Redis anyway, and the next 429 says it again."""
        try:
            answer = self._ask(state, lane, verb, *arguments)
        except LimiterUnavailable as error:
            log.warning("the shared limiter was not told", lane=lane, what=verb, error=str(error))
            return False
        if answer:
            with self._lock:
                state.factor, state.known_at = float(answer[0]), self._clock()
        return True

    def _late_s(self, server_s: float, asked_at: float, answered_at: float) -> float:
        """How much later than the quickest answer this one came home, so that a slow answer does not delay its call.

        Only differences of the two clocks are used, and never more than the question took in all: a clock that was set
        cannot hurt.
        """
        gap = answered_at - server_s
        self._gap = min(gap, self._gap + GAP_DRIFT * (answered_at - self._gap_at))
        self._gap_at = answered_at
        return min(gap - self._gap, answered_at - asked_at)

    def _lane(self, name: str) -> _Lane:
        with self._lock:
            if name not in self._lanes:
                limits = limits_of(name, self._limits)
                self._lanes[name] = _Lane(limits, round(1e6 * spacing_s(limits, self._share)))
            return self._lanes[name]

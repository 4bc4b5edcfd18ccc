"""The one authority on trying again: a pure function of an error, the tries so far and a throw of the dice.

Nobody else repeats a paid call: the retries of urllib3, botocore and the queue are off for them.
Waits are a floor (what the provider advises) plus "full jitter": anywhere between nothing and a ceiling that doubles,
so that a thousand jobs that failed in the same second do not come back in the same second.

What never left the house cost nothing and says nothing against the edit: most likely the network is away, for all jobs
at once. So it has tries of its own, spread over three to six minutes, before a job fails for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import (
    AccountStopped,
    CallError,
    NotSent,
    OutcomeUnknown,
    PackshotError,
    PictureError,
    Refused,
    SlotMissed,
    StorageRefused,
    Throttled,
    UsageError,
)

FIRST_S = 1.0
LONGEST_S = 60.0
BURST_FIRST_S = 10.0
NOT_SENT_TRIES = 12
COPY_LONGEST_S = 30.0
STUCK_WAIT_S = 600.0


@dataclass(frozen=True)
class Again:
    """Try again after `wait_s` seconds. counted: whether this one used up a try; a throttle does not."""

    wait_s: float
    counted: bool


@dataclass(frozen=True)
class GiveUp:
    """The job fails."""

    code: str
    message: str


@dataclass(frozen=True)
class StopBatch:
    """Nothing of this batch will pass until a person acts."""

    code: str
    message: str
    advice: str


@dataclass(frozen=True)
class AskExposure:
    """It may have been paid: the exposure rule decides whether it is bought again."""

    code: str
    message: str


def decide(
    error: PackshotError, *, tries: int, max_tries: int, chance: float, throttles: int = 0, unsent: int = 0
) -> Again | GiveUp | StopBatch | AskExposure:
    """What to do after `error`.

    tries:     counted tries of the job including this one, from 1
    max_tries: the setting; a code that is worth fewer has its own `tries`
    chance:    in [0, 1], thrown by the caller
    throttles: throttles in a row, this one included
    unsent:    of the tries before this one, those that never left the house
    """
    if isinstance(error, OutcomeUnknown):
        return AskExposure(error.code, error.message)
    if isinstance(error, AccountStopped):
        return StopBatch(error.code, error.message, error.advice)
    if isinstance(error, UsageError):
        return StopBatch(type(error).__name__, str(error), "correct the setting and run again")
    if isinstance(error, StorageRefused):
        return StopBatch(type(error).__name__, str(error), "make the place of the pictures writable and run again")
    if isinstance(error, Throttled):
        return Again(throttle_wait_s(error, throttles, chance), counted=False)
    if isinstance(error, SlotMissed):  # says nothing against edit, network or provider
        return Again(back_off_s(1, chance), counted=False)
    if isinstance(error, NotSent):
        if error.retryable and unsent + 1 < max(max_tries, NOT_SENT_TRIES):
            return Again(outage_wait_s(unsent + 1, chance), counted=True)
        return GiveUp(*_words(error))
    tries -= unsent
    floor_s = error.wait_s if isinstance(error, Refused) else 0.0
    allowed = min(max_tries, error.tries or max_tries) if isinstance(error, Refused) else max_tries
    if error.retryable and tries < allowed:
        return Again(floor_s + back_off_s(tries, chance), counted=True)
    return GiveUp(*_words(error))


def back_off_s(tries: int, chance: float) -> float:
    """Full jitter under a ceiling of 1 s that doubles with every try up to 60 s."""
    return chance * min(LONGEST_S, FIRST_S * 2.0 ** min(tries - 1, 16))


def outage_wait_s(tries: int, chance: float) -> float:
    """The upper half of the same ceiling: luck must not use up all tries while the network is away."""
    return 0.5 * (back_off_s(tries, 1.0) + back_off_s(tries, chance))


def throttle_wait_s(error: Throttled, throttles: int, chance: float) -> float:
    """Between the provider's floor and a ceiling that doubles with throttles in a row, 60 s unless asked for more.

    A full window is free again within a minute; a burst needs 10 s at least, and patience that grows.
    """
    floor_s = max(error.wait_s, BURST_FIRST_S if error.kind == "burst" else FIRST_S)
    ceiling_s = max(floor_s, min(LONGEST_S, floor_s * 2.0 ** min(max(throttles, 1), 16)))
    return floor_s + chance * (ceiling_s - floor_s)


def copy_wait_s(failures: int, chance: float, *, longest_s: float, stuck: bool) -> float:
    """Before a paid picture is tried again, which costs nothing and ends only with its address, a day after the answer.

    failures: in a row, this one included. stuck: for so long that hands which wait for it are missed elsewhere; then
    it is tried every five to fifteen minutes.
    """
    if stuck:
        return STUCK_WAIT_S * (0.5 + chance)
    return min(COPY_LONGEST_S, longest_s, 2.0 ** min(failures - 1, 16) * (0.5 + chance))


def _words(error: PackshotError) -> tuple[str, str]:
    if isinstance(error, Refused) and error.advice:
        return error.code, f"{error.message} ({error.advice})" if error.message else error.advice
    if isinstance(error, CallError | PictureError):
        return error.code, error.message
    return type(error).__name__, str(error)

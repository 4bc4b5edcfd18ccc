"""Run one batch to its end in this process: dispatch, a pool of threads, rescue, and a display over the ledger.

Killed at any moment and started again, it goes on from the ledger: nothing finished is done again, nothing answered
is bought again. One Ctrl-C takes no new work and records what is in flight; a second one leaves at once.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Protocol

from pydantic import SecretStr
from sqlalchemy import and_, select

from models import batch, job
from models.batch import Batch
from models.database import Database
from models.errors import LedgerFull, LedgerUnavailable, ManifestError, PackshotError
from models.settings import Settings, parse_breaker, parse_daily_budget
from models.tables import jobs, objects, outputs, rows
from scheduler import report
from scheduler.breaker import Breaker
from scheduler.control import cancel_stragglers
from scheduler.dispatch import Dispatch, out_of_budget
from scheduler.report import Progress
from scheduler.rescue import Rescue
from worker import broker

SHOW_EVERY_S = 0.5
SHOW_SHARE = 10  # counting a million jobs takes a second: then it is shown every ten
LEDGER_PATIENCE_S = 60.0
OWNER_PREFIX = "embedded:"
COPIES_STOPPED = ("StorageRefused", "ResultBlocked")  # a person must act before a paid picture can be copied


class Display(Protocol):
    """Shows how far a run is. `scheduler.display` has one for terminals and one for logs."""

    def show(self, found: Batch, seen: Progress, rate: Callable[[str], float]) -> None: ...
    def say(self, sentence: str) -> None: ...
    def abandon(self) -> None: ...


class Hands(Protocol):
    """What a run needs of `worker.broker.embedded`."""

    def enqueue(self, job_id: int) -> None: ...
    def under_way(self) -> int: ...
    def free_slots(self) -> int: ...
    def rate(self, model: str) -> float: ...
    def trouble(self) -> PackshotError | None: ...
    def stop(self) -> None: ...
    def join(self) -> None: ...
    def wait(self, timeout_s: float) -> None: ...


def utc_now() -> datetime:
    return datetime.now(UTC)


def check_destinations(settings: Settings, output: str, name: str, keys: Callable[[], Iterator[str]]) -> None:
    """Before money is spent: the storage works, and at none of the keys is an object that this batch did not make.

    Raises StorageError, or ManifestError naming the first of the places taken.
    """
    foreign = broker.preflight(settings, output, name, keys)
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise ManifestError(
            f"{foreign[0]}{more}: something is there already that this batch did not make; nothing was bought. "
            "Choose another `output`, or move it away"
        )


def unstored_keys(database: Database, found: Batch) -> Iterator[str]:
    """Keys of rows that wait for pictures."""
    stored = select(objects.c.row_id).join(outputs, outputs.c.id == objects.c.output_id)
    with database.read() as connection:
        for record in connection.execute(
            select(rows.c.destinations)
            .join(jobs, jobs.c.id == rows.c.job_id)
            .where(rows.c.batch_id == found.id, jobs.c.status != "succeeded", rows.c.id.not_in(stored))
        ):
            yield from record.destinations


def work(settings: Settings, database: Database, found: Batch, display: Display, *, buys: bool = True) -> Progress:
    """Work on a batch until nothing more can be done now. Needs the engine lock (`scheduler.lock`).

    buys: False only copies what is paid, for which no key is needed
    """
    if not buys:  # hands are not made without a key; these send nothing to the provider
        settings = settings.model_copy(update={"api_key": SecretStr("sk-nothing-is-bought")})
    owner = f"{OWNER_PREFIX}{socket.gethostname()}:{os.getpid()}"
    rescue = Rescue(database, utc_now, lost_after_s=settings.lease_s)
    cut_off = rescue.after_crash(found.id, owner_prefix=OWNER_PREFIX)
    if cut_off:
        display.say(f"an earlier run was cut off with {cut_off} job{'s' if cut_off > 1 else ''} in hand")
    pool = broker.embedded(settings, database, owner=owner)
    dispatch = Dispatch(
        database,
        pool.enqueue,
        pool.rate,
        settings.lookahead_s,
        utc_now,
        free_slots=pool.free_slots,
        only=frozenset({found.id}),
        daily_budget=parse_daily_budget(settings.daily_budget),
        buys=buys,
    )
    breaker = Breaker(database, parse_breaker(settings.breaker), "embedded")
    with database.write() as tx:
        job.hurry_copies(tx, found.id)
    with _graceful(pool, display) as stopping:
        try:
            _loop(database, found, display, pool, dispatch, breaker, stopping, buys=buys)
        finally:
            pool.stop()
            pool.join()
    rescue.after_crash(found.id, owner_prefix=owner)
    while cancel_stragglers(database, utc_now()):
        pass
    with database.read() as connection:
        seen = report.progress(connection, found.id, utc_now())
        display.show(batch.get(connection, found.id), seen, pool.rate)
    return seen


def _loop(
    database: Database,
    found: Batch,
    display: Display,
    pool: Hands,
    dispatch: Dispatch,
    breaker: Breaker,
    stopping: threading.Event,
    *,
    buys: bool,
) -> None:
    show_at, lost_since, told = float("-inf"), None, False
    while True:
        try:
            sleep_s = dispatch.poll() if not stopping.is_set() else SHOW_EVERY_S
            begun = time.monotonic()
            if begun >= show_at or not pool.under_way():
                breaker.poll()
                with database.read() as connection:
                    now_batch = batch.get(connection, found.id)
                    seen = report.progress(connection, found.id, utc_now())
                    idle = seen.waiting > 0 and not seen.in_hand
                    broke = idle and (not buys or out_of_budget(connection, found, utc_now()))
                    stuck = job.stuck_copies(connection, found.id)
                display.show(now_batch, seen, pool.rate)
                if stuck.jobs and not told:
                    told = True
                    display.say(
                        f"paid pictures cannot be fetched ({stuck.example}); they are tried again until their "
                        "addresses die, a day after they were made"
                    )
                ended = time.monotonic()
                show_at = ended + max(SHOW_EVERY_S, SHOW_SHARE * (ended - begun))
                if not pool.under_way() and _is_over(
                    database, now_batch, seen, broke=broke, buys=buys, stopping=stopping.is_set()
                ):
                    return
            if (trouble := pool.trouble()) is not None:  # the threads write where this loop may only read
                raise trouble
            lost_since = None
        except LedgerFull as error:
            display.say(f"stopping: {error}; paid answers in hand wait ten minutes for room")
            raise
        except LedgerUnavailable as error:
            if lost_since is None:
                lost_since = time.monotonic()
                display.say(f"{error}; trying again for {LEDGER_PATIENCE_S:.0f} s")
            if time.monotonic() - lost_since > LEDGER_PATIENCE_S:
                raise
            stopping.wait(1.0)
            continue
        pool.wait(sleep_s)


def _is_over(database: Database, found: Batch, seen: Progress, *, broke: bool, buys: bool, stopping: bool) -> bool:
    if stopping or found.code in COPIES_STOPPED:
        return True
    if seen.in_hand:
        return False
    if seen.waiting and (found.state != "open" or broke):
        return not copies_wait(database, found.id, stuck=buys)
    return seen.waiting == 0


def copies_wait(database: Database, batch_id: int, *, stuck: bool = True) -> bool:
    """Are there paid pictures that wait to be copied, or that a run was copying when it ended?

    stuck: False leaves out what could not be fetched for minutes: who waits for the end may have to mend the cause
    """
    paid = and_(jobs.c.batch_id == batch_id, jobs.c.status.in_(job.WAITING), jobs.c.answered_attempt_id.is_not(None))
    wanted = select(jobs.c.id).where(paid) if stuck else select(jobs.c.id).where(paid, jobs.c.copies < job.STUCK_COPIES)
    with database.read() as connection:
        return connection.execute(wanted).first() is not None


@contextmanager
def _graceful(pool: Hands, display: Display) -> Iterator[threading.Event]:
    """The first Ctrl-C, SIGTERM or closed terminal takes no new work; the second leaves at once.

    The ledger knows what was in flight.
    """
    stopping = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            display.abandon()
            os._exit(1)
        stopping.set()
        pool.stop()
        display.say("stopping: no new work; recording the calls in flight. Ctrl-C again leaves at once")

    before = {number: signal.signal(number, on_signal) for number in _ours()}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ours() -> list[signal.Signals]:
    """Signals that ask to end; a hang-up that `nohup` ignores stays ignored."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]

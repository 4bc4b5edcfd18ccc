"""The scheduler of the cluster: dispatch and rescue, by whichever of several schedulers holds the lease.

It keeps nothing: killed and started again, or taken over by a standby, the next round reads the ledger. While the
ledger or Redis is away nothing is handed out, and the rounds go on when they are back.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import FrameType

import structlog

from models import job, lease
from models.database import Database
from models.errors import LedgerUnavailable
from models.settings import Settings, parse_breaker, parse_daily_budget
from scheduler.breaker import Breaker
from scheduler.control import cancel_stragglers
from scheduler.dispatch import MESSAGES_MAX, Dispatch
from scheduler.health import SIGN
from scheduler.rescue import Rescue
from scheduler.run import utc_now
from worker.broker import CeleryBroker, QueueUnavailable

LEASE, LEASE_S, RENEW_S = "scheduler", 10.0, 3.0
STANDBY_S = 1.0
TROUBLE_S = 1.0
RESCUE_S = 2.0
WATCH_SHARE = 20  # the circuit breaker takes no more than a twentieth of the time
# A queued job without a message: gone for certain when no worker holds one either; else it may lie in a worker that
# has no free hand, and sending it again is harmless.
LOST_WITH_EMPTY_QUEUE_S = 5.0
LOST_AFTER_S = 15.0
RESCUE_QUEUED_S = 600.0
FORGET_S = 3600.0

log = structlog.get_logger()


@dataclass
class Service:
    """One scheduler process. `serve` returns when told to stop."""

    database: Database
    queue: CeleryBroker
    dispatch: Dispatch
    rescue: Rescue
    breaker: Breaker
    name: str
    now: Callable[[], datetime] = utc_now
    clock: Callable[[], float] = time.monotonic
    stopping: threading.Event = field(default_factory=threading.Event)
    active: bool = False
    _renewed: float = float("-inf")
    _rescued: float = float("-inf")
    _watch_at: float = float("-inf")

    def serve(self) -> None:
        while not self.stopping.is_set():
            self.stopping.wait(self.poll())
        self._leave()

    def poll(self) -> float:
        """One round. Returns how many seconds to sleep before the next."""
        try:
            if not self._is_active():
                return STANDBY_S
            if self.clock() - self._rescued >= RESCUE_S:
                self._put_back()
                self._rescued = self.clock()
            self._watch()
            return self.dispatch.poll()
        except (LedgerUnavailable, QueueUnavailable) as error:
            log.warning("cannot work now; trying again", error=str(error))
            return TROUBLE_S

    def _is_active(self) -> bool:
        if self.active and self.clock() - self._renewed < RENEW_S:
            return True
        with self.database.write() as tx:
            held = lease.take(tx, LEASE, self.name, lease_s=LEASE_S, now=self.now())
            lease.take(tx, self._sign, self.name, lease_s=LEASE_S, now=self.now())
            lease.forget(tx, SIGN, self.now() - timedelta(seconds=FORGET_S))
        if held != self.active:
            log.warning("active scheduler" if held else "standing by", scheduler=self.name)
        self.active, self._renewed = held, self.clock()
        return held

    def _watch(self) -> None:
        """Ask the circuit breaker, the more seldom the longer it takes. Whatever becomes of it, work is handed out."""
        begun = self.clock()
        if begun < self._watch_at:
            return
        try:
            self.breaker.poll()
        except LedgerUnavailable as error:
            log.warning("the circuit breaker could not look at the batches; trying again", error=str(error))
        ended = self.clock()
        self._watch_at = ended + max(RESCUE_S, WATCH_SHARE * (ended - begun))

    def _put_back(self) -> None:
        """Jobs of vanished workers, jobs whose message is lost, and queued jobs of batches that stand still."""
        self.rescue.poll()
        with self.database.read() as connection:
            idle = job.queued_in_still_batches(connection)
            old = job.stale_queued(connection, self.now() - timedelta(seconds=LOST_WITH_EMPTY_QUEUE_S))
            older = job.stale_queued(connection, self.now() - timedelta(seconds=LOST_AFTER_S))
        if old:
            waiting, taken = self.queue.waiting()
            idle += [job_id for job_id in (older if waiting or taken else old) if job_id not in waiting]
        for job_id in idle:
            with self.database.write() as tx:
                job.unqueue(tx, job_id, self.now(), reason="its message was lost, or its batch stands still")
        cancel_stragglers(self.database, self.now())

    @property
    def _sign(self) -> str:
        """The lease by which this scheduler shows that it lives, the standby too."""
        return f"{SIGN}{self.name.rpartition(':')[2]}"

    def _leave(self) -> None:
        try:
            with self.database.write() as tx:
                lease.give_back(tx, LEASE, self.name)
                lease.give_back(tx, self._sign, self.name)
        except LedgerUnavailable as error:
            log.warning("could not give the lease back; it runs out by itself", error=str(error))


def run_service(settings: Settings, database: Database) -> None:
    """Be a scheduler until SIGTERM or Ctrl-C."""
    queue = CeleryBroker(settings)
    name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
    dispatch = Dispatch(
        database,
        queue.enqueue,
        queue.rate,
        settings.lookahead_s,
        utc_now,
        free_slots=lambda: MESSAGES_MAX - queue.length(),  # messages of jobs that were taken back lie there too
        engine="cluster",
        daily_budget=parse_daily_budget(settings.daily_budget),
    )
    rescue = Rescue(database, utc_now, lost_after_s=RESCUE_QUEUED_S)
    breaker = Breaker(database, parse_breaker(settings.breaker), "cluster")
    service = Service(database, queue, dispatch, rescue, breaker, name)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        service.stopping.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    log.warning("scheduler starts", scheduler=name)
    try:
        service.serve()
    finally:
        queue.close()
    log.warning("scheduler left", scheduler=name)

"""Hand out the next few seconds of work: planned -> queued, as far as rate, budget and free hands allow.

The ledger is the queue. What lies with the broker is never more than rate x look-ahead of each model, so a slow model
does not block a fast one, and pause, cancel, priority and budget act on everything but those few seconds. Order:
paid pictures that wait to be copied, then batches by priority, then the batch that was served longest ago.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, and_, exists, func, or_, select, update

from models import batch, job, ledger
from models.batch import Batch
from models.database import Database
from models.errors import PackshotError
from models.tables import attempts, batches, jobs

BUSY_S, IDLE_S = 0.1, 0.5
COPIES_AT_ONCE = 200
ROOM_MAX = 300  # messages of one model at once, however fast it is: Redis holds seconds of work, never a batch


@dataclass
class Dispatch:
    """One dispatcher over a ledger.

    enqueue:    the broker's door
    rate:       present requests per second of a model
    free_slots: how many more jobs the hands behind the door can take; None = as many as look-ahead says
    only:       ids of the batches to serve; None = every open one of the engine
    engine:     `embedded` or `cluster`: whose batches are served
    daily_budget: micros by currency that all real batches together may spend in a UTC day

    Raises what `enqueue` raises, after the jobs that it did not take were put back.
    """

    database: Database
    enqueue: Callable[[int], None]
    rate: Callable[[str], float]
    lookahead_s: float
    now: Callable[[], datetime]
    free_slots: Callable[[], int] | None = None
    only: frozenset[int] | None = None
    engine: str = "embedded"
    daily_budget: Mapping[str, int] = field(default_factory=dict)
    _limited: dict[str, str] = field(default_factory=dict)

    def poll(self) -> float:
        """One round. Returns how many seconds to sleep before the next."""
        slots = self.free_slots() if self.free_slots else None
        with self.database.read() as connection:
            served = self._batches(connection)
            copies = self._copies(connection, COPIES_AT_ONCE if slots is None else slots)
            room = {model: self._room(connection, model) for candidate in served for model in candidate.models}
        self._limit_day(served)
        handed_out = self._hand_out(copies)
        for candidate in sorted(served, key=lambda found: -found.priority):
            for model in candidate.models:
                most = room[model] if slots is None else min(room[model], slots - handed_out)
                count = self._serve(candidate, model, most) if most > 0 else 0
                room[model] -= count
                handed_out += count
        return BUSY_S if handed_out else IDLE_S

    def _batches(self, connection: Connection) -> list[Batch]:
        """Open batches, longest unserved first."""
        order = connection.execute(
            select(batches.c.id)
            .where(batches.c.state == "open", batches.c.engine == self.engine)
            .order_by(batches.c.served_at.is_not(None), batches.c.served_at, batches.c.id)
        ).scalars()
        return [batch.get(connection, id_) for id_ in order if self.only is None or id_ in self.only]

    def _copies(self, connection: Connection, most: int) -> list[int]:
        """Jobs that are paid and wait to be copied, those whose addresses die first first; of any batch, however it
        stands, since what is paid is delivered."""
        waiting = (
            select(jobs.c.id)
            .join(attempts, attempts.c.id == jobs.c.answered_attempt_id)
            .join(batches, batches.c.id == jobs.c.batch_id)
            .where(
                batches.c.engine == self.engine,
                jobs.c.status == "planned",
                jobs.c.answered_attempt_id.is_not(None),
                or_(jobs.c.due_at.is_(None), jobs.c.due_at <= self.now()),
            )
            .order_by(attempts.c.closed_at)
            .limit(most)
        )
        if self.only is not None:
            waiting = waiting.where(jobs.c.batch_id.in_(self.only))
        return list(connection.execute(waiting).scalars())

    def _room(self, connection: Connection, model: str) -> int:
        """How many more jobs of a model may be handed out. Counted once a round: what becomes free meanwhile is for
        the next round, which begins with the highest priority again."""
        return min(ROOM_MAX, max(1, math.ceil(self.rate(model) * self.lookahead_s))) - backlog(connection, model)

    def _day_account(self, candidate: Batch) -> str:
        day = self.now().date().isoformat()
        return ledger.day_account(day, candidate.currency, rehearsal=candidate.rehearsal)

    def _limit_day(self, served: list[Batch]) -> None:
        """See that today's accounts have the day's budgets. A rehearsal spends nothing of them."""
        day = self.now().date().isoformat()
        for currency in {candidate.currency for candidate in served if not candidate.rehearsal}:
            if self._limited.get(currency) != day:
                with self.database.write() as tx:
                    ledger.limit_day(tx, day, currency, self.daily_budget.get(currency), rehearsal=False)
                self._limited[currency] = day

    def _serve(self, candidate: Batch, model: str, most: int) -> int:
        """Hand out one batch's jobs of one model. Returns how many."""
        with self.database.read() as connection:
            free = ledger.free_micros(connection, candidate.id, self._day_account(candidate))
            found = _due(connection, candidate.id, model, self.now(), free, most)
        handed_out = self._hand_out(found)
        if handed_out:
            with self.database.write() as tx:
                tx.execute(update(batches).where(batches.c.id == candidate.id).values(served_at=self.now()))
        return handed_out

    def _hand_out(self, job_ids: list[int]) -> int:
        """Reserve and queue each job whose worst case fits; tell the broker after the commit."""
        if not job_ids:
            return 0
        queued: list[int] = []
        with self.database.write() as tx:
            free = set(job.lock_planned(tx, job_ids))
            for job_id in (wanted for wanted in job_ids if wanted in free):
                try:
                    with tx.begin_nested():
                        if job.queue(tx, job_id, self.now()):
                            queued.append(job_id)
                except ledger.OverBudget:
                    continue
        for position, job_id in enumerate(queued):
            try:
                self.enqueue(job_id)
            except PackshotError:
                self._take_back(queued[position:])
                raise
        return len(queued)

    def _take_back(self, job_ids: list[int]) -> None:
        """The broker did not take these: they wait again."""
        with self.database.write() as tx:
            for job_id in job_ids:
                job.unqueue(tx, job_id, self.now(), reason="the queue could not be reached")


def backlog(connection: Connection, model: str) -> int:
    """Jobs of a model that were handed out and whose call has not begun: the only ones that wait for its limit."""
    calling = exists().where(attempts.c.job_id == jobs.c.id, attempts.c.hold == jobs.c.hold)
    waiting = or_(
        jobs.c.status == "queued",
        and_(jobs.c.status == "running", jobs.c.hold.is_not(None), ~calling),
    )
    return int(
        connection.execute(
            select(func.count())
            .select_from(jobs)
            .where(jobs.c.model == model, jobs.c.status.in_(("queued", "running")), waiting)
        ).scalar_one()
    )


def out_of_budget(connection: Connection, found: Batch, now: datetime) -> bool:
    """Does no waiting job fit into what is left of the batch's budget and the day's?"""
    day = ledger.day_account(now.date().isoformat(), found.currency, rehearsal=found.rehearsal)
    free = ledger.free_micros(connection, found.id, day)
    cheapest = connection.execute(
        select(func.min(jobs.c.worst_case_micros)).where(
            jobs.c.batch_id == found.id, jobs.c.status == "planned", jobs.c.answered_attempt_id.is_(None)
        )
    ).scalar_one()
    return free is not None and cheapest is not None and cheapest > free


def _due(
    connection: Connection, batch_id: int, model: str, now: datetime, free_micros: int | None, most: int
) -> list[int]:
    query = select(jobs.c.id).where(
        jobs.c.batch_id == batch_id,
        jobs.c.status == "planned",
        jobs.c.model == model,
        jobs.c.answered_attempt_id.is_(None),
        or_(jobs.c.due_at.is_(None), jobs.c.due_at <= now),
    )
    if free_micros is not None:
        query = query.where(jobs.c.worst_case_micros <= free_micros)
    return [record.id for record in connection.execute(query.order_by(jobs.c.id).limit(most))]

"""Hand out the next few seconds of work: planned -> queued, as far as rate, budget and free hands allow.

The ledger is the queue. What lies with the broker is never more than rate x look-ahead of each model, nor more than
about two seconds of what the hands have begun lately, so a slow model does not block a fast one, and pause, cancel,
priority and budget act on everything but those few seconds. All models and copies together are fewer than
MESSAGES_MAX, whoever takes them. Order: paid pictures that wait to be copied, then batches by priority, then the batch
that was served longest ago. A round costs what is still to do, not what the ledger has ever finished.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection, and_, case, exists, func, or_, select, update

from models import batch, job, ledger
from models.batch import Batch
from models.database import Database
from models.errors import PackshotError, SettingsError
from models.tables import attempts, batches, jobs

BUSY_S, IDLE_S = 0.1, 0.5
COPIES_AT_ONCE = 200  # handed out and not begun
ROOM_MAX = 300  # messages of one model at once, however fast it is: Redis holds seconds of work, never a batch
ROOM_MIN = 4  # of a model whose hands have begun nothing lately, so that idle ones soon show what they can do
MESSAGES_MAX = 800
ORDERS_ACT_S = 2.0  # what lies with the broker is begun within about so long, and a person's order acts on the rest
SHORT, LONG = timedelta(seconds=1), timedelta(seconds=10)  # how long ago is lately

log = structlog.get_logger()


@dataclass
class Dispatch:
    """One dispatcher over a ledger.

    enqueue:    the broker's door
    rate:       present requests per second of a model
    free_slots: how many more jobs the hands behind the door can take; None = as many as look-ahead says
    only:       ids of the batches to serve; None = every open one of the engine
    engine:     `embedded` or `cluster`: whose batches are served
    daily_budget: micros by currency that all real batches together may spend in a UTC day
    buys:       False: only what is paid is handed out, to be copied

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
    buys: bool = True
    _limited: dict[str, str] = field(default_factory=dict)

    def poll(self) -> float:
        """One round. Returns how many seconds to sleep before the next."""
        free_slots = self.free_slots() if self.free_slots else MESSAGES_MAX
        with self.database.read() as connection:
            served = self._batches(connection) if self.buys else []
            lying = handed_out(connection)
            slots = min(free_slots, MESSAGES_MAX - lying.all)
            copies = self._copies(connection, min(COPIES_AT_ONCE - lying.copies, slots))
            pace = self._pace(connection, served)
        served, room = self._rooms(served, lying, pace)
        self._limit_day(served)
        count_all = self._hand_out(copies)
        for candidate in sorted(served, key=lambda found: -found.priority):
            for model in candidate.models:
                most = min(room[model], slots - count_all)
                count = self._serve(candidate, model, most) if most > 0 else 0
                room[model] -= count
                count_all += count
        return BUSY_S if count_all else IDLE_S

    def _batches(self, connection: Connection) -> list[Batch]:
        """Open batches that have something to buy, longest unserved first."""
        mine = and_(batches.c.state == "open", batches.c.engine == self.engine)
        waiting = job.batches_that_wait(connection, mine)
        return [batch.get(connection, id_) for id_ in waiting if self.only is None or id_ in self.only]

    def _copies(self, connection: Connection, most: int) -> list[int]:
        """Jobs that are paid and wait to be copied, those whose addresses die first first; of any batch, however it
        stands, since what is paid is delivered."""
        if most <= 0:
            return []
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

    def _pace(self, connection: Connection, served: list[Batch]) -> dict[str, float]:
        """Calls per second that hands have begun of each model lately. Rising, the last second shows it first."""
        now = self.now()
        recent = func.sum(case((attempts.c.opened_at > now - SHORT, 1), else_=0))
        begun = connection.execute(
            select(attempts.c.model, func.count(), recent)
            .where(attempts.c.batch_id.in_([found.id for found in served]), attempts.c.opened_at > now - LONG)
            .group_by(attempts.c.model)
        )
        return {
            model: max(count / LONG.total_seconds(), just_now / SHORT.total_seconds())
            for model, count, just_now in begun
        }

    def _rooms(
        self, served: list[Batch], lying: HandedOut, pace: Mapping[str, float]
    ) -> tuple[list[Batch], dict[str, int]]:
        """How many more jobs of each model may be handed out, and the batches whose models are all known.

        Counted once a round: what becomes free meanwhile is for the next, which begins with the highest priority again.
        """
        room, going_on = {}, []
        for candidate in served:
            try:
                for model in candidate.models:
                    if model not in room:
                        ahead = min(ROOM_MAX, max(1, math.ceil(self.rate(model) * self.lookahead_s)))
                        by_hands = max(ROOM_MIN, math.ceil(pace.get(model, 0) * ORDERS_ACT_S))
                        room[model] = min(ahead, by_hands) - lying.by_model.get(model, 0)
            except SettingsError as error:
                self._stop(candidate, error)
            else:
                going_on.append(candidate)
        return going_on, room

    def _stop(self, candidate: Batch, error: SettingsError) -> None:
        """It cannot be bought with these settings; the others can."""
        with self.database.write() as tx:
            batch.stop(tx, candidate.id, code=type(error).__name__, message=str(error))
        log.warning("a batch was stopped", batch=candidate.name, reason=str(error))

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
            if not _fits(job.cheapest(connection, candidate.id, model), free):
                return 0
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
        with self.database.write() as tx:
            free = set(job.lock_planned(tx, job_ids))
            queued = self._queue(tx, [job_id for job_id in job_ids if job_id in free])
        for position, job_id in enumerate(queued):
            try:
                self.enqueue(job_id)
            except PackshotError:
                self._take_back(queued[position:])
                raise
        return len(queued)

    def _queue(self, tx: Connection, job_ids: list[int]) -> list[int]:
        """As many as the budgets take, should they be smaller by now."""
        try:
            with tx.begin_nested():
                return job.queue_all(tx, job_ids, self.now()) if job_ids else []
        except ledger.OverBudget:
            if len(job_ids) == 1:
                return []
            return [queued for job_id in job_ids for queued in self._queue(tx, [job_id])]

    def _take_back(self, job_ids: list[int]) -> None:
        """The broker did not take these: they wait again."""
        with self.database.write() as tx:
            for job_id in job_ids:
                job.unqueue(tx, job_id, self.now(), reason="the queue could not be reached")


@dataclass(frozen=True)
class HandedOut:
    """What hands have not begun: by model the jobs to be bought, which wait for its limit; and the paid ones."""

    by_model: Mapping[str, int]
    copies: int

    @property
    def all(self) -> int:
        return self.copies + sum(self.by_model.values())


def handed_out(connection: Connection) -> HandedOut:
    """Jobs with the broker, and those that a worker holds and whose call has not begun."""
    calling = exists().where(attempts.c.job_id == jobs.c.id, attempts.c.hold == jobs.c.hold)
    waiting = or_(
        jobs.c.status == "queued",
        and_(jobs.c.status == "running", jobs.c.hold.is_not(None), ~calling),
    )
    paid = jobs.c.answered_attempt_id.is_not(None)
    by_model: dict[str, int] = {}
    copies = 0
    for model, is_paid, count in connection.execute(
        select(jobs.c.model, paid, func.count())
        .where(jobs.c.status.in_(("queued", "running")), waiting)
        .group_by(jobs.c.model, paid)
    ):
        if is_paid:
            copies += count
        else:
            by_model[model] = count
    return HandedOut(by_model, copies)


def out_of_budget(connection: Connection, found: Batch, now: datetime) -> bool:
    """Does no waiting job fit into what is left of the batch's budget and the day's?"""
    day = ledger.day_account(now.date().isoformat(), found.currency, rehearsal=found.rehearsal)
    free = ledger.free_micros(connection, found.id, day)
    prices = [job.cheapest(connection, found.id, model) for model in found.models]
    waiting = [price for price in prices if price is not None]
    return bool(waiting) and not _fits(min(waiting), free)


def _fits(cheapest: int | None, free_micros: int | None) -> bool:
    return cheapest is not None and (free_micros is None or cheapest <= free_micros)


def _due(
    connection: Connection, batch_id: int, model: str, now: datetime, free_micros: int | None, most: int
) -> list[int]:
    """The oldest that are due and that fit, together, into what is free."""
    query = select(jobs.c.id, jobs.c.worst_case_micros).where(
        jobs.c.batch_id == batch_id,
        jobs.c.model == model,
        job.UNBOUGHT,
        or_(jobs.c.due_at.is_(None), jobs.c.due_at <= now),
    )
    if free_micros is not None:
        query = query.where(jobs.c.worst_case_micros <= free_micros)
    found = []
    for record in connection.execute(query.order_by(jobs.c.id).limit(most)):
        if free_micros is not None:
            if record.worst_case_micros > free_micros:
                continue
            free_micros -= record.worst_case_micros
        found.append(record.id)
    return found

"""The life of a job. The only module that writes a job's status.

                      queue            claim            succeed
      (planning) --> planned --------> queued --------> running --------> succeeded
                      ^ ^ ^  <-------- /  ^               | | |
                      | | |   unqueue     |               | | +--fail---> failed --retry--> planned
                      | | +---------------+--postpone-----+ |
                      | |                                   +----hold---> held --release--> planned
                      | +--revive (a late answer)-- failed, held, cancelled
                      +----- cancel: planned, queued, held, failed --> cancelled
                             forgive: held --> cancelled

planned     waits: for its turn, for room in the budget, perhaps until `due_at`
queued      handed to the broker; its worst case is reserved (unless it is already paid)
running     claimed by one worker until its lease ends
succeeded   every picture that was paid is stored for every row
failed      for a named reason; `retry` puts it back
held        it may have been paid and the exposure limit forbids buying again: needs a person
cancelled   a person did not want it any more

Each function is one transition, guarded by the status it leaves and, where a worker acts, by the worker's token:
False (or None) means that somebody else owns the job now, and the caller stops quietly. `TRANSITIONS` lists the edges.

What was bought is not a state. "An answer was recorded" (`answered_attempt_id`) and "an output was stored" are facts,
and whoever claims a job goes on from them. So a crash after payment repeats the copy, never the payment; and a worker
that would fail or hold a job that another call was paid for meanwhile puts it back instead.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Literal

from sqlalchemy import Connection, Row, and_, case, exists, func, literal_column, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from models import attempt, ledger, output
from models.attempt import OpenAttempt
from models.edit import Answer, Edit, derive_seed
from models.errors import ResultUnavailable
from models.ledger import Hold
from models.tables import attempts, batches, jobs, outputs, rows

Status = Literal["planned", "queued", "running", "succeeded", "failed", "held", "cancelled"]
STATUSES: tuple[Status, ...] = ("planned", "queued", "running", "succeeded", "failed", "held", "cancelled")
WAITING = ("planned", "queued", "running")
PARTIAL = "Partial"  # code of a job that succeeded with fewer pictures than were asked for
CANCEL_BLOCK = 5000
STUCK_COPIES = 8  # failed rounds of copying in a row after which it is no hiccup any more

TRANSITIONS: dict[str, tuple[tuple[Status, ...], Status]] = {
    "queue": (("planned",), "queued"),
    "unqueue": (("queued",), "planned"),
    "claim": (("queued",), "running"),
    "postpone": (("running",), "planned"),
    "succeed": (("running",), "succeeded"),
    "fail": (("running",), "failed"),
    "hold": (("running",), "held"),
    "retry": (("failed",), "planned"),
    "release": (("held",), "planned"),
    "revive": (("failed", "held", "cancelled"), "planned"),
    "forgive": (("held",), "cancelled"),
    "cancel": (("planned", "queued", "held", "failed"), "cancelled"),
}


# Waits to be bought, and is bought and waits to be copied. With the words of the indexes `ix_jobs_unbought` and
# `ix_jobs_paid_waiting`: a condition with a parameter would not find them.
UNBOUGHT = and_(jobs.c.status == literal_column("'planned'"), jobs.c.answered_attempt_id.is_(None))
PAID_WAITING = and_(jobs.c.status == literal_column("'planned'"), jobs.c.answered_attempt_id.is_not(None))


@dataclass(frozen=True)
class Claim:
    """A worker's lease on a job, and what it needs to work on it. Times in UTC."""

    job_id: int
    batch_id: int
    batch: str
    digest: str
    token: str
    lease_until: datetime
    edit: Edit
    region: str
    currency: str
    output: str
    hold: int | None
    tries: int
    throttles: int
    copies: int
    answered_attempt_id: int | None
    worst_case_micros: int


# -- before the call ---------------------------------------------------------------------------------------------


def queue(tx: Connection, job_id: int, now: datetime) -> bool:
    """planned -> queued, with the worst case reserved unless the job is already paid. Raises ledger.OverBudget."""
    return bool(queue_all(tx, [job_id], now))


def queue_all(tx: Connection, job_ids: Sequence[int], now: datetime) -> list[int]:
    """The same for several, in a few statements however many. Returns those that were planned.

    Raises ledger.OverBudget where not all of them fit: then roll back.
    """
    old, new = TRANSITIONS["queue"]
    unpaid = jobs.c.answered_attempt_id.is_(None)
    moved = tx.execute(
        update(jobs)
        .where(jobs.c.id.in_(job_ids), jobs.c.status.in_(old))
        .values(
            status=new,
            queued_at=now,
            due_at=None,
            holds=case((unpaid, jobs.c.holds + 1), else_=jobs.c.holds),
            hold=case((unpaid, jobs.c.holds + 1), else_=jobs.c.hold),
        )
        .returning(
            jobs.c.id,
            jobs.c.batch_id,
            jobs.c.hold,
            jobs.c.worst_case_micros,
            jobs.c.model,
            jobs.c.answered_attempt_id,
        )
    ).all()
    to_buy = [record for record in moved if record.answered_attempt_id is None]
    to_buy.sort(key=lambda record: (record.batch_id, record.id))
    for batch_id, of_batch in groupby(to_buy, key=lambda record: record.batch_id):
        currency = tx.execute(select(batches.c.currency).where(batches.c.id == batch_id)).scalar_one()
        day = now.date().isoformat()
        ledger.reserve(
            tx,
            [Hold(batch_id, one.id, one.hold, one.worst_case_micros, currency, one.model, day) for one in of_batch],
            now,
        )
    found = {record.id for record in moved}
    return [job_id for job_id in job_ids if job_id in found]


def lock_planned(tx: Connection, job_ids: Collection[int]) -> list[int]:
    """Those that still are planned and that nobody else is changing; for whoever queues several in one transaction.

    Everybody locks jobs before accounts, and waits for no job while holding another: two who lock several could wait in
    a ring.
    """
    wanted = select(jobs.c.id).where(jobs.c.id.in_(job_ids), jobs.c.status == "planned").order_by(jobs.c.id)
    return list(tx.execute(wanted.with_for_update(skip_locked=True)).scalars())


def unqueue(tx: Connection, job_id: int, now: datetime, *, reason: str) -> bool:
    """queued -> planned: the message was lost, or the batch stands still."""
    if not _move(tx, "unqueue", jobs.c.id == job_id, queued_at=None):
        return False
    _release_open_hold(tx, job_id, now, reason)
    return True


def claim(
    tx: Connection, job_id: int, *, owner: str, lease_s: float, now: datetime, token: str | None = None
) -> Claim | None:
    """queued -> running, for one worker only. None: somebody else has it, or it is not to be done now.

    token: of the caller's making, where the commit's answer may be lost: called again with it, the claim is found again
    """
    token, until = token or secrets.token_hex(16), now + timedelta(seconds=lease_s)
    taken = {"claim_token": token, "claim_owner": owner, "lease_until": until, "queued_at": None}
    if not _move(tx, "claim", jobs.c.id == job_id, **taken):
        mine = and_(jobs.c.id == job_id, jobs.c.status == "running", jobs.c.claim_token == token)
        if tx.execute(update(jobs).where(mine).values(lease_until=until)).rowcount != 1:
            return None
    record = tx.execute(
        select(
            jobs,
            batches.c.name.label("batch"),
            batches.c.region,
            batches.c.currency,
            batches.c.output,
        )
        .join(batches, batches.c.id == jobs.c.batch_id)
        .where(jobs.c.id == job_id)
    ).one()
    return Claim(
        job_id=record.id,
        batch_id=record.batch_id,
        batch=record.batch,
        digest=record.digest,
        token=token,
        lease_until=until,
        edit=Edit.from_json(record.edit),
        region=record.region,
        currency=record.currency,
        output=record.output,
        hold=record.hold,
        tries=record.tries,
        throttles=record.throttles,
        copies=record.copies,
        answered_attempt_id=record.answered_attempt_id,
        worst_case_micros=record.worst_case_micros,
    )


def open_attempt(tx: Connection, claim: Claim, *, worker: str, now: datetime) -> OpenAttempt | None:
    """Write the intent to call, in a durable transaction of its own, before anything leaves the house.

    None when the claim is no longer mine or the batch no longer open: then nothing may be sent. Call it once a claim;
    again only when the commit's own answer was lost, and then the attempt is the one already written.
    """
    mine = tx.execute(
        update(jobs)
        .where(
            jobs.c.id == claim.job_id,
            jobs.c.status == "running",
            jobs.c.claim_token == claim.token,
            jobs.c.lease_until > now,
            jobs.c.answered_attempt_id.is_(None),
            jobs.c.hold == claim.hold,
            exists().where(batches.c.id == jobs.c.batch_id, batches.c.state == "open"),
        )
        .values(lease_until=jobs.c.lease_until)
    )
    if mine.rowcount != 1 or claim.hold is None:
        return None
    hold_ = ledger.find_hold(tx, claim.job_id, claim.hold)
    return attempt.open_(tx, hold_, claim.edit, worker=worker, now=now)


def call_under_way(tx: Connection, claim: Claim) -> OpenAttempt | None:
    """The call that was begun under a claim's reservation and of whose end nothing is known."""
    return attempt.find_open(tx, ledger.find_hold(tx, claim.job_id, claim.hold)) if claim.hold else None


def record_answer(
    tx: Connection,
    opened: OpenAttempt,
    answer: Answer,
    *,
    charge_micros: int,
    url_life_s: float,
    now: datetime,
) -> int:
    """The call was paid: write the charge and where the pictures are. A durable transaction of its own.

    Needs no claim: a late answer is the truth all the same. Wakes a job that had been laid aside meanwhile.
    Returns the attempt whose pictures are delivered: this one, unless an earlier answer came first.
    """
    this = jobs.c.id == opened.hold.job_id
    due = attempt.record_answer(tx, opened, answer, charge_micros=charge_micros, url_life_s=url_life_s, now=now)
    if due is None:
        return tx.execute(select(jobs.c.answered_attempt_id).where(this)).scalar_one() or opened.id
    tx.execute(
        update(jobs)
        .where(this, jobs.c.answered_attempt_id.is_(None))
        .values(answered_attempt_id=opened.id, tries=0, throttles=0, code=None, message=None)
    )
    delivered, status = tx.execute(select(jobs.c.answered_attempt_id, jobs.c.status).where(this)).one()
    if delivered != opened.id:
        output.record_surplus(tx, opened.id)
    else:
        _move(tx, "revive", this, due_at=None, finished_at=None)
        if status == "queued":  # handed out to be bought again: it is paid, so only the copy is left to do
            _release_open_hold(tx, opened.hold.job_id, now, reason="paid by an earlier call")
    ledger.charge(tx, due, now)
    return int(delivered)


# -- what becomes of the job ----------------------------------------------------------------------------------------


def succeed(tx: Connection, claim: Claim, now: datetime, *, note: str | None = None) -> bool:
    """running -> succeeded: all that was paid is stored. note: said of a delivery smaller than asked for."""
    code = PARTIAL if note else None
    return _finish(tx, "succeed", claim, now, reason="not needed", finished_at=now, code=code, message=note)


def fail(tx: Connection, claim: Claim, now: datetime, *, code: str, message: str) -> bool:
    """running -> failed, for a named reason. Put back instead where another call was paid meanwhile."""
    if _paid_meanwhile(tx, claim):
        return postpone(tx, claim, now, due_at=now)
    return _finish(tx, "fail", claim, now, reason=code, finished_at=now, code=code, message=message)


def hold(tx: Connection, claim: Claim, now: datetime, *, code: str, message: str) -> bool:
    """running -> held: a person decides. Put back instead where another call was paid meanwhile."""
    if _paid_meanwhile(tx, claim):
        return postpone(tx, claim, now, due_at=now)
    return _finish(tx, "hold", claim, now, reason=code, finished_at=now, code=code, message=message)


def postpone(
    tx: Connection,
    claim: Claim,
    now: datetime,
    *,
    due_at: datetime,
    counted: bool = False,
    throttled: bool = False,
    copy_failed: bool = False,
    code: str | None = None,
    message: str | None = None,
) -> bool:
    """running -> planned until due_at. Waiting is not failing: only a counted failure uses up a try."""
    return _finish(
        tx,
        "postpone",
        claim,
        now,
        reason="put back",
        due_at=due_at,
        tries=jobs.c.tries + (1 if counted else 0),
        throttles=jobs.c.throttles + 1 if throttled else 0,
        copies=jobs.c.copies + 1 if copy_failed else 0,
        code=code,
        message=message,
    )


def renew(tx: Connection, claim: Claim, *, lease_s: float, now: datetime) -> bool:
    """Lengthen my lease; False when the job is no longer mine."""
    changed = tx.execute(
        update(jobs)
        .where(jobs.c.id == claim.job_id, jobs.c.status == "running", jobs.c.claim_token == claim.token)
        .values(lease_until=now + timedelta(seconds=lease_s))
    )
    return changed.rowcount == 1


def rebuy_or_hold(tx: Connection, claim: Claim, hold_: Hold, now: datetime, *, due_at: datetime) -> Status:
    """After an unknown outcome: buy again while the exposure limit allows, else leave it to a person.

    Nothing is bought again where an answer is known by now. Returns `running` when the job is no longer mine.
    """
    if not _is_mine(tx, claim):
        return "running"
    if _is_paid(tx, claim.job_id):
        return "planned" if postpone(tx, claim, now, due_at=now) else "running"
    if ledger.allow_rebuy(tx, hold_):
        return "planned" if postpone(tx, claim, now, due_at=due_at, counted=True) else "running"
    code, message = HELD
    return "held" if hold(tx, claim, now, code=code, message=message) else "running"


HELD = (
    "OutcomeUnknown",
    "sent, but no answer came: it may have been paid, and buying again would pass PACKSHOT_EXPOSURE_LIMIT",
)


# -- what a person decides ----------------------------------------------------------------------------------------


def retry(tx: Connection, job_id: int, *, new_seed: bool = False) -> bool:
    """failed -> planned. History is kept; a lost or spoilt delivery is bought anew, with a new seed if asked for."""
    if not _move(
        tx,
        "retry",
        jobs.c.id == job_id,
        due_at=None,
        finished_at=None,
        tries=0,
        throttles=0,
        copies=0,
        code=None,
        message=None,
    ):
        return False
    if not _is_copyable(tx, job_id):
        tx.execute(update(jobs).where(jobs.c.id == job_id).values(answered_attempt_id=None))
        if new_seed:
            _reseed(tx, job_id)
    return True


def release(tx: Connection, job_id: int, now: datetime) -> bool:
    """held -> planned: a person accepts that it may be paid twice."""
    if not _move(tx, "release", jobs.c.id == job_id, due_at=None, finished_at=None, tries=0, code=None, message=None):
        return False
    last = _last_unknown(tx, job_id)
    if last is not None:
        ledger.allow_rebuy(tx, ledger.find_hold(tx, job_id, last.hold), by_person=True)
    return True


def forgive(tx: Connection, job_id: int, now: datetime) -> bool:
    """held -> cancelled: a person does not want it any more. What may have been paid stays counted as spent."""
    unpaid = and_(jobs.c.id == job_id, jobs.c.answered_attempt_id.is_(None))
    return _move(tx, "forgive", unpaid, finished_at=now, code="Forgiven")


def cancel(tx: Connection, job_id: int, now: datetime) -> bool:
    """planned, queued, held or failed -> cancelled. What runs is let finish; what is paid is let be delivered."""
    if not _move(
        tx, "cancel", and_(jobs.c.id == job_id, jobs.c.answered_attempt_id.is_(None)), finished_at=now, queued_at=None
    ):
        return False
    _release_open_hold(tx, job_id, now, reason="cancelled")
    return True


def _is_copyable(tx: Connection, job_id: int) -> bool:
    """Is there a paid answer whose pictures are neither stored nor lost?"""
    waiting = (
        select(func.count())
        .select_from(outputs)
        .join(jobs, jobs.c.answered_attempt_id == outputs.c.attempt_id)
        .where(jobs.c.id == job_id, outputs.c.stored_at.is_(None), outputs.c.lost.is_(None))
    )
    return bool(tx.execute(waiting).scalar_one())


def _reseed(tx: Connection, job_id: int) -> None:
    """A new seed for the next purchase; destinations that carry the seed follow it."""
    record = tx.execute(select(jobs.c.edit, jobs.c.round, jobs.c.digest).where(jobs.c.id == job_id)).one()
    round_ = record.round + 1
    seed = derive_seed(record.digest, round_)
    tx.execute(update(jobs).where(jobs.c.id == job_id).values(round=round_, edit={**record.edit, "seed": seed}))
    for row in tx.execute(select(rows.c.id, rows.c.seeded_destinations).where(rows.c.job_id == job_id)).all():
        if row.seeded_destinations:
            moved = [key.replace("{seed}", str(seed)) for key in row.seeded_destinations]
            tx.execute(update(rows).where(rows.c.id == row.id).values(destinations=moved))


# -- rescue: puts jobs back through the front door ------------------------------------------------------------------


@dataclass(frozen=True)
class Abandoned:
    """A claim as it was found. What has moved since then is alive."""

    job_id: int
    batch_id: int
    owner: str
    token: str
    lease_until: datetime


def abandoned(
    connection: Connection, now: datetime, *, dead_owner_prefix: str | None = None, limit: int = 500
) -> list[Abandoned]:
    """Running jobs whose lease ran out, or whose owner is known to be dead."""
    gone = jobs.c.lease_until < now
    if dead_owner_prefix is not None:
        gone = or_(gone, jobs.c.claim_owner.startswith(dead_owner_prefix, autoescape=True))
    found = connection.execute(
        select(jobs.c.id, jobs.c.batch_id, jobs.c.claim_owner, jobs.c.claim_token, jobs.c.lease_until)
        .where(jobs.c.status == "running", gone)
        .order_by(jobs.c.id)
        .limit(limit)
    )
    return [Abandoned(*record) for record in found]


def rescue(tx: Connection, found: Abandoned, now: datetime) -> Status | None:
    """Take a job from its vanished worker. Without an open attempt it waits again; with one, the call is unknown.

    The token is replaced first, so a worker that comes back finds itself the stranger. None: the worker had only been
    slow; it renewed its lease or let the job go since it was found.
    """
    token = secrets.token_hex(16)
    taken = tx.execute(
        update(jobs)
        .where(
            jobs.c.id == found.job_id,
            jobs.c.status == "running",
            jobs.c.claim_token == found.token,
            jobs.c.lease_until == found.lease_until,
        )
        .values(claim_token=token, claim_owner="rescue", lease_until=now + timedelta(minutes=1))
        .returning(jobs.c.batch_id)
    ).first()
    if taken is None:
        return None
    claim_ = _claim_of_rescue(tx, found.job_id, token, now)
    opened = call_under_way(tx, claim_)
    if opened is None:
        return "planned" if postpone(tx, claim_, now, due_at=now) else None
    attempt.record_unknown(
        tx, opened, code="WorkerVanished", message="the worker stopped between sending and recording", now=now
    )
    return rebuy_or_hold(tx, claim_, opened.hold, now, due_at=now)


def stale_queued(
    connection: Connection, queued_before: datetime, *, batch_id: int | None = None, limit: int = 500
) -> list[int]:
    """Jobs handed to the broker so long ago that their message must be lost."""
    among = (
        jobs.c.status == "queued" if batch_id is None else and_(jobs.c.status == "queued", jobs.c.batch_id == batch_id)
    )
    found = connection.execute(
        select(jobs.c.id).where(among, jobs.c.queued_at < queued_before).order_by(jobs.c.id).limit(limit)
    )
    return [record.id for record in found]


def queued_in_still_batches(connection: Connection, *, batch_id: int | None = None, limit: int = 1000) -> list[int]:
    """Jobs that were handed out to be bought when their batch was paused, stopped or cancelled."""
    among = batches.c.state != "open" if batch_id is None else batches.c.id == batch_id
    found = connection.execute(
        select(jobs.c.id)
        .join(batches, batches.c.id == jobs.c.batch_id)
        .where(jobs.c.status == "queued", jobs.c.answered_attempt_id.is_(None), among)
        .limit(limit)
    )
    return [record.id for record in found]


def batches_that_wait(connection: Connection, among: ColumnElement[bool]) -> list[int]:
    """Ids of the batches among some that have a job waiting to be bought, longest unserved first.

    Asked of each batch by a look at one index: what a ledger has finished in years costs nothing.
    """
    # ordered as the index is, or PostgreSQL reads the table in the hope of meeting one soon
    first = select(jobs.c.id).where(jobs.c.batch_id == batches.c.id, UNBOUGHT)
    one = first.order_by(jobs.c.model, jobs.c.worst_case_micros).limit(1).scalar_subquery()
    order = (batches.c.served_at.is_not(None), batches.c.served_at, batches.c.id)
    return list(connection.execute(select(batches.c.id).where(among, one.is_not(None)).order_by(*order)).scalars())


def cheapest(connection: Connection, batch_id: int, model: str) -> int | None:
    """The least worst case in micro-units among a batch's jobs of a model that wait to be bought; None: there is none.

    A look at one index, however many they are.
    """
    price = select(func.min(jobs.c.worst_case_micros)).where(jobs.c.batch_id == batch_id, jobs.c.model == model)
    found: int | None = connection.execute(price.where(UNBOUGHT)).scalar_one()
    return found


@dataclass(frozen=True)
class Stuck:
    """Paid jobs of a batch whose pictures could not be fetched for a while, and what was said of one of them."""

    jobs: int
    example: str


def stuck_copies(connection: Connection, batch_id: int) -> Stuck:
    """Those waiting for their next try; that of a storage which is away says nothing about the provider's pictures."""
    failing = and_(jobs.c.copies >= STUCK_COPIES, jobs.c.code == ResultUnavailable.__name__)
    count, example = connection.execute(
        select(func.count(), func.min(jobs.c.message)).where(jobs.c.batch_id == batch_id, PAID_WAITING, failing)
    ).one()
    return Stuck(count, example or "")


def hurry_copies(tx: Connection, batch_id: int) -> None:
    """Try at once what is paid and waits for its next try: a person says that the cause may be gone."""
    tx.execute(update(jobs).where(jobs.c.batch_id == batch_id, PAID_WAITING).values(due_at=None, copies=0))


def cancel_waiting(tx: Connection, batch_id: int, now: datetime) -> int:
    """planned -> cancelled for a block of a cancelled batch's jobs that are not paid. Returns how many."""
    old, new = TRANSITIONS["cancel"]
    waiting = and_(
        jobs.c.batch_id == batch_id,
        jobs.c.status.in_([status for status in old if status != "queued"]),
        jobs.c.answered_attempt_id.is_(None),
        jobs.c.hold.is_(None),
    )
    # What somebody is changing is left to the next block, and the conditions are asked again of what was found:
    # a job that was being handed out, or paid, when the block was chosen is neither.
    block = select(jobs.c.id).where(waiting).limit(CANCEL_BLOCK).with_for_update(skip_locked=True)
    chosen = tx.execute(block).scalars().all()
    changed = tx.execute(
        update(jobs).where(jobs.c.id.in_(chosen), waiting).values(status=new, finished_at=now, due_at=None)
    )
    return changed.rowcount


def _claim_of_rescue(tx: Connection, job_id: int, token: str, now: datetime) -> Claim:
    record = tx.execute(select(jobs).where(jobs.c.id == job_id)).one()
    return Claim(
        job_id=job_id,
        batch_id=record.batch_id,
        batch="",
        digest=record.digest,
        token=token,
        lease_until=now,
        edit=Edit.from_json(record.edit),
        region="",
        currency="",
        output="",
        hold=record.hold,
        tries=record.tries,
        throttles=record.throttles,
        copies=record.copies,
        answered_attempt_id=record.answered_attempt_id,
        worst_case_micros=record.worst_case_micros,
    )


# -- helpers --------------------------------------------------------------------------------------------------------


def _move(tx: Connection, name: str, condition: Any, **values: Any) -> bool:
    old, new = TRANSITIONS[name]
    changed = tx.execute(update(jobs).where(condition, jobs.c.status.in_(old)).values(status=new, **values))
    return changed.rowcount == 1


def _finish(tx: Connection, name: str, claim: Claim, now: datetime, *, reason: str, **values: Any) -> bool:
    """Leave `running` with my token, and let the claim go, with what was reserved for it."""
    mine = and_(jobs.c.id == claim.job_id, jobs.c.claim_token == claim.token)
    if not _move(tx, name, mine, claim_token=None, claim_owner=None, lease_until=None, **values):
        return False
    _release_open_hold(tx, claim.job_id, now, reason)
    return True


def _release_open_hold(tx: Connection, job_id: int, now: datetime, reason: str) -> None:
    """Give the open reservation back, unless its call has begun and nobody said how it ended: that may be paid."""
    number = tx.execute(select(jobs.c.hold).where(jobs.c.id == job_id)).scalar_one()
    if number is None:
        return
    hold_ = ledger.find_hold(tx, job_id, number)
    begun = attempt.find_open(tx, hold_)
    if begun is not None:
        attempt.record_unknown(tx, begun, code="LeftOpen", message="let go without a word of the call", now=now)
        return
    ledger.release(tx, hold_, now, reason=reason)
    tx.execute(update(jobs).where(jobs.c.id == job_id).values(hold=None))


def _is_mine(tx: Connection, claim: Claim) -> bool:
    mine = select(jobs.c.id).where(
        jobs.c.id == claim.job_id, jobs.c.status == "running", jobs.c.claim_token == claim.token
    )
    return tx.execute(mine.with_for_update()).first() is not None


def _is_paid(tx: Connection, job_id: int) -> bool:
    return tx.execute(select(jobs.c.answered_attempt_id).where(jobs.c.id == job_id)).scalar_one() is not None


def _paid_meanwhile(tx: Connection, claim: Claim) -> bool:
    """Did a late answer of another call come while this claim, which knows nothing of it, was at work?

    Then the job is neither failed nor held: whoever claims it next copies what is paid.
    """
    known = (claim.answered_attempt_id, _answered_by(tx, claim))
    answered = tx.execute(
        select(jobs.c.answered_attempt_id).where(jobs.c.id == claim.job_id).with_for_update()
    ).scalar_one()
    return answered is not None and answered not in known


def _answered_by(tx: Connection, claim: Claim) -> int | None:
    """The attempt that this claim itself made, where it made one."""
    if claim.hold is None:
        return None
    own = select(attempts.c.id).where(attempts.c.job_id == claim.job_id, attempts.c.hold == claim.hold)
    return tx.execute(own).scalar_one_or_none()


def _last_unknown(tx: Connection, job_id: int) -> Row[Any, Any] | None:
    return tx.execute(
        select(attempts.c.id, attempts.c.hold)
        .where(attempts.c.job_id == job_id, attempts.c.outcome == "unknown")
        .order_by(attempts.c.id.desc())
    ).first()

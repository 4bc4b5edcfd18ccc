"""What a person orders of a batch while it runs: pause, resume, cancel, priority, budget. Each acts within seconds.

The order is one committed fact in the ledger. From then on dispatch hands out nothing against it, and a worker that was
about to call finds it (`models.job.open_attempt` asks for an open batch). What was handed out and not begun is taken
back here at once; calls in flight end and are recorded, and paid pictures are copied all the same.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlalchemy import func, select

from models import batch, job, ledger
from models.batch import Batch, Decision
from models.database import Database
from models.errors import PackshotError
from models.tables import batches, jobs


class NotPossible(PackshotError):
    """The batch is not in a state in which this can be ordered."""


def pause(database: Database, found: Batch, by: Decision) -> None:
    with database.write() as tx:
        moved = batch.pause(tx, found.id, code="Paused", message=by.reason or f"paused by {by.who}")
        batch.record_decision(tx, found.id, by)
    _must(moved, found, "paused")
    take_back(database, found.id, by.at)


def resume(database: Database, found: Batch, by: Decision) -> None:
    with database.write() as tx:
        moved = batch.resume(tx, found.id, by.at)
        job.hurry_copies(tx, found.id)
        batch.record_decision(tx, found.id, by)
    _must(moved, found, "resumed")


def cancel(database: Database, found: Batch, by: Decision) -> int:
    """Cancel what waits. Returns how many jobs were cancelled; those under way end and are recorded."""
    with database.write() as tx:
        moved = batch.cancel(tx, found.id)
        batch.record_decision(tx, found.id, by)
    _must(moved or found.state == "cancelled", found, "cancelled")
    take_back(database, found.id, by.at)
    cancel_waiting(database, found.id, by.at)
    with database.read() as connection:
        gone = select(func.count()).where(jobs.c.batch_id == found.id, jobs.c.status == "cancelled")
        return int(connection.execute(gone).scalar_one())


def cancel_waiting(database: Database, batch_id: int, now: datetime) -> None:
    """Cancel, block by block, what waits of a cancelled batch and is not paid."""
    count = -1
    while count:
        with database.write() as tx:
            count = job.cancel_waiting(tx, batch_id, now)


def cancel_stragglers(database: Database, now: datetime) -> int:
    """Jobs that a worker held when their batch was cancelled come back and wait: nobody wants them any more.

    One block, so that a large one delays nothing else: call it again until it says 0. Returns how many were cancelled.
    """
    with database.read() as connection:
        left = job.batches_that_wait(connection, batches.c.state == "cancelled")
    for batch_id in left:
        with database.write() as tx:
            count = job.cancel_waiting(tx, batch_id, now)
        if count:
            return count
    return 0


def set_priority(database: Database, found: Batch, priority: int, by: Decision) -> None:
    with database.write() as tx:
        batch.record_decision(tx, found.id, replace(by, detail={"priority": priority}))
        batch.set_priority(tx, found.id, priority)


def set_budget(database: Database, found: Batch, budget_micros: int | None, by: Decision) -> None:
    """From now on; what is spent stays spent, and a budget below it only stops further buying."""
    with database.write(durable=True) as tx:
        account = ledger.account(tx, ledger.batch_account(found.id))
        used = account.charged_micros + account.reserved_micros + account.exposed_micros if account else 0
        detail = {"budget_micros": budget_micros, "used_micros": used}
        batch.record_decision(tx, found.id, replace(by, detail=detail))
        ledger.set_budget(tx, ledger.batch_account(found.id), budget_micros)


def take_back(database: Database, batch_id: int, now: datetime) -> None:
    """Jobs that were handed out and not begun wait again, and give back what was reserved for them."""
    with database.read() as connection:
        queued = job.queued_in_still_batches(connection, batch_id=batch_id)
    for job_id in queued:
        with database.write() as tx:
            job.unqueue(tx, job_id, now, reason="its batch stands still")


def _must(moved: bool, found: Batch, done: str) -> None:
    if not moved:
        raise NotPossible(f"{found.name} is {found.state} and cannot be {done}")

"""The circuit breaker: a batch whose jobs fail alike pauses itself, instead of burning through ten thousand rows.

Counted are jobs that ended since a person last set the batch going: failed ones by their code, held ones as the unknown
outcomes they are. A cause trips when it has its number of failures and these are its share of all that ended. Nothing
is lost: the failed ones wait for `retry`, the rest for the word to go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import Connection, func, select

from models import batch
from models.batch import Batch
from models.database import Database
from models.settings import Threshold
from models.tables import batches, jobs

log = structlog.get_logger()


@dataclass(frozen=True)
class Ended:
    """How many jobs ended with a code ("" for those that succeeded), and what one of them said."""

    code: str
    jobs: int
    example: str


def trips(ended: list[Ended], thresholds: Mapping[str, Threshold]) -> str | None:
    """Why the batch should pause, in one sentence; None while all is bearable. Pure."""
    total = sum(each.jobs for each in ended)
    for each in ended:
        threshold = thresholds.get(each.code) or thresholds.get("*")
        if not each.code or threshold is None:
            continue
        if each.jobs >= threshold.failures and each.jobs >= threshold.share * total:
            return (
                f"{each.jobs:,} of the last {total:,} jobs ended with {each.code} ({each.example}); "
                "mend the cause, then resume the batch and retry what failed"
            )
    return None


@dataclass
class Breaker:
    """Watches the open batches of one engine."""

    database: Database
    thresholds: Mapping[str, Threshold]
    engine: str

    def poll(self) -> None:
        """One round over the open batches."""
        if not self.thresholds:
            return
        with self.database.read() as connection:
            watched = [
                batch.get(connection, record.id)
                for record in connection.execute(
                    select(batches.c.id).where(batches.c.state == "open", batches.c.engine == self.engine)
                )
            ]
            reasons = [(found, trips(ended_since(connection, found), self.thresholds)) for found in watched]
        for found, reason in reasons:
            if reason is not None:
                with self.database.write() as tx:
                    paused = batch.pause(tx, found.id, code=batch.BREAKER, message=reason)
                if paused:
                    log.warning("a batch paused itself", batch=found.name, reason=reason)


def ended_since(connection: Connection, found: Batch) -> list[Ended]:
    """Jobs that ended since the batch was set going, by code; most frequent first."""
    since: datetime = found.resumed_at or found.created_at
    succeeded = jobs.c.status == "succeeded"
    rows = connection.execute(
        select(succeeded, func.coalesce(jobs.c.code, ""), func.count(), func.coalesce(func.min(jobs.c.message), ""))
        .where(
            jobs.c.batch_id == found.id,
            jobs.c.status.in_(("succeeded", "failed", "held")),
            jobs.c.finished_at >= since,
        )
        .group_by(succeeded, jobs.c.code)
        .order_by(func.count().desc())
    )
    return [Ended("" if good else code or "unknown", count, message) for good, code, count, message in rows]

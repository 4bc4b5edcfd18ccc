"""The circuit breaker: a batch whose jobs fail alike pauses itself, instead of burning through ten thousand rows.

Counted are jobs that ended since a person last set the batch going: failed ones by their code, held ones as the unknown
outcomes they are. So are paid ones whose pictures could not be fetched for minutes: they have not ended, but buying
more of what cannot be fetched would be money for nothing. A cause trips when it has its number of failures and these
are its share of all that ended. Nothing is lost: the failed ones wait for `retry`, the rest for the word to go on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, and_, func, select

from models import batch, job
from models.batch import Batch
from models.database import Database
from models.errors import ResultUnavailable
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
                f"{each.jobs:,} of the last {total:,} jobs met {each.code} ({each.example}); "
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
            reasons = [
                (found, trips(ended_since(connection, found, self.thresholds), self.thresholds))
                for found in self._watched(connection)
            ]
        for found, reason in reasons:
            if reason is not None:
                with self.database.write() as tx:
                    paused = batch.pause(tx, found.id, code=batch.BREAKER, message=reason)
                if paused:
                    log.warning("a batch paused itself", batch=found.name, reason=reason)

    def _watched(self, connection: Connection) -> list[Batch]:
        """Open batches with something left to do: pausing the others would save nothing."""
        mine = and_(batches.c.state == "open", batches.c.engine == self.engine)
        in_hand = select(jobs.c.batch_id).where(jobs.c.status.in_(("queued", "running")))
        at_work = connection.execute(select(batches.c.id).where(mine, batches.c.id.in_(in_hand))).scalars()
        left = {*job.batches_that_wait(connection, mine), *at_work}
        return [batch.get(connection, batch_id) for batch_id in sorted(left)]


def ended_since(connection: Connection, found: Batch, thresholds: Mapping[str, Threshold]) -> list[Ended]:
    """Jobs that ended since the batch was set going, by code, and those whose copies are stuck; most frequent first.

    Of those that succeeded no more are counted than it takes to say that no cause has its share.
    """
    among = (jobs.c.batch_id == found.id, jobs.c.finished_at >= (found.resumed_at or found.created_at))
    failed = [
        Ended(code or "unknown", count, message)
        for code, count, message in connection.execute(
            select(func.coalesce(jobs.c.code, ""), func.count(), func.coalesce(func.min(jobs.c.message), ""))
            .where(*among, jobs.c.status.in_(("failed", "held")))
            .group_by(jobs.c.code)
        )
    ]
    stuck = job.stuck_copies(connection, found.id)
    if stuck.jobs:
        failed.append(Ended(ResultUnavailable.__name__, stuck.jobs, stuck.example))
    failed.sort(key=lambda each: -each.jobs)
    if trips(failed, thresholds) is None:
        return failed  # not even by themselves
    least = max(0.001, min(each.share for each in thresholds.values()))
    enough = sum(each.jobs for each in failed) / least
    some = select(jobs.c.id).where(*among, jobs.c.status == "succeeded").limit(math.ceil(enough)).subquery()
    succeeded = connection.execute(select(func.count()).select_from(some)).scalar_one()
    return [*failed, Ended("", succeeded, "")]

"""Find jobs that nobody works on any more and put them back; dispatch does the rest.

A running job whose lease ended, or whose process is known to be dead, waits again; where its call had been sent and
no answer was recorded, the outcome is unknown and the exposure rule decides (`models.job.rescue`). A queued job whose
message was lost waits again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from models import job
from models.database import Database

log = structlog.get_logger()


@dataclass
class Rescue:
    """lost_after_s: how long a queued job may lie with the broker before its message counts as lost."""

    database: Database
    now: Callable[[], datetime]
    lost_after_s: float
    every_s: float = 5.0

    def poll(self) -> float:
        """One round. Returns how many seconds to sleep before the next."""
        now = self.now()
        with self.database.read() as connection:
            abandoned = job.abandoned(connection, now)
            lost = job.stale_queued(connection, now - timedelta(seconds=self.lost_after_s))
        for found in abandoned:
            log.warning("took a job from a vanished worker", job=found.job_id, owner=found.owner)
        self._put_back(abandoned, lost, now)
        return self.every_s

    def after_crash(self, batch_id: int, *, owner_prefix: str) -> int:
        """Take all that a dead process left at once: only for a caller that knows it is the only one of its kind.

        Returns how many jobs of the batch that process had in hand; those of others are put back without a word here.
        """
        count = 0
        while True:
            now = self.now()
            with self.database.read() as connection:
                abandoned = job.abandoned(connection, now, dead_owner_prefix=owner_prefix)
                lost = job.stale_queued(connection, now + timedelta(days=1), batch_id=batch_id)
            if not abandoned and not lost:
                return count
            count += sum(found.batch_id == batch_id for found in abandoned)
            self._put_back(abandoned, lost, now)

    def _put_back(self, abandoned: list[job.Abandoned], lost: list[int], now: datetime) -> None:
        for found in abandoned:
            with self.database.write(durable=True) as tx:
                job.rescue(tx, found, now)
        for job_id in lost:
            with self.database.write() as tx:
                job.unqueue(tx, job_id, now, reason="its message was lost")

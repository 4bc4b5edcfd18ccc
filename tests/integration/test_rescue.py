"""What a run that starts says of an earlier one's jobs."""

from __future__ import annotations

from models.database import Database
from scheduler.rescue import Rescue
from tests.ledgers import a_book


def test_a_run_counts_only_its_own_batchs_interrupted_jobs_and_puts_all_back(sqlite_url: str):
    # given: a process that died with jobs of two batches in hand
    database = Database(sqlite_url)
    mine, other = a_book(database, 1, name="mine"), a_book(database, 2, name="other")
    for book in (mine, other):
        for job_id in book.jobs:
            book.claimed(job_id, "embedded:host:1")

    # when
    count = Rescue(database, lambda: mine.now, lost_after_s=900).after_crash(mine.batch_id, owner_prefix="embedded:")

    # then
    assert count == 1
    assert [mine.status(mine.jobs[0]), *map(other.status, other.jobs)] == ["planned"] * 3
    database.close()

"""What the ledger asks for one job, from queued to succeeded, against as many bare one-row transactions.

Run: python -m tests.benchmarks.job_life [JOBS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

from sqlalchemy import select, text

from models import batch, job, output
from models.database import Database
from models.edit import Answer, Edit, Picture
from models.tables import jobs

TRANSACTIONS = 5  # queue, claim, intent, answer, output with the end; a block of queued jobs shares one in real life
DURABLE = (2, 3)


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'ledger.db'}")
        database.upgrade()
        ids = plan(database, count)
        bare_s = bare(database, count)
        ours_s = ours(database, ids)
        database.close()
    print(f"{'':<28}{'per job':>12}{'ratio':>8}")
    print(f"{f'{TRANSACTIONS} bare transactions':<28}{bare_s / count * 1e3:>9.2f} ms{1:>8.1f}")
    print(f"{'one job of the ledger':<28}{ours_s / count * 1e3:>9.2f} ms{ours_s / bare_s:>8.1f}")


def plan(database: Database, count: int) -> list[int]:
    now = datetime.now(UTC)
    with database.write() as tx:
        batch_id = batch.begin(
            tx,
            name="bench",
            rehearsal=False,
            manifest="m",
            checksum="0" * 64,
            header={},
            output="/out",
            region="cn-beijing",
            currency="CNY",
            priority=50,
            quote_micros=count * 200_000,
            row_count=count,
            job_count=count,
            models=["qwen-image-2.0"],
            budget_micros=None,
            exposure_limit_micros=0,
            now=now,
        )
        batch.add_block(tx, batch_id, [row(number) for number in range(count)])
        batch.open_(tx, batch_id)
        return list(tx.execute(select(jobs.c.id)).scalars())


def row(number: int) -> SimpleNamespace:
    edit = Edit("qwen-image-2.0", (Picture("/a.jpg", "ab" * 32, 10),), f"number {number}", {"n": 1}, 7)
    return SimpleNamespace(
        number=number,
        file="m",
        line=number,
        sku=f"S{number}",
        recipe="r",
        edit=edit,
        digest=edit.digest(with_seed=True),
        destinations=(f"{number}.png",),
        seeded_destinations=None,
        columns={},
        worst_case_micros=200_000,
    )


def bare(database: Database, count: int) -> float:
    with database.write() as tx:
        tx.execute(text("CREATE TABLE floor (id INTEGER PRIMARY KEY, value TEXT)"))
    began = time.perf_counter()
    for number in range(count):
        for step in range(TRANSACTIONS):
            with database.write(durable=step in DURABLE) as tx:
                tx.execute(text("INSERT INTO floor (value) VALUES (:value)"), {"value": f"{number} {step}"})
    return time.perf_counter() - began


def ours(database: Database, ids: list[int]) -> float:
    began = time.perf_counter()
    for job_id in ids:
        now = datetime.now(UTC)
        with database.write() as tx:
            job.queue(tx, job_id, now)
        with database.write() as tx:
            claim = job.claim(tx, job_id, owner="bench", lease_s=900, now=now)
        assert claim is not None
        with database.write(durable=True) as tx:
            opened = job.open_attempt(tx, claim, worker="bench", now=now)
        assert opened is not None
        answer = Answer("r", ("https://results/1",), {"image_count": 1})
        with database.write(durable=True) as tx:
            attempt_id = job.record_answer(tx, opened, answer, charge_micros=200_000, url_life_s=86_400, now=now)
        with database.read() as connection:
            (waiting,) = output.waiting(connection, job_id, attempt_id)
        with database.write() as tx:
            stored = [(row_id, key) for row_id, key, _ in waiting.copies]
            output.record_output(tx, waiting, stored=stored, sha256="0" * 64, size=1, width=512, height=512, now=now)
            assert job.succeed(tx, claim, now)
    return time.perf_counter() - began


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)

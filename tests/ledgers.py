"""A small ledger to write tests against: a batch with a few jobs, and one clock that only moves when told."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert, select

from models import batch, job, ledger
from models.attempt import OpenAttempt
from models.database import Database
from models.edit import Answer, Edit, Picture
from models.job import Claim
from models.ledger import Account
from models.tables import attempts, jobs, rows

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PRICE = 200_000
LEASE_S = 900.0
LIFE_S = 24 * 3600.0


@dataclass
class Book:
    """A batch of `jobs`, each of one row, each worth PRICE; short words for what tests do to it again and again."""

    database: Database
    batch_id: int
    jobs: list[int]
    now: datetime = NOON
    attempts: dict[int, OpenAttempt] = field(default_factory=dict)

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # -- one step, one transaction

    def queue(self, job_id: int) -> bool:
        with self.database.write() as tx:
            return job.queue(tx, job_id, self.now)

    def claim(self, job_id: int, owner: str = "worker") -> Claim | None:
        with self.database.write() as tx:
            return job.claim(tx, job_id, owner=owner, lease_s=LEASE_S, now=self.now)

    def claimed(self, job_id: int, owner: str = "worker") -> Claim:
        """Queued if need be, and claimed."""
        self.queue(job_id)
        claim = self.claim(job_id, owner)
        assert claim is not None
        return claim

    def open(self, claim: Claim) -> OpenAttempt | None:
        with self.database.write(durable=True) as tx:
            return job.open_attempt(tx, claim, worker="worker", now=self.now)

    def opened(self, claim: Claim) -> OpenAttempt:
        opened = self.open(claim)
        assert opened is not None
        return opened

    def answer(self, opened: OpenAttempt, *, micros: int = PRICE, pictures: int = 1) -> int:
        with self.database.write(durable=True) as tx:
            return job.record_answer(
                tx, opened, an_answer(pictures), charge_micros=micros, url_life_s=LIFE_S, now=self.now
            )

    def rescue(self) -> list[str | None]:
        """Take every job whose lease ran out."""
        with self.database.write() as tx:
            return [job.rescue(tx, found, self.now) for found in job.abandoned(tx, self.now)]

    def unknown(self, job_id: int, owner: str = "worker") -> OpenAttempt:
        """A call whose worker vanished: the job is planned or held, the attempt unknown."""
        opened = self.opened(self.claimed(job_id, owner))
        self.pass_(LEASE_S + 1)
        self.rescue()
        return opened

    # -- what is written

    def status(self, job_id: int) -> str:
        return str(self.job(job_id).status)

    def job(self, job_id: int) -> Any:
        with self.database.read() as connection:
            return connection.execute(select(jobs).where(jobs.c.id == job_id)).one()

    def outcomes(self, job_id: int) -> list[str]:
        with self.database.read() as connection:
            found = select(attempts.c.outcome).where(attempts.c.job_id == job_id).order_by(attempts.c.id)
            return list(connection.execute(found).scalars())

    def account(self) -> Account:
        with self.database.read() as connection:
            found = ledger.account(connection, ledger.batch_account(self.batch_id))
        assert found is not None
        return found

    def day(self) -> Account:
        with self.database.read() as connection:
            found = ledger.account(connection, self.day_id)
        assert found is not None
        return found

    @property
    def day_id(self) -> str:
        return ledger.day_account(self.now.date().isoformat(), "CNY", rehearsal=False)

    def money(self) -> tuple[int, int, int]:
        """(reserved, charged, exposed) of the batch, in whole PRICEs."""
        found = self.account()
        parts = (found.reserved_micros, found.charged_micros, found.exposed_micros)
        assert all(part % PRICE == 0 for part in parts)
        reserved, charged, exposed = (part // PRICE for part in parts)
        return reserved, charged, exposed

    def check(self) -> None:
        """The books are in order: chain whole, sums as the entries say."""
        with self.database.read() as connection:
            check_books(connection, self.batch_id)


def check_books(connection: Connection, batch_id: int) -> None:
    assert ledger.verify_chain(connection, batch_id) == []
    found = ledger.account(connection, ledger.batch_account(batch_id))
    assert found is not None
    sums = ledger.recompute(connection, batch_id)
    assert (sums.reserved_micros, sums.charged_micros, sums.exposed_micros) == (
        found.reserved_micros,
        found.charged_micros,
        found.exposed_micros,
    )


def a_book(
    database: Database,
    count: int = 1,
    *,
    name: str = "spring",
    budget: int | None = None,
    exposure: int = 0,
    rehearsal: bool = False,
    worst_case: int = PRICE,
) -> Book:
    """An open batch of `count` jobs. budget and exposure in micro-units."""
    with database.write(durable=True) as tx:
        batch_id = batch.begin(
            tx,
            name=name,
            rehearsal=rehearsal,
            manifest="manifest.yaml",
            checksum="0" * 64,
            header={},
            output="out",
            region="cn-beijing",
            currency="CNY",
            priority=0,
            quote_micros=count * PRICE,
            row_count=count,
            job_count=count,
            models=["qwen-image-2.0"],
            budget_micros=budget,
            exposure_limit_micros=exposure,
            now=NOON,
        )
        made = [_add_job(tx, batch_id, number, worst_case) for number in range(1, count + 1)]
        batch.open_(tx, batch_id)
    return Book(database, batch_id, made)


def an_edit(number: int = 1) -> Edit:
    return Edit("qwen-image-2.0", (Picture("/pictures/a.jpg", "ab", 3),), f"edit {number}", {"n": 1}, seed=number)


def an_answer(pictures: int = 1) -> Answer:
    urls = tuple(f"https://results.invalid/{number}.png" for number in range(1, pictures + 1))
    return Answer("request-1", urls, {"image_count": pictures, "width": 1024, "height": 1024})


def _add_job(tx: Connection, batch_id: int, number: int, worst_case: int) -> int:
    edit = an_edit(number)
    job_id = int(
        tx.execute(
            insert(jobs)
            .values(
                batch_id=batch_id,
                digest=edit.digest(with_seed=True),
                model=edit.model,
                edit=edit.to_json(),
                n=1,
                worst_case_micros=worst_case,
                status="planned",
            )
            .returning(jobs.c.id)
        ).scalar_one()
    )
    tx.execute(
        insert(rows).values(
            batch_id=batch_id,
            job_id=job_id,
            number=number,
            file="manifest.yaml",
            line=number,
            sku=f"SKU-{number}",
            recipe="edit",
            destinations=[f"SKU-{number}-1.png", f"SKU-{number}-2.png"],
            seeded_destinations=None,
            columns={},
        )
    )
    return job_id

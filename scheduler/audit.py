"""The proof: does the ledger keep its own rules, and is every picture where it says? Reads only.

Each finding is one sentence. No finding means: the chain of entries is whole, the accounts are the sums of their
entries, nothing was charged without an answer nor twice, budgets held, every answer was charged, and every row that
succeeded has its stored objects. `deep` reads every object again and compares its checksum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from sqlalchemy import Connection, func, select

from models import batch, ledger
from models.batch import Batch
from models.money import show as money
from models.tables import accounts, attempts, batches, entries, jobs, objects, outputs, rows

Read = Callable[[str, str], bytes]
"""(place, key) -> the bytes that are there; raises models.errors.StorageError where they cannot be read."""


def audit(connection: Connection, found: Batch, *, read: Read | None = None) -> Iterator[str]:
    """Everything that does not fit in one batch. read: also read every object again."""
    yield from ledger.verify_chain(connection, found.id)
    yield from _sums(connection, found)
    yield from _budget(connection, found)
    yield from _charges(connection, found)
    yield from _deliveries(connection, found)
    if read is not None:
        yield from _objects(connection, found, read)


def audit_days(connection: Connection) -> Iterator[str]:
    """The accounts of the days, over all batches."""
    for account_id, currency in connection.execute(
        select(accounts.c.id, accounts.c.currency).where(accounts.c.id.contains("day:")).order_by(accounts.c.id)
    ).all():
        prefix, day, _ = account_id.split(":")
        sums = ledger.recompute_day(connection, day, currency, rehearsal=prefix == "rehearsal-day")
        stored = ledger.account(connection, account_id)
        if stored is not None:
            yield from _compare(f"the account of {account_id.removeprefix('rehearsal-')}", stored, sums)


def _sums(connection: Connection, found: Batch) -> Iterator[str]:
    stored = ledger.account(connection, ledger.batch_account(found.id))
    if stored is None:
        yield "the batch has no account"
        return
    yield from _compare("the account", stored, ledger.recompute(connection, found.id))


def _compare(what: str, stored: ledger.Account, sums: ledger.Sums) -> Iterator[str]:
    for name in ("reserved", "charged", "exposed"):
        says, is_ = getattr(stored, f"{name}_micros"), getattr(sums, f"{name}_micros")
        if says != is_:
            yield (
                f"{what} says {money(says, stored.currency)} {name}, "
                f"its entries add up to {money(is_, stored.currency)}"
            )


def _budget(connection: Connection, found: Batch) -> Iterator[str]:
    stored = ledger.account(connection, ledger.batch_account(found.id))
    if stored is None or stored.budget_micros is None:
        return
    used = stored.charged_micros + stored.reserved_micros + stored.exposed_micros
    allowed = stored.budget_micros
    for made in batch.decisions_on(connection, found.id):
        if made.what == "budget" and made.detail:  # a person may set it below what was used by then
            allowed = max(stored.budget_micros, int(made.detail["used_micros"]))
    if used > allowed:
        yield f"{money(used, stored.currency)} are used of a budget of {money(stored.budget_micros, stored.currency)}"


def _charges(connection: Connection, found: Batch) -> Iterator[str]:
    charge = entries.alias()
    is_charge = (charge.c.kind == "charge") & (charge.c.batch_id == found.id)
    for attempt_id, count in connection.execute(
        select(charge.c.attempt_id, func.count())
        .where(is_charge)
        .group_by(charge.c.attempt_id)
        .having(func.count() > 1)
    ):
        yield f"attempt {attempt_id} was charged {count} times"
    for seq, attempt_id, outcome, verdict, pictures, billed in connection.execute(
        select(
            charge.c.seq,
            charge.c.attempt_id,
            attempts.c.outcome,
            attempts.c.verdict,
            charge.c.pictures,
            attempts.c.pictures,
        )
        .select_from(charge.outerjoin(attempts, attempts.c.id == charge.c.attempt_id))
        .where(is_charge)
    ):
        if outcome is None:
            yield f"entry {seq} charges an attempt that is not there ({attempt_id})"
        elif (outcome, verdict) != ("answered", "pictures"):
            yield f"entry {seq} charges attempt {attempt_id}, which ended as {outcome} {verdict}".rstrip()
        elif pictures != billed:
            yield f"entry {seq} charges {pictures} pictures, attempt {attempt_id} was answered with {billed}"
    for (attempt_id,) in connection.execute(
        select(attempts.c.id)
        .outerjoin(charge, (charge.c.attempt_id == attempts.c.id) & (charge.c.kind == "charge"))
        .where(attempts.c.batch_id == found.id, attempts.c.verdict == "pictures", charge.c.id.is_(None))
    ):
        yield f"attempt {attempt_id} was answered with pictures and never charged"


def _deliveries(connection: Connection, found: Batch) -> Iterator[str]:
    """Each row that succeeded has an object for each picture that was delivered for it."""
    delivered = (
        select(jobs.c.id, attempts.c.pictures)
        .join(attempts, attempts.c.id == jobs.c.answered_attempt_id)
        .where(jobs.c.batch_id == found.id, jobs.c.status == "succeeded")
        .subquery()
    )
    stored = (
        select(objects.c.row_id, func.count().label("count"))
        .join(outputs, outputs.c.id == objects.c.output_id)
        .join(jobs, jobs.c.answered_attempt_id == outputs.c.attempt_id)
        .where(jobs.c.batch_id == found.id)
        .group_by(objects.c.row_id)
        .subquery()
    )
    for number, sku, pictures, count in connection.execute(
        select(rows.c.number, rows.c.sku, delivered.c.pictures, func.coalesce(stored.c.count, 0))
        .join(delivered, delivered.c.id == rows.c.job_id)
        .outerjoin(stored, stored.c.row_id == rows.c.id)
        .where(func.coalesce(stored.c.count, 0) < delivered.c.pictures)
        .order_by(rows.c.number)
    ):
        yield f"row {number} ({sku}) succeeded with {pictures} pictures, {count} are stored"
    for number, sku in connection.execute(
        select(rows.c.number, rows.c.sku)
        .join(jobs, jobs.c.id == rows.c.job_id)
        .where(rows.c.batch_id == found.id, jobs.c.status == "succeeded", jobs.c.answered_attempt_id.is_(None))
    ):
        yield f"row {number} ({sku}) succeeded without an answer"


def _objects(connection: Connection, found: Batch, read: Read) -> Iterator[str]:
    from models.errors import StorageError

    query = (
        select(objects.c.key, objects.c.sha256, objects.c.size)
        .join(rows, rows.c.id == objects.c.row_id)
        .where(rows.c.batch_id == found.id)
        .order_by(objects.c.id)
    )
    for key, sha256, size in connection.execute(query.execution_options(yield_per=500)):
        try:
            data = read(found.output, key)
        except StorageError as error:
            yield f"{key}: {error}"
            continue
        if hashlib.sha256(data).hexdigest() != sha256:
            yield f"{key}: holds other bytes than were stored ({len(data):,} instead of {size:,}, or changed)"


def batches_to_audit(connection: Connection) -> list[Batch]:
    """Every batch that got as far as being open."""
    order = connection.execute(select(batches.c.id).where(batches.c.state != "planning").order_by(batches.c.id))
    return [batch.get(connection, record.id) for record in order]

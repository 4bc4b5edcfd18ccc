"""A batch from its planning to its end. States of the batch itself; its jobs' states are `models/job.py`'s.

    planning --> open <--> paused          a person pauses and resumes
                 open  --> stopped         the account or the storage needs a person; running it again reopens it
                 open | paused | stopped --> cancelled

planning    rows and jobs are being written; a crash leaves it so, and the next try begins afresh (nothing was bought)
open        dispatch hands out its jobs
paused      a person, or the circuit breaker, said so; paid pictures are still copied
stopped     a key, money or grant is missing, or the storage refuses; paid pictures are still copied
cancelled   its waiting jobs were cancelled
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any, Protocol

from sqlalchemy import Connection, Table, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from models import ledger
from models.edit import Edit
from models.errors import PackshotError
from models.tables import accounts, batches, decisions, entries, jobs, rows

OPEN_STATES = ("open", "paused", "stopped")
BLOCK = 5000  # records removed by one statement
BREAKER = "CircuitBreaker"  # code of a batch that paused itself


@dataclass(frozen=True)
class Batch:
    """A record of `batches`. header: the manifest's effective top-level values."""

    id: int
    name: str
    rehearsal: bool
    engine: str
    state: str
    code: str | None
    message: str | None
    manifest: str
    checksum: str
    header: Mapping[str, Any]
    output: str
    region: str
    currency: str
    priority: int
    quote_micros: int
    rows: int
    jobs: int
    models: Sequence[str]
    created_at: datetime
    resumed_at: datetime | None


class PlannedRow(Protocol):
    """What planning hands over for one row (`scheduler.plan.PlannedRow`)."""

    @property
    def number(self) -> int: ...
    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def sku(self) -> str: ...
    @property
    def recipe(self) -> str: ...
    @property
    def edit(self) -> Edit: ...
    @property
    def digest(self) -> str: ...
    @property
    def destinations(self) -> tuple[str, ...]: ...
    @property
    def seeded_destinations(self) -> tuple[str, ...] | None: ...
    @property
    def columns(self) -> Mapping[str, str]: ...
    @property
    def worst_case_micros(self) -> int: ...


_COLUMNS = [batches.c[name] for name in Batch.__dataclass_fields__]


def find(connection: Connection, name: str, *, rehearsal: bool) -> Batch | None:
    found = connection.execute(
        select(*_COLUMNS).where(batches.c.name == name, batches.c.rehearsal == rehearsal)
    ).first()
    return Batch(*found) if found else None


def get(connection: Connection, batch_id: int) -> Batch:
    return Batch(*connection.execute(select(*_COLUMNS).where(batches.c.id == batch_id)).one())


def listed(connection: Connection) -> list[Batch]:
    """Every batch, newest first."""
    return [Batch(*record) for record in connection.execute(select(*_COLUMNS).order_by(batches.c.id.desc()))]


class AlreadyBegun(PackshotError):
    """A batch of that name is there and keeps its name."""


def begin(
    tx: Connection,
    *,
    name: str,
    rehearsal: bool,
    engine: str = "embedded",
    manifest: str,
    checksum: str,
    header: Mapping[str, Any],
    output: str,
    region: str,
    currency: str,
    priority: int,
    quote_micros: int,
    row_count: int,
    job_count: int,
    models: Sequence[str],
    budget_micros: int | None,
    exposure_limit_micros: int,
    now: datetime,
) -> int:
    """Write the batch in state planning, and its account; replaces one of that name that nothing came of yet.

    Raises AlreadyBegun where something has, even a moment ago: whoever handed it out meanwhile has written an entry,
    and the database keeps what an entry names.
    """
    left = find(tx, name, rehearsal=rehearsal)
    if left is not None:
        if not is_untouched(tx, left.id):
            raise AlreadyBegun(f"batch {name} exists and is {left.state}")
        try:
            for table in (rows, jobs):
                _delete_all(tx, table, left.id)
            tx.execute(delete(accounts).where(accounts.c.id == ledger.batch_account(left.id)))
            tx.execute(delete(batches).where(batches.c.id == left.id))
        except IntegrityError:
            raise AlreadyBegun(f"batch {name} began to be worked on just now") from None
    batch_id = int(
        tx.execute(
            insert(batches)
            .values(
                name=name,
                rehearsal=rehearsal,
                engine=engine,
                state="planning",
                manifest=manifest,
                checksum=checksum,
                header=dict(header),
                output=output,
                region=region,
                currency=currency,
                priority=priority,
                quote_micros=quote_micros,
                rows=row_count,
                jobs=job_count,
                models=list(models),
                created_at=now,
            )
            .returning(batches.c.id)
        ).scalar_one()
    )
    ledger.open_account(
        tx,
        ledger.batch_account(batch_id),
        currency,
        budget_micros=budget_micros,
        exposure_limit_micros=exposure_limit_micros,
    )
    return batch_id


def _delete_all(tx: Connection, table: Table, batch_id: int) -> None:
    """In blocks: each statement has its time limit, and a million records may need longer than that."""
    block = select(table.c.id).where(table.c.batch_id == batch_id).limit(BLOCK)
    while tx.execute(delete(table).where(table.c.id.in_(block))).rowcount:
        pass


def put_aside(tx: Connection, found: Batch) -> str:
    """Give a rehearsal's name free, `hello` -> `hello~1`: entries are never deleted. No manifest can name a `~`."""
    if not found.rehearsal:
        raise ValueError(f"batch {found.name} was paid for and keeps its name")
    taken = {each.name for each in listed(tx) if each.rehearsal}
    name = next(name for number in count(1) if (name := f"{found.name}~{number}") not in taken)
    tx.execute(update(batches).where(batches.c.id == found.id).values(name=name))
    return name


def is_untouched(connection: Connection, batch_id: int) -> bool:
    """Was nothing ever handed out of this batch, and nothing ordered of it? Then it may be replaced."""
    return not any(
        connection.execute(select(table.c.id).where(table.c.batch_id == batch_id).limit(1)).first()
        for table in (entries, decisions)
    )


def add_block(tx: Connection, batch_id: int, block: Iterable[PlannedRow]) -> None:
    """Write a block of rows and the distinct jobs among them. Rows of one digest share one job."""
    block = list(block)
    by_digest: dict[str, PlannedRow] = {}
    for row in block:
        by_digest.setdefault(row.digest, row)
    known = _jobs_of(tx, batch_id, list(by_digest.values())) if by_digest else {}
    tx.execute(
        insert(rows),
        [
            {
                "batch_id": batch_id,
                "job_id": known[row.digest],
                "number": row.number,
                "file": row.file,
                "line": row.line,
                "sku": row.sku,
                "recipe": row.recipe,
                "destinations": list(row.destinations),
                "seeded_destinations": list(row.seeded_destinations) if row.seeded_destinations else None,
                "columns": dict(row.columns),
            }
            for row in block
        ],
    )


def _jobs_of(tx: Connection, batch_id: int, wanted: list[PlannedRow]) -> dict[str, int]:
    """Ids of the jobs of distinct rows by digest, those that an earlier block made too.

    By way of the unique index: a table that has just been filled has no statistics, and asking for digests then reads
    every job of the batch each time.
    """
    make: Any = sqlite.insert if tx.dialect.name == "sqlite" else postgresql.insert
    statement = make(jobs)
    same = statement.on_conflict_do_update(
        index_elements=[jobs.c.batch_id, jobs.c.digest], set_={"digest": statement.excluded.digest}
    ).returning(jobs.c.digest, jobs.c.id)
    found = tx.execute(
        same,
        [
            {
                "batch_id": batch_id,
                "digest": row.digest,
                "model": row.edit.model,
                "edit": row.edit.to_json(),
                "n": row.edit.n,
                "worst_case_micros": row.worst_case_micros,
                "status": "planned",
            }
            for row in wanted
        ],
    )
    return {record.digest: record.id for record in found}


def open_(tx: Connection, batch_id: int) -> bool:
    """planning -> open: every row is written."""
    return _move(tx, batch_id, ("planning",), "open")


def reopen(tx: Connection, batch_id: int, now: datetime) -> bool:
    """stopped, or paused by the circuit breaker -> open: a person runs it again, so the cause is taken to be mended."""
    by_itself = tx.execute(select(batches.c.code).where(batches.c.id == batch_id)).scalar_one() == BREAKER
    return _move(tx, batch_id, ("stopped", "paused") if by_itself else ("stopped",), "open", resumed_at=now)


def pause(tx: Connection, batch_id: int, *, code: str, message: str) -> bool:
    return _move(tx, batch_id, ("open", "stopped"), "paused", code, message)


def resume(tx: Connection, batch_id: int, now: datetime) -> bool:
    return _move(tx, batch_id, ("paused", "stopped"), "open", resumed_at=now)


def stop(tx: Connection, batch_id: int, *, code: str, message: str) -> bool:
    """open -> stopped: nothing more is bought until a person acted."""
    return _move(tx, batch_id, ("open",), "stopped", code, message)


def cancel(tx: Connection, batch_id: int) -> bool:
    return _move(tx, batch_id, OPEN_STATES, "cancelled", "Cancelled", "cancelled by a person")


def set_priority(tx: Connection, batch_id: int, priority: int) -> None:
    tx.execute(update(batches).where(batches.c.id == batch_id).values(priority=priority))


def hand_over(tx: Connection, batch_id: int, engine: str) -> None:
    """Let the other engine dispatch it from now on: `embedded` or `cluster`."""
    tx.execute(update(batches).where(batches.c.id == batch_id).values(engine=engine))


@dataclass(frozen=True)
class Decision:
    """A person's word on a batch or one of its jobs: what, who, when, why."""

    what: str
    who: str
    at: datetime
    reason: str = ""
    job_id: int | None = None
    detail: Mapping[str, Any] | None = None


def record_decision(tx: Connection, batch_id: int, made: Decision) -> None:
    tx.execute(
        insert(decisions).values(
            batch_id=batch_id,
            job_id=made.job_id,
            what=made.what,
            who=made.who,
            at=made.at,
            reason=made.reason,
            detail=dict(made.detail) if made.detail else None,
        )
    )


def decisions_on(connection: Connection, batch_id: int) -> list[Decision]:
    """In the order they were made."""
    d = decisions.c
    query = select(d.what, d.who, d.at, d.reason, d.job_id, d.detail).where(d.batch_id == batch_id).order_by(d.id)
    return [Decision(*record) for record in connection.execute(query)]


def _move(
    tx: Connection,
    batch_id: int,
    old: tuple[str, ...],
    new: str,
    code: str | None = None,
    message: str | None = None,
    **values: Any,
) -> bool:
    changed = tx.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.state.in_(old))
        .values(state=new, code=code, message=message, **values)
    )
    return changed.rowcount == 1

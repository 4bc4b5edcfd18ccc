"""From a plan to a batch in the ledger: written in blocks, or found again, never silently changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from models import batch
from models.batch import Batch
from models.database import Database
from models.edit import Edit
from models.errors import BatchChanged
from models.settings import Settings
from models.tables import jobs, rows
from scheduler.plan import Plan, PlannedRow

BLOCK = 2000
NAMED = 10  # changes that are named one by one


def find_unchanged(database: Database, plan: Plan, *, rehearsal: bool) -> Batch | None:
    """The batch that the ledger already has of this plan; None where it is new, or nothing was ever handed out of it.

    None for a changed rehearsal, too: those are there to be repeated.
    Raises BatchChanged, saying what differs, when the ledger's batch came from another manifest.
    """
    with database.read() as connection:
        found = batch.find(connection, plan.batch, rehearsal=rehearsal)
        if found is None or found.state == "planning":
            return None
        changes = compare(connection, found, plan)
        if not changes:
            return found
        if rehearsal or batch.is_untouched(connection, found.id):
            return None
    raise BatchChanged(_in_words(found, changes))


def submit(
    database: Database,
    plan: Plan,
    settings: Settings,
    *,
    rehearsal: bool,
    output: str,
    now: datetime,
    engine: str = "embedded",
) -> Batch:
    """Write a plan as a batch, in blocks; replaces one of that name of which nothing was ever handed out.

    An earlier rehearsal of that name is put aside, with its entries. Raises BatchChanged where others were quicker:
    the batch to be replaced is handed out by now, or this one was replaced while it was written.

    output: where the pictures go; the plan's place, or a rehearsal's
    engine: who dispatches it, `embedded` or `cluster`
    """
    try:
        return _write(database, plan, settings, rehearsal=rehearsal, output=output, now=now, engine=engine)
    except batch.AlreadyBegun:
        found = find_unchanged(database, plan, rehearsal=rehearsal)
        if found is None:
            raise
        return found  # somebody else submitted the same
    except _Replaced:
        raise BatchChanged(
            f"batch {plan.batch!r} was submitted by somebody else while this one was being written, which is gone now; "
            f"see packshot status {plan.batch}"
        ) from None


class _Replaced(Exception):
    """The batch that was being written is not there any more."""


def _write(
    database: Database, plan: Plan, settings: Settings, *, rehearsal: bool, output: str, now: datetime, engine: str
) -> Batch:
    try:
        with database.write(durable=True) as tx:
            before = batch.find(tx, plan.batch, rehearsal=rehearsal)
            if before is not None and rehearsal and not batch.is_untouched(tx, before.id):
                batch.put_aside(tx, before)
            batch_id = batch.begin(
                tx,
                name=plan.batch,
                rehearsal=rehearsal,
                engine=engine,
                manifest=str(plan.manifest),
                checksum=plan.checksum,
                header=plan.header,
                output=output,
                region=plan.region,
                currency=plan.currency,
                priority=plan.priority,
                quote_micros=plan.quote_micros,
                row_count=plan.rows,
                job_count=plan.jobs,
                models=[quote.model for quote in plan.by_model],
                budget_micros=plan.budget_micros,
                exposure_limit_micros=settings.exposure_limit_micros(plan.quote_micros),
                now=now,
            )
    except IntegrityError:  # of two at once, the other took the name
        raise _Replaced from None
    try:
        for block in plan.blocks(BLOCK):
            with database.write() as tx:
                batch.add_block(tx, batch_id, block)
    except IntegrityError:
        with database.read() as connection:
            found = batch.find(connection, plan.batch, rehearsal=rehearsal)
        if found is not None and found.id == batch_id:
            raise
        raise _Replaced from None
    with database.write(durable=True) as tx:
        if not batch.open_(tx, batch_id):
            raise _Replaced
        return batch.get(tx, batch_id)


def compare(connection: Connection, found: Batch, plan: Plan) -> list[str]:
    """What differs between a batch and a plan, in words; empty where they mean the same edits and places."""
    changes = [
        f"{name}: was {_short(found.header.get(name))}, is {_short(plan.header.get(name))}"
        for name in sorted(set(found.header) | set(plan.header))
        if found.header.get(name) != plan.header.get(name)
    ]
    stored = _stored_rows(connection, found.id)
    for planned in (row for block in plan.blocks(BLOCK) for row in block):
        before = next(stored, None)
        if before is None:
            changes.append(f"row {planned.number} ({planned.sku}, {planned.file}:{planned.line}) is new")
        else:
            changes.extend(_row_changes(before, planned))
    changes.extend(f"row {left.number} ({left.sku}) is gone" for left in stored)
    return changes


@dataclass(frozen=True)
class _StoredRow:
    number: int
    sku: str
    digest: str
    edit: Mapping[str, Any]
    places: tuple[str, ...]
    columns: Mapping[str, str]


def _stored_rows(connection: Connection, batch_id: int) -> Iterator[_StoredRow]:
    last = -1
    while True:
        block = connection.execute(
            select(
                rows.c.number,
                rows.c.sku,
                jobs.c.digest,
                jobs.c.edit,
                rows.c.destinations,
                rows.c.seeded_destinations,
                rows.c.columns,
            )
            .join(jobs, jobs.c.id == rows.c.job_id)
            .where(rows.c.batch_id == batch_id, rows.c.number > last)
            .order_by(rows.c.number)
            .limit(BLOCK)
        ).all()
        if not block:
            return
        for record in block:
            places = tuple(record.seeded_destinations or record.destinations)
            yield _StoredRow(record.number, record.sku, record.digest, record.edit, places, record.columns)
        last = block[-1].number


def _row_changes(before: _StoredRow, planned: PlannedRow) -> Iterator[str]:
    place = f"row {planned.number} ({planned.sku}, {planned.file}:{planned.line})"
    if before.digest != planned.digest:
        old, new = Edit.from_json(before.edit), planned.edit
        names = [
            name
            for name, differs in (
                ("model", old.model != new.model),
                ("prompt", old.prompt != new.prompt),
                ("pictures", [p.sha256 or p.ref for p in old.pictures] != [p.sha256 or p.ref for p in new.pictures]),
                ("parameters", dict(old.parameters) != dict(new.parameters)),
            )
            if differs
        ]
        yield f"{place}: {', '.join(names) or 'seed'} changed"
    if before.places != (planned.seeded_destinations or planned.destinations):
        yield f"{place}: output changed from {before.places[0]} to {planned.destinations[0]}"
    if dict(before.columns) != dict(planned.columns):
        yield f"{place}: columns changed"


def _in_words(found: Batch, changes: list[str]) -> str:
    shown = "\n".join(f"  {change}" for change in changes[:NAMED])
    more = f"\n  and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
    if any(change.startswith("output: was /") for change in changes):
        more += "\na relative `output` lies below the folder the command is run in: run it where it was run first"
    return (
        f"the manifest is not the one that batch {found.name!r} was made from; nothing was run. What changed:\n"
        f"{shown}{more}\n"
        "give the new one another name in `batch:`, or bring the old manifest back to go on with this one"
    )


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""What was paid, from the entries of the ledger: sums by model, day, item or any column. Exact integers, reads only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC
from typing import Any

from sqlalchemy import Connection, select

from models.batch import Batch
from models.tables import batches, entries, rows


def cost(connection: Connection, found: Batch | None, *, by: str | None, rehearsals: bool = False) -> dict[str, Any]:
    """What was paid, from the entries; grouped by model, day, sku or a free column.

    found: one batch; None sums every real one, or every rehearsal
    A job that several rows share is split evenly between them when grouping by sku or column; what does not divide
    goes to the first rows, so the groups always add up to the whole.
    """
    paid = list(_paid(connection, found, rehearsals))
    groups: dict[str, _Sum] = defaultdict(_Sum)
    if by in ("model", "day"):
        for entry in paid:
            key = entry.model if by == "model" else entry.at.astimezone(UTC).date().isoformat()
            groups[key].add(entry.currency, entry.amount_micros, entry.pictures)
    elif by is not None:
        _by_row(connection, paid, by, groups)
    whole = _Sum()
    for entry in paid:
        whole.add(entry.currency, entry.amount_micros, entry.pictures)
    return {
        "batch": found.name if found else None,
        "rehearsal": found.rehearsal if found else rehearsals,
        "pictures": whole.pictures,
        "charges": whole.charges(),
        "by": by,
        "groups": [
            {"key": key, "pictures": group.pictures, "charges": group.charges()}
            for key, group in sorted(groups.items())
        ],
    }


class _Sum:
    def __init__(self) -> None:
        self.pictures = 0
        self.micros: dict[str, int] = defaultdict(int)

    def add(self, currency: str, micros: int, pictures: int) -> None:
        self.micros[currency] += micros
        self.pictures += pictures

    def charges(self) -> list[dict[str, Any]]:
        return [{"currency": currency, "micros": micros} for currency, micros in sorted(self.micros.items())]


def _paid(connection: Connection, found: Batch | None, rehearsals: bool) -> Iterator[Any]:
    query = (
        select(
            entries.c.job_id,
            entries.c.model,
            entries.c.at,
            entries.c.currency,
            entries.c.amount_micros,
            entries.c.pictures,
        )
        .join(batches, batches.c.id == entries.c.batch_id)
        .where(entries.c.kind.in_(("charge", "adjust")))
    )
    if found is not None:
        query = query.where(entries.c.batch_id == found.id)
    else:  # one or the other: money that was spent and money that was not make no sum
        query = query.where(batches.c.rehearsal.is_(rehearsals))
    yield from connection.execute(query.order_by(entries.c.id))


def _by_row(connection: Connection, paid: Iterable[Any], by: str, groups: dict[str, _Sum]) -> None:
    charged: dict[int, list[Any]] = defaultdict(list)
    for entry in paid:
        charged[entry.job_id].append(entry)
    sharing: dict[int, list[str]] = defaultdict(list)
    for block in _blocks(sorted(charged), 500):
        for row in connection.execute(
            select(rows.c.job_id, rows.c.sku, rows.c.columns).where(rows.c.job_id.in_(block)).order_by(rows.c.number)
        ):
            sharing[row.job_id].append(row.sku if by == "sku" else str(row.columns.get(by, "")))
    for job_id, entries_ in charged.items():
        keys = sharing[job_id]
        for entry in entries_:
            for position, key in enumerate(keys):
                micros = entry.amount_micros // len(keys) + (1 if position < entry.amount_micros % len(keys) else 0)
                pictures = entry.pictures // len(keys) + (1 if position < entry.pictures % len(keys) else 0)
                groups[key].add(entry.currency, micros, pictures)


def _blocks(values: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def known_columns(connection: Connection, found: Batch | None) -> list[str]:
    """Names that `cost --by` can group by in these batches, looked up in the first rows."""
    query = select(rows.c.columns).limit(200)
    if found is not None:
        query = query.where(rows.c.batch_id == found.id)
    names = {name for record in connection.execute(query) for name in record.columns}
    return ["model", "day", "sku", *sorted(names - {"model", "day", "sku"})]

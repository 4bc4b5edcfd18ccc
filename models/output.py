"""What was paid and where it is kept: outputs of an answered attempt, and their objects, one for each row.

Facts only: no status is written here. An output is waiting, stored (every row has its verified copy), or lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, insert, select, update

from models.edit import Answer
from models.ledger import Hold
from models.tables import attempts, fit, objects, outputs, rows


@dataclass(frozen=True)
class OutputToStore:
    """A paid picture that is not stored for every row yet. `copies` = (row id, key, sku) still missing."""

    id: int
    number: int
    url: str
    expires_at: datetime
    request_id: str
    seed: int
    sha256: str | None
    copies: tuple[tuple[int, str, str], ...]


def add(tx: Connection, attempt_id: int, hold: Hold, answer: Answer, *, url_life_s: float, now: datetime) -> None:
    """Write down where an answer's pictures are, until their addresses die."""
    if answer.urls:
        tx.execute(
            insert(outputs),
            [
                {
                    "attempt_id": attempt_id,
                    "batch_id": hold.batch_id,
                    "job_id": hold.job_id,
                    "number": number,
                    "url": fit(url),  # an address that no database takes must not cost the pictures beside it
                    "expires_at": now + timedelta(seconds=url_life_s),
                }
                for number, url in enumerate(answer.urls, start=1)
            ],
        )


def waiting(connection: Connection, job_id: int, attempt_id: int) -> list[OutputToStore]:
    """The delivered attempt's pictures that some row still lacks, and the keys they go to."""
    attempt = connection.execute(
        select(attempts.c.request_id, attempts.c.seed).where(attempts.c.id == attempt_id)
    ).one()
    wanted = connection.execute(
        select(rows.c.id, rows.c.sku, rows.c.destinations).where(rows.c.job_id == job_id).order_by(rows.c.number)
    ).all()
    found = connection.execute(
        select(outputs)
        .where(outputs.c.attempt_id == attempt_id, outputs.c.stored_at.is_(None), outputs.c.lost.is_(None))
        .order_by(outputs.c.number)
    ).all()
    stored = {
        (record.output_id, record.row_id)
        for record in connection.execute(
            select(objects.c.output_id, objects.c.row_id)
            .join(outputs, outputs.c.id == objects.c.output_id)
            .where(outputs.c.attempt_id == attempt_id)
        )
    }
    return [
        OutputToStore(
            id=output.id,
            number=output.number,
            url=output.url,
            expires_at=output.expires_at,
            request_id=attempt.request_id or "",
            seed=attempt.seed,
            sha256=output.sha256,
            copies=tuple(
                (row.id, row.destinations[output.number - 1], row.sku)
                for row in wanted
                if (output.id, row.id) not in stored and output.number <= len(row.destinations)
            ),
        )
        for output in found
    ]


def delivery(connection: Connection, attempt_id: int) -> tuple[int, int, int]:
    """(outputs stored, outputs lost, pictures billed) of an answered attempt."""
    stored, lost = connection.execute(
        select(
            func.count(outputs.c.stored_at),
            func.count(outputs.c.lost),
        ).where(outputs.c.attempt_id == attempt_id)
    ).one()
    billed = connection.execute(select(attempts.c.pictures).where(attempts.c.id == attempt_id)).scalar_one()
    return stored, lost, billed


def record_output(
    tx: Connection,
    output: OutputToStore,
    *,
    stored: Sequence[tuple[int, str]],
    sha256: str,
    size: int,
    width: int,
    height: int,
    now: datetime,
) -> None:
    """The copies of one picture are stored and verified, even if it had been given up. stored: (row id, key)."""
    tx.execute(
        update(outputs)
        .where(outputs.c.id == output.id)
        .values(sha256=sha256, size=size, width=width, height=height, stored_at=now, lost=None)
    )
    known = {record.row_id for record in tx.execute(select(objects.c.row_id).where(objects.c.output_id == output.id))}
    fresh = [
        {"output_id": output.id, "row_id": row_id, "key": key, "sha256": sha256, "size": size, "stored_at": now}
        for row_id, key in stored
        if row_id not in known
    ]
    if fresh:
        tx.execute(insert(objects), fresh)


def record_lost(tx: Connection, output_id: int, *, reason: str) -> None:
    """A paid picture that can never be stored: its address died before it was copied."""
    tx.execute(update(outputs).where(outputs.c.id == output_id, outputs.c.stored_at.is_(None)).values(lost=reason))


def record_surplus(tx: Connection, attempt_id: int) -> None:
    """An edit that was paid twice: the pictures of this answer are not delivered, another's are."""
    tx.execute(
        update(outputs).where(outputs.c.attempt_id == attempt_id).values(lost="paid twice; another call was delivered")
    )

"""The ledger's tables. Columns only; `models/job.py`, `models/batch.py` and `models/ledger.py` write them.

Amounts are integer micro-units, times are UTC. `url` in `outputs` is a signed address: it never leaves the ledger.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine


class Moment(TypeDecorator[datetime]):
    """An aware UTC datetime on every database; SQLite keeps it as sortable text."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment needs its time zone")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def fit(words: str, length: int | None = None) -> str:
    """Words from outside as every database takes them: no NUL, no half characters, not longer than the column."""
    return words.replace("\0", "").encode("utf-8", "replace").decode()[:length]


class Words(TypeDecorator[str]):
    """Text that others wrote, such as a provider's message: kept as far as it fits instead of refused."""

    impl = Text
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__()
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if self.length is None else String(self.length))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else fit(value, self.length)


DEPTH_MAX = 8  # of what others wrote as JSON; deeper, nobody reads it


class Told(TypeDecorator[Any]):
    """JSON that others wrote, such as an answer's usage: kept as far as every database takes it instead of refused."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return _plain(value, DEPTH_MAX)


def _plain(value: Any, depth: int) -> Any:
    """Without NaN and infinity, which JSON has no word for, odd characters, and endless nesting."""
    match value:
        case str():
            return fit(value)
        case float():
            return value if math.isfinite(value) else None
        case dict() if depth:
            return {fit(str(name)): _plain(part, depth - 1) for name, part in value.items()}
        case list() if depth:
            return [_plain(part, depth - 1) for part in value]
        case dict() | list():
            return None
        case _:
            return value


REASON_MAX = 200
Id = BigInteger().with_variant(Integer, "sqlite")
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

batches = Table(
    "batches",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("rehearsal", Boolean, nullable=False, default=False),
    Column("engine", String(10), nullable=False, default="embedded"),  # who dispatches it: embedded or cluster
    Column("state", String(16), nullable=False),
    Column("code", Words(120)),  # why it stands still, where it does
    Column("message", Words()),
    Column("manifest", Text, nullable=False),
    Column("checksum", String(64), nullable=False),
    Column("header", JSON, nullable=False),
    Column("output", Text, nullable=False),
    Column("region", String(40), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("quote_micros", BigInteger, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("jobs", Integer, nullable=False),
    Column("models", JSON, nullable=False),  # ids of the models its jobs use
    Column("created_at", Moment, nullable=False),
    Column("resumed_at", Moment),  # what ended before does not count for the circuit breaker
    Column("served_at", Moment),  # when dispatch last gave it work: the basis of fairness among equals
    UniqueConstraint("name", "rehearsal"),
)

rows = Table(
    "rows",
    metadata,
    Column("id", Id, primary_key=True),
    Column("batch_id", Id, ForeignKey("batches.id"), nullable=False),
    Column("job_id", Id, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("file", Text, nullable=False),
    Column("line", Integer, nullable=False),
    Column("sku", Text, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("destinations", JSON, nullable=False),  # keys below the output place, one per picture
    Column("seeded_destinations", JSON),  # the same with {seed} open, where the template uses it
    Column("columns", JSON, nullable=False),
    UniqueConstraint("batch_id", "number"),
    Index("ix_rows_batch_id_sku", "batch_id", "sku"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("batch_id", Id, ForeignKey("batches.id"), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("model", String(80), nullable=False),
    Column("edit", JSON, nullable=False),
    Column("n", Integer, nullable=False),
    Column("worst_case_micros", BigInteger, nullable=False),
    Column("status", String(12), nullable=False),
    Column("due_at", Moment),
    Column("queued_at", Moment),
    Column("finished_at", Moment),
    Column("tries", Integer, nullable=False, default=0),  # counted tries since the last word of a person
    Column("throttles", Integer, nullable=False, default=0),  # throttled in a row
    Column("copies", Integer, nullable=False, default=0),  # failed rounds of copying in a row
    Column("holds", Integer, nullable=False, default=0),  # reservations made so far
    Column("hold", Integer),  # number of the reservation open now
    Column("round", Integer, nullable=False, default=0),  # how often a person asked for a new seed
    Column("answered_attempt_id", Id),  # the answer whose pictures are to be stored: never buy while it is set
    Column("claim_token", String(32)),
    Column("claim_owner", String(200)),
    Column("lease_until", Moment),
    Column("code", Words(120)),
    Column("message", Words()),
    UniqueConstraint("batch_id", "digest"),
    Index("ix_jobs_dispatch", "batch_id", "status", "model", "id"),
    Index("ix_jobs_lease", "status", "lease_until"),
    Index(
        "ix_jobs_unbought",  # is anything left to buy, and what does the cheapest cost
        "batch_id",
        "model",
        "worst_case_micros",
        sqlite_where=text("status = 'planned' AND answered_attempt_id IS NULL"),
        postgresql_where=text("status = 'planned' AND answered_attempt_id IS NULL"),
    ),
    Index(
        "ix_jobs_paid_waiting",
        "batch_id",
        sqlite_where=text("status = 'planned' AND answered_attempt_id IS NOT NULL"),
        postgresql_where=text("status = 'planned' AND answered_attempt_id IS NOT NULL"),
    ),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Id, primary_key=True),
    Column("job_id", Id, ForeignKey("jobs.id"), nullable=False),
    Column("batch_id", Id, ForeignKey("batches.id"), nullable=False),
    Column("hold", Integer, nullable=False),
    Column("model", String(80), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("worker", String(200), nullable=False),
    Column("opened_at", Moment, nullable=False),
    Column("closed_at", Moment),
    Column("outcome", String(12), nullable=False),  # open, not_sent, answered, unknown
    Column("verdict", String(12), nullable=False, default=""),  # of an answer: pictures, throttled, refused
    Column("http_status", Integer),
    Column("request_id", Words(120)),
    Column("code", Words(120)),
    Column("message", Words()),
    Column("pictures", Integer, nullable=False, default=0),
    Column("usage", Told),
    UniqueConstraint("job_id", "hold"),
    Index("ix_attempts_batch_id_outcome", "batch_id", "outcome"),
    Index("ix_attempts_batch_id_opened_at", "batch_id", "opened_at"),
)

outputs = Table(
    "outputs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("attempt_id", Id, ForeignKey("attempts.id"), nullable=False),
    Column("batch_id", Id, ForeignKey("batches.id"), nullable=False),
    Column("job_id", Id, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("number", Integer, nullable=False),  # 1..n in the answer's order
    Column("url", Text, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("sha256", String(64)),
    Column("size", BigInteger),
    Column("width", Integer),
    Column("height", Integer),
    Column("stored_at", Moment),  # when every row's copy was stored and verified
    Column("lost", Words(120)),  # why it can never be stored
    UniqueConstraint("attempt_id", "number"),
    Index("ix_outputs_waiting", "batch_id", "stored_at", "expires_at"),
)

objects = Table(
    "objects",
    metadata,
    Column("id", Id, primary_key=True),
    Column("output_id", Id, ForeignKey("outputs.id"), nullable=False),
    Column("row_id", Id, ForeignKey("rows.id"), nullable=False, index=True),
    Column("key", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("stored_at", Moment, nullable=False),
    UniqueConstraint("output_id", "row_id"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(80), primary_key=True),  # batch:17, or day:2026-11-23:CNY
    Column("currency", String(3), nullable=False),
    Column("budget_micros", BigInteger),
    Column("exposure_limit_micros", BigInteger, nullable=False, default=0),
    Column("reserved_micros", BigInteger, nullable=False, default=0),
    Column("charged_micros", BigInteger, nullable=False, default=0),
    Column("exposed_micros", BigInteger, nullable=False, default=0),  # unknown calls, not yet proven either way
    Column("rebought_micros", BigInteger, nullable=False, default=0),  # the part of it that was bought again
    Column("seq", BigInteger, nullable=False, default=0),  # entries so far, and the hash of the last one
    Column("head", String(64), nullable=False, default=""),
)

entries = Table(
    "entries",
    metadata,
    Column("id", Id, primary_key=True),
    Column("batch_id", Id, ForeignKey("batches.id"), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", String(8), nullable=False),  # reserve, charge, release, adjust
    Column("currency", String(3), nullable=False),
    Column("amount_micros", BigInteger, nullable=False),
    Column("pictures", Integer, nullable=False, default=0),
    Column("model", String(80), nullable=False),
    Column("job_id", Id, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("hold", Integer, nullable=False),
    Column("attempt_id", Id, ForeignKey("attempts.id")),  # empty while nothing was called
    Column("day", String(10), nullable=False),  # the UTC day whose budget it belongs to
    Column("at", Moment, nullable=False),
    Column("reason", Words(REASON_MAX), nullable=False, default=""),
    Column("hash", String(64), nullable=False),
    UniqueConstraint("batch_id", "seq"),
    Index(
        "uq_entries_one_charge_per_attempt",
        "attempt_id",
        unique=True,
        sqlite_where=text("kind = 'charge'"),
        postgresql_where=text("kind = 'charge'"),
    ),
    Index(
        "uq_entries_once_per_hold",
        "job_id",
        "hold",
        "kind",
        unique=True,
        sqlite_where=text("kind <> 'adjust'"),
        postgresql_where=text("kind <> 'adjust'"),
    ),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(40), primary_key=True),  # scheduler
    Column("holder", String(200), nullable=False),
    Column("until", Moment, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("batch_id", Id, ForeignKey("batches.id"), nullable=False, index=True),
    Column("job_id", Id, ForeignKey("jobs.id"), index=True),
    Column("what", String(20), nullable=False),  # release, forgive, budget, pause, resume, cancel, priority
    Column("detail", JSON),
    Column("who", String(120), nullable=False),
    Column("at", Moment, nullable=False),
    Column("reason", Text, nullable=False, default=""),
)

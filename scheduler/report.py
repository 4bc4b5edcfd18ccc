"""What the ledger says: how far a batch is, what it cost, what is wrong. Reads only; every figure is a sum of records.

Sums are exact integers in micro-units. A rehearsal's figures are kept apart from money that was really spent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, case, func, or_, select

from models import batch, job, ledger
from models.batch import Batch
from models.database import Database
from models.errors import UnknownBatch, UsageError
from models.job import PARTIAL
from models.tables import attempts, entries, jobs, outputs, rows

FINAL = ("succeeded", "failed", "held", "cancelled")


def find_batch(connection: Connection, name: str, *, rehearsal: bool | None = None) -> Batch:
    """The batch of a name: the real one, or its rehearsal where only that was run (or is asked for).

    Raises UnknownBatch naming those there are.
    """
    wanted = (False, True) if rehearsal is None else (rehearsal,)
    for kind in wanted:
        found = batch.find(connection, name, rehearsal=kind)
        if found is not None:
            return found
    known = [found.name for found in batch.listed(connection)][:8]
    there = f"there are: {', '.join(dict.fromkeys(known))}" if known else "there is none yet"
    raise UnknownBatch(f"no batch {name!r} in this ledger; {there}; the ledger is {connection.engine.url!r}")


@dataclass(frozen=True)
class Progress:
    """Counts of one batch's jobs by status, and its money now."""

    jobs: Mapping[str, int]
    account: ledger.Account
    calls_last_10s: int
    left_by_model: Mapping[str, int]

    @property
    def waiting(self) -> int:
        return self.jobs["planned"]

    @property
    def in_hand(self) -> int:
        return self.jobs["queued"] + self.jobs["running"]

    @property
    def total(self) -> int:
        return sum(self.jobs.values())


def progress(connection: Connection, batch_id: int, now: datetime) -> Progress:
    counts: dict[str, int] = dict.fromkeys(job.STATUSES, 0)
    left: dict[str, int] = defaultdict(int)
    for status, model, count in connection.execute(
        select(jobs.c.status, jobs.c.model, func.count())
        .where(jobs.c.batch_id == batch_id)
        .group_by(jobs.c.status, jobs.c.model)
    ):
        counts[status] += count
        if status in job.WAITING:
            left[model] += count
    recent = connection.execute(
        select(func.count())
        .select_from(attempts)
        .where(attempts.c.batch_id == batch_id, attempts.c.opened_at > now - timedelta(seconds=10))
    ).scalar_one()
    found = ledger.account(connection, ledger.batch_account(batch_id))
    assert found is not None, "a batch is written together with its account"  # noqa: S101
    return Progress(counts, found, recent, dict(left))


def unbought_micros(database: Database, batch_id: int) -> int:
    """Worst case of what still waits to be bought."""
    with database.read() as connection:
        return int(
            connection.execute(
                select(func.coalesce(func.sum(jobs.c.worst_case_micros), 0)).where(
                    jobs.c.batch_id == batch_id,
                    jobs.c.status.in_(job.WAITING),
                    jobs.c.answered_attempt_id.is_(None),
                )
            ).scalar_one()
        )


def state(found: Batch, jobs_by_status: Mapping[str, int], *, out_of_budget: bool) -> str:
    """One word for where a batch stands.

    planning, paused, stopped, cancelled   the batch's own state
    waiting    nothing has been handed out yet
    running    some jobs are under way or waiting for their turn
    out_of_budget   no waiting job fits into what is left
    held       only jobs that need a person are left
    finished   every job reached its end
    """
    if found.state != "open":
        return found.state
    if any(jobs_by_status[name] for name in ("queued", "running")):
        return "running"
    if jobs_by_status["planned"]:
        if out_of_budget:
            return "out_of_budget"
        return "running" if any(jobs_by_status[name] for name in FINAL) else "waiting"
    return "held" if jobs_by_status["held"] else "finished"


def status(connection: Connection, found: Batch, now: datetime) -> dict[str, Any]:
    """The whole of `packshot status --json`."""
    from scheduler.dispatch import out_of_budget

    seen = progress(connection, found.id, now)
    account = seen.account
    row_counts: dict[str, int] = dict.fromkeys(job.STATUSES, 0)
    for name, count in connection.execute(
        select(jobs.c.status, func.count())
        .select_from(rows.join(jobs, rows.c.job_id == jobs.c.id))
        .where(rows.c.batch_id == found.id)
        .group_by(jobs.c.status)
    ):
        row_counts[name] = count
    return {
        "batch": found.name,
        "state": state(found, seen.jobs, out_of_budget=out_of_budget(connection, found, now)),
        "reason": {"code": found.code, "message": found.message} if found.code else None,
        "rehearsal": found.rehearsal,
        "manifest": found.manifest,
        "output": found.output,
        "rows": row_counts,
        "jobs": dict(seen.jobs),
        "pictures": pictures(connection, found.id),
        "troubles": [asdict(trouble) for trouble in troubles(connection, found.id)],
        "undelivered": undelivered(connection, found.id, now),
        "calls": _calls(connection, found.id),
        "money": [
            {
                "currency": account.currency,
                "quoted_micros": found.quote_micros,
                "reserved_micros": account.reserved_micros,
                "charged_micros": account.charged_micros,
                "exposure_micros": account.exposed_micros,
                "exposure_limit_micros": account.exposure_limit_micros,
                "budget_micros": account.budget_micros,
            }
        ],
    }


def pictures(connection: Connection, batch_id: int) -> dict[str, int]:
    """Of one batch. not_given: asked for, and neither given nor billed, in edits that count as done all the same."""
    billed = connection.execute(
        select(func.coalesce(func.sum(attempts.c.pictures), 0)).where(attempts.c.batch_id == batch_id)
    ).scalar_one()
    waiting = and_(outputs.c.stored_at.is_(None), outputs.c.lost.is_(None))
    stored, lost, awaiting = connection.execute(
        select(
            func.count(outputs.c.stored_at),
            func.count(outputs.c.lost),
            func.coalesce(func.sum(case((waiting, 1), else_=0)), 0),
        ).where(outputs.c.batch_id == batch_id)
    ).one()
    not_given = connection.execute(
        select(func.coalesce(func.sum(jobs.c.n - attempts.c.pictures), 0))
        .join(attempts, attempts.c.id == jobs.c.answered_attempt_id)
        .where(jobs.c.batch_id == batch_id, _IN_PART)
    ).scalar_one()
    return {
        "billed": int(billed),
        "stored": stored,
        "awaiting_copy": int(awaiting),
        "lost": lost,
        "not_given": int(not_given),
    }


def undelivered(connection: Connection, batch_id: int, now: datetime, *, most: int = 20) -> list[dict[str, Any]]:
    """Paid pictures that are not stored, with their cost: whose address dies first comes first, lost ones last.

    What was lost and bought again is no alarm any more: its row has its picture.
    """
    charged = (
        select(entries.c.attempt_id, entries.c.amount_micros, entries.c.currency)
        .where(entries.c.kind == "charge", entries.c.batch_id == batch_id)
        .subquery()
    )
    found = connection.execute(
        select(
            outputs.c.number,
            outputs.c.expires_at,
            outputs.c.lost,
            jobs.c.message,
            attempts.c.pictures,
            charged.c.amount_micros,
            charged.c.currency,
            select(func.min(rows.c.sku)).where(rows.c.job_id == outputs.c.job_id).scalar_subquery().label("sku"),
        )
        .join(attempts, attempts.c.id == outputs.c.attempt_id)
        .join(jobs, jobs.c.id == outputs.c.job_id)
        .join(charged, charged.c.attempt_id == attempts.c.id)
        .where(outputs.c.batch_id == batch_id, outputs.c.stored_at.is_(None), jobs.c.status != "succeeded")
        .order_by(outputs.c.lost.is_not(None), outputs.c.expires_at, outputs.c.id)
        .limit(most)
    )
    return [
        {
            "sku": record.sku,
            "picture": record.number,
            "lost": record.lost is not None,
            "expires_at": record.expires_at.isoformat(),
            "seconds_left": max(0, int((record.expires_at - now).total_seconds())),
            "why": record.lost or record.message or "waits for its turn",
            "currency": record.currency,
            "micros": record.amount_micros // max(1, record.pictures),
        }
        for record in found
    ]


def _calls(connection: Connection, batch_id: int) -> dict[str, int]:
    """answered: with pictures. throttled: 429. failed: refused otherwise, or never sent. unknown: maybe paid."""
    counts = {"answered": 0, "throttled": 0, "failed": 0, "unknown": 0, "open": 0}
    for outcome, verdict, count in connection.execute(
        select(attempts.c.outcome, attempts.c.verdict, func.count())
        .where(attempts.c.batch_id == batch_id)
        .group_by(attempts.c.outcome, attempts.c.verdict)
    ):
        if outcome in ("unknown", "open"):
            counts[outcome] += count
        elif verdict == "pictures":
            counts["answered"] += count
        elif verdict == "throttled":
            counts["throttled"] += count
        else:
            counts["failed"] += count
    return counts


@dataclass(frozen=True)
class Trouble:
    """Jobs that did not succeed, or only in part, for people: code, words, and which rows they concern."""

    status: str
    code: str
    message: str
    jobs: int
    example: str


_IN_PART = and_(jobs.c.status == "succeeded", jobs.c.code == PARTIAL)


def troubles(connection: Connection, batch_id: int) -> list[Trouble]:
    """Failed, held and partly delivered jobs, grouped by what was said, most frequent first."""
    found = connection.execute(
        select(
            jobs.c.status,
            func.coalesce(jobs.c.code, ""),
            func.coalesce(func.min(jobs.c.message), ""),
            func.count(func.distinct(jobs.c.id)),
            func.min(rows.c.sku),
        )
        .select_from(jobs.join(rows, rows.c.job_id == jobs.c.id))
        .where(jobs.c.batch_id == batch_id, or_(jobs.c.status.in_(("failed", "held")), _IN_PART))
        .group_by(jobs.c.status, jobs.c.code)
        .order_by(func.count(func.distinct(jobs.c.id)).desc())
    )
    return [Trouble(*record) for record in found]


def held(connection: Connection, batch_id: int) -> list[dict[str, Any]]:
    """Jobs that wait for a person's word, each with its rows and with what is known of its calls."""
    found = connection.execute(
        select(jobs.c.id, jobs.c.model, jobs.c.worst_case_micros, jobs.c.code, jobs.c.message)
        .where(jobs.c.batch_id == batch_id, jobs.c.status == "held")
        .order_by(jobs.c.id)
    ).all()
    listed = []
    for record in found:
        mine = connection.execute(
            select(rows.c.sku, rows.c.recipe, rows.c.destinations)
            .where(rows.c.job_id == record.id)
            .order_by(rows.c.number)
        ).all()
        calls = connection.execute(select(attempts).where(attempts.c.job_id == record.id).order_by(attempts.c.id)).all()
        listed.append(
            {
                "job": record.id,
                "skus": list(dict.fromkeys(row.sku for row in mine)),
                "recipes": list(dict.fromkeys(row.recipe for row in mine)),
                "outputs": [key for row in mine for key in row.destinations],
                "model": record.model,
                "worst_case_micros": record.worst_case_micros,
                "code": record.code,
                "message": record.message,
                "attempts": [
                    {
                        "id": call.id,
                        "opened_at": call.opened_at.isoformat(timespec="seconds"),
                        "closed_at": call.closed_at.isoformat(timespec="seconds") if call.closed_at else None,
                        "outcome": call.outcome,
                        "http_status": call.http_status,
                        "request_id": call.request_id,
                        "seed": call.seed,
                        "worker": call.worker,
                        "said": f"{call.code}: {call.message}" if call.code else "",
                    }
                    for call in calls
                ],
            }
        )
    return listed


def listed_rows(
    connection: Connection, found: Batch, *, status: str | None = None, code: str | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of a batch in the manifest's order, perhaps only those of one status or code, with what became of each.

    charged_micros is what the row's edit has cost so far, whole: rows that share it are charged together once.
    """
    charged = (
        select(func.coalesce(func.sum(entries.c.amount_micros), 0))
        .where(entries.c.job_id == jobs.c.id, entries.c.kind.in_(("charge", "adjust")))
        .scalar_subquery()
    )
    query = (
        select(rows, jobs.c.status, jobs.c.code, jobs.c.message, jobs.c.model, charged.label("charged_micros"))
        .join(jobs, jobs.c.id == rows.c.job_id)
        .where(rows.c.batch_id == found.id)
        .order_by(rows.c.number)
    )
    if status is not None:
        query = query.where(jobs.c.status == status)
    if code is not None:
        query = query.where(jobs.c.code == code)
    for record in connection.execute(query.execution_options(yield_per=1000)):
        yield {
            "row": record.number,
            "file": record.file,
            "line": record.line,
            "sku": record.sku,
            "recipe": record.recipe,
            "model": record.model,
            "job": record.job_id,
            "status": record.status,
            "code": record.code,
            "message": record.message,
            "outputs": list(record.destinations),
            "currency": found.currency,
            "charged_micros": int(record.charged_micros),
        }


def choose_jobs(
    connection: Connection, found: Batch, status: str, *, code: str | None = None, sku: str | None = None
) -> list[tuple[int, int]]:
    """(job id, worst case in micro-units) of a batch's jobs of one status, perhaps only of one code or item.

    Raises UsageError where the batch has no such item, or has jobs of the status and none with the code.
    """
    query = select(jobs.c.id, jobs.c.worst_case_micros).where(jobs.c.batch_id == found.id, jobs.c.status == status)
    if sku is not None:
        of_sku = and_(rows.c.batch_id == found.id, rows.c.sku == sku)
        if connection.execute(select(rows.c.id).where(of_sku).limit(1)).first() is None:
            raise UsageError(f"no row of {found.name} has the sku {sku!r}; packshot rows {found.name} lists them")
        query = query.where(jobs.c.id.in_(select(rows.c.job_id).where(of_sku)))
    if code is not None:
        need_code(connection, found, code, status=status)
        query = query.where(jobs.c.code == code)
    return [(record.id, record.worst_case_micros) for record in connection.execute(query.order_by(jobs.c.id))]


def need_code(connection: Connection, found: Batch, code: str, *, status: str | None = None) -> None:
    """Raises UsageError where jobs (of a status) have codes, and none of them this one: it is mistyped."""
    query = select(jobs.c.code).where(jobs.c.batch_id == found.id, jobs.c.code.is_not(None)).distinct()
    if status is not None:
        query = query.where(jobs.c.status == status)
    there = sorted(connection.execute(query).scalars())
    if there and code not in there:
        kind = f"{status} job" if status else "job"
        raise UsageError(f"no {kind} of {found.name} has the code {code!r}; there are: {', '.join(there)}")

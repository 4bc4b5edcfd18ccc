"""One call of the API: the intent before it, and what is known after it, with the money that follows.

    open -----> answered   the provider's word: pictures (charged), throttled or refused (free)
      |-------> not_sent   the request never left whole: free
      `-------> unknown    sent, then no answer: may have been paid, counts as spent
      |            `-----> answered, not_sent    a late word is better than none
      not_sent ----------> answered, with pictures only: whoever thought it free was wrong, and the charge is the truth

These facts are true whoever owns the job by now, so recording them needs no claim. What becomes of the job is
`models/job.py`'s matter.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, func, insert, select, update

from models import ledger, output
from models.edit import Answer, Edit
from models.errors import SlotMissed
from models.ledger import Due, Hold
from models.tables import attempts, jobs


@dataclass(frozen=True)
class OpenAttempt:
    """An attempt whose intent is on disk. number = hold: the n-th reservation of its job."""

    id: int
    hold: Hold


def open_(tx: Connection, hold: Hold, edit: Edit, *, worker: str, now: datetime) -> OpenAttempt:
    """Write the intent to call. Only `job.open_attempt` calls this, once the claim is proven."""
    written = find_open(tx, hold)
    if written is not None:
        return written
    attempt_id = tx.execute(
        insert(attempts)
        .values(
            job_id=hold.job_id,
            batch_id=hold.batch_id,
            hold=hold.number,
            model=edit.model,
            seed=edit.seed,
            worker=worker,
            opened_at=now,
            outcome="open",
        )
        .returning(attempts.c.id)
    ).scalar_one()
    return OpenAttempt(int(attempt_id), hold)


def find_open(tx: Connection, hold: Hold) -> OpenAttempt | None:
    """The call of this reservation, where it has begun and nothing is known of its end."""
    found = tx.execute(
        select(attempts.c.id).where(
            attempts.c.job_id == hold.job_id, attempts.c.hold == hold.number, attempts.c.outcome == "open"
        )
    ).scalar_one_or_none()
    return None if found is None else OpenAttempt(found, hold)


def unsent(connection: Connection, job_id: int, *, of: int) -> int:
    """How many of a job's last `of` counted tries never left the house.

    A throttled call is no counted try, nor is one that missed its slot.
    """
    counted = (attempts.c.verdict != "throttled", func.coalesce(attempts.c.code, "") != SlotMissed.__name__)
    last = (
        select(attempts.c.outcome)
        .where(attempts.c.job_id == job_id, attempts.c.outcome != "open", *counted)
        .order_by(attempts.c.hold.desc())
        .limit(of)
    )
    return sum(outcome == "not_sent" for outcome in connection.execute(last).scalars())


def record_answer(
    tx: Connection, opened: OpenAttempt, answer: Answer, *, charge_micros: int, url_life_s: float, now: datetime
) -> Due | None:
    """Pictures came: close the attempt and write down the outputs. None when an answer is recorded already.

    Only `job.record_answer` calls this, which also tells the job and then charges what is due.
    """
    before = _close(
        tx,
        opened,
        now,
        of=("open", "unknown", "not_sent"),
        outcome="answered",
        verdict="pictures",
        http_status=answer.http_status,
        request_id=answer.request_id,
        pictures=answer.pictures,
        usage=dict(answer.usage),
        code=None,
        message=None,
    )
    if before is None:
        return None
    output.add(tx, opened.id, opened.hold, answer, url_life_s=url_life_s, now=now)
    _forget_hold(tx, opened.hold)
    return Due(
        opened.hold,
        opened.id,
        charge_micros,
        answer.pictures,
        was_exposed=before == "unknown",
        was_open=not ledger.is_released(tx, opened.hold),
    )


def record_refusal(
    tx: Connection,
    opened: OpenAttempt,
    *,
    verdict: Literal["throttled", "refused"],
    code: str,
    message: str,
    http_status: int | None,
    request_id: str | None,
    now: datetime,
) -> bool:
    """The provider's word: not done, not billed. The reservation goes back."""
    return _record_free(
        tx,
        opened,
        now,
        outcome="answered",
        verdict=verdict,
        code=code,
        message=message,
        http_status=http_status,
        request_id=request_id,
    )


def record_not_sent(tx: Connection, opened: OpenAttempt, *, code: str, message: str, now: datetime) -> bool:
    """The request never left whole: free to repeat. The reservation goes back."""
    return _record_free(tx, opened, now, outcome="not_sent", verdict="", code=code, message=message)


def record_unknown(
    tx: Connection,
    opened: OpenAttempt,
    *,
    code: str,
    message: str,
    http_status: int | None = None,
    now: datetime,
) -> bool:
    """Sent, then no answer: it may have been paid. The reservation stays and counts as spent."""
    before = _close(
        tx, opened, now, of=("open",), outcome="unknown", code=code, message=message, http_status=http_status
    )
    if before is None:
        return False
    _forget_hold(tx, opened.hold)
    ledger.expose(tx, opened.hold, now)
    return True


def _record_free(tx: Connection, opened: OpenAttempt, now: datetime, **facts: Any) -> bool:
    before = _close(tx, opened, now, **facts)
    if before is None:
        return False
    _forget_hold(tx, opened.hold)
    if before == "unknown":
        ledger.unexpose(tx, opened.hold, now, attempt_id=opened.id, reason="proved not paid")
    else:
        ledger.release(tx, opened.hold, now, attempt_id=opened.id, reason="not billed")
    return True


def _close(
    tx: Connection, opened: OpenAttempt, now: datetime, *, of: Collection[str] = ("open", "unknown"), **facts: Any
) -> str | None:
    """Close an attempt, where its outcome is one `of` these so far. Returns what it was before.

    The job is locked first, then the attempt, then the accounts: the order of everybody who writes, so that no two
    transactions wait in a ring.
    """
    tx.execute(select(jobs.c.id).where(jobs.c.id == opened.hold.job_id).with_for_update())
    before = tx.execute(
        select(attempts.c.outcome).where(attempts.c.id == opened.id).with_for_update()
    ).scalar_one_or_none()
    if before not in of:
        return None
    tx.execute(update(attempts).where(attempts.c.id == opened.id).values(closed_at=now, **facts))
    return str(before)


def _forget_hold(tx: Connection, hold: Hold) -> None:
    tx.execute(update(jobs).where(jobs.c.id == hold.job_id, jobs.c.hold == hold.number).values(hold=None))

"""The money: append-only entries and the accounts they add up to. Nothing else writes either.

An entry names its job and hold (the number of the reservation within the job), and the attempt once there is one:

    reserve   the worst case of one call is set aside, if the budgets allow it
    charge    the provider answered with pictures; once per attempt, and the database forbids a second
    release   what was reserved and not spent goes back; once per hold, likewise
    adjust    a correction by a person's decision

An account is the running sum of its entries (one per batch, one per day and currency), kept so that the budget
check is one guarded statement: `charged + reserved + exposed + new <= budget`. `exposed` is the part whose call may
have been paid (outcome unknown): it counts as spent until proven otherwise.

Each batch's entries form a chain: `hash` covers the entry and the hash before it, and the account keeps the last one,
so an edited, removed or inserted entry shows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, and_, exists, func, insert, select, text, update
from sqlalchemy.sql.elements import ColumnElement

from models.tables import REASON_MAX, accounts, attempts, batches, entries, fit


class OverBudget(Exception):
    """The reservation does not fit. Internal: the caller rolls back and leaves the job planned."""


@dataclass(frozen=True)
class Hold:
    """One reservation: which job, the number of it within the job, how much, and whose day it counts against."""

    batch_id: int
    job_id: int
    number: int
    amount_micros: int
    currency: str
    model: str
    day: str


@dataclass(frozen=True)
class Account:
    """Sums in micro-units. budget_micros None = no budget."""

    id: str
    currency: str
    budget_micros: int | None
    exposure_limit_micros: int
    reserved_micros: int
    charged_micros: int
    exposed_micros: int
    rebought_micros: int

    @property
    def free_micros(self) -> int | None:
        """What may still be reserved; None = any amount."""
        if self.budget_micros is None:
            return None
        return self.budget_micros - self.charged_micros - self.reserved_micros - self.exposed_micros


def batch_account(batch_id: int) -> str:
    return f"batch:{batch_id}"


def day_account(day: str, currency: str, *, rehearsal: bool) -> str:
    return f"{'rehearsal-' if rehearsal else ''}day:{day}:{currency}"


def open_account(
    tx: Connection, account_id: str, currency: str, *, budget_micros: int | None = None, exposure_limit_micros: int = 0
) -> None:
    """Make an account, or leave the one that is there."""
    tx.execute(
        text(
            "INSERT INTO accounts (id, currency, budget_micros, exposure_limit_micros, reserved_micros, "
            "charged_micros, exposed_micros, rebought_micros, seq, head) "
            "VALUES (:id, :currency, :budget, :exposure, 0, 0, 0, 0, 0, '') ON CONFLICT (id) DO NOTHING"
        ),
        {"id": account_id, "currency": currency, "budget": budget_micros, "exposure": exposure_limit_micros},
    )


def account(connection: Connection, account_id: str) -> Account | None:
    names = Account.__dataclass_fields__
    found = connection.execute(select(*(accounts.c[name] for name in names)).where(accounts.c.id == account_id)).first()
    return Account(*found) if found else None


def set_budget(tx: Connection, account_id: str, budget_micros: int | None) -> bool:
    """A new budget; None lifts it. One below what is spent is kept too: it only stops further reservations."""
    changed = tx.execute(update(accounts).where(accounts.c.id == account_id).values(budget_micros=budget_micros))
    return changed.rowcount == 1


def limit_day(tx: Connection, day: str, currency: str, budget_micros: int | None, *, rehearsal: bool) -> None:
    """The day's account, with this budget from now on."""
    account_id = day_account(day, currency, rehearsal=rehearsal)
    open_account(tx, account_id, currency, budget_micros=budget_micros)
    changed = accounts.c.budget_micros.is_distinct_from(budget_micros)
    tx.execute(update(accounts).where(accounts.c.id == account_id, changed).values(budget_micros=budget_micros))


def free_micros(connection: Connection, batch_id: int, day_id: str) -> int | None:
    """What may still be reserved for a batch: the less of its own budget's rest and the day's. None = any amount."""
    rests = [
        found.free_micros
        for found in (account(connection, batch_account(batch_id)), account(connection, day_id))
        if found is not None and found.free_micros is not None
    ]
    return min(rests, default=None)


def reserve(tx: Connection, hold: Hold, now: datetime) -> None:
    """Set the worst case aside in the batch's account and the day's. Raises OverBudget: then roll back."""
    batch_id, day_id = _accounts_of(tx, hold)
    for account_id in (batch_id, day_id):
        if account_id == day_id:
            open_account(tx, day_id, hold.currency)
        fits = and_(
            accounts.c.id == account_id,
            (accounts.c.budget_micros.is_(None))
            | (
                accounts.c.charged_micros + accounts.c.reserved_micros + accounts.c.exposed_micros + hold.amount_micros
                <= accounts.c.budget_micros
            ),
        )
        if not _move(tx, fits, reserved=hold.amount_micros):
            raise OverBudget(account_id)
    _append(tx, hold, "reserve", hold.amount_micros, now)


def release(tx: Connection, hold: Hold, now: datetime, *, reason: str, attempt_id: int | None = None) -> None:
    """Give a whole reservation back: nothing was spent."""
    for account_id in _accounts_of(tx, hold):
        _move(tx, accounts.c.id == account_id, reserved=-hold.amount_micros)
    _append(tx, hold, "release", hold.amount_micros, now, attempt_id=attempt_id, reason=reason)


def charge(
    tx: Connection,
    hold: Hold,
    now: datetime,
    *,
    attempt_id: int,
    amount_micros: int,
    pictures: int,
    was_exposed: bool,
    was_open: bool = True,
) -> None:
    """Write what was spent and release the rest of the reservation.

    was_exposed: the attempt had been recorded as unknown; its amount leaves the exposure
    was_open:    the reservation still stands (False: it was given back before the answer came; the truth is written
                 all the same, even past a budget)
    """
    back = hold.amount_micros if was_open else 0
    for account_id in _accounts_of(tx, hold):
        moved = {"exposed": -back} if was_exposed else {"reserved": -back}
        _move(tx, accounts.c.id == account_id, charged=amount_micros, **moved)
    _append(tx, hold, "charge", amount_micros, now, attempt_id=attempt_id, pictures=pictures)
    if was_open and hold.amount_micros > amount_micros:
        rest = hold.amount_micros - amount_micros
        _append(tx, hold, "release", rest, now, attempt_id=attempt_id, reason="not spent")


def expose(tx: Connection, hold: Hold) -> None:
    """The call's outcome is unknown: its reservation stays, counted as possibly spent. No entry: nothing is known."""
    for account_id in _accounts_of(tx, hold):
        _move(tx, accounts.c.id == account_id, reserved=-hold.amount_micros, exposed=hold.amount_micros)


def unexpose(tx: Connection, hold: Hold, now: datetime, *, attempt_id: int, reason: str) -> None:
    """An unknown call is known, or decided, not to have been paid: its reservation is given back."""
    for account_id in _accounts_of(tx, hold):
        _move(tx, accounts.c.id == account_id, exposed=-hold.amount_micros)
    _append(tx, hold, "release", hold.amount_micros, now, attempt_id=attempt_id, reason=reason)


def allow_rebuy(tx: Connection, hold: Hold, *, by_person: bool = False) -> bool:
    """Count the amount as bought again although it may have been paid; False where the exposure limit forbids it."""
    room = accounts.c.rebought_micros + hold.amount_micros <= accounts.c.exposure_limit_micros
    account_id = batch_account(hold.batch_id)
    condition = accounts.c.id == account_id if by_person else and_(accounts.c.id == account_id, room)
    return _move(tx, condition, rebought=hold.amount_micros)


def find_hold(connection: Connection, job_id: int, number: int) -> Hold:
    """The reservation as its reserve entry states it. Raises LookupError where there is none."""
    found = connection.execute(
        select(
            entries.c.batch_id,
            entries.c.job_id,
            entries.c.hold,
            entries.c.amount_micros,
            entries.c.currency,
            entries.c.model,
            entries.c.day,
        ).where(entries.c.job_id == job_id, entries.c.hold == number, entries.c.kind == "reserve")
    ).first()
    if found is None:
        raise LookupError(f"job {job_id} has no reservation {number}")
    return Hold(*found)


def is_released(connection: Connection, hold: Hold) -> bool:
    return (
        connection.execute(
            select(entries.c.id).where(
                entries.c.job_id == hold.job_id,
                entries.c.hold == hold.number,
                entries.c.kind.in_(("release", "charge")),
            )
        ).first()
        is not None
    )


def verify_chain(connection: Connection, batch_id: int) -> list[str]:
    """What of a batch's entries was edited, removed or added behind our back, one sentence each; empty: all is well.

    Whoever can rewrite every entry from some point on and the account's last hash as well is not found out by this.
    """
    found: list[str] = []
    count, head = connection.execute(
        select(accounts.c.seq, accounts.c.head).where(accounts.c.id == batch_account(batch_id))
    ).one()
    before, last = 0, ""
    chain = select(entries).where(entries.c.batch_id == batch_id).order_by(entries.c.seq)
    for entry in connection.execute(chain.execution_options(yield_per=1000)).mappings():
        seq = entry["seq"]
        if seq > count:
            found.append(f"entry {seq} was added from outside: the account knows of {count}")
            continue
        if seq > before + 1:
            found.append(_missing(before + 1, seq - 1))
        elif entry["hash"] != chain_hash(last, dict(entry)):
            found.append(f"entry {seq} ({entry['kind']}, job {entry['job_id']}) was edited, or one before it")
        before, last = seq, entry["hash"]
    if before < count:
        found.append(_missing(before + 1, count))
    elif last != head:
        found.append(f"entry {before} is not the one that the account remembers as its last")
    return found


def _missing(first: int, last: int) -> str:
    return f"entry {first} was removed" if first == last else f"entries {first} to {last} were removed"


@dataclass(frozen=True)
class Sums:
    """What an account should hold, in micro-units."""

    reserved_micros: int
    charged_micros: int
    exposed_micros: int


_settled = entries.alias()


def recompute(connection: Connection, batch_id: int) -> Sums:
    """A batch's sums from its entries, and from its attempts where they say that a reservation's call is unknown."""
    return _recompute(connection, entries.c.batch_id == batch_id)


def recompute_day(connection: Connection, day: str, currency: str, *, rehearsal: bool) -> Sums:
    """The same for a day's account, over all batches."""
    among = select(batches.c.id).where(batches.c.rehearsal == rehearsal)
    return _recompute(
        connection, and_(entries.c.day == day, entries.c.currency == currency, entries.c.batch_id.in_(among))
    )


def _recompute(connection: Connection, among: ColumnElement[bool]) -> Sums:
    amount = func.coalesce(func.sum(entries.c.amount_micros), 0)
    charged = connection.execute(select(amount).where(among, entries.c.kind.in_(("charge", "adjust")))).scalar_one()
    is_settled = exists().where(
        _settled.c.job_id == entries.c.job_id,
        _settled.c.hold == entries.c.hold,
        _settled.c.kind.in_(("charge", "release")),
    )
    is_unknown = exists().where(
        attempts.c.job_id == entries.c.job_id, attempts.c.hold == entries.c.hold, attempts.c.outcome == "unknown"
    )
    standing = select(amount).where(among, entries.c.kind == "reserve", ~is_settled)
    exposed = connection.execute(standing.where(is_unknown)).scalar_one()
    reserved = connection.execute(standing.where(~is_unknown)).scalar_one()
    return Sums(int(reserved), int(charged), int(exposed))


def chain_hash(previous: str, entry: Mapping[str, Any]) -> str:
    """Hex sha256 over the hash before and every column of the entry but `id` and `hash`, in a fixed form."""
    fixed = {name: _plain(entry[name]) for name in CHAINED}
    return hashlib.sha256((previous + json.dumps(fixed, sort_keys=True, ensure_ascii=False)).encode()).hexdigest()


CHAINED = tuple(column.name for column in entries.columns if column.name not in ("id", "hash"))


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat(timespec="microseconds") if isinstance(value, datetime) else value


def _accounts_of(tx: Connection, hold: Hold) -> tuple[str, str]:
    """The batch's account and the day's: always locked in this order, so that no two transactions wait in a ring."""
    rehearsal = tx.execute(select(batches.c.rehearsal).where(batches.c.id == hold.batch_id)).scalar_one()
    return batch_account(hold.batch_id), day_account(hold.day, hold.currency, rehearsal=rehearsal)


def _move(
    tx: Connection,
    condition: ColumnElement[bool],
    *,
    reserved: int = 0,
    charged: int = 0,
    exposed: int = 0,
    rebought: int = 0,
) -> bool:
    changed = tx.execute(
        update(accounts)
        .where(condition)
        .values(
            reserved_micros=accounts.c.reserved_micros + reserved,
            charged_micros=accounts.c.charged_micros + charged,
            exposed_micros=accounts.c.exposed_micros + exposed,
            rebought_micros=accounts.c.rebought_micros + rebought,
        )
    )
    return changed.rowcount == 1


def _append(
    tx: Connection,
    hold: Hold,
    kind: str,
    amount_micros: int,
    now: datetime,
    *,
    attempt_id: int | None = None,
    pictures: int = 0,
    reason: str = "",
) -> None:
    own = accounts.c.id == batch_account(hold.batch_id)
    seq, head = tx.execute(
        update(accounts).where(own).values(seq=accounts.c.seq + 1).returning(accounts.c.seq, accounts.c.head)
    ).one()
    entry = {
        "batch_id": hold.batch_id,
        "seq": seq,
        "kind": kind,
        "currency": hold.currency,
        "amount_micros": amount_micros,
        "pictures": pictures,
        "model": hold.model,
        "job_id": hold.job_id,
        "hold": hold.number,
        "attempt_id": attempt_id,
        "day": hold.day,
        "at": now,
        "reason": fit(reason, REASON_MAX),
    }
    entry["hash"] = chain_hash(head, entry)
    tx.execute(insert(entries).values(entry))
    tx.execute(update(accounts).where(own).values(head=entry["hash"]))

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Update, and_, exists, func, insert, or_, select, text, true, update
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


def reserve(tx: Connection, holds: Sequence[Hold], now: datetime) -> None:
    """Set the worst cases of calls of one batch on one day aside.

    Raises OverBudget where they do not fit, all together: then roll back.
    """
    total = sum(hold.amount_micros for hold in holds)
    lines = [_Line(hold, "reserve", hold.amount_micros) for hold in holds]
    _post(tx, holds[0], lines, now, reserved=total, must_fit=True)


def release(tx: Connection, hold: Hold, now: datetime, *, reason: str, attempt_id: int | None = None) -> None:
    """Give a whole reservation back: nothing was spent."""
    line = _Line(hold, "release", hold.amount_micros, attempt_id, reason=reason)
    _post(tx, hold, [line], now, reserved=-hold.amount_micros)


@dataclass(frozen=True)
class Due:
    """What an answered call costs, to be charged.

    was_exposed: the attempt had been recorded as unknown; its amount leaves the exposure
    was_open:    the reservation still stands (False: it was given back before the answer came; the truth is written
                 all the same, even past a budget)
    """

    hold: Hold
    attempt_id: int
    amount_micros: int
    pictures: int
    was_exposed: bool
    was_open: bool = True


def charge(tx: Connection, due: Due, now: datetime) -> None:
    """Write what was spent and release the rest of the reservation."""
    hold = due.hold
    back = hold.amount_micros if due.was_open else 0
    lines = [_Line(hold, "charge", due.amount_micros, due.attempt_id, due.pictures)]
    if due.was_open and hold.amount_micros > due.amount_micros:
        lines.append(_Line(hold, "release", hold.amount_micros - due.amount_micros, due.attempt_id, reason="not spent"))
    exposed, reserved = (-back, 0) if due.was_exposed else (0, -back)
    _post(tx, hold, lines, now, charged=due.amount_micros, exposed=exposed, reserved=reserved)


def expose(tx: Connection, hold: Hold, now: datetime) -> None:
    """The call's outcome is unknown: its reservation stays, counted as possibly spent. No entry: nothing is known."""
    _post(tx, hold, [], now, reserved=-hold.amount_micros, exposed=hold.amount_micros)


def unexpose(tx: Connection, hold: Hold, now: datetime, *, attempt_id: int, reason: str) -> None:
    """An unknown call is known, or decided, not to have been paid: its reservation is given back."""
    line = _Line(hold, "release", hold.amount_micros, attempt_id, reason=reason)
    _post(tx, hold, [line], now, exposed=-hold.amount_micros)


def allow_rebuy(tx: Connection, hold: Hold, *, by_person: bool = False) -> bool:
    """Count the amount as bought again although it may have been paid; False where the exposure limit forbids it."""
    room = accounts.c.rebought_micros + hold.amount_micros <= accounts.c.exposure_limit_micros
    account_id = batch_account(hold.batch_id)
    condition = accounts.c.id == account_id if by_person else and_(accounts.c.id == account_id, room)
    more = accounts.c.rebought_micros + hold.amount_micros
    return tx.execute(update(accounts).where(condition).values(rebought_micros=more)).rowcount == 1


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


@dataclass(frozen=True)
class _Line:
    """An entry that is to be written."""

    hold: Hold
    kind: str
    amount_micros: int
    attempt_id: int | None = None
    pictures: int = 0
    reason: str = ""


def _post(
    tx: Connection,
    of: Hold,
    lines: Sequence[_Line],
    now: datetime,
    *,
    reserved: int = 0,
    charged: int = 0,
    exposed: int = 0,
    must_fit: bool = False,
) -> None:
    """Move the batch's account and the day's, and write the entries that say why.

    Everybody who works on a batch writes these two accounts, so they are locked as late and for as few statements as
    can be, and always in this order, so that no two transactions wait in a ring.
    must_fit: raise OverBudget where the sum would pass a budget
    """
    rehearsal = tx.execute(select(batches.c.rehearsal).where(batches.c.id == of.batch_id)).scalar_one()
    batch_id, day_id = batch_account(of.batch_id), day_account(of.day, of.currency, rehearsal=rehearsal)
    if must_fit:
        open_account(tx, day_id, of.currency)
    moved = {"reserved": reserved, "charged": charged, "exposed": exposed}
    room = reserved + charged + exposed if must_fit else None
    counted = _moved(batch_id, room, **moved).values(seq=accounts.c.seq + len(lines))
    found = tx.execute(counted.returning(accounts.c.seq, accounts.c.head)).first()
    if found is None:
        raise OverBudget(batch_id)
    if tx.execute(_moved(day_id, room, **moved)).rowcount != 1:
        raise OverBudget(day_id)
    if lines:
        head = _append(tx, lines, now, seq=found.seq - len(lines), head=found.head)
        tx.execute(update(accounts).where(accounts.c.id == batch_id).values(head=head))


def _moved(account_id: str, room: int | None, **by: int) -> Update:
    """An account, moved; with room, only where that much more is within its budget."""
    used = accounts.c.charged_micros + accounts.c.reserved_micros + accounts.c.exposed_micros
    fits = or_(accounts.c.budget_micros.is_(None), used + room <= accounts.c.budget_micros) if room else true()
    moved = {f"{name}_micros": accounts.c[f"{name}_micros"] + amount for name, amount in by.items() if amount}
    return update(accounts).where(accounts.c.id == account_id, fits).values(moved)


def _append(tx: Connection, lines: Sequence[_Line], now: datetime, *, seq: int, head: str) -> str:
    """Lengthen the batch's chain, whose last link so far has this number and hash. Returns the new last hash."""
    links = []
    for number, line in enumerate(lines, start=seq + 1):
        entry = {
            "batch_id": line.hold.batch_id,
            "seq": number,
            "kind": line.kind,
            "currency": line.hold.currency,
            "amount_micros": line.amount_micros,
            "pictures": line.pictures,
            "model": line.hold.model,
            "job_id": line.hold.job_id,
            "hold": line.hold.number,
            "attempt_id": line.attempt_id,
            "day": line.hold.day,
            "at": now,
            "reason": fit(line.reason, REASON_MAX),
        }
        head = entry["hash"] = chain_hash(head, entry)
        links.append(entry)
    tx.execute(insert(entries), links)
    return head

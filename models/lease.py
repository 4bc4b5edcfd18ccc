"""A lease in the ledger: one of several processes is the active one, until its time runs out.

Times are the caller's, so processes whose clocks differ by more than a few seconds must not share a ledger: the one
that is ahead takes a live call for dead, and has it bought again. `need_right_clock` asks before they begin. The lease
of a scheduler only saves double work: what it guards (dispatch, rescue) is harmless when two do it at once, because
each transition checks the old status.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, or_, select, text, update

from models.database import Database
from models.errors import PackshotError
from models.tables import leases

SKEW_TOLD_S, SKEW_MAX_S = 2.0, 5.0


class ClockWrong(PackshotError):
    """This host's clock is too far from the database's for leases to be safe."""


def need_right_clock(database: Database, clock: Callable[[], datetime], *, most_s: float = SKEW_MAX_S) -> None:
    """Raises ClockWrong where this host's clock differs from the database's by more than that."""
    ahead_s = database.clock_ahead_s(clock)
    if abs(ahead_s) > most_s:
        way = "ahead of" if ahead_s > 0 else "behind"
        raise ClockWrong(
            f"the clock of {socket.gethostname()} is {abs(ahead_s):.1f} s {way} the database's, and claims of jobs end "
            f"by the clock; set both by NTP (at most {most_s:g} s are allowed)"
        )


def take(tx: Connection, name: str, holder: str, *, lease_s: float, now: datetime) -> bool:
    """Take or renew a lease; False while somebody else's has not run out."""
    until = now + timedelta(seconds=lease_s)
    mine = tx.execute(
        update(leases)
        .where(leases.c.name == name, or_(leases.c.holder == holder, leases.c.until < now))
        .values(holder=holder, until=until)
    )
    if mine.rowcount == 1:
        return True
    bound = bindparam("until", until, type_=leases.c.until.type)
    sql = "INSERT INTO leases (name, holder, until) VALUES (:name, :holder, :until) ON CONFLICT (name) DO NOTHING"
    return tx.execute(text(sql).bindparams(bound), {"name": name, "holder": holder}).rowcount == 1


def give_back(tx: Connection, name: str, holder: str) -> None:
    """Let a standby take over at once."""
    tx.execute(delete(leases).where(leases.c.name == name, leases.c.holder == holder))


def holder_of(connection: Connection, name: str, now: datetime) -> str | None:
    """Who holds a lease that has not run out."""
    found = connection.execute(select(leases.c.holder).where(leases.c.name == name, leases.c.until >= now)).first()
    return None if found is None else str(found.holder)


def alive(connection: Connection, prefix: str, now: datetime) -> list[str]:
    """Holders of the leases whose names begin so and that have not run out."""
    found = select(leases.c.holder).where(leases.c.name.startswith(prefix, autoescape=True), leases.c.until >= now)
    return list(connection.execute(found.order_by(leases.c.holder)).scalars())


def forget(tx: Connection, prefix: str, before: datetime) -> None:
    """Drop leases whose names begin so and that ran out long ago: their holders died without giving them back."""
    tx.execute(delete(leases).where(leases.c.name.startswith(prefix, autoescape=True), leases.c.until < before))

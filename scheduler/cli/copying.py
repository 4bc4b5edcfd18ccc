"""What is paid is delivered, whatever keeps the rest from being bought: it needs no key, no manifest and no photo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

import typer

from models import batch
from models.batch import Batch
from models.database import Database
from models.errors import LedgerUnavailable, PackshotError
from models.settings import Settings
from scheduler import report
from scheduler.cli.app import open_ledger, talk
from scheduler.cli.show import counted
from scheduler.display import open_display
from scheduler.lock import only_engine
from scheduler.run import COPIES_STOPPED, copies_wait, utc_now, work


@contextmanager
def paid_first(settings: Settings, name: str, database: Database | None = None) -> Iterator[None]:
    """Around what may refuse to buy: before the refusal is told, paid pictures of the batch are copied.

    Their addresses die within a day, and whoever reads the refusal may need longer than that.
    database: a ledger whose engine lock is held; None opens the one of the settings, if it is there
    """
    try:
        yield
    except (PackshotError, typer.Exit):
        opened = nullcontext(database) if database else open_ledger(settings)
        with suppress(LedgerUnavailable), opened as ledger:  # none yet, or a run that works on it copies them itself
            _copy_waiting(settings, ledger, name, locked=database is not None)
        raise


def _copy_waiting(settings: Settings, database: Database, name: str, *, locked: bool) -> None:
    with database.read() as connection:
        found = batch.find(connection, name, rehearsal=False)
    if found is None or found.engine == "cluster" or not copies_wait(database, found.id):
        return
    with nullcontext() if locked else only_engine(database):
        copy_paid(settings, database, found)


def copy_paid(settings: Settings, database: Database, found: Batch) -> None:
    """Copy what is paid and buy nothing. Needs the engine lock."""
    before = _waiting(database, found)
    talk(f"{found.name}: copying first what is paid and not stored yet: {counted(before, 'picture')}")
    reopen_copies(database, found)
    display = open_display()
    try:
        work(settings, database, found, display, buys=False)
    finally:
        display.close()
    left = _waiting(database, found)
    talk(f"{found.name}: {before - left:,} of them copied" + (f", {left:,} still wait" if left else ""))


def reopen_copies(database: Database, found: Batch) -> None:
    """Try again what stopped a batch's copies. What stopped its buying stays as it is."""
    if found.code in COPIES_STOPPED:
        with database.write() as tx:
            batch.reopen(tx, found.id, utc_now())


def _waiting(database: Database, found: Batch) -> int:
    with database.read() as connection:
        return int(report.pictures(connection, found.id)["awaiting_copy"])

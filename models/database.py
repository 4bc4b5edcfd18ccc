"""Open the ledger's database: SQLite in one file, or PostgreSQL. Every write is one short transaction.

SQLite has one writer: writes are serialised inside the process by a lock and begin with BEGIN IMMEDIATE, so a second
process waits its turn instead of failing half way. `write(durable=True)` is for the two commits that money hangs on
(the intent to call, and the answer): they are on disk before the next step (SQLite `synchronous=FULL`, PostgreSQL
`synchronous_commit=on`); the rest may be repeated after a power cut and is committed faster.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, OperationalError, TimeoutError

from models.errors import LedgerFull, LedgerUnavailable, SettingsError
from models.settings import mask_url

BUSY_TIMEOUT_S = 30
# A process that stands still in the middle of a write (a paused machine) holds locks that everybody needs: PostgreSQL
# ends its transaction, and the process finds that out when it goes on.
LET_GO = "SET LOCAL idle_in_transaction_session_timeout TO '10s'"
DURABLY = "; SET LOCAL synchronous_commit TO on"
POOL_SIZE = 8  # a transaction takes about a millisecond, so a few connections serve a thousand calls under way
POOL_EXTRA = 2
# A server that vanished without a word is noticed after a minute at most, instead of the system's hours. An URL's own
# application_name goes before ours.
LIVELY = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "fallback_application_name": "packshot",
}


class Database:
    """One ledger. Safe to share between threads; close it at the end.

    Raises SettingsError for an address that is neither SQLite nor PostgreSQL, LedgerUnavailable when it cannot be used.
    """

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE) -> None:
        self.url = _parse(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._write_lock = threading.Lock()
        if self.is_sqlite:
            self._reader, self._writer = _sqlite_engines(self.url)
        else:
            self._reader = self._writer = _postgres_engine(self.url, pool_size)

    @property
    def file(self) -> Path | None:
        """The SQLite file, or None."""
        return Path(self.url.database) if self.is_sqlite and self.url.database else None

    @property
    def dialect(self) -> str:
        return "sqlite" if self.is_sqlite else "postgresql"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with _in_words(self.url), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        if not self.is_sqlite:
            with _in_words(self.url), self._writer.begin() as connection:
                connection.exec_driver_sql(LET_GO + (DURABLY if durable else ""))
                yield connection
            return
        with self._write_lock, _in_words(self.url), self._writer.connect() as connection:
            connection = connection.execution_options(packshot_durable=durable)
            with connection.begin():
                yield connection

    def upgrade(self) -> str:
        """Bring the tables to the newest version; creates a new SQLite file. Returns the revision."""
        if self.file:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LedgerUnavailable(
                    f"{self.file.parent}: cannot make the ledger's folder: {error.strerror}; "
                    "work in a folder of your own, or let PACKSHOT_DATABASE_URL lead to one"
                ) from None
        from alembic import command
        from alembic.runtime.migration import MigrationContext

        with self.write(durable=True) as connection:
            if not self.is_sqlite:  # two services may start at once; SQLite lets only one in anyway
                connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('packshot db upgrade'))"))
            found = MigrationContext.configure(connection).get_current_revision()
            if found is not None and found not in known_revisions():
                raise self._too_new(found)
            config = _alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        return newest_revision()

    def revision(self) -> str | None:
        """The tables' version in this database, None where there are none."""
        if self.file and not self.file.exists():
            return None
        from alembic.runtime.migration import MigrationContext

        with self.read() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def ensure_current(self) -> None:
        """Refuse to work on tables of another version. Raises LedgerUnavailable with the way out."""
        if self.file and not self.file.exists():
            raise LedgerUnavailable(
                f"there is no ledger {self.file} yet: packshot run or rehearse makes it, "
                "and PACKSHOT_DATABASE_URL says where"
            )
        found, newest = self.revision(), newest_revision()
        if found is not None and found not in known_revisions():
            raise self._too_new(found)
        if found != newest:
            state = "has no tables yet" if found is None else f"is at version {found}, this packshot needs {newest}"
            raise LedgerUnavailable(f"the ledger {mask_url(str(self.url))} {state}; run: packshot db upgrade")

    def _too_new(self, found: str) -> LedgerUnavailable:
        return LedgerUnavailable(
            f"the ledger {mask_url(str(self.url))} is at version {found}, which this packshot does not know; "
            "it was made by a newer one: install that"
        )

    def has_table(self, name: str) -> bool:
        with self.read() as connection:
            return bool(inspect(connection).has_table(name))

    def clock_ahead_s(self, clock: Callable[[], datetime]) -> float:
        """How far a clock goes before the database's own, as surely as the way there and back allows; negative: behind.

        0 for SQLite, whose clock is this host's.
        """
        if self.is_sqlite:
            return 0.0
        with self.read() as connection:
            asked_at = clock()
            theirs = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            answered_at = clock()
        return float(max((asked_at - theirs).total_seconds(), 0) + min((answered_at - theirs).total_seconds(), 0))

    def close(self) -> None:
        self._reader.dispose()
        self._writer.dispose()


def newest_revision() -> str:
    from alembic.script import ScriptDirectory

    return str(ScriptDirectory.from_config(_alembic_config()).get_current_head())


def known_revisions() -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(_alembic_config()).walk_revisions()}


def _alembic_config() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(resources.files("models") / "migrations"))
    return config


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise SettingsError(
            f"PACKSHOT_DATABASE_URL: {mask_url(url)!r} is not a database address; "
            "write sqlite:///ledger.db or postgresql://user@host/name"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise SettingsError("PACKSHOT_DATABASE_URL: a ledger in memory would be lost; write sqlite:///ledger.db")
        return parsed
    raise SettingsError(f"PACKSHOT_DATABASE_URL: {backend} is not supported; use sqlite:/// or postgresql://")


def _sqlite_engines(url: URL) -> tuple[Engine, Engine]:
    reader = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
    writer = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}, pool_size=1)
    for engine in (reader, writer):
        event.listen(engine, "connect", _prepare_sqlite)
    event.listen(reader, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    event.listen(writer, "begin", _begin_immediate)
    return reader, writer


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=NORMAL")


def _begin_immediate(connection: Connection) -> None:
    durable = connection.get_execution_options().get("packshot_durable", False)
    connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _postgres_engine(url: URL, pool_size: int) -> Engine:
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=POOL_EXTRA,
        pool_pre_ping=True,
        pool_timeout=30,
        connect_args={**LIVELY, "options": "-c lock_timeout=30000 -c statement_timeout=60000"},
    )


@contextmanager
def _in_words(url: URL) -> Iterator[None]:
    """Turn the drivers' connection and disk troubles into one sentence; leave our own mistakes as they are."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise LedgerFull(
                f"there is no room for the ledger {mask_url(str(url))}: {_first_line(error)}; make room and run again"
            ) from error
        raise LedgerUnavailable(
            f"the ledger {mask_url(str(url))} cannot be used: {_first_line(error)}{_way_out(error, url)}"
        ) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise LedgerUnavailable(f"the ledger {mask_url(str(url))} was lost: {_first_line(error)}") from error
        if type(error) is DatabaseError and url.get_backend_name() == "sqlite":  # damaged, or never a database
            raise LedgerUnavailable(f"the ledger {mask_url(str(url))} cannot be used: {_first_line(error)}") from error
        raise
    except TimeoutError as error:  # SQLAlchemy's: all connections of the pool are busy
        raise LedgerUnavailable(f"the ledger {mask_url(str(url))} is too busy: no connection came free") from error


def _way_out(error: DBAPIError, url: URL) -> str:
    """For a server that was not reached. What a server that answers has against a statement is no matter of address."""
    unreached = url.get_backend_name() == "postgresql" and getattr(error.orig, "sqlstate", None) is None
    return "; see that it runs and that PACKSHOT_DATABASE_URL is right" if unreached else ""


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__

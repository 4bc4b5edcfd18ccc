"""A ledger that cannot be used says so in one sentence, names the place, hides the password, and may be tried again."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from models import database as database_module
from models import lease
from models.database import Database
from models.errors import LedgerFull, LedgerUnavailable, SettingsError
from tests.ledgers import a_book

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process_writing(file: str) -> Iterator[None]:
    command = [sys.executable, "-c", HOLDER, file]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.stdin.close()
            process.wait(30)


def said(database: Database, *, write: bool = True) -> str:
    """What using the ledger says; one line, and worth another try."""
    with pytest.raises(LedgerUnavailable) as raised, database.write() if write else database.read() as connection:
        connection.execute(text("UPDATE batches SET priority = 1" if write else "SELECT * FROM batches"))
    database.close()
    assert raised.value.retryable
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_an_sqlite_ledger_that_another_process_is_writing_to(sqlite_url, monkeypatch):
    monkeypatch.setattr("models.database.BUSY_TIMEOUT_S", 0.05)
    database = Database(sqlite_url)
    assert database.file is not None

    with another_process_writing(str(database.file)):
        sentence = said(database)

    assert sentence == f"the ledger {sqlite_url} cannot be used: database is locked"
    with database.write() as connection:  # the lock is gone, and so is the trouble
        connection.execute(text("UPDATE batches SET priority = 1"))
    database.close()


def test_an_sqlite_ledger_that_another_process_is_writing_to_can_be_read(sqlite_url, monkeypatch):
    monkeypatch.setattr("models.database.BUSY_TIMEOUT_S", 0.05)
    database = Database(sqlite_url)

    with another_process_writing(str(database.file)):
        assert database.revision() is not None

    database.close()


def test_an_sqlite_ledger_whose_disk_is_full(sqlite_url):
    database = Database(sqlite_url)
    with database.write() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        connection.execute(text(f"PRAGMA max_page_count={pages}"))

    with pytest.raises(LedgerFull) as raised, database.write() as connection:
        connection.execute(text("CREATE TABLE more AS SELECT zeroblob(1000000)"))
    database.close()

    full = "database or disk is full; make room and run again"
    assert str(raised.value) == f"there is no room for the ledger {sqlite_url}: {full}"


def test_an_sqlite_ledger_that_may_only_be_read(sqlite_url):
    path = sqlite_url.removeprefix("sqlite:///")

    sentence = said(Database(f"sqlite:///file:{path}?mode=ro&uri=true"))

    assert sentence.endswith("cannot be used: attempt to write a readonly database")
    assert path in sentence


@pytest.mark.parametrize("write", [True, False], ids=["write", "read"])
def test_a_file_that_is_no_database(tmp_path, write):
    file = tmp_path / "ledger.db"
    file.write_bytes(b"sku,prompt\n" * 500)

    sentence = said(Database(f"sqlite:///{file}"), write=write)

    assert sentence == f"the ledger sqlite:///{file} cannot be used: file is not a database"
    assert file.read_bytes() == b"sku,prompt\n" * 500


def test_a_database_file_that_was_damaged(sqlite_url):
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = file.read_bytes()
    file.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))

    assert "malformed" in said(Database(sqlite_url), write=False)


def test_a_folder_where_the_file_should_be(tmp_path):
    assert said(Database(f"sqlite:///{tmp_path}")).endswith("unable to open database file")


def test_a_ledger_below_something_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(LedgerUnavailable, match="cannot make the ledger's folder: "):
        Database(f"sqlite:///{tmp_path}/file/below/ledger.db").upgrade()


def test_a_postgresql_that_refuses_connections(closed_port):
    sentence = said(Database(f"postgresql://somebody:secret@127.0.0.1:{closed_port}/ledger"))

    assert sentence.startswith(f"the ledger postgresql+psycopg://somebody:***@127.0.0.1:{closed_port}/ledger cannot be")
    assert "refused" in sentence
    assert sentence.endswith("; see that it runs and that PACKSHOT_DATABASE_URL is right")
    assert "secret" not in sentence


def test_a_postgresql_that_refuses_a_statement_is_not_said_to_be_elsewhere(postgres_url):
    database = Database(postgres_url)

    def take_too_long() -> None:
        with database.read() as connection:
            connection.execute(text("SET statement_timeout = 10"))
            connection.execute(text("SELECT pg_sleep(1)"))

    with pytest.raises(LedgerUnavailable) as raised:
        take_too_long()
    database.close()

    assert str(raised.value).endswith("canceling statement due to statement timeout")


def test_a_postgresql_sees_who_is_there_and_few_of_each(postgres_url):
    database = Database(postgres_url)

    with database.read() as connection:
        name = connection.execute(text("SELECT current_setting('application_name')")).scalar_one()
    pool = database._writer.pool
    database.close()

    assert name == "packshot"
    assert pool.size() + pool._max_overflow == 10


def test_a_clock_that_differs_from_the_databases_is_measured_and_refused(database):
    # given
    def clock(ahead_s: float):
        return lambda: datetime.now(UTC) + timedelta(seconds=ahead_s)

    # then: SQLite has no clock but this host's
    if database.is_sqlite:
        assert database.clock_ahead_s(clock(60)) == 0
        return
    assert abs(database.clock_ahead_s(clock(0))) < 1
    assert 59 < database.clock_ahead_s(clock(60)) <= 60
    assert -60 <= database.clock_ahead_s(clock(-60)) < -59
    lease.need_right_clock(database, clock(3))
    with pytest.raises(lease.ClockWrong, match=r"is \d\.\d s behind the database's.*NTP"):
        lease.need_right_clock(database, clock(-8))


def test_a_postgresql_without_that_database(postgres):
    assert 'database "nowhere" does not exist' in said(Database(postgres.url_of("nowhere")))


def test_a_postgresql_that_stops_in_the_middle_of_a_transaction_is_used_again_once_it_is_back(postgres, postgres_url):
    database = Database(postgres_url)
    book = a_book(database)

    def write() -> None:
        with database.write() as connection:
            connection.execute(text("UPDATE batches SET priority = 7"))
            postgres.stop()

    with pytest.raises(LedgerUnavailable) as raised:
        write()
    assert "\n" not in str(raised.value)
    with pytest.raises(LedgerUnavailable):
        book.account()

    postgres.start()
    with database.read() as connection:
        assert connection.execute(text("SELECT priority FROM batches")).scalar_one() == 0
    assert book.queue(book.jobs[0])
    database.close()


def test_who_stands_still_in_the_middle_of_a_write_loses_its_locks(postgres_url, monkeypatch):
    # given
    monkeypatch.setattr(database_module, "LET_GO", database_module.LET_GO.replace("10s", "100ms"))
    frozen, other = Database(postgres_url), Database(postgres_url)
    take = text("INSERT INTO leases (name, holder, until) VALUES ('scheduler', :by, now())")

    def stand_still() -> None:
        with frozen.write() as tx:
            tx.execute(take, {"by": "frozen"})
            with other.write() as quick:  # waits for the other's lock, which is taken away
                quick.execute(take, {"by": "other"})
            tx.execute(text("SELECT 1"))

    # when
    with pytest.raises(LedgerUnavailable):
        stand_still()

    # then: the other's is there, and the connection is not used again
    with frozen.write() as tx:
        assert tx.execute(text("SELECT holder FROM leases")).scalars().all() == ["other"]
    frozen.close()
    other.close()


def test_a_pool_whose_connections_are_all_taken(postgres_url):
    database = Database(postgres_url, pool_size=1)
    database._writer.pool._timeout = 0.05
    database._writer.pool._max_overflow = 0
    taken, enough = threading.Event(), threading.Event()

    def take() -> None:
        with database.read() as connection:
            connection.execute(text("SELECT 1"))
            taken.set()
            enough.wait(30)

    thread = threading.Thread(target=take)
    thread.start()
    taken.wait(30)
    try:
        assert said(database).endswith("is too busy: no connection came free")
    finally:
        enough.set()
        thread.join(30)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ledger.db", "is not a database address; write sqlite:///ledger.db"),
        ("postgresql://user:secret@host:port/db", "is not a database address; write sqlite:///ledger.db"),
        ("mysql://user:secret@host/db", "mysql is not supported; use sqlite:/// or postgresql://"),
        ("sqlite://", "a ledger in memory would be lost"),
        ("sqlite:///:memory:", "a ledger in memory would be lost"),
    ],
)
def test_an_address_that_is_no_ledgers_is_a_mistake_in_the_settings(url, sentence):
    with pytest.raises(SettingsError) as raised:
        Database(url)

    assert sentence in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.fixture
def closed_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

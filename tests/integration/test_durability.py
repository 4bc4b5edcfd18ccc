"""Power loss: what the connection was told, and in which order, when the real executor makes a paid call.

A test cannot cut the power. It can look at what decides the matter: the two commits that money hangs on (the intent
to call, the answer) are made with `synchronous=FULL`, or `synchronous_commit=on`, and each is through before the next
step begins: the call after the intent, the copy after the answer.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from models.catalogue import CATALOGUE
from models.database import Database
from models.edit import Answer, Edit
from models.errors import OutcomeUnknown
from tests.ledgers import NOON, a_book, an_answer
from worker.executor import Executor
from worker.results import Fetched
from worker.storage import Found, Stored
from worker.wire import Slot

FULL = {"sqlite": "2", "postgresql": "on"}  # SQLite answers with a number: 0 off, 1 normal, 2 full, 3 extra


@dataclass
class Diary:
    """What happened, in order. A transaction is told with how it was to be synchronised."""

    lines: list[str] = field(default_factory=list)

    def watch(self, database: Database) -> Iterator[None]:
        engine = database._writer

        def before_commit(connection: Connection) -> None:
            if connection.info.get("written"):
                self.lines.append(f"commit {connection.info.pop('written')} {_told(database, connection)}")

        def after_statement(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("INSERT INTO attempts"):
                connection.info["written"] = "intent"
            elif statement.startswith("INSERT INTO outputs"):
                connection.info["written"] = "answer"
            elif statement.startswith("UPDATE attempts"):
                connection.info.setdefault("written", "outcome")

        event.listen(engine, "after_cursor_execute", after_statement)
        event.listen(engine, "commit", before_commit)
        yield
        event.remove(engine, "after_cursor_execute", after_statement)
        event.remove(engine, "commit", before_commit)


def _told(database: Database, connection: Connection) -> str:
    query = "PRAGMA synchronous" if database.is_sqlite else "SHOW synchronous_commit"
    return str(connection.exec_driver_sql(query).scalar_one())


@dataclass
class Provider:
    diary: Diary
    answer: Answer | Exception

    def prepared(self, edit: Edit, *, region: str) -> nullcontext[None]:
        return nullcontext()

    def send(self, letter: None, *, attempt: str, slot: Slot) -> Answer:
        self.diary.lines.append("call")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@dataclass
class Copies:
    """Fetcher and storage in one."""

    diary: Diary

    def fetch(self, url: str) -> Fetched:
        self.diary.lines.append("copy")
        return Fetched(b"png", "ab", 16, 16)

    def head(self, key: str) -> Found | None:
        return None

    def put(self, key: str, data: bytes, *, sha256: str, metadata: Any) -> Stored:
        return Stored(key, len(data), sha256)


class NoLimit:
    def acquire(self, lane: str) -> float:
        return 0.0

    def slack_s(self, lane: str) -> float:
        return 60.0

    def give_back(self, lane: str) -> None:
        pass

    def throttled(self, lane: str, kind: str) -> None:
        pass

    def succeeded(self, lane: str) -> None:
        pass

    def rate(self, lane: str) -> float:
        return 1.0


@pytest.fixture
def diary(database):
    found = Diary()
    watching = found.watch(database)
    next(watching)
    yield found
    next(watching, None)


def execute(database: Database, diary: Diary, answer: Answer | Exception) -> str:
    book = a_book(database, exposure=0)
    book.queue(book.jobs[0])
    copies: Any = Copies(diary)
    executor = Executor(
        database=database,
        provider=Provider(diary, answer),
        fetcher=copies,
        storage=lambda _: copies,
        limiter=NoLimit(),
        models=CATALOGUE,
        owner="worker",
        lease_s=900.0,
        max_tries=3,
        now=lambda: NOON,
        chance=lambda: 0.5,
    )
    executor.execute(book.jobs[0])
    return book.status(book.jobs[0])


def test_the_intent_is_on_disk_before_the_call_and_the_answer_before_the_copy(database, diary):
    status = execute(database, diary, an_answer())

    full = FULL[database.dialect]
    assert diary.lines == [f"commit intent {full}", "call", f"commit answer {full}", "copy"]
    assert status == "succeeded"


def test_an_unknown_outcome_is_on_disk_too(database, diary):
    status = execute(database, diary, OutcomeUnknown("Reset", "reset by peer"))

    full = FULL[database.dialect]
    assert diary.lines == [f"commit intent {full}", "call", f"commit outcome {full}"]
    assert status == "held"


def test_what_may_be_repeated_is_committed_faster_after_a_durable_commit_on_the_same_connection(sqlite_url):
    database = Database(sqlite_url)

    with database.write(durable=True) as connection:
        durable = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()
    with database.write() as connection:
        fast = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()

    assert (durable, fast, journal) == (2, 1, "wal")
    database.close()


def test_postgresql_is_told_to_wait_for_the_disk_even_where_its_operator_turned_that_off(postgres, postgres_url):
    name = postgres_url.rsplit("/", 1)[1]
    postgres.execute(f'ALTER DATABASE "{name}" SET synchronous_commit TO off')
    database = Database(postgres_url)

    with database.write() as connection:
        before = connection.execute(text("SHOW synchronous_commit")).scalar_one()
    with database.write(durable=True) as connection:
        durable = connection.execute(text("SHOW synchronous_commit")).scalar_one()
    with database.write() as connection:
        after = connection.execute(text("SHOW synchronous_commit")).scalar_one()

    assert (before, durable, after) == ("off", "on", "off")
    database.close()


def test_what_was_answered_outlives_a_server_that_is_killed(postgres, postgres_url):
    database = Database(postgres_url)
    book = a_book(database)
    opened = book.opened(book.claimed(book.jobs[0]))
    book.answer(opened)

    postgres.kill()
    postgres.start()

    book.check()
    assert book.money() == (0, 1, 0)
    assert book.outcomes(book.jobs[0]) == ["answered"]
    database.close()

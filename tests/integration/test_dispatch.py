"""What dispatch hands out and what it leaves, on both databases; the broker is a list, and nobody takes from it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from models import batch, job
from models.database import Database
from models.errors import LedgerUnavailable, SettingsError
from models.settings import parse_breaker
from models.tables import batches, jobs
from scheduler import control
from scheduler import dispatch as dispatch_module
from scheduler.breaker import Breaker
from scheduler.dispatch import Dispatch, out_of_budget
from scheduler.display import _line
from scheduler.report import progress
from scheduler.rescue import Rescue
from scheduler.run import copies_wait
from scheduler.service import Service
from tests.ledgers import PRICE, Book, a_book
from worker.broker import QueueUnavailable


def a_dispatch(book: Book, sent: list[int], **changes: Any) -> Dispatch:
    facts: dict[str, Any] = {"rate": lambda _: 1000.0, "lookahead_s": 1.5, "now": lambda: book.now}
    return Dispatch(book.database, sent.append, **(facts | changes))


def polled(dispatch: Dispatch, rounds: int = 10) -> None:
    for _ in range(rounds):
        dispatch.poll()


def set_model(book: Book, model: str) -> None:
    with book.database.write() as tx:
        tx.execute(update(batches).where(batches.c.id == book.batch_id).values(models=[model]))
        tx.execute(update(jobs).where(jobs.c.batch_id == book.batch_id).values(model=model))


def finished(book: Book) -> None:
    with book.database.write() as tx:
        tx.execute(
            update(jobs).where(jobs.c.batch_id == book.batch_id).values(status="succeeded", finished_at=book.now)
        )


def test_paid_pictures_that_nobody_copies_are_handed_out_once_and_no_further(database, monkeypatch):
    monkeypatch.setattr(dispatch_module, "COPIES_AT_ONCE", 3)
    book = a_book(database, 8, exposure=100 * PRICE)
    late = [book.unknown(job_id) for job_id in book.jobs]
    for opened in late:
        book.answer(opened)
    sent: list[int] = []

    polled(a_dispatch(book, sent))

    assert len(sent) == 3


def test_all_models_and_copies_together_are_bounded(database, monkeypatch):
    monkeypatch.setattr(dispatch_module, "MESSAGES_MAX", 5)
    books = [a_book(database, 6, name=name) for name in ("one", "two", "three")]
    for number, book in enumerate(books):
        set_model(book, f"model-{number}")
    sent: list[int] = []

    polled(a_dispatch(books[0], sent))

    assert len(sent) == 5


def test_messages_that_lie_with_the_broker_unknown_to_the_ledger_take_their_room(database):
    book = a_book(database, 4)
    sent: list[int] = []

    polled(a_dispatch(book, sent, free_slots=lambda: 2 - len(sent)))

    assert len(sent) == 2


def test_hands_that_have_begun_little_lately_get_little_and_those_that_begin_more_get_more(database, monkeypatch):
    book = a_book(database, 30)
    sent: list[int] = []
    dispatch = a_dispatch(book, sent)

    polled(dispatch)
    assert len(sent) == dispatch_module.ROOM_MIN

    for job_id in list(sent):  # four calls begun within a second
        claim = book.claim(job_id)
        assert claim is not None
        book.opened(claim)
    polled(dispatch)
    assert len(sent) == 4 + 8  # two seconds of what they did


def test_a_batch_with_a_model_that_nobody_knows_is_stopped_and_the_others_go_on(database):
    good, bad = a_book(database, 2, name="good"), a_book(database, 2, name="bad")
    set_model(bad, "qwen-image-9")
    sent: list[int] = []

    def rate(model: str) -> float:
        if model == "qwen-image-9":
            raise SettingsError("no rate limit is known for qwen-image-9; set PACKSHOT_LIMITS")
        return 10.0

    polled(a_dispatch(good, sent, rate=rate))

    assert sorted(sent) == good.jobs
    with database.read() as connection:
        found = batch.get(connection, bad.batch_id)
    assert (found.state, found.code) == ("stopped", "SettingsError")
    assert "qwen-image-9" in str(found.message)


def test_batches_without_anything_to_buy_are_not_looked_at(database):
    done, live = a_book(database, 2, name="done"), a_book(database, 2, name="live")
    finished(done)
    dispatch = a_dispatch(live, [])

    with database.read() as connection:
        assert [found.id for found in dispatch._batches(connection)] == [live.batch_id]
        assert [found.id for found in a_breaker(database)._watched(connection)] == [live.batch_id]
        assert job.cheapest(connection, done.batch_id, "qwen-image-2.0") is None


def test_a_batch_out_of_budget_is_seen_without_reading_its_jobs(database, monkeypatch):
    book = a_book(database, 3, budget=PRICE)
    sent: list[int] = []
    polled(a_dispatch(book, sent))
    assert len(sent) == 1

    monkeypatch.setattr(dispatch_module, "_due", lambda *_: pytest.fail("its jobs were read"))
    polled(a_dispatch(book, sent))

    assert len(sent) == 1
    with database.read() as connection:
        assert out_of_budget(connection, batch.get(connection, book.batch_id), book.now)


def test_a_budget_that_shrank_since_it_was_looked_at_takes_what_still_fits(database):
    book = a_book(database, 3, budget=2 * PRICE)
    sent: list[int] = []

    assert a_dispatch(book, sent)._hand_out(book.jobs) == 2

    assert sent == book.jobs[:2]
    assert [book.status(job_id) for job_id in book.jobs] == ["queued", "queued", "planned"]
    assert book.money() == (2, 0, 0)
    book.check()


def test_what_the_queue_does_not_take_waits_again_with_its_money_given_back(database):
    # given
    book = a_book(database, 3)
    sent: list[int] = []

    def enqueue(job_id: int) -> None:
        if sent:
            raise QueueUnavailable("Redis is away")
        sent.append(job_id)

    dispatch = a_dispatch(book, sent)
    dispatch.enqueue = enqueue

    # when
    with pytest.raises(QueueUnavailable):
        dispatch.poll()

    # then
    assert [book.status(job_id) for job_id in book.jobs] == ["queued", "planned", "planned"]
    assert book.money() == (1, 0, 0)
    book.check()


def a_breaker(database: Database) -> Breaker:
    return Breaker(database, parse_breaker("3/50%"), "embedded")


def ended(book: Book, *, failed: int, succeeded: int) -> None:
    for position, job_id in enumerate(book.jobs[: failed + succeeded]):
        how = {"status": "failed", "code": "Why", "message": "so"} if position < failed else {"status": "succeeded"}
        with book.database.write() as tx:
            tx.execute(update(jobs).where(jobs.c.id == job_id).values(finished_at=book.now, **how))


@pytest.mark.parametrize(("failed", "succeeded", "state"), [(3, 3, "paused"), (3, 4, "open"), (2, 0, "open")])
def test_a_batch_pauses_itself_when_a_cause_has_its_number_and_its_share(database, failed, succeeded, state):
    book = a_book(database, 9)
    ended(book, failed=failed, succeeded=succeeded)

    a_breaker(database).poll()

    with database.read() as connection:
        found = batch.get(connection, book.batch_id)
    assert found.state == state
    if state == "paused":
        assert str(found.message).startswith(f"3 of the last {failed + succeeded} jobs met Why (so)")


def set_stuck(book: Book, job_id: int, *, rounds: int, code: str = "ResultUnavailable") -> None:
    """A job that is paid and whose copies failed so often in a row."""
    claim = book.claimed(job_id)
    book.answer(book.opened(claim))
    due_at = book.now + timedelta(hours=1)
    with book.database.write() as tx:
        assert job.postpone(tx, claim, book.now, due_at=due_at, copy_failed=True, code=code, message="HTTP 502")
        tx.execute(update(jobs).where(jobs.c.id == job_id).values(copies=rounds))


@pytest.mark.parametrize(
    ("rounds", "code", "state"),
    [(8, "ResultUnavailable", "paused"), (7, "ResultUnavailable", "open"), (8, "StorageUnavailable", "open")],
)
def test_a_batch_whose_pictures_cannot_be_fetched_buys_no_more_of_them(database, rounds, code, state):
    book = a_book(database, 6)
    ended(book, failed=0, succeeded=2)
    for job_id in book.jobs[2:5]:
        set_stuck(book, job_id, rounds=rounds, code=code)

    a_breaker(database).poll()

    with database.read() as connection:
        found = batch.get(connection, book.batch_id)
    assert found.state == state
    if state == "paused":
        assert str(found.message).startswith("3 of the last 5 jobs met ResultUnavailable (HTTP 502)")

        # when: a person resumes it
        control.resume(database, found, batch.Decision("resume", "night shift", book.now))
        a_breaker(database).poll()

        # then: its copies are due at once, and it has another chance
        with database.read() as connection:
            assert batch.get(connection, book.batch_id).state == "open"
            assert set(a_dispatch(book, [])._copies(connection, 10)) == set(book.jobs[2:5])


def test_whoever_only_copies_waits_for_no_picture_that_is_stuck(database):
    book = a_book(database, 2)
    set_stuck(book, book.jobs[0], rounds=8)
    assert copies_wait(database, book.batch_id)
    assert not copies_wait(database, book.batch_id, stuck=False)

    set_stuck(book, book.jobs[1], rounds=7)
    assert copies_wait(database, book.batch_id, stuck=False)


class Weary(Breaker):
    def poll(self) -> None:
        raise LedgerUnavailable("canceling statement due to statement timeout")


class Quiet:
    """A queue of which nothing is asked."""


def test_a_circuit_breaker_that_cannot_look_stops_no_dispatch(database):
    book = a_book(database, 2)
    sent: list[int] = []
    queue: Any = Quiet()
    rescue = Rescue(database, lambda: book.now, lost_after_s=600)
    weary = Weary(database, parse_breaker("3/50%"), "embedded")
    service = Service(database, queue, a_dispatch(book, sent), rescue, weary, "here:1:a", now=lambda: book.now)

    service.poll()

    assert sorted(sent) == book.jobs


def test_a_batch_that_stands_still_is_shown_without_asking_how_fast_its_models_are(database):
    book = a_book(database, 2)
    with database.write() as tx:
        batch.stop(tx, book.batch_id, code="SettingsError", message="no rate limit is known for qwen-image-9")
    with database.read() as connection:
        found, seen = batch.get(connection, book.batch_id), progress(connection, book.batch_id, book.now)

    line = _line(found, seen, lambda model: pytest.fail(f"asked for {model}"))

    assert line.endswith("stopped: no rate limit is known for qwen-image-9")

"""What jobs, attempts, outputs and the ledger promise, on SQLite and PostgreSQL alike: one suite for both."""

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta, timezone
from typing import TypeVar

import pytest
from sqlalchemy import Connection, delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from models import attempt, batch, job, ledger, output
from models.database import Database
from models.edit import Answer, Edit
from models.tables import accounts, batches, entries, jobs, objects, rows
from scheduler.control import cancel_stragglers
from tests.ledgers import LEASE_S, LIFE_S, NOON, PRICE, Book, a_book, an_answer, an_edit

T = TypeVar("T")
THREADS = 8


def at_once(work: Callable[[T], object], among: Iterable[T]) -> list[object]:
    """Run `work` for each, every one in a thread of its own, all let go at the same moment."""
    waiting = list(among)
    gate = threading.Barrier(len(waiting))

    def run(one: T) -> object:
        gate.wait(30)
        return work(one)

    with ThreadPoolExecutor(len(waiting)) as pool:
        return list(pool.map(run, waiting))


# -- claims -----------------------------------------------------------------------------------------------------------


def test_of_many_workers_that_want_a_job_exactly_one_gets_it(database):
    book = a_book(database, 12)
    for job_id in book.jobs:
        book.queue(job_id)

    def want_all(owner: int) -> list[int]:
        return [job_id for job_id in book.jobs if book.claim(job_id, f"worker-{owner}")]

    won = at_once(want_all, range(THREADS))

    assert sorted(job_id for of_one in won for job_id in of_one) == book.jobs


def test_of_many_schedulers_that_queue_a_job_one_does_and_one_reservation_is_made(database):
    book = a_book(database, 6)

    queued = at_once(lambda _: [job_id for job_id in book.jobs if book.queue(job_id)], range(THREADS))

    assert sorted(job_id for of_one in queued for job_id in of_one) == book.jobs
    assert book.money() == (6, 0, 0)
    book.check()


def test_a_stale_worker_can_do_nothing_to_a_job(database):
    book = a_book(database)
    stale = book.claimed(book.jobs[0], "slow")
    book.pass_(LEASE_S + 1)
    book.rescue()
    fresh = book.claimed(book.jobs[0], "quick")

    with database.write() as tx:
        now = book.now
        refused = [
            job.succeed(tx, stale, now),
            job.fail(tx, stale, now, code="Why", message="so"),
            job.hold(tx, stale, now, code="Why", message="so"),
            job.postpone(tx, stale, now, due_at=now),
            job.renew(tx, stale, lease_s=LEASE_S, now=now),
            job.open_attempt(tx, stale, worker="slow", now=now) is not None,
        ]

    assert refused == [False] * 6
    assert book.job(book.jobs[0]).claim_token == fresh.token
    assert book.status(book.jobs[0]) == "running"
    assert book.money() == (1, 0, 0)


def test_a_stale_worker_cannot_spend_the_exposure_of_a_job_that_is_no_longer_its_own(database):
    book = a_book(database, exposure=10 * PRICE)
    stale = book.claimed(book.jobs[0], "slow")
    opened = book.opened(stale)
    book.pass_(LEASE_S + 1)
    book.rescue()
    before = book.account()

    with database.write() as tx:
        status = job.rebuy_or_hold(tx, stale, opened.hold, book.now, due_at=book.now)

    assert status == "running"
    assert book.account() == before


def test_nothing_is_sent_once_the_lease_has_run_out(database):
    book = a_book(database)
    claim = book.claimed(book.jobs[0])

    book.pass_(LEASE_S)

    assert book.open(claim) is None


@pytest.mark.parametrize("state", ["paused", "stopped", "cancelled"])
def test_nothing_is_sent_for_a_batch_that_stands_still(database, state):
    book = a_book(database)
    claim = book.claimed(book.jobs[0])
    with database.write() as tx:
        {
            "paused": lambda: batch.pause(tx, book.batch_id, code="Paused", message="by a person"),
            "stopped": lambda: batch.stop(tx, book.batch_id, code="Key", message="is wrong"),
            "cancelled": lambda: batch.cancel(tx, book.batch_id),
        }[state]()

    assert book.open(claim) is None


def test_an_intent_whose_commit_was_not_confirmed_is_written_once(database):
    book = a_book(database)
    claim = book.claimed(book.jobs[0])

    first, again = book.opened(claim), book.opened(claim)

    assert first == again
    assert book.outcomes(book.jobs[0]) == ["open"]


def test_a_renewed_lease_lasts_from_now(database):
    book = a_book(database)
    claim = book.claimed(book.jobs[0])
    book.pass_(LEASE_S - 1)

    with database.write() as tx:
        assert job.renew(tx, claim, lease_s=LEASE_S, now=book.now)

    book.pass_(2)
    assert book.rescue() == []
    assert book.open(claim) is not None


# -- rescue -----------------------------------------------------------------------------------------------------------


def test_a_vanished_worker_that_sent_nothing_leaves_the_job_waiting_and_the_money_free(database):
    book = a_book(database)
    book.claimed(book.jobs[0])
    book.pass_(LEASE_S + 1)

    assert book.rescue() == ["planned"]

    assert book.money() == (0, 0, 0)
    assert book.job(book.jobs[0]).tries == 0
    book.check()


def test_a_vanished_worker_that_may_have_sent_leaves_an_unknown_call_that_is_bought_again_within_the_limit(database):
    book = a_book(database, exposure=PRICE)
    book.unknown(book.jobs[0])

    assert book.status(book.jobs[0]) == "planned"
    assert book.outcomes(book.jobs[0]) == ["unknown"]
    assert book.money() == (0, 0, 1)
    assert book.account().rebought_micros == PRICE
    book.check()


def test_beyond_the_exposure_limit_an_unknown_call_is_left_to_a_person(database):
    book = a_book(database, 2, exposure=PRICE)

    book.unknown(book.jobs[0])
    book.unknown(book.jobs[1])

    assert [book.status(job_id) for job_id in book.jobs] == ["planned", "held"]
    assert book.account().rebought_micros == PRICE
    assert book.money() == (0, 0, 2)


def test_a_person_releases_a_held_job_past_the_exposure_limit_and_it_is_counted(database):
    book = a_book(database)
    book.unknown(book.jobs[0])

    with database.write() as tx:
        assert job.release(tx, book.jobs[0], book.now)

    assert book.status(book.jobs[0]) == "planned"
    assert book.account().rebought_micros == PRICE


def test_a_vanished_worker_that_had_its_answer_leaves_only_the_copy_to_do(database):
    book = a_book(database)
    opened = book.opened(book.claimed(book.jobs[0]))
    book.answer(opened)
    book.pass_(LEASE_S + 1)

    assert book.rescue() == ["planned"]

    claim = book.claimed(book.jobs[0])
    assert claim.answered_attempt_id == opened.id
    assert claim.hold is None
    assert book.open(claim) is None
    assert book.money() == (0, 1, 0)


def test_a_worker_that_was_only_slow_is_not_robbed_once_it_has_renewed_its_lease(database):
    book = a_book(database)
    claim = book.claimed(book.jobs[0])
    opened = book.opened(claim)
    book.pass_(LEASE_S + 1)
    with database.read() as connection:
        found = job.abandoned(connection, book.now)
    with database.write() as tx:
        job.renew(tx, claim, lease_s=LEASE_S, now=book.now)

    with database.write() as tx:
        rescued = [job.rescue(tx, one, book.now) for one in found]

    assert rescued == [None]
    assert book.outcomes(book.jobs[0]) == ["open"]
    assert book.answer(opened) == opened.id


def test_a_job_that_its_owner_gave_back_and_took_again_is_not_rescued(database):
    book = a_book(database)
    claim = book.claimed(book.jobs[0])
    book.pass_(LEASE_S + 1)
    with database.read() as connection:
        found = job.abandoned(connection, book.now)
    with database.write() as tx:
        job.postpone(tx, claim, book.now, due_at=book.now)
    book.claimed(book.jobs[0])

    with database.write() as tx:
        assert [job.rescue(tx, one, book.now) for one in found] == [None]

    assert book.status(book.jobs[0]) == "running"


def test_the_jobs_of_a_process_known_to_be_dead_need_not_wait_for_their_lease(database):
    book = a_book(database, 2)
    book.claimed(book.jobs[0], "host:1:a")
    book.claimed(book.jobs[1], "host:2:a")

    with database.read() as connection:
        found = job.abandoned(connection, book.now, dead_owner_prefix="host:1:")

    assert [one.job_id for one in found] == [book.jobs[0]]


def test_two_rescuers_take_a_job_once(database):
    book = a_book(database, exposure=10 * PRICE)
    book.opened(book.claimed(book.jobs[0]))
    book.pass_(LEASE_S + 1)
    with database.read() as connection:
        [found] = job.abandoned(connection, book.now)

    def rescue(_: int) -> str | None:
        with database.write() as tx:
            return job.rescue(tx, found, book.now)

    taken = at_once(rescue, range(4))

    assert sorted(str(status) for status in taken) == ["None", "None", "None", "planned"]
    assert book.account().rebought_micros == PRICE
    book.check()


def test_a_message_that_was_lost_is_found_by_its_age(database):
    book = a_book(database, 2)
    book.queue(book.jobs[0])
    book.pass_(60)
    book.queue(book.jobs[1])

    with database.read() as connection:
        stale = job.stale_queued(connection, book.now - timedelta(seconds=30))
    assert stale == [book.jobs[0]]
    with database.write() as tx:
        assert job.unqueue(tx, stale[0], book.now, reason="its message was lost")

    assert book.money() == (1, 0, 0)
    assert book.job(book.jobs[0]).queued_at is None


def test_a_claim_let_go_while_its_call_is_open_makes_the_call_unknown_not_free(database):
    book = a_book(database)
    claim = book.claimed(book.jobs[0])
    opened = book.opened(claim)

    with database.write() as tx:
        assert job.fail(tx, claim, book.now, code="InternalError", message="a bug")

    assert book.outcomes(book.jobs[0]) == ["unknown"]
    assert book.money() == (0, 0, 1)
    book.answer(opened)
    assert book.money() == (0, 1, 0)


# -- late answers -----------------------------------------------------------------------------------------------------


def test_a_late_answer_finds_its_job_waiting_and_only_the_copy_is_left(database):
    book = a_book(database, exposure=PRICE)
    late = book.unknown(book.jobs[0])

    book.answer(late)

    assert book.status(book.jobs[0]) == "planned"
    assert book.money() == (0, 1, 0)
    assert book.claimed(book.jobs[0]).answered_attempt_id == late.id
    assert book.money() == (0, 1, 0)
    book.check()


def test_a_late_answer_finds_its_job_queued_to_be_bought_again_and_the_reservation_goes_back(database):
    book = a_book(database, exposure=PRICE)
    late = book.unknown(book.jobs[0])
    book.queue(book.jobs[0])
    assert book.money() == (1, 0, 1)

    book.answer(late)

    assert book.status(book.jobs[0]) == "queued"
    assert book.money() == (0, 1, 0)
    claim = book.claim(book.jobs[0])
    assert claim is not None
    assert claim.answered_attempt_id == late.id


def test_a_late_answer_stops_another_worker_that_has_not_sent_yet(database):
    book = a_book(database, exposure=PRICE)
    late = book.unknown(book.jobs[0])
    other = book.claimed(book.jobs[0], "other")

    book.answer(late)

    assert book.open(other) is None
    with database.write() as tx:
        assert job.postpone(tx, other, book.now, due_at=book.now)
    assert book.money() == (0, 1, 0)


def test_a_late_answer_and_another_workers_answer_are_both_charged_and_one_is_delivered(database):
    book = a_book(database, exposure=PRICE)
    late = book.unknown(book.jobs[0])
    second = book.opened(book.claimed(book.jobs[0], "other"))

    assert book.answer(late) == late.id
    assert book.answer(second) == late.id

    assert book.money() == (0, 2, 0)
    with database.read() as connection:
        assert len(output.waiting(connection, book.jobs[0], late.id)) == 1
        assert output.waiting(connection, book.jobs[0], second.id) == []
    book.check()


@pytest.mark.parametrize("ending", ["fail", "hold", "rebuy"])
def test_a_worker_whose_call_came_to_nothing_does_not_bury_the_answer_that_came_meanwhile(database, ending):
    book = a_book(database, exposure=5 * PRICE)
    late = book.unknown(book.jobs[0])
    other = book.claimed(book.jobs[0], "other")
    second = book.opened(other)
    book.answer(late)
    rebought = book.account().rebought_micros

    with database.write() as tx:
        attempt.record_unknown(tx, second, code="Reset", message="reset", now=book.now)
        {
            "fail": lambda: job.fail(tx, other, book.now, code="Why", message="so"),
            "hold": lambda: job.hold(tx, other, book.now, code="Why", message="so"),
            "rebuy": lambda: job.rebuy_or_hold(tx, other, second.hold, book.now, due_at=book.now),
        }[ending]()

    assert book.status(book.jobs[0]) == "planned"
    assert book.claimed(book.jobs[0]).answered_attempt_id == late.id
    assert book.account().rebought_micros == rebought


def test_a_worker_that_knows_the_answer_may_fail_the_job_over_its_copy(database):
    book = a_book(database)
    claim = book.claimed(book.jobs[0])
    book.answer(book.opened(claim))

    with database.write() as tx:
        assert job.fail(tx, claim, book.now, code="KeyTaken", message="something else is there")

    assert book.status(book.jobs[0]) == "failed"


def test_a_late_answer_revives_a_held_job(database):
    book = a_book(database)
    late = book.unknown(book.jobs[0])
    assert book.status(book.jobs[0]) == "held"

    book.answer(late)

    assert book.status(book.jobs[0]) == "planned"
    assert book.job(book.jobs[0]).code is None


def test_a_late_answer_revives_a_failed_job(database):
    book = a_book(database, exposure=PRICE)
    late = book.unknown(book.jobs[0])
    other = book.claimed(book.jobs[0], "other")
    with database.write() as tx:
        job.fail(tx, other, book.now, code="DataInspectionFailed", message="no")

    book.answer(late)

    assert book.status(book.jobs[0]) == "planned"
    assert book.money() == (0, 1, 0)


def test_a_late_answer_revives_a_cancelled_job_because_it_is_paid(database):
    book = a_book(database)
    late = book.unknown(book.jobs[0])
    with database.write() as tx:
        assert job.cancel(tx, book.jobs[0], book.now)

    book.answer(late)

    assert book.status(book.jobs[0]) == "planned"
    assert book.money() == (0, 1, 0)


def test_a_late_answer_after_success_is_charged_and_changes_nothing_else(database):
    book = a_book(database, exposure=PRICE)
    late = book.unknown(book.jobs[0])
    claim = book.claimed(book.jobs[0], "other")
    second = book.opened(claim)
    book.answer(second)
    with database.write() as tx:
        job.succeed(tx, claim, book.now)

    assert book.answer(late) == second.id

    assert book.status(book.jobs[0]) == "succeeded"
    assert book.money() == (0, 2, 0)
    book.check()


def test_what_is_paid_cannot_be_cancelled(database):
    book = a_book(database)
    claim = book.claimed(book.jobs[0])
    book.answer(book.opened(claim))
    with database.write() as tx:
        job.postpone(tx, claim, book.now, due_at=book.now)

    with database.write() as tx:
        assert not job.cancel(tx, book.jobs[0], book.now)


def test_an_answer_recorded_twice_is_charged_once_even_after_the_job_went_on(database):
    book = a_book(database)
    claim = book.claimed(book.jobs[0])
    opened = book.opened(claim)
    book.answer(opened)
    with database.write() as tx:
        [waiting] = output.waiting(tx, book.jobs[0], opened.id)
        output.record_lost(tx, waiting.id, reason="expired")
        job.fail(tx, claim, book.now, code="ResultLost", message="gone")
        job.retry(tx, book.jobs[0])

    assert book.answer(opened) == opened.id

    assert book.money() == (0, 1, 0)
    assert book.job(book.jobs[0]).answered_attempt_id is None  # it is bought anew, as the person said


def test_late_words_of_refusal_free_what_an_unknown_call_kept(database):
    book = a_book(database, 2)
    refused, never_sent = (book.unknown(job_id) for job_id in book.jobs)
    assert book.money() == (0, 0, 2)

    with database.write() as tx:
        facts = {"code": "InternalError", "message": "no", "http_status": 500, "request_id": None}
        assert attempt.record_refusal(tx, refused, verdict="refused", **facts, now=book.now)
        assert attempt.record_not_sent(tx, never_sent, code="Refused", message="no", now=book.now)
        assert not attempt.record_unknown(tx, never_sent, code="Reset", message="reset", now=book.now)

    assert book.money() == (0, 0, 0)
    book.check()


def cancelled_beside(book: Book, change: Callable[[Connection], object]) -> None:
    """Cancel the batch's waiting jobs while another transaction, begun before, has changed them and not committed."""

    def cancel() -> None:
        with book.database.write() as tx:
            job.cancel_waiting(tx, book.batch_id, book.now)

    cancelling = threading.Thread(target=cancel)
    with book.database.write() as tx:
        change(tx)
        cancelling.start()
        cancelling.join(0.3)  # as long as it might wait for the other's locks
    cancelling.join(30)


def test_jobs_that_are_being_handed_out_are_not_cancelled_with_their_money_reserved(database):
    book = a_book(database, 5)

    def hand_out(tx: Connection) -> None:
        job.queue_all(tx, job.lock_planned(tx, book.jobs[:3]), book.now)

    cancelled_beside(book, hand_out)

    assert [book.status(job_id) for job_id in book.jobs] == ["queued"] * 3 + ["cancelled"] * 2
    assert book.money() == (3, 0, 0)
    book.check()


def test_what_comes_back_to_a_cancelled_batch_is_cancelled_a_block_at_a_time(database, monkeypatch):
    book = a_book(database, 5)
    other = a_book(database, 2, name="open")
    with database.write() as tx:
        batch.cancel(tx, book.batch_id)
    monkeypatch.setattr(job, "CANCEL_BLOCK", 2)

    counts = [cancel_stragglers(database, book.now) for _ in range(4)]

    assert counts == [2, 2, 1, 0]
    assert {other.status(job_id) for job_id in other.jobs} == {"planned"}


def test_a_job_whose_late_answer_is_being_recorded_is_not_cancelled(database):
    book = a_book(database, exposure=10 * PRICE)
    late = book.unknown(book.jobs[0])
    assert book.status(book.jobs[0]) == "planned"

    cancelled_beside(
        book,
        lambda tx: job.record_answer(tx, late, an_answer(1), charge_micros=PRICE, url_life_s=LIFE_S, now=book.now),
    )

    assert book.status(book.jobs[0]) == "planned"
    assert book.job(book.jobs[0]).answered_attempt_id == late.id
    book.check()


def test_late_answers_race_with_dispatch_and_rescue_without_waiting_in_a_ring(database):
    book = a_book(database, 24, exposure=100 * PRICE)
    late = {job_id: book.unknown(job_id) for job_id in book.jobs}

    def play(part: int) -> None:
        for job_id in book.jobs if part % 2 else reversed(book.jobs):
            match part:
                case 0 | 1:
                    book.answer(late[job_id])
                case 2 | 3:
                    book.queue(job_id)
                case _:
                    claim = book.claim(job_id, f"worker-{part}")
                    if claim is not None:
                        with database.write() as tx:
                            job.postpone(tx, claim, book.now, due_at=book.now)

    at_once(play, range(6))  # a ring would end in LedgerUnavailable

    assert book.account().charged_micros == 24 * PRICE
    assert book.account().exposed_micros == 0
    book.check()


def test_jobs_queued_together_have_a_reservation_each_in_one_unbroken_chain(database):
    # given: three to buy, one that is paid, one that somebody has already
    book = a_book(database, 5)
    other = a_book(database, 2, name="other")
    paid = book.claimed(book.jobs[3])
    book.answer(book.opened(paid))
    with database.write() as tx:
        job.postpone(tx, paid, book.now, due_at=book.now, copy_failed=True)
    book.queue(book.jobs[4])

    # when
    with database.write() as tx:
        queued = job.queue_all(tx, [*reversed(book.jobs), *other.jobs], book.now)

    # then
    assert queued == [*reversed(book.jobs[:4]), *other.jobs]
    assert book.money() == (4, 1, 0)
    assert other.money() == (2, 0, 0)
    assert [book.job(job_id).hold for job_id in book.jobs] == [1, 1, 1, None, 1]
    book.check()
    other.check()


def test_jobs_queued_together_that_do_not_fit_together_are_all_left_planned(database):
    book = a_book(database, 3, budget=2 * PRICE)

    with pytest.raises(ledger.OverBudget), database.write() as tx:
        job.queue_all(tx, book.jobs, book.now)

    assert {book.status(job_id) for job_id in book.jobs} == {"planned"}
    assert book.money() == (0, 0, 0)
    book.check()


def test_many_jobs_queued_in_one_transaction_do_not_wait_in_a_ring_with_late_answers(database):
    book = a_book(database, 24, exposure=100 * PRICE)
    late = {job_id: book.unknown(job_id) for job_id in book.jobs}

    def play(part: int) -> None:
        if part:
            for job_id in reversed(book.jobs):
                book.answer(late[job_id])
            return
        for _ in range(6):
            with database.write() as tx:
                job.queue_all(tx, job.lock_planned(tx, book.jobs), book.now)
            for job_id in book.jobs:
                with database.write() as tx:
                    job.unqueue(tx, job_id, book.now, reason="again")

    at_once(play, range(2))

    assert book.money() == (0, 24, 0)
    book.check()


def test_an_answer_to_a_call_that_was_taken_for_free_is_charged_all_the_same(database):
    book = a_book(database, 2, budget=PRICE)
    opened = book.opened(book.claimed(book.jobs[0]))
    with database.write() as tx:
        attempt.record_not_sent(tx, opened, code="Forgiven", message="a person thought so", now=book.now)
    book.queue(book.jobs[1])

    assert book.answer(opened) == opened.id

    assert book.money() == (1, 1, 0)
    assert book.account().free_micros == -PRICE
    book.check()


# -- money ------------------------------------------------------------------------------------------------------------


def test_the_budget_is_never_passed_by_many_reserving_at_once(database):
    book = a_book(database, 40, budget=13 * PRICE + PRICE // 2)
    seen: list[int] = []

    def reserve(part: int) -> int:
        done = 0
        for job_id in book.jobs[part % 4 :: 4]:
            try:
                done += book.queue(job_id)
            except ledger.OverBudget:
                pass
            seen.append(book.account().reserved_micros)
        return done

    done = at_once(reserve, range(THREADS))

    assert sum(done) == 13
    assert max(seen) == 13 * PRICE
    assert book.money() == (13, 0, 0)
    book.check()


def test_a_reservation_that_does_not_fit_leaves_the_job_planned_and_no_trace(database):
    book = a_book(database, budget=PRICE - 1)

    with pytest.raises(ledger.OverBudget):
        book.queue(book.jobs[0])

    assert book.status(book.jobs[0]) == "planned"
    assert book.money() == (0, 0, 0)
    with database.read() as connection:
        assert connection.execute(select(entries)).all() == []


def test_an_unknown_call_counts_as_spent_until_somebody_knows_better(database):
    book = a_book(database, 2, budget=2 * PRICE - 1)
    late = book.unknown(book.jobs[0])

    with pytest.raises(ledger.OverBudget):
        book.queue(book.jobs[1])

    with database.write() as tx:
        attempt.record_not_sent(tx, late, code="Reset", message="never arrived", now=book.now)
    assert book.queue(book.jobs[1])


def test_what_was_reserved_and_not_spent_may_be_reserved_again(database):
    book = a_book(database, 2, budget=2 * PRICE, worst_case=PRICE + PRICE // 2)
    opened = book.opened(book.claimed(book.jobs[0]))
    with pytest.raises(ledger.OverBudget):
        book.queue(book.jobs[1])

    book.answer(opened, micros=PRICE // 2)

    assert book.queue(book.jobs[1])
    assert book.account().free_micros == 0
    book.check()


def test_a_budget_raised_lets_the_batch_go_on_and_one_lowered_stops_it(database):
    book = a_book(database, 3, budget=PRICE)
    book.queue(book.jobs[0])

    with database.write() as tx:
        assert ledger.set_budget(tx, ledger.batch_account(book.batch_id), 2 * PRICE)
    assert book.queue(book.jobs[1])

    with database.write() as tx:
        ledger.set_budget(tx, ledger.batch_account(book.batch_id), PRICE)
    with pytest.raises(ledger.OverBudget):
        book.queue(book.jobs[2])
    assert book.account().free_micros == -PRICE


def test_a_days_budget_holds_over_all_batches_of_the_day(database):
    one, two = a_book(database, 3), a_book(database, 3, name="summer")
    with database.write() as tx:
        ledger.open_account(tx, one.day_id, "CNY", budget_micros=4 * PRICE)

    def reserve(book: Book) -> int:
        done = 0
        for job_id in book.jobs:
            try:
                done += book.queue(job_id)
            except ledger.OverBudget:
                pass
        return done

    assert sum(at_once(reserve, [one, two])) == 4
    assert one.day().reserved_micros == 4 * PRICE

    for book in (one, two):
        book.pass_(24 * 3600)
    assert reserve(one) + reserve(two) == 2
    for book in (one, two):
        book.check()


def test_a_day_is_recomputed_over_its_batches_and_rehearsals_have_days_of_their_own(database):
    real, other, rehearsal = (
        a_book(database, 2),
        a_book(database, 1, name="summer"),
        a_book(database, 1, name="try", rehearsal=True),
    )
    for book in (real, other, rehearsal):
        book.answer(book.opened(book.claimed(book.jobs[0])))
    real.unknown(real.jobs[1])

    with database.read() as connection:
        sums = ledger.recompute_day(connection, "2026-11-23", "CNY", rehearsal=False)
        rehearsed = ledger.recompute_day(connection, "2026-11-23", "CNY", rehearsal=True)

    assert sums == ledger.Sums(0, 2 * PRICE, PRICE)
    assert (real.day().charged_micros, real.day().exposed_micros) == (2 * PRICE, PRICE)
    assert rehearsed == ledger.Sums(0, PRICE, 0)


def test_money_of_a_call_at_midnight_stays_with_the_day_it_was_reserved_on(database):
    book = a_book(database)
    book.pass_(12 * 3600 - 1)
    opened = book.opened(book.claimed(book.jobs[0]))
    day = book.day_id

    book.pass_(2)
    book.answer(opened)

    with database.read() as connection:
        found = ledger.account(connection, day)
        assert ledger.account(connection, book.day_id) is None
    assert found is not None
    assert (found.reserved_micros, found.charged_micros) == (0, PRICE)


def test_a_charge_above_its_reservation_is_written_as_it_is(database):
    book = a_book(database, budget=PRICE)
    opened = book.opened(book.claimed(book.jobs[0]))

    book.answer(opened, micros=3 * PRICE, pictures=3)

    assert book.money() == (0, 3, 0)
    assert book.account().free_micros == -2 * PRICE
    book.check()


def forced(database: Database, **changes: object) -> None:
    """Write a copy of the last entry by hand, with changes, as a mistaken program would."""
    with database.write() as tx:
        last = tx.execute(select(entries).order_by(entries.c.seq.desc()).limit(1)).mappings().one()
        copy = {name: value for name, value in last.items() if name != "id"}
        tx.execute(insert(entries).values({**copy, "seq": last["seq"] + 1, **changes}))


def test_the_database_itself_forbids_a_second_charge_of_an_attempt(database):
    book = a_book(database)
    book.answer(book.opened(book.claimed(book.jobs[0])))

    with pytest.raises(IntegrityError):
        forced(database, hold=7)

    book.check()


@pytest.mark.parametrize("kind", ["reserve", "charge", "release"])
def test_the_database_itself_forbids_to_settle_a_reservation_twice(database, kind):
    book = a_book(database, worst_case=2 * PRICE)
    book.answer(book.opened(book.claimed(book.jobs[0])))

    with pytest.raises(IntegrityError):
        forced(database, kind=kind, attempt_id=None)


def test_the_database_itself_forbids_two_attempts_of_one_reservation(database):
    book = a_book(database)
    opened = book.opened(book.claimed(book.jobs[0]))
    with database.write() as tx:
        attempt.record_not_sent(tx, opened, code="Refused", message="no", now=book.now)

    with pytest.raises(IntegrityError), database.write() as tx:
        attempt.open_(tx, opened.hold, an_edit(), worker="worker", now=book.now)


@pytest.mark.parametrize("change", [update(entries).values(amount_micros=0), delete(entries)], ids=["edit", "remove"])
def test_the_database_itself_forbids_to_change_an_entry(database, change):
    book = a_book(database)
    book.queue(book.jobs[0])

    with pytest.raises(DBAPIError, match="append-only"), database.write() as tx:
        tx.execute(change)

    book.check()


# -- proof ------------------------------------------------------------------------------------------------------------


def tampered(database: Database, *changes: object) -> None:
    """Change entries as somebody could who may also drop the triggers."""
    drop = (
        ["DROP TRIGGER entries_are_never_changed", "DROP TRIGGER entries_are_never_removed"]
        if database.is_sqlite
        else ["ALTER TABLE entries DISABLE TRIGGER ALL"]
    )
    with database.write() as tx:
        for statement in (*map(text, drop), *changes):
            tx.execute(statement)


@pytest.fixture
def written(database):
    """Six entries: reserve and charge of three jobs."""
    book = a_book(database, 3)
    for job_id in book.jobs:
        book.answer(book.opened(book.claimed(job_id)))
    book.check()
    return book


def said(book: Book) -> list[str]:
    with book.database.read() as connection:
        return ledger.verify_chain(connection, book.batch_id)


def test_an_edited_entry_shows(database, written):
    tampered(database, update(entries).where(entries.c.seq == 4).values(amount_micros=1))

    assert said(written) == [f"entry 4 (charge, job {written.jobs[1]}) was edited, or one before it"]


def test_an_edited_entry_whose_own_hash_was_made_to_fit_shows_at_the_next(database, written):
    with database.read() as connection:
        of = {e["seq"]: dict(e) for e in connection.execute(select(entries)).mappings()}
    forged = {**of[4], "amount_micros": 1}
    tampered(
        database,
        update(entries)
        .where(entries.c.seq == 4)
        .values(amount_micros=1, hash=ledger.chain_hash(of[3]["hash"], forged)),
    )

    assert said(written) == [f"entry 5 (reserve, job {written.jobs[2]}) was edited, or one before it"]


def test_an_edited_last_entry_whose_hash_was_made_to_fit_shows_in_the_account(database, written):
    with database.read() as connection:
        of = {e["seq"]: dict(e) for e in connection.execute(select(entries)).mappings()}
    forged = {**of[6], "amount_micros": 1}
    tampered(
        database,
        update(entries)
        .where(entries.c.seq == 6)
        .values(amount_micros=1, hash=ledger.chain_hash(of[5]["hash"], forged)),
    )

    assert said(written) == ["entry 6 is not the one that the account remembers as its last"]


def test_removed_entries_show(database, written):
    tampered(database, delete(entries).where(entries.c.seq.in_([2, 4, 5])))

    assert said(written) == ["entry 2 was removed", "entries 4 to 5 were removed"]


def test_a_shortened_chain_shows(database, written):
    tampered(database, delete(entries).where(entries.c.seq > 4))

    assert said(written) == ["entries 5 to 6 were removed"]


def test_an_added_entry_shows(database, written):
    with database.read() as connection:
        last = dict(connection.execute(select(entries).where(entries.c.seq == 6)).mappings().one())
    added = {**last, "seq": 7, "kind": "release", "attempt_id": None}
    del added["id"]
    tampered(database, insert(entries).values({**added, "hash": ledger.chain_hash(last["hash"], added)}))

    assert said(written) == ["entry 7 was added from outside: the account knows of 6"]


def test_an_account_that_was_changed_by_hand_differs_from_its_entries(database, written):
    with database.write() as tx:
        tx.execute(
            update(accounts).where(accounts.c.id == ledger.batch_account(written.batch_id)).values(charged_micros=0)
        )

    with database.read() as connection:
        sums = ledger.recompute(connection, written.batch_id)
    assert sums.charged_micros == 3 * PRICE != written.account().charged_micros


def test_sums_are_recomputed_with_every_kind_of_reservation_standing(database):
    book = a_book(database, 5, exposure=PRICE, worst_case=2 * PRICE)
    book.unknown(book.jobs[0])
    book.unknown(book.jobs[1])
    book.answer(book.opened(book.claimed(book.jobs[2])))
    book.opened(book.claimed(book.jobs[3]))
    book.queue(book.jobs[4])

    with database.read() as connection:
        assert ledger.recompute(connection, book.batch_id) == ledger.Sums(4 * PRICE, PRICE, 4 * PRICE)
    book.check()


def test_the_chain_does_not_depend_on_the_clocks_time_zone(database):
    book = a_book(database)
    book.now = NOON.astimezone(timezone(timedelta(hours=8)))

    book.queue(book.jobs[0])

    book.check()


def test_chains_of_two_batches_are_apart(database):
    one, two = a_book(database, 4), a_book(database, 4, name="summer")

    at_once(lambda book: [book.queue(job_id) for job_id in book.jobs], [one, two])

    for book in (one, two):
        book.check()


# -- facts and outputs ------------------------------------------------------------------------------------------------


def test_a_providers_words_that_do_not_fit_are_kept_as_far_as_they_do(database):
    book = a_book(database, 2)
    claim = book.claimed(book.jobs[0])
    odd = "broken \ud800 and \0 and " + "long " * 100
    answer = Answer(odd, ("https://results.invalid/1.png",), {"odd": "\0", "image_count": 10**30})

    opened = book.opened(claim)

    with database.write(durable=True) as tx:
        job.record_answer(tx, opened, answer, charge_micros=PRICE, url_life_s=LIFE_S, now=book.now)
    other = book.claimed(book.jobs[1])
    with database.write() as tx:
        assert job.fail(tx, other, book.now, code=odd, message=odd)

    assert book.money() == (0, 1, 0)
    assert book.job(book.jobs[1]).code.startswith("broken ? and  and long")
    assert len(book.job(book.jobs[1]).code) == 120
    book.check()


def test_a_picture_is_stored_once_for_each_row_whoever_says_so_and_however_often(database):
    book = a_book(database)
    opened = book.opened(book.claimed(book.jobs[0]))
    book.answer(opened, pictures=2)
    with database.read() as connection:
        first, second = output.waiting(connection, book.jobs[0], opened.id)
    assert [copies[0][1] for copies in (first.copies, second.copies)] == ["SKU-1-1.png", "SKU-1-2.png"]

    def store(_: int) -> None:
        with database.write() as tx:
            stored = [(row_id, key) for row_id, key, _sku in first.copies]
            output.record_output(tx, first, stored=stored, sha256="ab", size=3, width=16, height=16, now=book.now)

    at_once(store, range(4))

    with database.read() as connection:
        assert len(connection.execute(select(objects)).all()) == 1
        assert [left.id for left in output.waiting(connection, book.jobs[0], opened.id)] == [second.id]
        assert output.delivery(connection, opened.id) == (1, 0, 2)


def test_a_picture_given_up_by_one_worker_and_stored_by_another_is_stored(database):
    book = a_book(database)
    opened = book.opened(book.claimed(book.jobs[0]))
    book.answer(opened)
    with database.write() as tx:
        [waiting] = output.waiting(tx, book.jobs[0], opened.id)
        output.record_lost(tx, waiting.id, reason="expired")
        output.record_output(tx, waiting, stored=[], sha256="ab", size=3, width=16, height=16, now=book.now)
        output.record_lost(tx, waiting.id, reason="expired")

        assert output.delivery(tx, opened.id) == (1, 0, 1)


def test_a_lost_picture_is_bought_anew_and_a_waiting_one_only_copied_when_a_person_retries(database):
    book = a_book(database, 2)
    opened = []
    for job_id in book.jobs:
        claim = book.claimed(job_id)
        opened.append(book.opened(claim))
        book.answer(opened[-1])
        with database.write() as tx:
            job.fail(tx, claim, book.now, code="ResultUnavailable", message="no")
    with database.write() as tx:
        [lost] = output.waiting(tx, book.jobs[0], opened[0].id)
        output.record_lost(tx, lost.id, reason="expired")

    with database.write() as tx:
        assert [job.retry(tx, job_id, new_seed=True) for job_id in book.jobs] == [True, True]

    anew, copied = (book.claimed(job_id) for job_id in book.jobs)
    assert (anew.answered_attempt_id, anew.hold, anew.edit.seed == 1) == (None, 2, False)
    assert (copied.answered_attempt_id, copied.hold, copied.edit.seed) == (opened[1].id, None, 2)


def test_a_new_seed_moves_the_destinations_that_carry_it(database):
    book = a_book(database)
    with database.write() as tx:
        tx.execute(update(rows).values(destinations=["1.png"], seeded_destinations=["{seed}.png"]))
    claim = book.claimed(book.jobs[0])
    with database.write() as tx:
        job.fail(tx, claim, book.now, code="Rejected", message="no")
        job.retry(tx, book.jobs[0], new_seed=True)

    again = book.claimed(book.jobs[0])

    with database.read() as connection:
        assert connection.execute(select(rows.c.destinations)).scalar_one() == [f"{again.edit.seed}.png"]


def test_waiting_is_not_failing(database):
    book = a_book(database)

    for counted, throttled, expected in ((False, True, (0, 1)), (False, True, (0, 2)), (True, False, (1, 0))):
        claim = book.claimed(book.jobs[0])
        with database.write() as tx:
            job.postpone(tx, claim, book.now, due_at=book.now, counted=counted, throttled=throttled)
        found = book.job(book.jobs[0])
        assert (found.tries, found.throttles) == expected

    assert book.job(book.jobs[0]).holds == 3
    assert book.money() == (0, 0, 0)
    book.check()


# -- batches ----------------------------------------------------------------------------------------------------------

MOVES = {
    "open": (lambda tx, id_: batch.open_(tx, id_), ("planning",), "open"),
    "reopen": (lambda tx, id_: batch.reopen(tx, id_, NOON), ("stopped",), "open"),
    "pause": (lambda tx, id_: batch.pause(tx, id_, code="Why", message="so"), ("open", "stopped"), "paused"),
    "resume": (lambda tx, id_: batch.resume(tx, id_, NOON), ("paused", "stopped"), "open"),
    "stop": (lambda tx, id_: batch.stop(tx, id_, code="Why", message="so"), ("open",), "stopped"),
    "cancel": (lambda tx, id_: batch.cancel(tx, id_), ("open", "paused", "stopped"), "cancelled"),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_batch_moves_only_from_the_states_it_may_leave(database, move):
    act, old, new = MOVES[move]
    book = a_book(database)

    for state in ("planning", "open", "paused", "stopped", "cancelled"):
        with database.write() as tx:
            tx.execute(update(batches).values(state=state, code="Before", message="before"))
            moved = act(tx, book.batch_id)
            found = batch.get(tx, book.batch_id)
        assert (moved, found.state) == (state in old, new if state in old else state)
        if moved and new == "open":
            assert (found.code, found.message) == (None, None)


EDIT = an_edit()


@dataclass(frozen=True)
class PlannedRow:
    number: int
    digest: str
    edit: Edit = EDIT
    file: str = "manifest.yaml"
    line: int = 1
    sku: str = "SKU"
    recipe: str = "edit"
    destinations: tuple[str, ...] = ("SKU.png",)
    seeded_destinations: tuple[str, ...] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    worst_case_micros: int = PRICE


def test_rows_that_ask_for_the_same_edit_share_one_job_in_a_block_and_across_blocks(database):
    book = a_book(database, 0)

    with database.write() as tx:
        batch.add_block(tx, book.batch_id, [PlannedRow(1, "a"), PlannedRow(2, "b"), PlannedRow(3, "a")])
    with database.write() as tx:
        batch.add_block(tx, book.batch_id, (PlannedRow(n, digest) for n, digest in ((4, "b"), (5, "c"))))

    with database.read() as connection:
        found = connection.execute(
            select(rows.c.number, jobs.c.digest).join(jobs, jobs.c.id == rows.c.job_id).order_by(rows.c.number)
        ).all()
        assert len(connection.execute(select(jobs.c.id)).all()) == 3
    assert [tuple(row) for row in found] == [(1, "a"), (2, "b"), (3, "a"), (4, "b"), (5, "c")]


def test_a_batch_whose_planning_was_torn_is_begun_afresh_block_by_block(database, monkeypatch):
    monkeypatch.setattr(batch, "BLOCK", 2)
    a_book(database, 5)

    again = a_book(database, 3)

    with database.read() as connection:
        assert connection.execute(select(jobs.c.batch_id).distinct()).scalars().all() == [again.batch_id]
        assert connection.execute(select(func.count()).select_from(rows)).scalar_one() == 3


def test_batches_are_found_by_name_and_rehearsals_apart(database):
    real, rehearsal = a_book(database), a_book(database, rehearsal=True)

    with database.write() as tx:
        batch.set_priority(tx, real.batch_id, 7)
    with database.read() as connection:
        found = batch.find(connection, "spring", rehearsal=False)
        assert [one.id for one in batch.listed(connection)] == [rehearsal.batch_id, real.batch_id]
        assert batch.find(connection, "autumn", rehearsal=False) is None
    assert found is not None
    assert (found.id, found.priority) == (real.batch_id, 7)


def test_a_job_without_reservation_and_an_account_that_is_not_there_are_said(database):
    book = a_book(database)

    with database.read() as connection:
        with pytest.raises(LookupError, match="no reservation 3"):
            ledger.find_hold(connection, book.jobs[0], 3)
        assert ledger.account(connection, "day:1999-01-01:CNY") is None
    with database.write() as tx:
        assert not ledger.set_budget(tx, "day:1999-01-01:CNY", 1)

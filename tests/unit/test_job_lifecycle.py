"""The edge table of a job's life: the picture, the table and the code say the same."""

import re
from datetime import timedelta

import pytest
from sqlalchemy import update

from models import job
from models.database import Database
from models.job import STATUSES, TRANSITIONS, Claim
from models.tables import jobs
from tests.ledgers import LEASE_S, NOON, Book, a_book

PICTURE, SENTENCES = (job.__doc__ or "").split("\nplanned ", 1)
LATER = NOON + timedelta(seconds=1)

CALLS = {
    "queue": lambda tx, claim: job.queue(tx, claim.job_id, LATER),
    "unqueue": lambda tx, claim: job.unqueue(tx, claim.job_id, LATER, reason="lost"),
    "claim": lambda tx, claim: job.claim(tx, claim.job_id, owner="other", lease_s=LEASE_S, now=LATER),
    "postpone": lambda tx, claim: job.postpone(tx, claim, LATER, due_at=LATER),
    "succeed": lambda tx, claim: job.succeed(tx, claim, LATER),
    "fail": lambda tx, claim: job.fail(tx, claim, LATER, code="Why", message="so"),
    "hold": lambda tx, claim: job.hold(tx, claim, LATER, code="Why", message="so"),
    "retry": lambda tx, claim: job.retry(tx, claim.job_id),
    "release": lambda tx, claim: job.release(tx, claim.job_id, LATER),
    "forgive": lambda tx, claim: job.forgive(tx, claim.job_id, LATER),
    "cancel": lambda tx, claim: job.cancel(tx, claim.job_id, LATER),
}


@pytest.fixture
def book(sqlite_url):
    database = Database(sqlite_url)
    yield a_book(database, 1)
    database.close()


def placed_in(book: Book, status: str) -> Claim:
    """The job in that status, with a claim whose token fits: only the status can refuse."""
    claim = book.claimed(book.jobs[0])
    with book.database.write() as tx:
        tx.execute(update(jobs).values(status=status, hold=None))
    return claim


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("name", CALLS)
def test_a_transition_leaves_only_the_statuses_it_is_drawn_from(book, name, status):
    claim = placed_in(book, status)
    old, new = TRANSITIONS[name]

    with book.database.write() as tx:
        moved = CALLS[name](tx, claim)

    assert bool(moved) == (status in old)
    assert book.status(claim.job_id) == (new if status in old else status)


@pytest.mark.parametrize("status", STATUSES)
def test_an_answer_revives_what_was_laid_aside_and_leaves_the_rest_alone(book, status):
    opened = book.opened(book.claimed(book.jobs[0]))
    with book.database.write() as tx:
        tx.execute(update(jobs).values(status=status))

    book.answer(opened)

    old, new = TRANSITIONS["revive"]
    assert book.status(book.jobs[0]) == (new if status in old else status)


def test_every_edge_has_its_function_and_every_function_that_moves_a_job_its_edge():
    assert set(CALLS) | {"revive"} == set(TRANSITIONS)
    assert {status for old, new in TRANSITIONS.values() for status in (*old, new)} == set(STATUSES)


def test_the_picture_shows_the_edges_of_the_table():
    names, states = (re.findall(r"\w+", line) for line in PICTURE.splitlines()[2:4])
    drawn = {
        name: ((old,), new)
        for name, old, new in zip(names, [s for s in states if s in STATUSES], states[2:], strict=False)
    }
    drawn |= {name: (("running",), to) for name, to in re.findall(r"\+-+(\w+)-+> (\w+)", PICTURE)}
    drawn |= {name: ((old,), to) for old, name, to in re.findall(r"(\w+) --(\w+)--> (\w+)", PICTURE)}
    several = {
        name: (tuple(old.split(", ")), to) for name, old, to in re.findall(r"(\w+): ([\w, ]+) --> (\w+)", PICTURE)
    }
    revived = re.search(r"\+--revive \(a late answer\)-- ([\w, ]+)", PICTURE)
    assert revived is not None
    several["revive"] = (tuple(revived[1].split(", ")), "planned")

    assert drawn | several | {name: TRANSITIONS[name] for name in ("unqueue", "postpone")} == TRANSITIONS
    assert re.search(r"\bunqueue\b", PICTURE)
    assert re.search(r"--postpone--", PICTURE)


def test_each_status_has_its_sentence():
    described = re.findall(r"^(\w+) {2,}\S", "planned " + SENTENCES, flags=re.MULTILINE)

    assert tuple(described) == STATUSES

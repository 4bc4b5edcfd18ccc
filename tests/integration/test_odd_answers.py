"""Whatever a paid answer holds besides its pictures, both databases take it, and it is charged once."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from models import job, output
from models.database import Database
from models.tables import attempts, entries, outputs
from tests.ledgers import PRICE, a_book
from worker.answers import Received, read_answer

LONG = "a whole number of 5000 digits"  # which Python itself would not print
_numbers = count(1)
words = st.text(st.characters(), max_size=20)  # half characters and NUL too
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.just(LONG),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=10,
)
named = st.sampled_from(["image_count", "output_image_count", "width", "height", "output_width", "output_height"])
usages = st.dictionaries(named | words, values, max_size=5)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def as_text(value: Any) -> str:
    return json.dumps(value).replace(f'"{LONG}"', "9" * 5000)


@given(tails=st.lists(words, min_size=1, max_size=3), usage=usages, request_id=words | values)
@example(tails=["\ud800"], usage={"a": float("nan"), "b": float("inf"), "c": "\0", "\0\udfff": 1}, request_id="\0")
@example(tails=["a"], usage={"image_count": LONG, "deep": nested(300)}, request_id=LONG)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_paid_answer_is_recorded_whatever_it_holds(
    database: Database, tails: list[str], usage: dict[str, Any], request_id: Any
):
    # given a call under way, and an answer with pictures and anything else
    book = a_book(database, name=f"odd-{next(_numbers)}")
    opened = book.opened(book.claimed(book.jobs[0]))
    content = [{"image": f"https://results.invalid/{tail}"} for tail in tails]
    body = {"output": {"choices": [{"message": {"content": content}}]}, "usage": usage, "request_id": request_id}

    # when it is read and recorded
    answer = read_answer(Received(200, {}, as_text(body).encode()))
    with database.write(durable=True) as tx:
        job.record_answer(tx, opened, answer, charge_micros=PRICE, url_life_s=60.0, now=book.now)

    # then it is charged, every picture has its address, and what was kept can be read again
    with database.read() as connection:
        charges = connection.execute(
            select(func.count()).where(entries.c.kind == "charge", entries.c.attempt_id == opened.id)
        ).scalar_one()
        urls = list(connection.execute(select(outputs.c.url).where(outputs.c.attempt_id == opened.id)).scalars())
        kept = connection.execute(select(attempts.c.usage).where(attempts.c.id == opened.id)).scalar_one()
    assert charges == 1
    assert len(urls) == len(tails) <= answer.pictures
    json.dumps(kept, allow_nan=False)
    book.check()


def test_a_reason_for_a_loss_is_recorded_whatever_it_holds(database: Database):
    book = a_book(database)
    opened = book.opened(book.claimed(book.jobs[0]))
    book.answer(opened)
    with database.read() as connection:
        (waiting,) = output.waiting(connection, book.jobs[0], opened.id)

    with database.write() as tx:
        output.record_lost(tx, waiting.id, reason="\0\ud800" + "long " * 100)

    with database.read() as connection:
        assert output.delivery(connection, opened.id)[1] == 1


@pytest.mark.parametrize("usage", [{"image_count": 2}, {"output_image_count": 2, "input_image_count": 1}, {}])
def test_a_usage_that_is_as_documented_is_kept_as_it_came(database: Database, usage: dict[str, int]):
    book = a_book(database)
    opened = book.opened(book.claimed(book.jobs[0]))
    body = {"output": {"choices": [{"message": {"content": [{"image": "https://r/1"}]}}]}, "usage": usage}
    with database.write(durable=True) as tx:
        answer = read_answer(Received(200, {}, json.dumps(body).encode()))
        job.record_answer(tx, opened, answer, charge_micros=PRICE, url_life_s=60.0, now=book.now)
    with database.read() as connection:
        assert connection.execute(select(attempts.c.usage).where(attempts.c.id == opened.id)).scalar_one() == usage

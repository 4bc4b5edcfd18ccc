import pytest

from models.settings import Threshold, parse_breaker, parse_daily_budget
from scheduler.breaker import Ended, trips

ANY = {"*": Threshold(20, 0.5)}


def test_a_cause_trips_only_with_its_number_and_its_share():
    assert trips([Ended("X", 19, "no")], ANY) is None
    assert trips([Ended("X", 20, "no"), Ended("", 21, "")], ANY) is None
    said = trips([Ended("X", 21, "no"), Ended("", 21, "")], ANY)
    assert said is not None
    assert said.startswith("21 of the last 42 jobs met X (no)")


def test_causes_are_counted_apart():
    assert trips([Ended("X", 15, ""), Ended("Y", 15, "")], ANY) is None


def test_a_cause_may_have_a_threshold_of_its_own():
    thresholds = parse_breaker("20/50%,DataInspectionFailed=200/90%")
    assert trips([Ended("DataInspectionFailed", 100, "")], thresholds) is None
    assert trips([Ended("InternalError", 20, "")], thresholds) is not None


def test_success_is_no_cause_and_off_is_off():
    assert trips([Ended("", 1000, "")], ANY) is None
    assert trips([Ended("X", 1000, "")], parse_breaker("off")) is None


@pytest.mark.parametrize("text", ["20", "0/50%", "20/500%", "many/50%"])
def test_what_is_no_threshold_is_refused_with_the_way_out(text: str):
    with pytest.raises(ValueError, match="write 20/50%"):
        parse_breaker(text)


def test_a_budget_of_the_day_names_its_currencies():
    assert parse_daily_budget("100 CNY, 15 USD") == {"CNY": 100_000_000, "USD": 15_000_000}
    with pytest.raises(ValueError, match="names no currency"):
        parse_daily_budget("100")

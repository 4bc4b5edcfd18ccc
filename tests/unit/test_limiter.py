import pytest

from models.catalogue import CATALOGUE, Limit
from models.settings import load
from tests.unit.limiter_rules import LimiterRules
from worker.build import build_limiter
from worker.limiter import LocalLimiter, margin, spacing_s


class TestLocalLimiter(LimiterRules):
    @pytest.fixture
    def make(self, clock):
        return lambda *limits, **options: LocalLimiter({"m": limits}, clock=clock, **options)

    @pytest.fixture
    def make_lanes(self, clock):
        return lambda lanes: LocalLimiter(lanes, clock=clock)


@pytest.mark.parametrize(
    ("limit", "left_unused"),
    [
        (Limit(1, 1.0), 0.04),
        (Limit(2, 1.0), 0.04),
        (Limit(4, 1.0), 0.02),
        (Limit(8, 1.0), 0.01),
        (Limit(20, 1.0), 0.008),
        (Limit(1000, 1.0), 0.008),
        (Limit(2, 60.0), 0.008),
        (Limit(20, 60.0), 0.008),
    ],
    ids=str,
)
def test_the_margin_goes_by_the_size_of_the_limit(limit, left_unused):
    assert margin(limit) == pytest.approx(left_unused)


@pytest.mark.parametrize("model", [m for m in CATALOGUE.values() if m.limits], ids=lambda m: m.id)
def test_calls_of_every_model_may_arrive_unevenly_by_some_milliseconds(model):
    for limit in model.limits:
        room_s = limit.requests * spacing_s([limit]) - limit.window_s
        assert room_s > (0.04 if limit.requests <= 2 else 0.005)


def test_at_two_a_second_a_commit_and_a_connection_in_between_do_no_harm():
    late_s, early_s = 0.040, 0.0
    first, third = late_s, 2 * spacing_s([Limit(2, 1.0)]) + early_s
    assert third - first > 1.0


def test_of_several_limits_the_widest_spacing_holds():
    assert spacing_s([Limit(2, 1.0), Limit(20, 60.0)]) == spacing_s([Limit(20, 60.0)])
    assert spacing_s([Limit(1, 1.0), Limit(1000, 60.0)]) == spacing_s([Limit(1, 1.0)])


def test_a_worker_keeps_to_its_share_of_the_account():
    whole, half = (
        build_limiter(load(environ={"PACKSHOT_LIMIT_SHARE": share})).rate("qwen-image-2.0") for share in ("100%", "50%")
    )
    assert half == pytest.approx(whole / 2)

"""What every limiter keeps, whether it lives in this process or in Redis. Each kind's tests inherit these rules."""

import itertools
import random
import threading

import pytest

from models.catalogue import CATALOGUE, Limit
from models.errors import SettingsError

TICK = 5e-6  # a shared limiter counts in microseconds


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0  # a time of day of these years: nothing may be rounded away

    def __call__(self):
        return self.now


def departures(made, clock, count, lane="m"):
    """When calls would leave if asked for all at once."""
    return [clock.now + made.acquire(lane) for _ in range(count)]


def most_in_a_window(times, window_s):
    times = sorted(times)
    return max(sum(start <= t < start + window_s - TICK for t in times) for start in times)


def throttle_hard(made, lane="m", kind="rate"):
    """Twice: of a limit below 20 one is tolerated."""
    made.throttled(lane, kind)
    made.throttled(lane, kind)


class LimiterRules:
    @pytest.fixture
    def clock(self):
        return Clock()

    @pytest.fixture
    def make(self, clock):
        """make(Limit(...), ..., share=..., lead_s=..., max_pause_s=...): a limiter whose lane `m` has these limits."""
        raise NotImplementedError

    @pytest.fixture
    def make_lanes(self, clock):
        """make_lanes({lane: limits})"""
        raise NotImplementedError

    # -- slots -----------------------------------------------------------------------------------------------

    def test_the_first_call_leaves_at_once_and_the_next_wait_their_turn(self, make, clock):
        first, second, third = departures(make(Limit(2, 1.0)), clock, 3)
        assert first == clock.now
        assert second - first == pytest.approx(0.5 / 0.96, abs=TICK)
        assert third - second == pytest.approx(0.5 / 0.96, abs=TICK)

    def test_no_slot_is_sooner_than_the_lead_that_a_caller_needs_and_no_call_more_is_lost_to_it(self, make, clock):
        first, second = departures(make(Limit(2, 1.0), lead_s=0.05), clock, 2)
        assert first - clock.now == pytest.approx(0.05, abs=TICK)
        assert second - first == pytest.approx(0.5 / 0.96, abs=TICK)

    @pytest.mark.parametrize("model", [m for m in CATALOGUE.values() if m.limits], ids=lambda m: m.id)
    def test_no_window_of_any_model_holds_more_calls_than_its_limit(self, make, clock, model):
        times = departures(make(*model.limits), clock, 100)
        for limit in model.limits:
            assert most_in_a_window(times, limit.window_s) <= limit.requests

    def test_a_large_limit_is_used_to_a_hundredth(self, make, clock):
        times = departures(make(Limit(20, 1.0)), clock, 600)
        assert times[-1] - times[0] < 30 * 1.01

    def test_a_minute_limit_is_spread_over_the_minute(self, make, clock):
        times = departures(make(Limit(2, 60.0)), clock, 5)
        assert all(later - sooner > 30 for sooner, later in itertools.pairwise(times))

    def test_an_idle_hour_saves_up_nothing(self, make, clock):
        made = make(Limit(2, 1.0))
        made.acquire("m")
        clock.now += 3600
        assert most_in_a_window(departures(made, clock, 10), 1.0) == 2

    def test_several_limits_of_one_lane_all_hold(self, make, clock):
        times = departures(make(Limit(10, 1.0), Limit(100, 60.0)), clock, 300)
        assert most_in_a_window(times, 1.0) <= 10
        assert most_in_a_window(times, 60.0) <= 100

    def test_random_arrivals_never_pass_the_limit(self, make, clock):
        made, dice, times = make(Limit(20, 60.0)), random.Random(3), []
        for _ in range(300):
            clock.now += dice.expovariate(1 / 2.5)
            times.append(clock.now + made.acquire("m"))
        assert most_in_a_window(times, 60.0) <= 20

    def test_a_share_leaves_the_rest_to_others(self, make):
        assert make(Limit(10, 1.0), share=0.5).rate("m") == pytest.approx(5 * 0.992, rel=1e-4)

    @pytest.mark.parametrize("share", [0, -1, 1.1])
    def test_a_share_that_is_none_is_refused(self, make, share):
        with pytest.raises(ValueError, match="share"):
            make(Limit(1, 1.0), share=share)

    def test_lanes_do_not_wait_for_each_other(self, make_lanes):
        made = make_lanes({"a": [Limit(1, 60.0)], "b": [Limit(1, 60.0)]})
        assert made.acquire("a") == 0
        assert made.acquire("b") == 0
        assert made.acquire("a") > 60

    def test_a_lane_of_a_region_has_its_model_s_limit_and_a_counter_of_its_own(self, make_lanes):
        made = make_lanes({"a": [Limit(1, 60.0)]})
        assert made.acquire("cn-beijing/a") == 0
        assert made.acquire("ap-southeast-1/a") == 0
        assert made.acquire("cn-beijing/a") > 60

    @pytest.mark.parametrize("verb", ["acquire", "give_back", "succeeded", "rate"])
    def test_a_lane_without_a_limit_is_no_lane(self, make, verb):
        with pytest.raises(SettingsError, match="PACKSHOT_LIMITS"):
            getattr(make(Limit(1, 1.0)), verb)("unknown")

    def test_threads_never_share_a_slot(self, make, clock):
        made, waits = make(Limit(100, 1.0)), []

        def take():
            for _ in range(100):
                waits.append(made.acquire("m"))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({round(wait, 6) for wait in waits}) == 800
        assert most_in_a_window(waits, 1.0) <= 100

    # -- slots given back ------------------------------------------------------------------------------------

    def test_a_slot_given_back_is_the_next_one_s(self, make, clock):
        made = make(Limit(1, 10.0))
        made.acquire("m")
        second = clock.now + made.acquire("m")
        made.give_back("m")
        assert clock.now + made.acquire("m") == pytest.approx(second, abs=TICK)

    def test_a_slot_given_back_from_the_middle_is_taken_once_and_the_others_stay_whose_they_are(self, make, clock):
        # given: one thread holds the second of three slots
        made, held = make(Limit(1, 10.0)), []
        first = clock.now + made.acquire("m")
        handed_over, may_give_back = threading.Event(), threading.Event()

        def other():
            held.append(clock.now + made.acquire("m"))
            handed_over.set()
            may_give_back.wait(10)
            made.give_back("m")

        thread = threading.Thread(target=other)
        thread.start()
        handed_over.wait(10)
        third = clock.now + made.acquire("m")

        # when
        may_give_back.set()
        thread.join()
        again, fourth = departures(made, clock, 2)

        # then
        assert again == pytest.approx(held[0], abs=TICK)
        assert first < again < third < fourth
        assert fourth - third > 10

    def test_a_slot_is_given_back_once(self, make, clock):
        made = make(Limit(1, 10.0))
        made.acquire("m")
        made.acquire("m")
        made.give_back("m")
        made.give_back("m")
        times = departures(made, clock, 3)
        assert all(later - sooner > 10 for sooner, later in itertools.pairwise(times))

    def test_a_slot_given_back_too_late_is_gone(self, make, clock):
        made = make(Limit(1, 10.0))
        made.acquire("m")
        made.acquire("m")
        clock.now += 15
        made.give_back("m")
        first, second = departures(made, clock, 2)
        assert first >= clock.now + 5
        assert second - first > 10

    def test_no_slot_given_back_is_taken_in_a_pause(self, make, clock):
        made = make(Limit(2, 1.0))
        made.acquire("m")
        made.acquire("m")
        made.throttled("m", "quota")
        made.give_back("m")
        assert made.acquire("m") >= 60

    # -- what the provider says --------------------------------------------------------------------------------

    @pytest.mark.parametrize(("requests", "tolerated"), [(1, 1), (2, 1), (20, 2), (100, 10)])
    def test_a_few_throttles_in_a_row_cost_little_and_no_pause_one_more_does(self, make, clock, requests, tolerated):
        # given
        made = make(Limit(requests, 1.0))
        before, _ = made.rate("m"), made.acquire("m")

        # when, then
        for _ in range(tolerated):
            clock.now += 1.5
            made.throttled("m", "rate")
        assert made.rate("m") == pytest.approx(before * 0.995**tolerated)
        assert made.acquire("m") == 0

        # when, then
        clock.now += 1.5
        made.throttled("m", "rate")
        assert made.rate("m") == pytest.approx(before * 0.995**tolerated * 0.9)
        assert made.acquire("m") >= 1

    def test_a_provider_that_halved_its_limit_is_believed_within_seconds(self, make, clock):
        made, bearable, refused = make(Limit(20, 1.0)), [], 0
        for _ in range(200):
            clock.now += made.acquire("m")
            if len([at for at in bearable if at > clock.now - 1.0]) < 10:
                bearable.append(clock.now)
                made.succeeded("m")
            else:
                refused += 1
                made.throttled("m", "rate")
        assert refused < 40
        assert made.rate("m") < 12

    def test_a_second_rate_throttle_pushes_the_lane_back_and_slows_it_a_little(self, make, clock):
        made = make(Limit(10, 1.0))
        made.throttled("m", "rate")
        clock.now += 1.9
        before = made.rate("m")
        made.throttled("m", "rate")
        assert made.rate("m") == pytest.approx(before * 0.9)
        assert made.acquire("m") == pytest.approx(1.0, abs=TICK)

    def test_two_throttles_far_apart_are_two_lone_ones(self, make, clock):
        made = make(Limit(10, 1.0))
        before = made.rate("m")
        made.throttled("m", "rate")
        clock.now += 2.1
        made.throttled("m", "rate")
        assert made.rate("m") == pytest.approx(before * 0.995**2)

    def test_many_calls_that_bring_home_the_same_throttle_slow_the_lane_once(self, make):
        made = make(Limit(10, 1.0))
        before = made.rate("m")
        for _ in range(50):
            made.throttled("m", "rate")
        assert made.rate("m") == pytest.approx(before * 0.995 * 0.9)

    def test_a_lane_throttled_for_ever_still_tries_at_a_tenth(self, make, clock):
        made = make(Limit(10, 1.0))
        for kind in ["rate", "burst", "quota"] * 50:
            throttle_hard(made, kind=kind)
            clock.now += 100
        assert made.rate("m") == pytest.approx(0.992, rel=1e-4)

    def test_an_empty_quota_waits_for_the_next_minute(self, make):
        made = make(Limit(10, 1.0))
        made.throttled("m", "quota")
        assert made.acquire("m") == pytest.approx(60.0, abs=TICK)

    def test_a_burst_throttle_starts_a_slow_ramp(self, make, clock):
        made = make(Limit(10, 1.0))
        ceiling = made.rate("m")
        made.throttled("m", "burst")
        assert made.acquire("m") == pytest.approx(10.0, abs=TICK)
        rates = []
        for _ in range(10):
            clock.now += 60
            made.succeeded("m")
            rates.append(made.rate("m"))
        assert rates[0] < ceiling / 2
        assert rates == sorted(rates)
        assert rates[-1] == pytest.approx(ceiling)

    @pytest.mark.parametrize(("kind", "pause_s"), [("quota", 2.0), ("burst", 2.0), ("rate", 2.0)])
    def test_no_pause_is_longer_than_the_longest(self, make, kind, pause_s):
        made = make(Limit(15, 10.0), max_pause_s=2.0)
        throttle_hard(made, kind=kind)
        assert made.acquire("m") == pytest.approx(pause_s, abs=TICK)

    def test_success_creeps_back_to_the_ceiling_and_not_beyond(self, make, clock):
        made = make(Limit(2, 60.0))
        ceiling = made.rate("m")
        throttle_hard(made)
        slowed = made.rate("m")
        rates = []
        for _ in range(6):
            clock.now += 40
            made.succeeded("m")
            rates.append(made.rate("m"))
        assert slowed < rates[0] < rates[1] < ceiling
        assert rates[-1] == pytest.approx(ceiling)

    def test_successes_of_calls_sent_before_a_throttle_do_not_undo_it(self, make, clock):
        made = make(Limit(10, 1.0))
        throttle_hard(made)
        slowed = made.rate("m")
        clock.now += 0.5
        made.succeeded("m")
        assert made.rate("m") == slowed

    def test_an_idle_hour_counts_as_a_minute_of_success(self, make, clock):
        made = make(Limit(10, 1.0))
        made.throttled("m", "burst")
        clock.now += 3600
        made.succeeded("m")
        assert made.rate("m") < 9.9 / 2

    def test_a_slowed_lane_spreads_its_slots_wider(self, make, clock):
        made = make(Limit(10, 1.0))
        made.throttled("m", "burst")
        clock.now += 10
        first, second, third = departures(made, clock, 3)
        assert second - first == pytest.approx(third - second, abs=TICK)
        assert third - second == pytest.approx(0.1 / 0.992 / 0.25, abs=TICK)

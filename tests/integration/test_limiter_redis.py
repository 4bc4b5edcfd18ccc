"""The shared limiter against a real server: the rules of every limiter, many processes, and a Redis that misbehaves."""

import itertools
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from models.catalogue import Limit
from models.errors import SettingsError
from tests.servers.redis import RedisProcess
from tests.unit.limiter_rules import TICK, Clock, LimiterRules, departures, most_in_a_window, throttle_hard
from worker.limiter import LimiterUnavailable, LocalLimiter
from worker.limiter_redis import RedisLimiter

ROOT = Path(__file__).parents[2]
TWENTY = {"m": [Limit(20, 1.0)]}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    """For tests that leave it running as it is; each uses an account of its own."""
    with RedisProcess() as running:
        yield running


@pytest.fixture
def own_redis() -> Iterator[RedisProcess]:
    with RedisProcess() as running:
        yield running


@pytest.fixture
def account() -> str:
    return uuid.uuid4().hex


class TestRedisLimiter(LimiterRules):
    @pytest.fixture
    def make(self, redis, account, clock):
        return lambda *limits, **options: RedisLimiter(
            redis.url, {"m": limits}, clock=clock, account=account, **options
        )

    @pytest.fixture
    def make_lanes(self, redis, account, clock):
        return lambda lanes: RedisLimiter(redis.url, lanes, clock=clock, account=account)

    def test_a_long_story_ends_alike_in_process_and_in_redis(self, make, clock):
        # given
        limits = [Limit(5, 1.0), Limit(120, 60.0)]
        shared, local = make(*limits), LocalLimiter({"m": limits}, clock=clock)
        story = [("acquire", 7), ("rate", 1), ("succeeded", 1), ("acquire", 3), ("rate", 3), ("give_back", 1)]
        story += [("acquire", 2), ("burst", 1), ("acquire", 1), ("succeeded", 1), ("quota", 1), ("acquire", 2)]

        # when, then
        for step, (verb, times) in enumerate(story * 4):
            for _ in range(times):
                clock.now += 0.3 + 20 * (step % 3)
                if verb == "acquire":
                    assert shared.acquire("m") == pytest.approx(local.acquire("m"), abs=10 * TICK)
                elif verb in ("succeeded", "give_back"):
                    getattr(shared, verb)("m")
                    getattr(local, verb)("m")
                else:
                    shared.throttled("m", verb)
                    local.throttled("m", verb)
                assert shared.rate("m") == pytest.approx(local.rate("m"), rel=1e-4)

    def test_two_processes_share_what_the_provider_said(self, make, clock):
        one, other = make(Limit(10, 1.0)), make(Limit(10, 1.0))
        throttle_hard(one)
        assert other.acquire("m") == pytest.approx(1.0, abs=TICK)
        assert other.rate("m") == one.rate("m")

    def test_workers_with_different_limits_keep_their_own_pace_behind_the_same_slots(self, redis, account, clock):
        fast = RedisLimiter(redis.url, {"m": [Limit(20, 1.0)]}, clock=clock, account=account)
        slow = RedisLimiter(redis.url, {"m": [Limit(2, 1.0)]}, clock=clock, account=account)
        times = [clock.now + made.acquire("m") for made in (fast, slow, slow, fast)]
        gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
        assert gaps == pytest.approx([0.5 / 0.96, 0.5 / 0.96, 0.05 / 0.992], abs=2 * TICK)

    def test_a_clock_that_is_set_back_does_not_stop_the_lane(self, make, clock):
        made = make(Limit(2, 1.0))
        made._clock = Clock()  # only the server's is set
        for _ in range(3):
            made.acquire("m")
        clock.now -= 3600
        assert made.acquire("m") == pytest.approx(3 * 0.5 / 0.96, abs=0.11)

    def test_an_unused_slot_of_before_the_clock_was_set_back_is_forgotten(self, make, clock):
        made = make(Limit(2, 1.0))
        made._clock = Clock()
        for _ in range(3):
            made.acquire("m")
        made.give_back("m")
        clock.now -= 3600
        assert made.acquire("m") < 2

    def test_accounts_are_counted_apart(self, redis, account, clock):
        limits = {"m": [Limit(1, 60.0)]}
        assert RedisLimiter(redis.url, limits, clock=clock, account=account).acquire("m") == 0
        assert RedisLimiter(redis.url, limits, clock=clock, account=account + "2").acquire("m") == 0

    def test_a_lane_is_two_keys_at_most_of_one_slot_and_both_expire(self, redis, make, account, clock):
        made = make(Limit(1, 60.0))
        for _ in range(3):
            made.acquire("m")
        made.give_back("m")
        with redis.client() as client:
            names = sorted(client.scan_iter(f"packshot:limiter:*{account}*"))
            lane = f"packshot:limiter:{{{account}/m}}"
            assert names == [lane, f"{lane}:freed"]
            assert all(0 < client.ttl(name) <= 24 * 3600 + 200 for name in names)


# -- real time, real processes -------------------------------------------------------------------------------------


def test_one_admission_is_one_command(redis, account):
    made = RedisLimiter(redis.url, TWENTY, account=account)
    made.acquire("m")
    with redis.client() as client:
        before = client.info("commandstats")
        for _ in range(10):
            made.acquire("m")
        after = client.info("commandstats")
    asked = {name: stats["calls"] - before.get(name, {"calls": 0})["calls"] for name, stats in after.items()}
    assert asked["cmdstat_evalsha"] == 10
    assert "cmdstat_eval" not in asked or asked["cmdstat_eval"] == 0
    assert asked.get("cmdstat_script|load", 0) == 0


def test_the_server_s_clock_is_the_clock(redis, account):
    made = RedisLimiter(redis.url, {"m": [Limit(1, 3600.0)]}, account=account)
    made.acquire("m")
    assert made.acquire("m") == pytest.approx(3600 / 0.992, abs=5)


TAKE = """
import json, sys
from models.catalogue import Limit
from worker.limiter_redis import RedisLimiter
url, account, count, now = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
made = RedisLimiter(url, {"m": [Limit(20, 1.0), Limit(900, 60.0)]}, account=account, clock=lambda: now)
sys.stdin.readline()
print(json.dumps([now + made.acquire("m") for _ in range(count)]))
"""


def test_processes_that_ask_at_once_never_pass_the_limit_together(redis, account):
    # given: the same moment for all, so that what they reserve can be compared to the microsecond
    now, count = 1_800_000_000.0, 300
    command = [sys.executable, "-c", TAKE, redis.url, account, str(count), str(now)]
    takers = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]

    # when
    for taker in takers:
        assert taker.stdin is not None
        taker.stdin.write("go\n")
        taker.stdin.flush()
    times = sorted(slot for taker in takers for slot in json.loads(taker.communicate(timeout=60)[0]))

    # then
    assert len(times) == 3 * count
    assert most_in_a_window(times, 1.0) <= 20
    assert most_in_a_window(times, 60.0) <= 900
    assert times[-1] - times[0] == pytest.approx((3 * count - 1) * 60 / 900 / 0.992, rel=1e-4)


def test_a_rate_is_asked_for_once_a_second_however_often_it_is_shown(redis, account):
    made = RedisLimiter(redis.url, TWENTY, account=account)
    with redis.client() as client:
        before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        for _ in range(200):
            made.rate("m")
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before <= 2


def test_a_slow_answer_does_not_make_its_call_late(account, redis):
    # given: a limiter that knows how quick answers are, and then one that comes 30 ms late
    clock = Clock()
    made = RedisLimiter(redis.url, TWENTY, account=account)
    made._clock = clock
    assert made._late_s(server_s=5.000, asked_at=100.0000, answered_at=100.0005) == 0

    # when, then
    assert made._late_s(server_s=6.000, asked_at=101.0000, answered_at=101.0305) == pytest.approx(0.030, abs=1e-3)
    assert made._late_s(server_s=2.000, asked_at=101.1000, answered_at=101.1305) <= 0.0306  # its clock was set back


# -- a server that comes and goes ------------------------------------------------------------------------------------


def test_a_restart_keeps_the_slots_and_the_pace(own_redis):
    # given
    clock = Clock()
    made = RedisLimiter(own_redis.url, {"m": [Limit(1, 10.0)]}, clock=clock)
    other = RedisLimiter(own_redis.url, {"m": [Limit(1, 10.0)]}, clock=clock)
    before = departures(made, clock, 3)
    other.throttled("m", "burst")

    # when
    own_redis.restart()

    # then
    assert other.acquire("m") > before[-1] - clock.now + 10
    assert other.rate("m") == pytest.approx(0.1 * 0.25 * (1 - 0.008), rel=1e-3)


def test_a_worker_finds_a_restarted_server_without_an_error(own_redis):
    made = RedisLimiter(own_redis.url, TWENTY)
    made.acquire("m")
    own_redis.restart()
    made.acquire("m")


def test_across_a_wipe_no_window_holds_more_than_one_call_too_many(own_redis):
    # given: three workers that use every slot, and never hold more than a few
    clock = Clock()
    workers = itertools.cycle([RedisLimiter(own_redis.url, TWENTY, clock=clock) for _ in range(3)])
    times = []

    def work(calls):
        for _ in range(calls):
            at = clock.now + next(workers).acquire("m")
            times.append(at)
            clock.now = max(clock.now, at - 0.2)  # a fifth of a second ahead

    # when
    work(50)
    own_redis.wipe()
    work(50)

    # then
    assert most_in_a_window(times, 1.0) <= 21


def test_a_wipe_while_slots_are_held_far_ahead_begins_behind_them(own_redis):
    clock = Clock()
    workers = [RedisLimiter(own_redis.url, TWENTY, clock=clock) for _ in range(3)]
    times = [clock.now + worker.acquire("m") for _ in range(20) for worker in workers]
    own_redis.wipe()
    times += [clock.now + worker.acquire("m") for _ in range(20) for worker in workers]
    assert most_in_a_window(times, 1.0) <= 21


def test_after_a_wipe_the_lane_goes_on_within_a_window(own_redis):
    clock = Clock()
    made = RedisLimiter(own_redis.url, TWENTY, clock=clock)
    made.acquire("m")
    clock.now += 0.5
    own_redis.wipe()
    waits = [made.acquire("m") for _ in range(3)]
    assert waits == pytest.approx([1.0 + n * 0.05 / 0.992 for n in (1, 2, 3)], abs=TICK)


def test_a_wipe_while_idle_costs_nothing_and_allows_one_slot_now(own_redis):
    clock = Clock()
    made = RedisLimiter(own_redis.url, TWENTY, clock=clock)
    made.acquire("m")
    clock.now += 60
    own_redis.wipe()
    waits = [made.acquire("m") for _ in range(3)]
    assert waits == pytest.approx([0, 0.05 / 0.992, 0.1 / 0.992], abs=TICK)


def test_no_server_means_no_slot_within_about_a_second_and_work_goes_on_when_it_is_back(own_redis):
    # given
    made = RedisLimiter(own_redis.url, TWENTY)
    made.acquire("m")
    own_redis.kill()

    # when, then
    began = time.monotonic()
    with pytest.raises(LimiterUnavailable, match="PACKSHOT_REDIS_URL"):
        made.acquire("m")
    assert time.monotonic() - began < 1.5

    # when, then
    own_redis.start()
    assert made.acquire("m") < 1


def test_a_silent_server_means_no_slot_within_about_a_second(own_redis):
    made, fresh = RedisLimiter(own_redis.url, TWENTY), RedisLimiter(own_redis.url, TWENTY)
    made.acquire("m")
    own_redis.freeze()
    try:
        began = time.monotonic()
        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(limiter.acquire, "m") for limiter in (made, fresh) * 4]
        assert [type(one.exception()) for one in asked] == [LimiterUnavailable] * 8
        assert time.monotonic() - began < 2.5
    finally:
        own_redis.thaw()
    assert made.acquire("m") < 1
    assert fresh.acquire("m") < 1


def test_news_for_a_server_that_is_gone_is_lost_without_an_error(own_redis):
    # given
    made = RedisLimiter(own_redis.url, TWENTY)
    made.acquire("m")
    made.throttled("m", "burst")
    own_redis.kill()

    # when, then
    with capture_logs() as logs:
        made.throttled("m", "rate")
        made.succeeded("m")
        made.give_back("m")
    assert {line["event"] for line in logs} == {"the shared limiter was not told"}


def test_a_rate_that_cannot_be_asked_for_is_the_configured_one(own_redis):
    made = RedisLimiter(own_redis.url, TWENTY)
    own_redis.kill()
    assert made.rate("m") == pytest.approx(20 * 0.992, rel=1e-3)
    began = time.monotonic()
    for _ in range(100):
        made.rate("m")
    assert time.monotonic() - began < 0.5


def test_a_server_that_is_full_means_no_slot_until_there_is_room(own_redis):
    made = RedisLimiter(own_redis.url, TWENTY)
    with own_redis.client() as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(LimiterUnavailable, match="maxmemory"):
            made.acquire("m")
        client.config_set("maxmemory", "0")
    assert made.acquire("m") == 0


def test_a_replica_that_takes_no_writes_means_no_slot(redis, account):
    with RedisProcess(replicaof=f"127.0.0.1 {redis.port}") as replica:
        made = RedisLimiter(replica.url, TWENTY, account=account)
        with pytest.raises(LimiterUnavailable, match="read only"):
            made.acquire("m")


def test_a_wrong_password_means_no_slot_and_stays_out_of_the_message():
    with RedisProcess(requirepass="right-one") as locked:
        made = RedisLimiter(locked.url.replace("redis://", "redis://:wrong-one@"), TWENTY)
        with pytest.raises(LimiterUnavailable) as caught:
            made.acquire("m")
    assert "wrong-one" not in str(caught.value)


def test_an_address_that_is_none_is_a_setting_to_correct():
    with pytest.raises(SettingsError, match="PACKSHOT_REDIS_URL"):
        RedisLimiter("http://127.0.0.1:1", TWENTY)

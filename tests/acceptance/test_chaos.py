"""Everything killed, wiped, restarted and refused at once; the promise holds (`chaos.py` says how)."""

from pathlib import Path

import pytest

from emulator.faults import FAULTS
from tests.acceptance.chaos import DECK, LONG_ONLY, ONCE, SHARES, chaos_in, print_report, schedule
from tests.servers.postgres import PostgresProcess


@pytest.mark.timeout(600)
def test_a_minute_of_everything_at_once_loses_nothing_and_pays_nothing_unaccounted(
    tmp_path: Path, postgres: PostgresProcess, postgres_url: str
):
    differences, table = chaos_in(tmp_path, postgres, postgres_url, jobs=250, seconds=60, seed=4)
    print_report(differences, table)
    assert differences == []


def test_the_same_seed_is_the_same_night():
    assert schedule(7, 300) == schedule(7, 300) != schedule(8, 300)


def test_a_minute_has_everything_in_it_and_a_long_night_more_of_it():
    minute = {event.what for event in schedule(4, 60)}
    night = [event.what for event in schedule(4, 300)]
    assert minute == set(DECK) | set(ONCE)
    assert set(night) == set(DECK) | set(ONCE) | set(LONG_ONLY)
    assert len(night) > 40


def test_every_fault_of_the_emulator_takes_part():
    by_schedule = {"throttled_burst", "throttled_quota", "arrears"}
    stops_the_account = {"bad_key", "free_tier_only", "free_quota_used_up", "model_denied"}  # as arrears does
    stops_the_account |= {"not_purchased", "prepaid_overdue", "postpaid_overdue"}
    as_others = {"request_timeout", "gateway_json", "download_failed"}  # tried again as http_500 and gateway_html are
    assert set(SHARES) | by_schedule | stops_the_account | as_others == set(FAULTS)
    assert sum(SHARES.values()) < 0.25

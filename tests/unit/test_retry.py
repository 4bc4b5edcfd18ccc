import pytest

from models.errors import (
    AccountStopped,
    LedgerUnavailable,
    NotSent,
    OutcomeUnknown,
    PictureError,
    Rejected,
    ResultLost,
    SettingsError,
    SlotMissed,
    StorageRefused,
    StorageUnavailable,
    Throttled,
    Transient,
    Unsendable,
)
from worker.retry import NOT_SENT_TRIES, Again, AskExposure, GiveUp, StopBatch, copy_wait_s, decide


def after(error, tries=1, max_tries=5, chance=0.5, throttles=1, unsent=0):
    return decide(error, tries=tries, max_tries=max_tries, chance=chance, throttles=throttles, unsent=unsent)


def test_what_was_not_sent_is_tried_again_and_counted():
    assert after(NotSent("ConnectionRefused", "no"), chance=0.5) == Again(0.75, counted=True)


@pytest.mark.parametrize(("chance", "minutes"), [(0.0, 3), (1.0, 6)])
def test_what_was_not_sent_is_tried_for_some_minutes_whatever_the_dice_say(chance, minutes):
    error, waited_s, unsent = NotSent("ConnectFailed", "no route"), 0.0, 0
    while isinstance(then := after(error, tries=unsent + 1, chance=chance, unsent=unsent), Again):
        waited_s, unsent = waited_s + then.wait_s, unsent + 1
    assert then == GiveUp("ConnectFailed", "no route")
    assert minutes <= waited_s / 60 < minutes + 1
    assert unsent + 1 == NOT_SENT_TRIES


def test_tries_that_never_left_the_house_are_not_held_against_the_provider():
    assert isinstance(after(Transient("InternalError", "oops", tries=4), tries=11, unsent=8), Again)
    assert isinstance(after(Transient("InternalError", "oops", tries=4), tries=12, unsent=8), GiveUp)
    assert isinstance(after(NotSent("ConnectFailed", "no"), tries=14, unsent=10), Again)


def test_an_error_of_our_own_would_meet_every_try():
    assert after(Unsendable("Unsendable", "ValueError: x")) == GiveUp("Unsendable", "ValueError: x")


def test_the_last_try_gives_up_with_the_provider_s_words():
    assert after(Transient("InternalError", "oops"), tries=5) == GiveUp("InternalError", "oops")


def test_an_advice_is_told_when_giving_up():
    error = Transient("RequestTimeOut", "timed out", tries=3, advice="ask for a smaller size")
    assert after(error, tries=3) == GiveUp("RequestTimeOut", "timed out (ask for a smaller size)")


def test_the_back_off_doubles_to_a_minute_and_jitters_over_the_whole_range():
    error = Transient("ServerTrouble", "no")
    ceilings = [decide(error, tries=n, max_tries=99, chance=1.0).wait_s for n in range(1, 9)]
    assert ceilings == [1, 2, 4, 8, 16, 32, 60, 60]
    assert decide(error, tries=98, max_tries=99, chance=1.0).wait_s == 60
    assert decide(error, tries=5, max_tries=99, chance=0.0).wait_s == 0
    assert decide(error, tries=5, max_tries=99, chance=0.25).wait_s == 4


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_no_wait_is_shorter_than_the_provider_advises(chance):
    assert after(Transient("ModelServingError", "busy", wait_s=30), chance=chance).wait_s >= 30
    assert after(Throttled("Throttling", "slow", wait_s=5), chance=chance).wait_s >= 5
    assert after(Throttled("X", "slow", wait_s=200), chance=chance).wait_s == 200


def test_a_code_worth_fewer_tries_than_the_setting_gets_fewer():
    error = Transient("InternalError.Timeout", "3 h", tries=2)
    assert isinstance(after(error, tries=1), Again)
    assert isinstance(after(error, tries=2), GiveUp)


def test_a_setting_of_fewer_tries_than_a_code_is_worth_wins():
    assert isinstance(after(Transient("InternalError", "", tries=4), tries=1, max_tries=1), GiveUp)


@pytest.mark.parametrize("kind", ["rate", "burst", "quota"])
def test_a_throttle_is_waiting_and_not_failing_however_often(kind):
    decision = after(Throttled("Throttling", "slow", kind=kind), tries=5, max_tries=5, throttles=1000)
    assert isinstance(decision, Again)
    assert not decision.counted
    assert decision.wait_s <= 60


def test_a_rate_throttle_waits_at_most_the_window():
    waits = [after(Throttled("T", "", wait_s=5), throttles=n, chance=1.0).wait_s for n in range(1, 7)]
    assert waits == [10, 20, 40, 60, 60, 60]


def test_a_burst_throttle_waits_ten_seconds_at_least_and_more_each_time():
    burst = Throttled("Throttling.BurstRate", "", kind="burst")
    assert [after(burst, throttles=n, chance=0.0).wait_s for n in (1, 2, 9)] == [10, 10, 10]
    assert [after(burst, throttles=n, chance=1.0).wait_s for n in (1, 2, 3, 9)] == [20, 40, 60, 60]


def test_a_copy_is_tried_soon_then_ever_less_often_and_no_longer_than_a_setting_says_until_it_is_stuck():
    def waits(chance: float, longest_s: float = 60.0) -> list[float]:
        return [copy_wait_s(n, chance, longest_s=longest_s, stuck=n > 6) for n in range(1, 9)]

    assert waits(0.5) == [1, 2, 4, 8, 16, 30, 600, 600]
    assert waits(1.0, longest_s=2.0) == [1.5, 2, 2, 2, 2, 2, 900, 900]
    assert waits(0.0)[-1] == 300


def test_an_unknown_outcome_is_for_the_exposure_rule():
    assert after(OutcomeUnknown("Reset", "gone")) == AskExposure("Reset", "gone")


def test_a_missed_slot_is_no_try_and_is_waited_for_no_longer_than_a_second():
    assert after(SlotMissed("SlotMissed", "late"), chance=1.0) == Again(1.0, counted=False)
    assert after(SlotMissed("SlotMissed", "late"), tries=5, chance=0.0) == Again(0.0, counted=False)


def test_an_account_that_is_stopped_stops_the_batch_with_advice():
    error = AccountStopped("Arrearage", "Access denied", advice="pay")
    assert after(error) == StopBatch("Arrearage", "Access denied", "pay")


@pytest.mark.parametrize("error", [SettingsError("no key"), StorageRefused("no bucket")])
def test_what_only_a_person_can_mend_stops_the_batch(error):
    decision = after(error)
    assert isinstance(decision, StopBatch)
    assert decision.advice


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Rejected("InvalidParameter", "size"), "InvalidParameter"),
        (PictureError("PictureChanged", "changed"), "PictureChanged"),
        (ResultLost("expired"), "ResultLost"),
    ],
)
def test_what_will_never_pass_fails_the_job_at_once(error, code):
    assert isinstance(decision := after(error), GiveUp)
    assert decision.code == code


@pytest.mark.parametrize("error", [StorageUnavailable("busy"), LedgerUnavailable("locked")])
def test_our_own_servers_trouble_is_tried_again(error):
    assert isinstance(after(error), Again)

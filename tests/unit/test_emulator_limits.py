from emulator.limits import Limits
from models.catalogue import Limit


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def called(limits: Limits, model: str) -> bool:
    return limits.admit(model, limits._clock())


def test_a_call_counts_from_its_arrival_however_long_its_pictures_are_looked_at():
    limits = Limits(Clock(), {"qwen-image-2.0": (Limit(2, 1.0),)})
    assert limits.admit("qwen-image-2.0", 1000.5)
    assert limits.admit("qwen-image-2.0", 1000.0)  # arrived before, looked at later

    assert not limits.admit("qwen-image-2.0", 1000.9)
    assert limits.admit("qwen-image-2.0", 1001.0)


def test_a_call_whose_body_came_in_slowly_is_not_refused_for_later_ones():
    limits = Limits(Clock(), {"qwen-image-2.0": (Limit(2, 1.0),)})
    assert all(limits.admit("qwen-image-2.0", moment) for moment in (1000.6, 1001.2, 1001.7))

    assert limits.admit("qwen-image-2.0", 1000.0)
    assert limits.admit("qwen-image-2.0", 1000.1)
    assert not limits.admit("qwen-image-2.0", 1000.2)


def test_a_call_refused_for_another_reason_gives_its_place_back():
    limits = Limits(Clock(), {"qwen-image-2.0": (Limit(1, 1.0),)})
    limits.admit("qwen-image-2.0", 1000.0)

    limits.give_back("qwen-image-2.0", 1000.0)

    assert limits.admit("qwen-image-2.0", 1000.0)


def test_a_window_takes_its_calls_and_no_more():
    limits = Limits(Clock(), {"qwen-image-2.0": (Limit(2, 1.0),)})

    admitted = [called(limits, "qwen-image-2.0") for _ in range(4)]

    assert admitted == [True, True, False, False]


def test_the_window_slides_with_the_oldest_call():
    clock = Clock()
    limits = Limits(clock, {"qwen-image-2.0-pro": (Limit(2, 60.0),)})
    called(limits, "qwen-image-2.0-pro")
    clock.now += 30
    called(limits, "qwen-image-2.0-pro")

    clock.now += 29.9
    early = called(limits, "qwen-image-2.0-pro")
    clock.now += 0.1
    in_time = called(limits, "qwen-image-2.0-pro")

    assert (early, in_time) == (False, True)


def test_a_refused_call_does_not_occupy_the_window():
    clock = Clock()
    limits = Limits(clock, {"qwen-image-2.0": (Limit(1, 1.0),)})
    called(limits, "qwen-image-2.0")
    clock.now += 0.9
    assert not called(limits, "qwen-image-2.0")

    clock.now += 0.1

    assert called(limits, "qwen-image-2.0")


def test_a_snapshot_is_counted_apart_from_its_alias():
    limits = Limits(Clock())
    for _ in range(2):
        assert called(limits, "qwen-image-2.0-pro")

    assert not called(limits, "qwen-image-2.0-pro")
    assert called(limits, "qwen-image-2.0-pro-2026-04-22")


def test_a_model_with_two_limits_keeps_both():
    clock = Clock()
    limits = Limits(clock, {"qwen-image-2.0": (Limit(2, 1.0), Limit(3, 60.0))})

    admitted = []
    for _ in range(3):
        admitted += [called(limits, "qwen-image-2.0"), called(limits, "qwen-image-2.0")]
        clock.now += 1

    assert admitted == [True, True, True, False, False, False]


def test_limits_can_change_while_calls_stay_counted():
    limits = Limits(Clock(), {"qwen-image-2.0": (Limit(1, 60.0),)})
    called(limits, "qwen-image-2.0")

    limits.change({"qwen-image-2.0": (Limit(2, 60.0),)})

    assert [called(limits, "qwen-image-2.0") for _ in range(2)] == [True, False]


def test_upload_policies_are_limited_to_a_hundred_a_second():
    clock = Clock()
    limits = Limits(clock)

    admitted = sum(limits.admit_policy("qwen-image-2.0") for _ in range(120))
    clock.now += 1

    assert admitted == 100
    assert limits.admit_policy("qwen-image-2.0")

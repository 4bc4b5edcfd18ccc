import pytest

from emulator.faults import FAULTS, Faults, parse_share, parse_wanted


def taken(faults: Faults, calls: int, model: str = "qwen-image-2.0", prompt: str = "a mug") -> list[str | None]:
    names = []
    for ordinal in range(1, calls + 1):
        wanted = faults.at_door(ordinal) or faults.take(ordinal, model, prompt)
        names.append(wanted.fault.name if wanted else None)
    return names


def test_faults_asked_for_come_in_order_and_then_stop():
    faults = Faults(queue=[parse_wanted({"fault": "http_500", "times": 2}), parse_wanted({"fault": "refused"})])

    assert taken(faults, 5) == ["http_500", "http_500", "refused", None, None]


def test_a_fault_waits_for_the_call_it_was_asked_for():
    faults = Faults(queue=[parse_wanted({"fault": "http_500", "prompt_contains": "watch"})])

    assert taken(faults, 2, prompt="a mug") == [None, None]
    assert taken(faults, 2, prompt="a watch") == ["http_500", None]


def test_a_fault_for_one_model_leaves_the_others_alone():
    faults = Faults(queue=[parse_wanted({"fault": "arrears", "model": "qwen-image-3.0"})])

    assert taken(faults, 1, model="qwen-image-2.0") == [None]
    assert taken(faults, 1, model="qwen-image-3.0") == ["arrears"]


def test_the_same_seed_replays_the_same_faults():
    shares = {"http_500": 0.2, "dropped_after_billing": 0.1}

    first, again = taken(Faults(shares, seed=4), 300), taken(Faults(shares, seed=4), 300)
    other = taken(Faults(shares, seed=5), 300)

    assert first == again != other


def test_faults_come_in_about_the_share_that_was_asked_for():
    found = taken(Faults({"http_500": 0.2, "refused": 0.1}, seed=1), 3000)

    assert 500 < found.count("http_500") < 700
    assert 220 < found.count("refused") < 380


def test_a_share_of_one_means_every_call():
    assert taken(Faults({"slow": 1.0}), 20) == ["slow"] * 20


@pytest.mark.parametrize("text", ["http_500", "http_500=", "http_500=2", "http_500=-0.1", "http_500=x", "flood=0.1"])
def test_a_share_that_cannot_be_meant_is_refused_with_the_way_out(text):
    with pytest.raises(ValueError, match="write"):
        parse_share(text)


@pytest.mark.parametrize(
    "order",
    [
        "http_500",
        {},
        {"fault": "flood"},
        {"fault": "slow", "times": 0},
        {"fault": "slow", "times": True},
        {"fault": "slow", "seconds": "3"},
        {"fault": "slow", "sku": "A"},
        {"fault": "slow", "model": 3},
        {"fault": "refused", "model": "qwen-image-2.0"},
    ],
)
def test_an_order_that_cannot_be_meant_is_refused(order):
    with pytest.raises(ValueError):
        parse_wanted(order)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_says_what_it_does_and_contradicts_itself_nowhere(fault):
    assert fault.sentence.endswith(".")
    if fault.refusal:
        assert not fault.billed
        assert fault.ending is None
        assert fault.refusal.code
        assert fault.refusal.message
    if fault.download or fault.withheld or fault.ending in ("half", "no_usage"):
        assert fault.billed, "something is delivered, so something is billed"


def test_there_is_a_fault_for_every_kind_of_429():
    kinds = {(fault.refusal.code, fault.refusal.message) for fault in FAULTS.values() if fault.refusal}

    assert {code for code, _ in kinds} >= {
        "Throttling",
        "Throttling.RateQuota",
        "Throttling.BurstRate",
        "Throttling.AllocationQuota",
        "CommodityNotPurchased",
        "PrepaidBillOverdue",
        "PostpaidBillOverdue",
    }
    assert ("Throttling.AllocationQuota", "Free allocated quota exceeded.") in kinds

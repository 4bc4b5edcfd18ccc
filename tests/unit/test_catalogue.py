"""One test over every entry of the catalogue, and the arithmetic of sizes, tiers and prices."""

from dataclasses import replace
from datetime import date, timedelta

import pytest

from models import catalogue
from models.catalogue import (
    CATALOGUE,
    DEFAULT_MODEL,
    GRID_PX,
    REGIONS,
    TIER_BORDER_PX,
    Limit,
    Price,
    did_you_mean,
    parse_limits,
    parse_prices,
    parse_size,
    with_overrides,
)
from models.money import CURRENCIES

TODAY = date(2026, 11, 23)
KNOWN_PARAMETERS = {
    "n",
    "size",
    "negative_prompt",
    "prompt_extend",
    "prompt_extend_mode",
    "enable_thinking",
    "seed",
    "watermark",
}
MODELS = sorted(CATALOGUE.values(), key=lambda model: model.id)
EDITS = [model for model in MODELS if model.edits]


def named(models):
    return pytest.mark.parametrize("model", models, ids=lambda model: model.id)


# -- every entry ----------------------------------------------------------------------------------


@named(MODELS)
def test_an_entry_says_where_it_is_offered_and_how_it_answers(model):
    assert set(model.regions) <= set(REGIONS)
    assert model.regions
    assert model.usage in ("flat", "split")
    assert model.parameters <= KNOWN_PARAMETERS
    assert ("size" in model.parameters) == (model.size is not None) or not model.edits
    assert ("negative_prompt" in model.parameters) == (model.negative_chars != 0)
    assert bool(model.why_not) == (not model.edits)


@named(EDITS)
def test_a_model_that_edits_has_limits_and_takes_something_to_edit(model):
    assert model.limits
    assert all(limit.requests >= 1 and limit.window_s > 0 for limit in model.limits)
    assert model.pictures_max >= 1
    assert model.n_max >= 1


@named(EDITS)
def test_every_region_of_a_model_has_one_price_in_one_currency_or_a_reason(model):
    for region in model.regions:
        tiers = ("1k", "2k") if model.sized_price else (None,)
        found = [model.price(region, TODAY, tier) for tier in tiers]
        if None in found:
            assert any(region in note and "PACKSHOT_PRICES" in note for note in model.notes), region
            continue
        assert all(price.micros > 0 and price.currency in CURRENCIES for price in found)
        assert len({price.currency for price in found}) == 1
        assert found[0].currency == model.currency(region)
        keys = [(p.tier, p.since) for p in model.prices if p.region == region]
        assert len(keys) == len(set(keys)), "two prices of one day"


@named(EDITS)
def test_a_size_rule_is_an_area_or_a_side_and_its_ends_are_sizes(model):
    rule = model.size
    if rule is None:
        return
    assert (rule.min_px is None) != (rule.min_side is None)
    if rule.min_side is not None:
        assert 0 < rule.min_side < rule.max_side
        assert parse_size(f"{rule.max_side}*{rule.min_side}") == (rule.max_side, rule.min_side)
    else:
        assert 0 < rule.min_px < rule.max_px <= (rule.seen_px or rule.max_px)


@named([model for model in MODELS if model.alias_of])
def test_a_snapshot_that_a_name_stands_for_is_its_equal(model):
    snapshot = CATALOGUE[model.alias_of]

    assert replace(snapshot, id=model.id, alias_of=model.alias_of) == model


@named([model for model in MODELS if model.retires])
def test_a_retired_model_names_one_that_stays(model):
    assert model.retired_on(model.retires)
    assert not model.retired_on(model.retires - timedelta(days=1))
    staying = CATALOGUE[model.replacement]
    assert staying.edits
    assert staying.retires is None


def test_the_default_edits_and_stays():
    assert CATALOGUE[DEFAULT_MODEL].edits
    assert CATALOGUE[DEFAULT_MODEL].retires is None


def test_no_model_is_written_twice():
    ids = [model.id for model in catalogue._models()]

    assert len(ids) == len(set(ids)) == len(CATALOGUE)


@pytest.mark.parametrize("region", REGIONS.values(), ids=lambda region: region.id)
def test_a_region_has_a_shared_host_or_needs_a_workspace(region):
    assert region.base_url("ws-1") == f"https://ws-1.{region.id}.maas.aliyuncs.com/api/v1"
    shared = region.base_url(None)
    assert shared is None or (shared.startswith("https://") and shared.endswith("/api/v1"))


# -- prices ----------------------------------------------------------------------------------

PRO = CATALOGUE["qwen-image-3.0-pro"]


def test_a_day_is_costed_at_the_price_of_that_day():
    rise = date(2026, 11, 1)
    model = replace(
        PRO, sized_price=False, prices=(Price("cn-beijing", "CNY", 10), Price("cn-beijing", "CNY", 12, since=rise))
    )

    def cost(on: date) -> int:
        return model.cost_micros("cn-beijing", on, pictures=3, inputs=0, area_px=None)

    assert [cost(rise - timedelta(days=1)), cost(rise), cost(TODAY)] == [30, 36, 36]


def test_no_price_is_known_before_the_first():
    assert PRO.price("cn-beijing", date(2025, 1, 1), "1k") is None
    with pytest.raises(LookupError, match=r"no price is known for qwen-image-3.0-pro in cn-hongkong"):
        PRO.cost_micros("cn-hongkong", TODAY, pictures=1, inputs=1, area_px=None)


@pytest.mark.parametrize(
    ("area_px", "tier"), [(TIER_BORDER_PX, "1k"), (TIER_BORDER_PX + 1, "2k"), (None, "2k"), (1, "1k")]
)
def test_the_dearer_tier_begins_above_the_border_and_an_unknown_area_counts_as_dear(area_px, tier):
    assert PRO.tier(area_px) == tier
    assert TIER_BORDER_PX == 1500 * 1500


def test_a_model_of_one_price_has_no_tiers():
    assert CATALOGUE["qwen-image-2.0"].tier(None) is None


def test_inputs_are_billed_where_the_model_bills_them_and_only_with_pictures():
    def cost(pictures: int) -> int:
        return PRO.cost_micros("cn-beijing", TODAY, pictures=pictures, inputs=3, area_px=1024 * 1024)

    assert cost(2) == 2 * 250_000 + 3 * 20_000
    assert cost(0) == 0


def test_the_worst_case_rounds_each_side_up_to_the_grid():
    def worst(size: str | None) -> int:
        return PRO.worst_case_micros("cn-beijing", TODAY, n=1, inputs=0, size=size)

    assert worst("1500*1500") == 500_000  # becomes 1504*1504, above the border
    assert worst("1488*1504") == 250_000  # on the grid, below it
    assert worst("1489*1504") == 500_000  # 1504*1504 again
    assert worst(None) == 500_000
    assert GRID_PX == 16


def test_the_worst_case_is_never_below_what_any_answer_to_it_costs():
    for width in range(1400, 1620, 7):
        size = f"{width}*1504"
        most = PRO.worst_case_micros("cn-beijing", TODAY, n=2, inputs=1, size=size)
        for grid_width in (width // GRID_PX * GRID_PX, -(-width // GRID_PX) * GRID_PX):
            for pictures in (0, 1, 2):
                cost = PRO.cost_micros("cn-beijing", TODAY, pictures=pictures, inputs=1, area_px=grid_width * 1504)
                assert cost <= most


# -- what people write ----------------------------------------------------------------------------------


def test_a_size_is_read():
    assert parse_size(" 1024*768 ") == (1024, 768)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("900x600", "write 900*600"),
        ("900 × 600", "write 900*600"),
        ("900,600", "write 900*600"),
        ("１０２４*１０２４", "write 1024*1024"),
        ("９００＊600", "write 900*600"),
        ("big", "write 1024*1024"),
        ("", "write 1024*1024"),
        ("-1*5", "write 1024*1024"),
        ("100000*1", "write 1024*1024"),
    ],
)
def test_a_size_that_is_none_is_refused_with_what_to_write(text, hint):
    with pytest.raises(ValueError, match="is not WIDTH") as raised:
        parse_size(text)

    assert str(raised.value).endswith(hint)


def test_limits_are_read_and_a_model_named_twice_has_both():
    found = parse_limits("qwen-image-2.0=100/1s, qwen-image-2.0=3000/60s,qwen-image-2.0-pro = 30/0.5s,")

    assert found == {
        "qwen-image-2.0": (Limit(100, 1.0), Limit(3000, 60.0)),
        "qwen-image-2.0-pro": (Limit(30, 0.5),),
    }
    assert str(found["qwen-image-2.0-pro"][0]) == "30/0.5s"
    assert found["qwen-image-2.0-pro"][0].per_second == 60.0
    assert parse_limits("") == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("qwen-image-2.0=100", "write qwen-image-2.0=2/1s"),
        ("qwen-image-2.0=100/1", "write qwen-image-2.0=2/1s"),
        ("qwen-image-2.o=2/1s", "did you mean qwen-image-2.0?"),
        ("qwen-image-2.0=0/1s", "lets no request through"),
        ("qwen-image-2.0=1/0s", "lets no request through"),
        ("qwen-image-2.0=-5/1s", "is not MODEL=REQUESTS"),
    ],
)
def test_limits_that_are_none_are_refused_with_what_to_write(text, sentence):
    with pytest.raises(ValueError) as raised:
        parse_limits(text)

    assert sentence in str(raised.value)


def test_prices_are_read():
    found = parse_prices("qwen-image-3.0@cn-hongkong=0.18 CNY + 0.02/input, qwen-image-3.0-pro:2k@us-east-1=0.4 CNY")

    assert found == {
        "qwen-image-3.0": (Price("cn-hongkong", "CNY", 180_000, None, 20_000),),
        "qwen-image-3.0-pro": (Price("us-east-1", "CNY", 400_000, "2k", 20_000),),  # the listed price of an input stays
    }
    assert parse_prices("") == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("qwen-image-2.0=0.2 CNY", "write qwen-image-2.0@cn-beijing=0.18 CNY"),
        ("qwen-image-9@cn-beijing=0.2 CNY", "'qwen-image-9' is not a model; did you mean"),
        ("qwen-image-2.0@beijing=0.2 CNY", "'beijing' is not a region; write one of cn-beijing"),
        ("qwen-image-2.0@cn-beijing=0.2", "names no currency; write 0.2 CNY"),
        ("qwen-image-2.0@cn-beijing=0.2 EUR", "EUR is not billed"),
        ("qwen-image-2.0@cn-beijing=free", "is not an amount of money"),
        (
            "qwen-image-3.0@cn-hongkong=0.18 CNY",
            "listed for cn-hongkong in CNY; write qwen-image-3.0@cn-hongkong=0.18 CNY + AMOUNT/input",
        ),
        ("qwen-image-3.0@cn-beijing=0.03 USD", "write qwen-image-3.0@cn-beijing=0.03 USD + AMOUNT/input"),
        ("qwen-image-3.0-pro:2k@us-east-1=0.08 USD + 0.003/input", "would be billed in CNY and USD in us-east-1"),
        (
            "qwen-image-3.0:1k@us-east-1=1 CNY, qwen-image-3.0:2k@us-east-1=1 USD + 0/input",
            "would be billed in CNY and USD",
        ),
        ("qwen-image-2.0@cn-beijing=0.2 CNY, qwen-image-2.0@cn-beijing=0.3 CNY", "given before; write it once"),
        ("qwen-image-2.0:1k@cn-beijing=0.2 CNY", "one price for every size; write qwen-image-2.0@cn-beijing=0.2 CNY"),
    ],
)
def test_prices_that_are_none_are_refused_with_what_to_write(text, sentence):
    with pytest.raises(ValueError) as raised:
        parse_prices(text)

    assert sentence in str(raised.value)


def test_an_accounts_own_figures_replace_the_listed_ones_and_nothing_else():
    models = with_overrides(parse_limits("qwen-image-3.0=50/60s"), parse_prices("qwen-image-3.0@cn-beijing=0.10 CNY"))
    own, listed = models["qwen-image-3.0"], CATALOGUE["qwen-image-3.0"]

    assert own.limits == (Limit(50, 60.0),)
    for area_px in (1024 * 1024, 2048 * 2048):  # a price without a tier holds for both
        assert own.cost_micros("cn-beijing", TODAY, pictures=1, inputs=0, area_px=area_px) == 100_000
    assert own.price("us-east-1", TODAY, "1k") == listed.price("us-east-1", TODAY, "1k")
    assert {name: model for name, model in models.items() if name != "qwen-image-3.0"} == {
        name: model for name, model in CATALOGUE.items() if name != "qwen-image-3.0"
    }


@pytest.mark.parametrize(
    ("text", "one_input"),
    [
        ("qwen-image-3.0@cn-beijing=0.15 CNY", 20_000),
        ("qwen-image-3.0@ap-southeast-1=0.15 USD", 3_000),
        ("qwen-image-3.0@cn-beijing=0.15 CNY + 0.01/input", 10_000),
        ("qwen-image-3.0@cn-beijing=0.15 CNY + 0/input", 0),
        ("qwen-image-3.0@cn-beijing=0.15 USD + 0.003/input", 3_000),
        ("qwen-image-2.0@cn-beijing=0.15 CNY", 0),
    ],
)
def test_the_listed_price_of_an_input_stays_unless_another_is_given(text, one_input):
    name, _, region = text.partition("=")[0].partition("@")
    own = with_overrides(prices=parse_prices(text))[name]

    assert own.cost_micros(region, TODAY, pictures=1, inputs=2, area_px=1024**2) == 150_000 + 2 * one_input


def test_a_price_of_one_tier_wins_over_one_for_all_sizes():
    text = "qwen-image-3.0-pro@cn-beijing=0.30 CNY, qwen-image-3.0-pro:1k@cn-beijing=0.10 CNY"
    own = with_overrides(prices=parse_prices(text))["qwen-image-3.0-pro"]

    costs = [own.cost_micros("cn-beijing", TODAY, pictures=1, inputs=0, area_px=area) for area in (1024**2, 2048**2)]

    assert costs == [100_000, 300_000]


def test_a_price_of_one_tier_leaves_the_other():
    own = with_overrides(prices=parse_prices("qwen-image-3.0-pro:1k@cn-beijing=0.10 CNY"))["qwen-image-3.0-pro"]

    costs = [own.cost_micros("cn-beijing", TODAY, pictures=1, inputs=0, area_px=area) for area in (1024**2, 2048**2)]

    assert costs == [100_000, 500_000]


def test_a_missing_price_can_be_given():
    own = with_overrides(prices=parse_prices("qwen-image-3.0@cn-hongkong=0.18 CNY + 0.02/input"))["qwen-image-3.0"]

    assert own.currency("cn-hongkong") == "CNY"
    assert own.worst_case_micros("cn-hongkong", TODAY, n=1, inputs=1, size=None) == 200_000


def test_a_name_that_is_nothing_like_any_gets_the_list():
    assert did_you_mean("qwen-image-2", ["qwen-image-2.0", "z"]) == "did you mean qwen-image-2.0?"
    assert did_you_mean("photo", ["a", "b"]) == "write one of a, b"

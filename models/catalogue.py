"""Every image model of the provider: what it takes, what it yields, how often, at what price, until when.

One entry a model id; a snapshot is an entry of its own, because the provider counts requests for each id apart.
Adding a model is adding one entry to `_models()`. Facts and figures are the provider's pages of autumn 2026
(API reference, rate-limit, price and retirement pages). What those pages leave open is None here; where there must be
a value for anything to work, it is marked `assumed`, with the open question. Limits and prices can be overridden by
settings because they move.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime

from models.money import parse_amount
from models.pictures import SIDE_MAX_PX, SIDE_MAX_PX_ELSE, SIDE_MIN_PX

BEIJING, SINGAPORE, VIRGINIA, FRANKFURT, TOKYO, HONGKONG = (
    "cn-beijing",
    "ap-southeast-1",
    "us-east-1",
    "eu-central-1",
    "ap-northeast-1",
    "cn-hongkong",
)
EVERYWHERE = (BEIJING, SINGAPORE, VIRGINIA, FRANKFURT, TOKYO, HONGKONG)
TWO_REGIONS = (BEIJING, SINGAPORE)

TIER_BORDER_PX = 2_250_000  # output area above which 3.0 bills its 2k tier
# Outputs are moved to multiples of this per side: documented for 2.0 and edit. assumed for 3.0 and 2.1: all sizes seen
# are such multiples, how they are rounded is open; money is safe, since the worst case rounds up.
GRID_PX = 16
# assumed: the price page names prices and no day from which they hold, so they hold since the first model appeared.
FIRST_KNOWN = date(2025, 9, 1)


@dataclass(frozen=True)
class Region:
    """Where calls go. shared_host is None where only workspace-dedicated hosts exist."""

    id: str
    name: str
    shared_host: str | None

    def base_url(self, workspace_id: str | None) -> str | None:
        """`https://host/api/v1`, or None where the region needs a workspace id and none is given."""
        if workspace_id:
            return f"https://{workspace_id}.{self.id}.maas.aliyuncs.com/api/v1"
        return f"{self.shared_host}/api/v1" if self.shared_host else None


REGIONS = {
    region.id: region
    for region in (
        Region(BEIJING, "China North 2 (Beijing)", "https://dashscope.aliyuncs.com"),
        Region(SINGAPORE, "Singapore", "https://dashscope-intl.aliyuncs.com"),
        Region(VIRGINIA, "US (Virginia)", "https://dashscope-us.aliyuncs.com"),
        Region(FRANKFURT, "Germany (Frankfurt)", None),
        Region(TOKYO, "Japan (Tokyo)", None),
        Region(HONGKONG, "China (Hong Kong)", "https://cn-hongkong.dashscope.aliyuncs.com"),
    )
}


@dataclass(frozen=True)
class Limit:
    """`requests` calls in any window of `window_s` seconds; per main account and model id; calls, not pictures."""

    requests: int
    window_s: float

    @property
    def per_second(self) -> float:
        return self.requests / self.window_s

    def __str__(self) -> str:
        return f"{self.requests}/{self.window_s:g}s"


@dataclass(frozen=True)
class Price:
    """Micro-units per delivered picture, and per input picture where inputs are billed.

    tier: `1k`, `2k` where the output area decides the price, else None
    """

    region: str
    currency: str
    micros: int
    tier: str | None = None
    input_micros: int = 0
    since: date = FIRST_KNOWN


@dataclass(frozen=True)
class SizeRule:
    """Which `W*H` a model takes.

    Either an area (min_px..max_px, ratio at most ratio_max) or each side (min_side..max_side).
    seen_px: area that was seen to work although the documents stop at max_px; between the two is a warning.
    """

    min_px: int | None = None
    max_px: int | None = None
    ratio_max: float | None = None
    min_side: int | None = None
    max_side: int | None = None
    seen_px: int | None = None


AREA_2K = SizeRule(min_px=512 * 512, max_px=2048 * 2048)
AREA_2K_RATIO = replace(AREA_2K, ratio_max=8.0)
AREA_30 = replace(AREA_2K_RATIO, seen_px=2560 * 2560)
SIDES_2K = SizeRule(min_side=512, max_side=2048)


@dataclass(frozen=True)
class Model:
    """One model id.

    edits:            False for models that only draw from text; they are listed so that a manifest that names one
                      is told so, instead of `unknown model`
    pictures_max:     input pictures of one edit
    n_max:            pictures of one call
    size:             None where the parameter is not supported
    sized_price:      the price depends on the output size: `size` is always sent
    prompt_tokens:    documented length; longer prompts are silently cut by the provider. None = not documented
    prompt_advised:   tokens the documents advise not to pass; what becomes of a longer prompt is open
    sides_advised:    shortest and longest side of an input, in px, as the documents advise. None = not documented
    negative_chars:   longest negative prompt; 0 = not supported; None = supported, length not documented
    parameters:       what the model accepts in `parameters`
    usage:            shape of the answer's usage: `flat` (image_count...) or `split` (input_/output_...)
    retires:          announced last day; calls may fail from then on
    """

    id: str
    family: str
    limits: tuple[Limit, ...]
    prices: tuple[Price, ...]
    regions: tuple[str, ...]
    pictures_max: int = 3
    n_max: int = 6
    size: SizeRule | None = None
    sized_price: bool = False
    prompt_tokens: int | None = None
    prompt_advised: int | None = None
    sides_advised: tuple[int, int] | None = None
    negative_chars: int | None = 500
    parameters: frozenset[str] = frozenset({"n", "size", "negative_prompt", "prompt_extend", "seed", "watermark"})
    usage: str = "flat"
    asynchronous: bool = False
    edits: bool = True
    why_not: str = ""
    alias_of: str | None = None
    retires: date | None = None
    replacement: str | None = None
    notes: tuple[str, ...] = field(default=())

    def price(self, region: str, on: date, tier: str | None = None) -> Price | None:
        """The price in force on a day, or None where none is known for the region."""
        fitting = [p for p in self.prices if p.region == region and p.tier in (None, tier) and p.since <= on]
        return max(fitting, key=lambda p: p.since, default=None)

    def tier(self, area_px: int | None) -> str | None:
        """Price tier of an output area; an unknown area counts as the dearer one."""
        if not self.sized_price:
            return None
        return "1k" if area_px is not None and area_px <= TIER_BORDER_PX else "2k"

    def cost_micros(self, region: str, on: date, *, pictures: int, inputs: int, area_px: int | None) -> int:
        """What a call that delivered `pictures` of `area_px` costs. Nothing delivered, nothing billed.

        Raises LookupError where no price is known.
        """
        if pictures <= 0:
            return 0
        price = self.price(region, on, self.tier(area_px))
        if price is None:
            raise LookupError(f"no price is known for {self.id} in {region}")
        return price.micros * pictures + price.input_micros * inputs

    def worst_case_micros(self, region: str, on: date, *, n: int, inputs: int, size: str | None) -> int:
        """The most a call can cost: all pictures delivered, each side rounded up to the grid."""
        area = None
        if size is not None:
            width, height = parse_size(size)
            area = math.ceil(width / GRID_PX) * GRID_PX * math.ceil(height / GRID_PX) * GRID_PX
        return self.cost_micros(region, on, pictures=n, inputs=inputs, area_px=area)

    def currency(self, region: str) -> str | None:
        return next((p.currency for p in self.prices if p.region == region), None)

    @property
    def bills_inputs(self) -> bool:
        return any(price.input_micros for price in self.prices)

    def retired_on(self, day: date) -> bool:
        return self.retires is not None and day >= self.retires


_SIZE = re.compile(r"([0-9]{1,5})\*([0-9]{1,5})")


def parse_size(text: str) -> tuple[int, int]:
    """`1024*768` -> (1024, 768). Raises ValueError, in words fit to print; the asterisk is the native wire form."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        guess = re.match(r"^\s*(\d{2,5})\s*[xX×*＊, ]\s*(\d{2,5})\s*$", text)
        hint = f"{int(guess[1])}*{int(guess[2])}" if guess else "1024*1024"
        raise ValueError(f"{text!r} is not WIDTH*HEIGHT; write {hint}")
    return int(match[1]), int(match[2])


def parse_limits(text: str) -> dict[str, tuple[Limit, ...]]:
    """`qwen-image-2.0=100/1s,qwen-image-2.0-pro=30/60s` -> limits by model; a model named twice has both limits.

    Raises ValueError, in words fit to print.
    """
    limits: dict[str, tuple[Limit, ...]] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = re.match(r"^([\w.\-]+)\s*=\s*([0-9]+)\s*/\s*([0-9]+(?:\.[0-9]+)?)s$", part)
        if not match:
            raise ValueError(f"{part!r} is not MODEL=REQUESTS/SECONDSs; write qwen-image-2.0=2/1s")
        if match[1] not in CATALOGUE:
            raise ValueError(f"{match[1]!r} is not a model; {did_you_mean(match[1])}")
        requests, window_s = int(match[2]), float(match[3])
        if requests < 1 or window_s <= 0:
            raise ValueError(f"{part!r} lets no request through; write at least 1/1s")
        limits[match[1]] = (*limits.get(match[1], ()), Limit(requests, window_s))
    return limits


def parse_prices(text: str) -> dict[str, tuple[Price, ...]]:
    """`qwen-image-3.0@cn-hongkong=0.18 CNY + 0.02/input` (also `MODEL:1k@...`, `MODEL:2k@...`) -> prices by model.

    For what the price page leaves open, or a contract that differs from it. Where the model bills inputs and `/input`
    is left out, the listed price of an input stays. Raises ValueError, in words fit to print.
    """
    prices: dict[str, tuple[Price, ...]] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = re.match(r"^([\w.\-]+?)(?::(1k|2k))?@([\w\-]+)\s*=\s*([^+]+?)(?:\s*\+\s*([0-9.]+)\s*/input)?$", part)
        if not match:
            raise ValueError(f"{part!r} is not MODEL@REGION=AMOUNT CURRENCY; write qwen-image-2.0@cn-beijing=0.18 CNY")
        name, tier, region, amount, per_input = match.groups()
        if name not in CATALOGUE:
            raise ValueError(f"{name!r} is not a model; {did_you_mean(name)}")
        if region not in REGIONS:
            raise ValueError(f"{region!r} is not a region; write one of {', '.join(REGIONS)}")
        if tier and not CATALOGUE[name].sized_price:
            raise ValueError(f"{name} has one price for every size; write {name}@{region}={amount}")
        micros, currency = parse_amount(amount)
        if currency is None:
            raise ValueError(f"{part!r} names no currency; write {amount} CNY")
        if any((price.region, price.tier) == (region, tier or None) for price in prices.get(name, ())):
            raise ValueError(f"{part!r} gives a price that was given before; write it once")
        input_micros = parse_amount(per_input)[0] if per_input else _listed_input(CATALOGUE[name], region, currency)
        if input_micros is None:
            raise ValueError(
                f"{name} bills input pictures, and no price of one is listed for {region} in {currency}; "
                f"write {part} + AMOUNT/input"
            )
        prices[name] = (*prices.get(name, ()), Price(region, currency, micros, tier, input_micros))
    for name, model in with_overrides(prices=prices).items():
        _check_currencies(model, {price.region for price in prices.get(name, ())})
    return prices


def _listed_input(model: Model, region: str, currency: str) -> int | None:
    """What an input picture costs by the list, or None where that is open: a price of another currency is none."""
    if not model.bills_inputs:
        return 0
    listed = [p for p in model.prices if (p.region, p.currency) == (region, currency)]
    return max(listed, key=lambda p: p.since).input_micros if listed else None


def _check_currencies(model: Model, regions: Iterable[str]) -> None:
    """Amounts are booked as numbers of the region's one currency. Raises ValueError."""
    for region in regions:
        found = sorted({price.currency for price in model.prices if price.region == region})
        if len(found) > 1:
            raise ValueError(
                f"{model.id} would be billed in {' and '.join(found)} in {region}; give its 1k and its 2k price there "
                "in one currency"
            )


def with_overrides(
    limits: Mapping[str, tuple[Limit, ...]] | None = None, prices: Mapping[str, tuple[Price, ...]] | None = None
) -> dict[str, Model]:
    """The catalogue with an account's own limits, and prices that replace the listed ones of a region and tier."""
    models = dict(CATALOGUE)
    for name, own in (limits or {}).items():
        models[name] = replace(models[name], limits=own)
    for name, added in (prices or {}).items():
        if models[name].sized_price:
            given = {(price.region, price.tier) for price in added}
            added = tuple(
                replace(price, tier=tier)
                for price in added
                for tier in ((price.tier,) if price.tier else ("1k", "2k"))
                if price.tier or (price.region, tier) not in given
            )
        replaced = {(p.region, p.tier) for p in added}
        kept = tuple(p for p in models[name].prices if (p.region, p.tier) not in replaced)
        models[name] = replace(models[name], prices=kept + added)
    return models


def did_you_mean(name: str, among: Iterable[str] | None = None) -> str:
    """`did you mean X?`, or the list of what there is."""
    import difflib

    known = list(CATALOGUE if among is None else among)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"write one of {', '.join(known)}"


def today() -> date:
    """Price day of a moment is its UTC day."""
    return datetime.now(UTC).date()


RETIRED_2026 = date(2026, 10, 10)
_FULL_30 = frozenset(
    {
        "n",
        "size",
        "negative_prompt",
        "prompt_extend",
        "prompt_extend_mode",
        "enable_thinking",
        "seed",
        "watermark",
    }
)
_BASIC = frozenset({"n", "size", "negative_prompt", "prompt_extend", "seed", "watermark"})


def _prices(
    beijing: int,
    singapore: int | None = None,
    elsewhere: tuple[str, ...] = (),
    *,
    tier: str | None = None,
    inputs: tuple[int, int] = (0, 0),
) -> tuple[Price, ...]:
    """Beijing in CNY, Singapore in USD, and the other regions at the CNY list price the page gives for them."""
    rows = [Price(BEIJING, "CNY", beijing, tier, inputs[0])]
    if singapore is not None:
        rows.append(Price(SINGAPORE, "USD", singapore, tier, inputs[1]))
    rows.extend(Price(region, "CNY", beijing, tier, inputs[0]) for region in elsewhere)
    return tuple(rows)


def _per_minute(requests: int) -> tuple[Limit, ...]:
    return (Limit(requests, 60.0),)


def _models() -> Iterable[Model]:
    overseas = (VIRGINIA, FRANKFURT, TOKYO)
    two_a_second = (Limit(2, 1.0),)
    unpriced = f"no price is published for {HONGKONG}: name yours in PACKSHOT_PRICES"

    pro30 = Model(
        id="qwen-image-3.0-pro",
        family="3.0",
        limits=_per_minute(5),
        prices=(
            *_prices(250_000, 40_000, overseas, tier="1k", inputs=(20_000, 3_000)),
            *_prices(500_000, 75_000, overseas, tier="2k", inputs=(20_000, 3_000)),
        ),
        regions=EVERYWHERE,
        size=AREA_30,
        sized_price=True,
        prompt_advised=4500,
        sides_advised=(SIDE_MIN_PX, SIDE_MAX_PX["3.0"]),
        negative_chars=None,
        parameters=_FULL_30,
        usage="split",
        asynchronous=True,
        notes=("bills input pictures", "2k tier above 2,250,000 px", unpriced),
    )
    yield pro30
    yield replace(
        pro30,
        id="qwen-image-3.0",
        limits=_per_minute(20),
        prices=(
            *_prices(180_000, 30_000, overseas, tier="1k", inputs=(20_000, 3_000)),
            *_prices(180_000, 30_000, overseas, tier="2k", inputs=(20_000, 3_000)),
        ),
        notes=("bills input pictures", unpriced),
    )
    pro21 = Model(
        id="qwen-image-2.1-pro",
        family="2.1",
        limits=_per_minute(20),
        prices=_prices(250_000, 40_000, (*overseas, HONGKONG)),
        regions=EVERYWHERE,
        pictures_max=10,
        size=AREA_2K_RATIO,
        negative_chars=0,
        # assumed: that 2.1-pro takes seed and watermark as turbo does; its own parameter table was not to be had.
        parameters=_FULL_30 - {"negative_prompt"},
        # assumed: that 2.1 answers with the usage of 3.0, with which it shares a page; an answer of 2.1 was not seen.
        usage="split",
        asynchronous=True,
        notes=("price in USD follows from the exchange factor of the price page",),
    )
    yield pro21
    yield replace(
        pro21,
        id="qwen-image-2.1-turbo",
        limits=_per_minute(120),
        prices=_prices(100_000, 16_000, (*overseas, HONGKONG)),
        negative_chars=500,
        parameters=_BASIC,
    )
    pro20 = Model(
        id="qwen-image-2.0-pro",
        family="2.0",
        limits=_per_minute(2),
        prices=_prices(500_000, 75_000),
        regions=TWO_REGIONS,
        size=AREA_2K,
        prompt_tokens=1300,
        sides_advised=(SIDE_MIN_PX, SIDE_MAX_PX_ELSE),
        parameters=_BASIC,
        alias_of="qwen-image-2.0-pro-2026-04-22",
    )
    yield pro20
    for day in ("2026-03-03", "2026-04-22", "2026-06-22"):
        yield replace(pro20, id=f"qwen-image-2.0-pro-{day}", alias_of=None)
    plain20 = replace(
        pro20,
        id="qwen-image-2.0",
        limits=two_a_second,
        prices=_prices(200_000, 35_000),
        alias_of="qwen-image-2.0-2026-03-03",
    )
    yield plain20
    yield replace(plain20, id="qwen-image-2.0-2026-03-03", alias_of=None)

    edit_max = Model(
        id="qwen-image-edit-max",
        family="edit",
        limits=_per_minute(2),
        prices=_prices(500_000, 75_000),
        regions=TWO_REGIONS,
        size=SIDES_2K,
        prompt_tokens=800,
        sides_advised=(SIDE_MIN_PX, SIDE_MAX_PX_ELSE),
        parameters=_BASIC,
        alias_of="qwen-image-edit-max-2026-01-16",
        retires=RETIRED_2026,
        replacement="qwen-image-2.0",
    )
    yield edit_max
    yield replace(edit_max, id="qwen-image-edit-max-2026-01-16", alias_of=None)
    edit_plus = replace(
        edit_max,
        id="qwen-image-edit-plus",
        limits=two_a_second,
        prices=_prices(200_000, 30_000),
        alias_of="qwen-image-edit-plus-2025-10-30",
    )
    yield edit_plus
    for day in ("2025-10-30", "2025-12-15"):
        yield replace(edit_plus, id=f"qwen-image-edit-plus-{day}", alias_of=None)
    yield replace(
        edit_plus,
        id="qwen-image-edit",
        n_max=1,
        size=None,
        prices=_prices(300_000, 45_000),
        parameters=frozenset({"n", "negative_prompt", "seed", "watermark"}),
        alias_of=None,
    )

    text_only = "it draws from text alone and takes no picture; write qwen-image-2.0"
    drawing = Model(
        id="qwen-image",
        family="generation",
        limits=(),
        prices=(),
        regions=TWO_REGIONS,
        pictures_max=0,
        n_max=1,
        edits=False,
        why_not=text_only,
        retires=RETIRED_2026,
        replacement="qwen-image-2.0",
    )
    for name in (
        "qwen-image",
        "qwen-image-plus",
        "qwen-image-plus-2026-01-09",
        "qwen-image-max",
        "qwen-image-max-2025-12-30",
    ):
        yield replace(drawing, id=name)
    yield replace(
        drawing,
        id="z-image-turbo",
        family="z-image",
        limits=two_a_second,
        prices=_prices(200_000, 30_000),
        retires=None,
        replacement=None,
        notes=("price with prompt_extend on",),
    )
    other_family = "it speaks another set of parameters, which packshot does not drive; write qwen-image-2.0"
    for name, beijing, singapore in (("wan2.7-image", 200_000, 30_000), ("wan2.7-image-pro", 500_000, 75_000)):
        yield Model(
            id=name,
            family="wan2.7",
            limits=(Limit(5, 1.0),),
            prices=_prices(beijing, singapore),
            regions=TWO_REGIONS,
            pictures_max=9,
            n_max=4,  # assumed: 4 is the documented default, the most is open; packshot does not ask this model
            edits=False,
            why_not=other_family,
            asynchronous=True,
        )


CATALOGUE: dict[str, Model] = {model.id: model for model in _models()}
DEFAULT_MODEL = "qwen-image-2.0"

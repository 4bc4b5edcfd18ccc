"""How the emulator is to behave: one frozen object, read once from arguments and environment."""

from __future__ import annotations

import argparse
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from emulator.faults import FAULTS, parse_share
from emulator.inputs import Fetch
from models.catalogue import BEIJING, REGIONS, Limit, Price, parse_limits, parse_prices


@dataclass(frozen=True)
class Options:
    """latency_s: of a call with one picture; each further one adds a quarter. url_life_s: of a result's address."""

    state: Path
    host: str = "127.0.0.1"
    port: int = 0
    region: str = BEIJING
    latency_s: float = 1.0
    url_life_s: float = 86400.0
    limits: Mapping[str, tuple[Limit, ...]] = field(default_factory=dict)
    prices: Mapping[str, tuple[Price, ...]] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    api_key: str | None = field(default=None, repr=False)
    refuse_unknown: bool = False
    refuse_retired: bool = False
    fetch: Fetch = "loopback"
    parent_pipe: bool = False
    only_check: bool = False


def read_options(arguments: list[str] | None = None) -> Options:
    """Leaves with 2 and a sentence where something cannot be meant (argparse's way)."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        limits, prices = parse_limits(given.limits), parse_prices(given.prices)
        shares = dict(parse_share(text) for text in given.fault)
    except ValueError as error:
        parser.error(str(error))
    if sum(shares.values()) > 1:
        parser.error("the shares of --fault add up to more than 1")
    if not given.allow_remote and not _is_loopback(given.host):
        parser.error(f"--host {given.host} can be reached from elsewhere; add --allow-remote if that is meant")
    if not 0 <= given.port <= 65535:
        parser.error(f"--port {given.port} is none; write a number up to 65535, or 0 to have a free one picked")
    if given.latency < 0 or given.url_life <= 0:
        parser.error("--latency is 0 or more seconds, --url-life more than 0")
    return Options(
        state=given.state,
        host=given.host,
        port=given.port,
        region=given.region,
        latency_s=given.latency,
        url_life_s=given.url_life,
        limits=limits,
        prices=prices,
        shares=shares,
        seed=given.seed,
        api_key=given.api_key,
        refuse_unknown=given.unknown_parameters == "refuse",
        refuse_retired=given.retired == "refuse",
        fetch=given.fetch,
        parent_pipe=given.parent_pipe,
        only_check=given.only_check,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="packshot emulator",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="A DashScope double for rehearsals. Prints one JSON line on stdout when it is ready.",
        epilog=_epilog(),
    )
    add = parser.add_argument
    add("--port", type=int, required=True, help="0 picks a free one")
    add("--state", type=Path, required=True, metavar="DIR", help="invoice, results and uploads; kept between starts")
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    add("--allow-remote", action="store_true", help="allow a --host that is not loopback")
    add("--region", default=BEIJING, choices=list(REGIONS), help=f"prices, currency and models ({BEIJING})")
    add("--latency", type=float, default=1.0, metavar="SECONDS", help="of a call with one picture (1.0)")
    add("--limits", default=os.environ.get("PACKSHOT_LIMITS", ""), help="MODEL=REQUESTS/SECONDSs,... [PACKSHOT_LIMITS]")
    add(
        "--prices", default=os.environ.get("PACKSHOT_PRICES", ""), help="MODEL@REGION=AMOUNT CURRENCY [PACKSHOT_PRICES]"
    )
    add("--fault", action="append", default=[], metavar="NAME=SHARE", help="share of calls with this fault; repeatable")
    add("--seed", type=int, default=0, help="decides which calls have which fault (0)")
    add("--url-life", type=float, default=86400.0, metavar="SECONDS", help="how long result addresses live (86400)")
    add("--api-key", help="accept this key only (otherwise any sk-...)")
    add("--unknown-parameters", choices=["ignore", "refuse"], default="ignore", help="(ignore)")
    add("--retired", choices=["answer", "refuse"], default="answer", help="models past their last day (answer)")
    add("--fetch", choices=list(get_args(Fetch)), default="loopback", help="input addresses (loopback)")
    add("--only-check", action="store_true", help="check these options and leave")
    add("--parent-pipe", action="store_true", help="leave when stdin is closed")
    return parser


def _epilog() -> str:
    faults = "\n".join(f"  {fault.name:<{max(map(len, FAULTS))}}  {fault.sentence}" for fault in FAULTS.values())
    example = "packshot emulator --port 8090 --state /tmp/emulator --fault http_500=0.05"
    return f"Example: {example}\n\nfaults:\n{faults}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

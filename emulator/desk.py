"""The desk at /emulator/...: read the books, ask for faults, change the limits. Not part of the provider's API."""

from __future__ import annotations

import html
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from emulator.faults import FAULTS, parse_wanted
from emulator.house import House
from models.catalogue import parse_limits


async def health(request: Request) -> Response:
    house = _house(request)
    return JSONResponse({"status": "ok", "region": house.options.region, "calls": house.calls.count})


def invoice(request: Request) -> Response:
    """Runs in a thread, since it reads the whole file; the sums are those of the lines shown."""
    house = _house(request)
    if request.query_params.get("summary") == "1":
        return JSONResponse(house.invoice.summary())
    return JSONResponse(house.invoice.shown())


async def calls(request: Request) -> Response:
    newest = request.query_params.get("newest", "")
    return JSONResponse({"calls": _house(request).calls.shown(int(newest) if newest.isdecimal() else None)})


async def faults(request: Request) -> Response:
    """GET shows what is wanted and what there is; POST adds one order or a list of them; DELETE empties the queue."""
    house = _house(request)
    if request.method == "DELETE":
        house.faults.queue.clear()
    elif request.method == "POST":
        try:
            orders = await _json(request)
            house.faults.queue += [parse_wanted(order) for order in (orders if isinstance(orders, list) else [orders])]
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
    return JSONResponse(
        {
            "queue": [wanted.to_json() for wanted in house.faults.queue],
            "shares": dict(house.faults.shares),
            "known": {name: fault.sentence for name, fault in FAULTS.items()},
        }
    )


async def limits(request: Request) -> Response:
    """POST {"limits": "qwen-image-2.0=100/1s"}: from now on; calls already counted stay counted."""
    house = _house(request)
    if request.method == "POST":
        try:
            wanted = await _json(request)
            text = wanted.get("limits") if isinstance(wanted, dict) else None
            if not isinstance(text, str):
                raise ValueError('write {"limits": "qwen-image-2.0=2/1s"}')
            house.limits.change(parse_limits(text))
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
    return JSONResponse({"limits": house.limits.shown()})


async def page(request: Request) -> Response:
    house = _house(request)
    bill = house.invoice.summary()
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(line[name] or ''))}</td>" for name in COLUMNS) + "</tr>"
        for line in reversed(house.calls.shown(50))
    )
    wanted = ", ".join(f"{w.fault.name} x{w.times}" for w in house.faults.queue) or "none"
    shares = ", ".join(f"{name} {share:.1%}" for name, share in house.faults.shares.items()) or "none"
    return HTMLResponse(
        PAGE.format(
            total=f"{bill['micros'] / 1e6:,.2f} {bill['currency']}",
            pictures=bill["pictures"],
            calls=house.calls.count,
            wanted=html.escape(wanted),
            shares=html.escape(shares),
            head="".join(f"<th>{name}</th>" for name in COLUMNS),
            rows=rows,
        )
    )


COLUMNS = ("ordinal", "at", "model", "status", "code", "fault", "billed", "took_s", "prompt")
PAGE = """<!doctype html><meta charset="utf-8"><title>rehearsal</title>
<style>body{{font:14px system-ui;margin:2em}}
td,th{{padding:.2em .6em;text-align:left;border-bottom:1px solid #ddd}}</style>
<h1>Rehearsal</h1><p>Nothing here is real: no picture was edited, no money was spent.</p>
<p><b>{total}</b> for {pictures} pictures; {calls} calls. Faults asked for: {wanted}. Shares: {shares}.</p>
<table><tr>{head}</tr>{rows}</table>
"""


def _house(request: Request) -> House:
    house: House = request.app.state.house
    return house


async def _json(request: Request) -> Any:
    return json.loads(await request.body() or b"{}")

"""One call of the synchronous path, from the first header to the last byte (API reference, sections 4 and 5).

    door -> key -> body -> checks -> limit -> pictures opened -> fault -> work -> invoice -> answer

Billing is the line between "nothing happened" and "this was paid for": it is written before any byte of the answer
leaves, and a caller who leaves before it is billed all the same, as the provider finishes what it began.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response

from emulator import refusals
from emulator.calls import Call
from emulator.checks import BASE64_BODY_MAX, Order, read_order
from emulator.faults import Wanted
from emulator.house import House
from emulator.inputs import Input
from emulator.pictures import output_size
from emulator.refusals import HTML_PAGE, Refusal
from emulator.wire import Cut, Noted, Reset, Silence
from models.catalogue import Model

T = TypeVar("T")
SLOW_AT_LEAST_S = 2.0
BURST_WAIT_S = 3.0
WAIT_MAX_S = 120.0
ENOUGH_FOR_A_THREAD = 256 * 1024  # bytes of a body above which reading it would hold up the other calls


async def generate(request: Request) -> Response:
    house: House = request.app.state.house
    call = house.calls.begin(house.clock())
    try:
        response = await _serve(house, request, call)
    except Refusal as refusal:
        call.status, call.code = refusal.status, refusal.code or None
        response = refusal.response(call.request_id)
    except ClientDisconnect:
        response = Silence()
    finally:
        house.calls.end(call, house.clock())
    return response


async def _serve(house: House, request: Request, call: Call) -> Response:
    if wanted := house.faults.at_door(call.ordinal):
        call.fault = wanted.fault.name
        return Reset()
    authorise(request, house.options.api_key)
    order = await _order(house, request, call)
    if not house.limits.admit(order.model.id, call.at):
        raise refusals.rate_quota()
    try:
        inputs = await _in_thread(house, _open, house, order, request)
        order = replace(order, images=())  # thousands of calls may wait below: none of them with its pictures in hand
        wanted = house.faults.take(call.ordinal, order.model.id, order.prompt)
        waited = await _refuse_if_wanted(request, call, wanted)
    except Refusal:
        house.limits.give_back(order.model.id, call.at)
        raise
    size, count = output_size(order, inputs), len(inputs)
    if wanted and not waited and not wanted.fault.billed:
        inputs.clear()
        return await _ending(house, call, order, wanted, b"")

    seed = random.randrange(2**31) if order.seed is None else order.seed
    urls = await _in_thread(house, _work, house, order, inputs, call, seed, wanted)
    inputs.clear()
    await asyncio.sleep(max(0.0, _latency_s(house, order, call, wanted) - (house.clock() - call.at)))
    _bill(house, call, order, seed, request.headers.get("x-packshot-attempt"), size, count, len(urls))
    base = f"{request.url.scheme}://{request.headers.get('host', request.url.netloc)}"
    answer = _answer(order, call, [base + url for url in urls], size, count)
    if wanted and wanted.fault.ending == "no_usage":
        del answer["usage"]
    content = json.dumps(answer, ensure_ascii=False).encode()
    if wanted and wanted.fault.ending not in (None, "no_usage"):
        return await _ending(house, call, order, wanted, content)
    call.status = 200
    return Noted(content, {"x-request-id": call.request_id}, lambda: house.invoice.delivered(call.request_id))


def authorise(request: Request, key: str | None) -> None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    given = given.strip()
    if scheme.lower() != "bearer" or not given:
        raise refusals.no_key()
    if given != key if key else not (given.startswith("sk-") and len(given) > 3):
        raise refusals.wrong_key()


async def _body(request: Request) -> bytes:
    """The whole body, as much as the gateway lets through."""
    if int(request.headers.get("content-length", "0")) > BASE64_BODY_MAX:
        raise refusals.body_too_large()
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BASE64_BODY_MAX:
            raise refusals.body_too_large()
        parts.append(part)
    return b"".join(parts)


async def _order(house: House, request: Request, call: Call) -> Order:
    body = await _body(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise refusals.invalid("Required body invalid, please check the request body format.")

    def read() -> Order:
        return read_order(
            body,
            region=house.options.region,
            on=house.today(),
            refuse_unknown=house.options.refuse_unknown,
            refuse_retired=house.options.refuse_retired,
        )

    order = await _in_thread(house, read) if len(body) > ENOUGH_FOR_A_THREAD else read()
    call.model, call.prompt, call.n = order.model.id, order.prompt, order.n
    if request.headers.get("x-dashscope-async", "").lower() == "enable":
        raise refusals.no_asynchronous_calls()
    if order.model.retired_on(house.today()):
        last = order.model.retires
        house.say_once(f"{order.model.id} was announced as retired on {last}; use {order.model.replacement} instead")
    return order


async def _refuse_if_wanted(request: Request, call: Call, wanted: Wanted | None) -> bool:
    """Raises the refusal of a fault; True where the caller asked to wait in the queue instead."""
    if wanted is None:
        return False
    call.fault = wanted.fault.name
    if wanted.fault.refusal is None:
        return False
    patience = request.headers.get("x-dashscope-wait-timeout", "")
    if wanted.fault.queues and patience.isdecimal() and int(patience) > 0:
        wait_s = BURST_WAIT_S if wanted.seconds is None else wanted.seconds
        await asyncio.sleep(min(wait_s, int(patience), WAIT_MAX_S))
        if wait_s <= int(patience):
            return True
    raise wanted.fault.refusal


async def _in_thread(house: House, work: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(house.threads, work, *arguments)


def _open(house: House, order: Order, request: Request) -> list[Input]:
    resolve = request.headers.get("x-dashscope-ossresourceresolve") == "enable"
    return [house.inputs.open(ref, order.model.id, resolve_oss=resolve) for ref in order.images]


def _work(house: House, order: Order, inputs: list[Input], call: Call, seed: int, wanted: Wanted | None) -> list[str]:
    """Draws and stores; returns the addresses without scheme and host."""
    withheld = wanted.fault.withheld if wanted else 0
    urls = []
    try:
        for variant in range(max(1, order.n - withheld)):
            png = house.pictures.draw(order, inputs, seed, variant)
            urls.append(house.results.keep(f"{call.request_id}-{variant + 1}", png, wanted))
        house.results.purge()
    except OSError as error:
        house.say_once(f"a result could not be stored: {error}")
        raise Refusal(500, "InternalError.Upload", "Failed to upload result.") from error
    return urls


def _latency_s(house: House, order: Order, call: Call, wanted: Wanted | None) -> float:
    chance = random.Random(f"latency {house.options.seed} {call.ordinal}")
    usual = house.options.latency_s * (1 + 0.25 * (order.n - 1)) * chance.uniform(0.85, 1.15)
    if wanted is None or wanted.fault.slower == 1.0:
        return usual
    return max(usual * wanted.fault.slower, SLOW_AT_LEAST_S) if wanted.seconds is None else wanted.seconds


def _bill(
    house: House,
    call: Call,
    order: Order,
    seed: int,
    client_request: str | None,
    size: tuple[int, int],
    inputs: int,
    pictures: int,
) -> None:
    model = house.models[order.model.id]
    tier = model.tier(size[0] * size[1])
    price = model.price(house.options.region, house.today(), tier)
    if price is None:
        house.say_once(f"no price is known for {model.id} in {house.options.region}; its pictures are billed at 0")
    output_type, input_type = _types(model, size)
    items = [{"item": "output", "type": output_type, "micros": price.micros if price else 0} for _ in range(pictures)]
    if price and price.input_micros:
        items += [{"item": "input", "type": input_type, "micros": price.input_micros} for _ in range(inputs)]
    call.billed = pictures
    house.invoice.bill(
        house.clock(),
        items,
        request_id=call.request_id,
        model=model.id,
        seed=seed,
        prompt_digest=hashlib.sha256(order.prompt.encode()).hexdigest(),
        client_request=client_request,
        fault=call.fault,
    )


def _types(model: Model, size: tuple[int, int]) -> tuple[str, str]:
    """What the lines are called: (output, input). The suffix of both follows the output's area."""
    if model.usage == "flat":
        return "image_number", "image_number"
    suffix = model.tier(size[0] * size[1]) or ("1k" if math.prod(size) <= 2_250_000 else "2k")
    return f"qima_output_{suffix}", f"qima_input_{suffix}"


def _answer(order: Order, call: Call, urls: list[str], size: tuple[int, int], inputs: int) -> dict[str, Any]:
    content = [{"image": url} for url in urls]
    output: dict[str, Any] = {
        "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": content}}]
    }
    usage: dict[str, Any] = {"width": size[0], "height": size[1], "image_count": len(urls)}
    if order.model.usage == "split":
        output["rewrite_status"] = "success" if order.prompt_extend else "not_use"
        output_type, input_type = _types(order.model, size)
        usage = {
            "output_width": size[0],
            "output_height": size[1],
            "input_image_count": inputs,
            "input_image_type": input_type,
            "output_image_count": len(urls),
            "output_image_type": output_type,
        }
    return {"output": output, "usage": usage, "request_id": call.request_id}


async def _ending(house: House, call: Call, order: Order, wanted: Wanted, content: bytes) -> Response:
    """What a caller gets who gets no proper answer."""
    fault = wanted.fault
    if not fault.billed:
        await asyncio.sleep(_latency_s(house, order, call, wanted))
    headers = {"x-request-id": call.request_id}
    if fault.ending == "page":
        call.status = fault.page
        title = f"{fault.page} {'Bad Gateway' if fault.page == 502 else 'Gateway Time-out'}"
        return HTMLResponse(HTML_PAGE.format(title), fault.page, headers)
    if fault.ending == "half":
        call.status = 200
        return Cut(content, 0.5, headers, "application/json")
    return Reset() if fault.ending == "reset" else Silence()

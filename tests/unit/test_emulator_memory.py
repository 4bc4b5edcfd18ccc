"""What a call holds while it waits: a rehearsal may have a thousand of them under way."""

import asyncio
import base64
import io
import json
import weakref

import pytest
from PIL import Image

from emulator import generation, inputs
from emulator.app import AIGC, create_app
from emulator.house import House
from emulator.options import Options


def body(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    message = {"role": "user", "content": [{"image": uri}, {"text": "on white"}]}
    parameters = {"size": "512*512"}
    return json.dumps({"model": "qwen-image-2.0", "input": {"messages": [message]}, "parameters": parameters}).encode()


async def send_nothing(message):
    pass


async def call(app, content: bytes) -> None:
    headers = {"authorization": "Bearer sk-x", "content-type": "application/json", "content-length": str(len(content))}
    scope = {
        "type": "http",
        "method": "POST",
        "path": f"{AIGC}/multimodal-generation/generation",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    told = iter([{"type": "http.request", "body": content, "more_body": False}])

    async def receive():
        return next(told)

    await app(scope, receive, send_nothing)


@pytest.mark.parametrize("fault", [None, "stuck"])
def test_a_call_that_waits_holds_neither_its_body_nor_its_pictures(tmp_path, monkeypatch, fault):
    # given an emulator that keeps no more than the youngest picture for others, and takes its time
    monkeypatch.setattr(inputs, "CACHED_PIXELS", 0)
    held, waiting, really_open = [], [], generation._open

    def watched_open(house, order, request):
        opened = really_open(house, order, request)
        held.append([weakref.ref(order), *map(weakref.ref, opened)])
        return opened

    def long(*_):
        waiting.append(True)
        return 60.0

    monkeypatch.setattr(generation, "_open", watched_open)
    monkeypatch.setattr(generation, "_latency_s", long)
    house = House(Options(tmp_path, shares={fault: 1.0} if fault else {}))

    async def two_calls():
        calls = [asyncio.create_task(call(create_app(house), body("red")))]
        while len(waiting) < 1:
            await asyncio.sleep(0.01)
        calls.append(asyncio.create_task(call(create_app(house), body("blue"))))
        while len(waiting) < 2:
            await asyncio.sleep(0.01)
        # then the first one's order, with the pictures as text, and its opened picture are gone
        alive = [ref() for ref in held[0]]
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        return alive

    # when one waits while another comes
    try:
        assert asyncio.run(two_calls()) == [None, None]
    finally:
        house.close()

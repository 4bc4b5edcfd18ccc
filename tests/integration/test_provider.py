"""The provider client against real sockets: every line of the table of outcomes, on the wire."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import ipaddress
import json
import logging
import os
import random
import socket
import ssl
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.response import StreamingBody
from PIL import Image

from models import catalogue
from models.edit import Answer, Edit, Picture
from models.errors import (
    AccountStopped,
    CallError,
    NotSent,
    OutcomeUnknown,
    PackshotError,
    PictureError,
    Refused,
    Rejected,
    SettingsError,
    SlotMissed,
    Throttled,
)
from models.settings import Settings
from tests.servers import misbehaving
from tests.servers.misbehaving import Behaviour, Peer, serve
from worker import wire
from worker.inputs import Inputs
from worker.outcomes import LINES, TABLE
from worker.preflight import ProviderNotReady, check_provider
from worker.provider import Provider
from worker.wire import Slot

KEY = "sk-0123456789abcdef"
REGION = "cn-beijing"
PICTURE_URL = "http://result.example/a.png?Signature=abc"


def settings(url: str, **more: Any) -> Settings:
    known = {"DASHSCOPE_API_KEY": KEY, "DASHSCOPE_HTTP_BASE_URL": url, "PACKSHOT_CALL_TIMEOUT_S": 5.0}
    return Settings(**(known | more))


def buy(made: Provider, edit: Edit, *, attempt: str) -> Answer:
    with made.prepared(edit, region=REGION) as letter:
        return made.send(letter, attempt=attempt)


@contextlib.contextmanager
def provider(url: str, **more: Any) -> Iterator[Provider]:
    with contextlib.closing(Provider(settings(url, **more))) as made:
        yield made


def an_edit(*pictures: Picture, n: int = 1) -> Edit:
    pictures = pictures or (Picture("https://shop.example/shoe.jpg"),)
    return Edit("qwen-image-2.0", pictures, "put the shoe on wet slate", {"n": n, "size": "1024*1024"}, 7)


def a_photo(folder: Path, *, large: bool = False, name: str = "photo.bmp") -> Picture:
    """A BMP, since its size in bytes is what one asks for. large: about 6 MB, more than any socket buffer."""
    side = 1414 if large else 40
    path = folder / name
    Image.frombytes("RGB", (side, side), random.Random(1).randbytes(side * side * 3)).save(path)
    data = path.read_bytes()
    return Picture(str(path), hashlib.sha256(data).hexdigest(), len(data))


def pictures(*urls: str, counted: int | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "output": {"choices": [{"message": {"content": [{"image": url} for url in urls]}}]},
        "request_id": "r-1",
    }
    if counted is not None:
        answer["usage"] = {"image_count": counted, "width": 1024, "height": 1024}
    return answer


GOOD = pictures(PICTURE_URL, counted=1)


def answering(status: int, body: bytes | dict[str, Any], headers: dict[str, str] | None = None) -> Behaviour:
    def behave(peer: Peer) -> None:
        peer.read_request()
        peer.answer(status, body, headers)

    return behave


# -- the table, line by line -----------------------------------------------------------------------------------

Scenario = Callable[[Path, pytest.MonkeyPatch], contextlib.AbstractContextManager[tuple[Provider, Edit]]]
SCENARIOS: dict[str, list[Scenario]] = {}


def scenario(key: str) -> Callable[[Callable[..., Iterator[tuple[Provider, Edit]]]], None]:
    """Two ways to come to the same line are two scenarios."""

    def add(make: Callable[..., Iterator[tuple[Provider, Edit]]]) -> None:
        SCENARIOS.setdefault(key, []).append(contextlib.contextmanager(make))

    return add


def on_the_wire(key: str, behaviour: Behaviour, *, n: int = 1, large: bool = False, **more: Any) -> None:
    @scenario(key)
    def _(tmp_path: Path, _: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Edit]]:
        edit = an_edit(a_photo(tmp_path, large=True), n=n) if large else an_edit(n=n)
        with serve(behaviour) as server, provider(server.url, **more) as made:
            yield made, edit


@scenario("PictureError")
def _(tmp_path: Path, _: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Edit]]:
    with serve(answering(200, GOOD)) as server, provider(server.url) as made:
        yield made, an_edit(Picture(str(tmp_path / "gone.jpg")))
        assert server.connections == 0


@scenario("PictureError")
def _(tmp_path: Path, _: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Edit]]:
    photo = a_photo(tmp_path, large=True)

    def behave(peer: Peer) -> None:  # the file changes when the first bytes of the request have come
        peer.read_head()
        with open(photo.ref, "r+b") as file:
            file.seek(-10, os.SEEK_END)
            file.write(b"other bits")
        peer.hang()

    with serve(behave) as server, provider(server.url) as made:
        yield made, an_edit(photo)


@scenario("PictureUnavailable")
def _(_: Path, __: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Edit]]:
    class Store:
        def get_object(self, **_: Any) -> Any:
            raise EndpointConnectionError(endpoint_url="http://store")

    with serve(answering(200, GOOD)) as server:
        known = settings(server.url)
        with contextlib.closing(Provider(known, inputs=Inputs(known, s3=Store))) as made:
            yield made, an_edit(Picture("s3://shop/mug.jpg"))
        assert server.connections == 0


@scenario("NoRoom")
def _(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Edit]]:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.tif", software="says too much")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with serve(answering(200, GOOD)) as server, provider(server.url) as made:
        yield made, an_edit(Picture(str(tmp_path / "a.tif")))
        assert server.connections == 0


@scenario("UploadFailed")
def _(tmp_path: Path, _: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Edit]]:
    with (
        misbehaving.nobody() as port,
        serve(answering(200, policy(f"http://127.0.0.1:{port}"))) as server,
        provider(server.url, PACKSHOT_ALLOW_PRIVATE_HOSTS=True) as made,
    ):
        yield made, an_edit(a_photo(tmp_path, large=True), a_photo(tmp_path, large=True, name="two.bmp"))


@scenario("NameNotFound")
def _(_: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Edit]]:
    def no_name(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    with provider("https://nowhere.example/api/v1") as made:
        yield made, an_edit()


@scenario("ConnectionRefused")
def _(_: Path, __: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Edit]]:
    with misbehaving.nobody() as port, provider(f"http://127.0.0.1:{port}") as made:
        yield made, an_edit()


@scenario("ConnectFailed")
def _(_: Path, __: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Edit]]:
    with provider("http://255.255.255.255:9") as made:  # no connection to everybody at once
        yield made, an_edit()


@scenario("ConnectTimeout")
def _(_: Path, __: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Edit]]:
    with misbehaving.full() as port, provider(f"http://127.0.0.1:{port}", PACKSHOT_CONNECT_TIMEOUT_S=0.2) as made:
        yield made, an_edit()


@scenario("ConnectTimeout")
def _(_: Path, __: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Edit]]:
    with serve(Peer.hang) as server:  # takes the connection and never says hello
        url = server.url.replace("http:", "https:")
        with provider(url, PACKSHOT_CONNECT_TIMEOUT_S=0.2) as made:
            yield made, an_edit()


@scenario("TlsFailed")
def _(_: Path, __: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Edit]]:
    with (
        serve(lambda peer: peer.send(b"SSH-2.0-not a web server\r\n")) as server,
        provider(server.url.replace("http:", "https:")) as made,
    ):
        yield made, an_edit()


@scenario("TlsFailed")
def _(tmp_path: Path, _: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Edit]]:
    with serve(answering(200, GOOD), tls=certificate(tmp_path)[0]) as server, provider(server.url) as made:
        yield made, an_edit()  # a certificate that nobody we trust has signed


@scenario("PoolTimeout")
def _(_: Path, __: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Edit]]:
    taken = threading.Event()

    def behave(peer: Peer) -> None:
        peer.read_request()
        taken.set()
        peer.hang()

    with (
        serve(behave) as server,
        provider(server.url, PACKSHOT_CONCURRENCY=1, PACKSHOT_CONNECT_TIMEOUT_S=0.2) as made,
    ):

        def occupy() -> None:
            with contextlib.suppress(CallError):
                buy(made, an_edit(), attempt="1")

        threading.Thread(target=occupy, daemon=True).start()
        assert taken.wait(5)
        yield made, an_edit()


@scenario("Unsendable")
def _(_: Path, __: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Edit]]:
    with serve(answering(200, GOOD)) as server, provider(server.url) as made:
        headers = made._headers()
        made._headers = lambda: headers | {"X-Odd": "ключ"}  # type: ignore[method-assign]
        yield made, an_edit()
        assert server.requests == []


@scenario("Unsendable")
def _(_: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Edit]]:
    with serve(answering(200, GOOD)) as server, provider(server.url) as made:
        monkeypatch.setattr(made._inputs, "prepare", lambda *_: 1 // 0)
        yield made, an_edit()
        assert server.connections == 0


def reset_while_reading(peer: Peer) -> None:
    peer.read_head()
    peer.reset()


def gateway_page_while_reading(peer: Peer) -> None:
    peer.read_head()
    peer.answer(502, b"<html>bad gateway</html>", {"Connection": "close"})


def never_read(peer: Peer) -> None:
    peer.server.closing.wait(10)


on_the_wire("BrokenWhileSending", reset_while_reading, large=True)
on_the_wire("BrokenWhileSending", gateway_page_while_reading, large=True)
on_the_wire("BrokenWhileSending", never_read, large=True, PACKSHOT_CALL_TIMEOUT_S=0.5)


def reset_after_reading(peer: Peer) -> None:
    peer.read_request()
    peer.reset()


def reset_within_answer(peer: Peer) -> None:
    peer.read_request()
    peer.answer(200, GOOD, cut=40)
    peer.reset()


def hang_after_reading(peer: Peer) -> None:
    peer.read_request()
    peer.hang()


def drip_headers(peer: Peer) -> None:
    peer.read_request()
    peer.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"." * 1000, 0.05)


def drip_body(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    peer.drip(b'{"request_id":"' + b"." * 1000, 0.05)


def go_on_for_ever(peer: Peer) -> None:
    peer.read_request()
    peer.answer(100, b"")
    while True:
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if peer.server.closing.wait(0.01):
            return


def cut_answer(peer: Peer) -> None:
    peer.read_request()
    peer.answer(200, GOOD, cut=20)


def cut_answer_without_a_length(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + json.dumps(GOOD).encode()[:-20])


def cut_chunks(peer: Peer) -> None:
    peer.read_request()
    peer.send(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{"request_id":"a\r\n')


def chunks_without_an_end(peer: Peer) -> None:
    peer.read_request()
    data = json.dumps(GOOD).encode()
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(data), data))


def whole_then_hang(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(GOOD).encode())
    peer.hang()


def not_http(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"220 mail.example ESMTP\r\n")


on_the_wire("Reset", reset_after_reading)
on_the_wire("Reset", reset_after_reading, large=True)
on_the_wire("Closed", lambda peer: [peer.read_request(), None][1])
on_the_wire("ReadTimeout", hang_after_reading, PACKSHOT_CALL_TIMEOUT_S=0.3)
on_the_wire("ReadTimeout", drip_headers, PACKSHOT_CALL_TIMEOUT_S=0.3)
on_the_wire("ReadTimeout", drip_body, PACKSHOT_CALL_TIMEOUT_S=0.3)
on_the_wire("ReadTimeout", go_on_for_ever, PACKSHOT_CALL_TIMEOUT_S=0.3)
on_the_wire("TruncatedAnswer", cut_answer)
on_the_wire("TruncatedAnswer", cut_answer_without_a_length)
on_the_wire("TruncatedAnswer", cut_chunks)
on_the_wire("AnswerTooLarge", answering(200, b'{"a":"' + b"x" * 1_100_000 + b'"}'))
on_the_wire("BadAnswer", not_http)
on_the_wire("BadAnswer", answering(200, b"not gzip at all", {"Content-Encoding": "gzip"}))
for status in (200, 400, 403, 404, 500, 502, 503, 504):
    on_the_wire("GatewayPage", answering(status, b"<html>gateway</html>"))
on_the_wire("GatewayPage", answering(504, b""))
on_the_wire("GatewayPage", answering(503, b"upstream connect error", {"Content-Type": "text/plain"}))
on_the_wire("GatewayPage", answering(200, b"[1, 2]", {"Content-Type": "application/json"}))
on_the_wire("NotAnAnswer", answering(200, {"status": "ok"}))
on_the_wire("NotAnAnswer", answering(500, {"message": "no code"}))
on_the_wire("NotAnAnswer", answering(200, {"output": {"task_status": "PENDING", "task_id": "t"}}))
on_the_wire("NotAnAnswer", answering(502, {"error": {"code": 502}}))
on_the_wire("ForeignCode", answering(504, {"code": "GatewayTimeout", "message": "m", "request_id": "r"}))
on_the_wire("ForeignCode", answering(408, {"code": "RequestTimeout", "message": "m"}))
on_the_wire("CountedButMissing", answering(200, pictures(counted=1)))
on_the_wire("CountedButMissing", answering(500, {"code": "InternalError.Upload", "usage": {"image_count": 2}}))
on_the_wire("RequestTooLarge", answering(413, b"<html>413 Request Entity Too Large</html>"))
on_the_wire("GatewayThrottled", answering(429, b"<html>slow down</html>"))
for status in (301, 302, 307, 308):
    on_the_wire("Redirected", answering(status, b"", {"Location": "http://127.0.0.1:9/elsewhere"}))
for status in (200, 400, 500, 418):
    on_the_wire("RefusedByCode", answering(status, {"code": "InvalidParameter", "message": "n", "request_id": "r"}))
on_the_wire("RefusedByCode", answering(400, {"error": {"code": "InvalidParameter", "message": "m", "type": "x"}}))
on_the_wire("RefusedByCode", answering(200, {"output": {"task_status": "FAILED", "code": "InternalError"}}))
on_the_wire("NoPictures", answering(200, {"output": {"choices": []}, "usage": {}, "request_id": "r"}))
on_the_wire("AllPictures", answering(200, pictures(PICTURE_URL, "https://b/2.png", counted=2)), n=2)
on_the_wire("AllPictures", answering(500, GOOD))
on_the_wire("FewerPictures", answering(200, pictures(PICTURE_URL, counted=1)), n=2)
on_the_wire("NoUsage", answering(200, pictures(PICTURE_URL)))
on_the_wire("WholeThenBroken", chunks_without_an_end)
on_the_wire("WholeThenBroken", whole_then_hang, PACKSHOT_CALL_TIMEOUT_S=0.3)


def early_refusal(peer: Peer) -> None:
    peer.read_head()
    peer.answer(401, {"code": "InvalidApiKey", "message": "Invalid API-key provided."}, {"Connection": "close"})
    peer.hang()  # an RST for the unread body would overtake the answer


on_the_wire("EarlyAnswer", early_refusal, large=True)


def test_every_line_of_the_table_is_tried_on_the_wire():
    elsewhere = {"Killed", "SlotMissed"}  # killing our process: tests/acceptance; slots: test_executor.py
    assert set(SCENARIOS) == {line.key for line in TABLE} - elsewhere


@pytest.mark.parametrize(
    ("key", "number"), [(key, number) for key, found in SCENARIOS.items() for number in range(len(found))]
)
def test_what_happens_on_the_wire_ends_as_the_table_says(key: str, number: int, tmp_path: Path, monkeypatch):
    line = LINES[key]
    # given a server that does it
    with SCENARIOS[key][number](tmp_path, monkeypatch) as (made, edit):
        # when an edit is bought there
        started = time.monotonic()
        try:
            outcome: Any = buy(made, edit, attempt="a-1")
        except PackshotError as error:
            outcome = error
        # then it ends as the table says, within its time limits, without the key in its words
        assert time.monotonic() - started < 4
        if line.error is None:
            assert outcome.pictures == len(outcome.urls) >= 1
        else:
            assert isinstance(outcome, line.error), repr(outcome)
            assert kind_of(outcome) == line.outcome
            assert KEY not in f"{outcome!r} {outcome}"
            if line.error not in (Refused, PictureError):
                assert outcome.code == key


def test_an_error_nobody_expected_is_never_called_not_sent_once_the_request_is_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("worker.provider._received", lambda _: 1 // 0)
    with serve(answering(200, GOOD)) as server, provider(server.url) as made:
        with pytest.raises(ZeroDivisionError):
            buy(made, an_edit(), attempt="1")
        assert len(server.requests) == 1


def kind_of(error: PackshotError) -> str:
    if isinstance(error, NotSent | PictureError):
        return "not sent"
    return "unknown" if isinstance(error, OutcomeUnknown) else "answered"


# -- the request -----------------------------------------------------------------------------------------------


def test_the_request_is_the_documented_one(tmp_path: Path):
    # given a local picture, an address, and a prompt that is not ASCII
    photo = a_photo(tmp_path)
    edit = Edit(
        "qwen-image-2.0", (photo, Picture("https://a/ü.png")), 'say "Größe 中"', {"n": 2, "watermark": False}, 7
    )
    # when it is bought
    with serve(answering(200, GOOD)) as server:
        with provider(server.url, DASHSCOPE_WORKSPACE_ID="llm-1") as made:
            buy(made, edit, attempt="a-1")
        (request,) = server.requests
    # then the wire shows what the reference says
    assert request.line == "POST /api/v1/services/aigc/multimodal-generation/generation HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["x-packshot-attempt"] == "a-1"
    assert request.headers["x-dashscope-workspace"] == "llm-1"
    assert request.headers["content-type"] == "application/json; charset=utf-8"
    assert "transfer-encoding" not in request.headers
    assert "x-dashscope-ossresourceresolve" not in request.headers
    content = request.json["input"]["messages"][0]["content"]
    assert content == [
        {"image": "data:image/bmp;base64," + base64.b64encode(Path(photo.ref).read_bytes()).decode()},
        {"image": "https://a/ü.png"},
        {"text": 'say "Größe 中"'},
    ]
    assert request.json["parameters"] == {"n": 2, "watermark": False, "seed": 7}
    assert "Größe 中".encode() in request.body


def test_result_addresses_are_kept_as_given_whatever_the_setting_for_private_hosts():
    with serve(answering(200, GOOD)) as server:
        for allowed in (False, True):  # who fetches asks by https, see worker/results.py; the setting may change
            with provider(server.url, PACKSHOT_ALLOW_PRIVATE_HOSTS=allowed) as made:
                assert buy(made, an_edit(), attempt="1").urls == (PICTURE_URL,)


def test_a_large_picture_is_streamed_and_never_held_in_memory(tmp_path: Path):
    # given 6 MB on disk
    photo = a_photo(tmp_path, large=True)
    assert photo.size is not None
    assert photo.size > 5_900_000
    sizes: list[int] = []

    def behave(peer: Peer) -> None:  # counts, so that the test does not measure its own server
        _, headers = peer.read_head()
        left = int(headers["content-length"]) - len(peer._seen)
        sizes.append(left)
        while left > 0:
            left -= len(peer.sock.recv(65536))
        peer.answer(200, GOOD)

    with serve(behave) as server, provider(server.url) as made:
        buy(made, an_edit(), attempt="0")  # imports and caches
        # when it is sent
        tracemalloc.start()
        buy(made, an_edit(photo), attempt="1")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # then less than a fifth of the 8 MB that went out was ever in memory
    print(f"peak {peak / 1e6:.2f} MB for {sizes[-1] / 1e6:.2f} MB sent")
    assert sizes[-1] > 7_900_000
    assert peak < 1_600_000


def test_every_paid_call_has_a_connection_of_its_own():
    # given a server that would gladly keep the connection
    def keep(peer: Peer) -> None:
        while True:
            peer.read_request()
            peer.answer(200, GOOD)

    with serve(keep) as server, provider(server.url, PACKSHOT_CONCURRENCY=1) as made:
        # when three calls follow each other, in a pool of one
        for attempt in range(3):
            buy(made, an_edit(), attempt=str(attempt))
        # then none met a connection that could have been stale, and none was lost to the pool
        assert server.connections == 3


def test_calls_over_tls_share_one_context_and_keep_the_time_limit(tmp_path: Path, monkeypatch):
    # given a server with a certificate that is trusted here
    context, trusted = certificate(tmp_path)
    monkeypatch.setattr(wire, "tls_context", lambda: trusted)
    with serve(answering(200, GOOD), tls=context) as server, provider(server.url) as made:
        assert buy(made, an_edit(a_photo(tmp_path, large=True)), attempt="1").pictures == 1
    # when another drips its answer
    with serve(drip_body, tls=context) as server, provider(server.url, PACKSHOT_CALL_TIMEOUT_S=0.5) as made:
        started = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            buy(made, an_edit(), attempt="1")
        # then the limit holds all the same
        assert time.monotonic() - started < 2


def test_a_request_leaves_at_its_slot_on_a_connection_that_stands_by_then():
    # given
    seen: list[float] = []

    def note(peer: Peer) -> None:
        seen.append(time.monotonic())
        peer.read_request()
        seen.append(time.monotonic())
        peer.answer(200, GOOD)

    with serve(note) as server, provider(server.url) as made, made.prepared(an_edit(), region=REGION) as letter:
        # when
        slot = time.monotonic() + 0.4
        made.send(letter, attempt="1", slot=Slot(slot))

    # then
    connected, arrived = seen
    assert connected < slot <= arrived


def test_nothing_leaves_whose_slot_has_passed_and_the_same_request_leaves_in_another():
    asked: list[bytes] = []

    def note(peer: Peer) -> None:
        with contextlib.suppress(OSError):
            asked.append(peer.read_request())
            peer.answer(200, GOOD)

    with serve(note) as server, provider(server.url) as made, made.prepared(an_edit(), region=REGION) as letter:
        # given
        now = time.monotonic()
        with pytest.raises(SlotMissed):
            made.send(letter, attempt="1", slot=Slot(now - 1, slack_s=0.5))
        assert not letter.begun

        # when
        answer = made.send(letter, attempt="1", slot=Slot(now - 1, slack_s=60))

    # then
    assert answer.pictures == 1
    assert len([request for request in asked if request]) == 1


def test_many_calls_at_once_share_one_provider():
    answers: list[int] = []
    with serve(answering(200, GOOD)) as server, provider(server.url, PACKSHOT_CONCURRENCY=8) as made:

        def call() -> None:
            for _ in range(10):
                answers.append(buy(made, an_edit(), attempt="1").pictures)

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [1] * 80


@pytest.mark.parametrize("key", ["", "  ", "sk-\nX-Evil: 1", "sk-ключ"])
def test_a_missing_or_impossible_key_is_said_before_anything_is_sent(key: str):
    with serve(answering(200, GOOD)) as server, provider(server.url, DASHSCOPE_API_KEY=key) as made:
        with pytest.raises(SettingsError, match="DASHSCOPE_API_KEY") as caught:
            buy(made, an_edit(), attempt="1")
        assert server.connections == 0
        assert key.strip() == "" or key not in str(caught.value)


def test_a_workspace_with_a_line_s_end_is_sent_without_it():
    with serve(answering(200, GOOD)) as server:
        with provider(server.url, DASHSCOPE_WORKSPACE_ID=" llm-1\n") as made:
            buy(made, an_edit(), attempt="1")
        assert server.requests[0].headers["x-dashscope-workspace"] == "llm-1"


def test_a_base_url_that_is_no_address_is_a_setting_to_correct():
    with provider("http://exa mple:99999/x") as made, pytest.raises(SettingsError, match="not an address"):
        buy(made, an_edit(), attempt="1")


def test_neither_key_nor_signature_reaches_a_log(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    with serve(answering(200, GOOD)) as server, provider(server.url) as made:
        buy(made, an_edit(), attempt="1")
    assert KEY not in caplog.text
    assert "Signature" not in caplog.text


# -- the provider's words --------------------------------------------------------------------------------------


def test_the_provider_s_own_words_and_ids_are_kept():
    body = {"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded, please try again later."}
    headers = {"x-request-id": "r-9", "Retry-After": "17"}
    with (
        serve(answering(429, body, headers)) as server,
        provider(server.url) as made,
        pytest.raises(Throttled) as caught,
    ):
        buy(made, an_edit(), attempt="1")
    error = caught.value
    assert (error.code, error.message) == (body["code"], body["message"])
    assert (error.http_status, error.request_id, error.wait_s) == (429, "r-9", 17.0)


def test_a_code_that_nobody_knows_is_judged_by_its_status():
    for status, expected in ((400, Rejected), (401, AccountStopped), (429, Throttled), (500, OutcomeUnknown)):
        behaviour = answering(status, {"code": "Brand.New", "message": "m"})
        with serve(behaviour) as server, provider(server.url) as made, pytest.raises(expected):
            buy(made, an_edit(), attempt="1")


# -- the key check and the upload ------------------------------------------------------------------------------


def policy(host: str, expires_s: int = 300) -> dict[str, Any]:
    return {
        "request_id": "r-2",
        "data": {
            "policy": "cG9saWN5",
            "signature": "c2lnbmF0dXJl",
            "upload_dir": "dashscope-instant/abc",
            "upload_host": host,
            "expire_in_seconds": expires_s,
            "oss_access_key_id": "LTAI-secret",
            "x_oss_object_acl": "private",
            "x_oss_forbid_overwrite": "true",
        },
    }


def test_the_key_is_proved_without_buying():
    with serve(answering(200, policy("http://x"))) as server, provider(server.url) as made:
        made.check_key(REGION, "qwen-image-3.0")
        (request,) = server.requests
    assert request.line == "GET /api/v1/uploads?action=getPolicy&model=qwen-image-3.0 HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {KEY}"


def test_a_wrong_key_stops_the_batch_with_advice():
    body = {"code": "InvalidApiKey", "message": "Invalid API-key provided.", "request_id": "r"}
    with (
        serve(answering(401, body)) as server,
        provider(server.url) as made,
        pytest.raises(AccountStopped) as caught,
    ):
        made.check_key(REGION, "qwen-image-3.0")
    assert "DASHSCOPE_API_KEY" in caught.value.advice


@pytest.mark.parametrize("behaviour", [answering(404, b"<html>nginx</html>"), reset_after_reading, cut_answer])
def test_a_host_that_is_not_the_provider_is_named_and_nothing_is_unknown(behaviour: Behaviour):
    with serve(behaviour) as server, provider(server.url) as made, pytest.raises(NotSent):
        made.check_key(REGION, "qwen-image-3.0")


MODEL_DENIED = answering(403, {"code": "Model.AccessDenied", "message": "no grant", "request_id": "r"})


def asked_models(server: misbehaving.Server) -> list[str]:
    return [request.line.partition("model=")[2].split()[0] for request in server.requests]


def test_the_provider_is_asked_about_the_models_that_are_to_be_bought_of():
    wanted = ["qwen-image-3.0", "qwen-image-2.1-pro"]
    with serve(answering(200, policy("http://x"))) as server:
        check_provider(settings(server.url), REGION, wanted)
        assert asked_models(server) == wanted


@pytest.mark.parametrize("region", catalogue.REGIONS)
def test_without_a_batch_the_provider_is_asked_about_a_model_that_the_region_has(region: str):
    with serve(MODEL_DENIED) as server:
        check_provider(settings(server.url), region)  # no grant for that one: the key is proved all the same
        (model,) = asked_models(server)
    assert region in catalogue.CATALOGUE[model].regions


def test_a_model_of_the_batch_that_the_key_may_not_use_is_told_before_anything_is_bought():
    with serve(MODEL_DENIED) as server, pytest.raises(ProviderNotReady, match="grant"):
        check_provider(settings(server.url), REGION, ["qwen-image-3.0"])


class Oss:
    """Policy, upload and edit on one port, as the paths say."""

    def __init__(self, upload_status: int = 200, expires_s: int = 300) -> None:
        self.upload_status, self.expires_s = upload_status, expires_s
        self.port = 0

    def __call__(self, peer: Peer) -> None:
        request = peer.read_request()
        if "/uploads?" in request.line:
            peer.answer(200, policy(f"http://127.0.0.1:{self.port}/bucket", self.expires_s))
        elif request.line.startswith("POST /bucket"):
            xml = b"<Error><Code>AccessDenied</Code><Message>Policy expired.</Message><Sig>c2lnbmF0dXJl</Sig></Error>"
            peer.answer(self.upload_status, b"" if self.upload_status == 200 else xml)
        else:
            peer.answer(200, GOOD)


@contextlib.contextmanager
def oss(**how: Any) -> Iterator[tuple[misbehaving.Server, Provider]]:
    behaviour = Oss(**how)
    with serve(behaviour) as server, provider(server.url, PACKSHOT_ALLOW_PRIVATE_HOSTS=True) as made:
        behaviour.port = server.port
        yield server, made


def test_what_is_too_large_for_the_request_goes_by_upload(tmp_path: Path):
    # given 12 MB in two pictures
    photos = a_photo(tmp_path, large=True), a_photo(tmp_path, large=True, name="two.bmp")
    with oss() as (server, made):
        # when the edit is bought twice
        for _ in range(2):
            buy(made, an_edit(*photos), attempt="1")
        asked, form, call, form_again, _ = server.requests
    # then one picture went up, the other inside, and the policy was asked for once
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    content = call.json["input"]["messages"][0]["content"]
    assert content[0]["image"].startswith("oss://dashscope-instant/abc/")
    assert content[0]["image"].endswith(".bmp")
    assert content[1]["image"].startswith("data:image/bmp;base64,")
    assert call.headers["x-dashscope-ossresourceresolve"] == "enable"
    # the form: fields first, the file last and whole, no key of ours
    assert "authorization" not in form.headers
    boundary = form.headers["content-type"].partition("boundary=")[2]
    parts = form.body.split(f"--{boundary}".encode())
    names = [part.split(b'name="')[1].split(b'"')[0].decode() for part in parts[1:-1]]
    assert names[:5] == ["OSSAccessKeyId", "Signature", "policy", "x-oss-object-acl", "x-oss-forbid-overwrite"]
    assert names[-1] == "file"
    assert content[0]["image"].removeprefix("oss://").encode() in parts[6]
    assert parts[-2].partition(b"\r\n\r\n")[2] == Path(photos[0].ref).read_bytes() + b"\r\n"
    assert b"photo" not in form.body[:1000]
    assert form.body != form_again.body


def test_a_policy_is_not_used_in_its_last_minute(tmp_path: Path):
    photos = a_photo(tmp_path, large=True), a_photo(tmp_path, large=True, name="two.bmp")
    with oss(expires_s=30) as (server, made):
        for _ in range(2):
            buy(made, an_edit(*photos), attempt="1")
        assert sum("/uploads?" in request.line for request in server.requests) == 2


def test_a_refused_upload_buys_nothing_and_tells_no_signature(tmp_path: Path):
    photos = a_photo(tmp_path, large=True), a_photo(tmp_path, large=True, name="two.bmp")
    with oss(upload_status=403) as (server, made):
        with pytest.raises(NotSent, match=r"Policy expired\.") as caught:
            buy(made, an_edit(*photos), attempt="1")
        assert not any("generation" in request.line for request in server.requests)
    assert "c2lnbmF0dXJl" not in str(caught.value)
    assert "LTAI" not in str(caught.value)


def test_an_upload_that_is_throttled_is_no_throttle_of_the_model(tmp_path: Path):
    photos = a_photo(tmp_path, large=True), a_photo(tmp_path, large=True, name="two.bmp")
    said = {"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded.", "request_id": "r"}
    with (
        serve(answering(429, said)) as server,
        provider(server.url) as made,
        pytest.raises(NotSent, match=r"Throttling\.RateQuota") as caught,
    ):
        buy(made, an_edit(*photos), attempt="1")
    assert caught.value.code == "UploadFailed"
    assert not any("generation" in request.line for request in server.requests)


def the_upload(does: Behaviour) -> Behaviour:
    """A provider whose upload host answers as `does`."""

    def behave(peer: Peer) -> None:
        request = peer.read_request()
        if "/uploads?" in request.line:
            peer.answer(200, policy(f"http://127.0.0.1:{peer.server.port}/bucket"))
        elif request.line.startswith("POST /bucket"):
            does(peer)
        else:
            peer.answer(200, GOOD)

    return behave


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX-Long: ", b"HTTP/1.1 403 No\r\nContent-Length: 999\r\n\r\n"])
def test_an_upload_whose_answer_drips_ends_with_the_call_and_buys_nothing(tmp_path: Path, head: bytes):
    photos = a_photo(tmp_path, large=True), a_photo(tmp_path, large=True, name="two.bmp")
    behaviour = the_upload(lambda peer: peer.drip(head + b"x" * 9999, 0.02))
    with (
        serve(behaviour) as server,
        provider(server.url, PACKSHOT_ALLOW_PRIVATE_HOSTS=True, PACKSHOT_CALL_TIMEOUT_S=1.0) as made,
    ):
        started = time.monotonic()
        with pytest.raises(NotSent):
            buy(made, an_edit(*photos), attempt="1")
        assert time.monotonic() - started < 4
    assert not any("generation" in request.line for request in server.requests)


@pytest.mark.parametrize("status", [200, 403])
def test_an_endless_answer_to_an_upload_is_not_read(tmp_path: Path, status: int):
    # given an upload host that answers 300 MB
    sent: list[int] = []

    def endless(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 %d x\r\nContent-Length: 300000000\r\n\r\n" % status)
        for _ in range(300):
            sent.append(1_000_000)
            peer.send(bytes(1_000_000))

    photos = a_photo(tmp_path, large=True), a_photo(tmp_path, large=True, name="two.bmp")
    # when something is uploaded there
    with (
        serve(the_upload(endless)) as server,
        provider(server.url, PACKSHOT_ALLOW_PRIVATE_HOSTS=True) as made,
        contextlib.nullcontext() if status == 200 else pytest.raises(NotSent, match="HTTP 403"),
    ):
        buy(made, an_edit(*photos), attempt="1")
    # then the status counts, and the rest is left where it is
    assert sum(sent) < 50_000_000


def test_an_upload_host_on_our_own_network_is_refused(tmp_path: Path):
    photos = a_photo(tmp_path, large=True), a_photo(tmp_path, large=True, name="two.bmp")
    behaviour = Oss()
    with serve(behaviour) as server, provider(server.url) as made:
        behaviour.port = server.port
        with pytest.raises(NotSent, match="no public address"):
            buy(made, an_edit(*photos), attempt="1")
    assert not any("/bucket" in request.line for request in server.requests)


def test_a_picture_in_s3_is_fetched_checked_and_sent(tmp_path: Path):
    photo = a_photo(tmp_path)

    class Client:
        def get_object(self, **where: str) -> dict[str, Any]:
            assert where == {"Bucket": "shop", "Key": "in/photo.bmp"}
            return {"Body": StreamingBody(Path(photo.ref).open("rb"), photo.size)}

    with serve(answering(200, GOOD)) as server:
        known = settings(server.url)
        with contextlib.closing(Provider(known, inputs=Inputs(known, s3=Client))) as made:
            buy(made, an_edit(Picture("s3://shop/in/photo.bmp")), attempt="1")
        content = server.requests[0].json["input"]["messages"][0]["content"]
    assert base64.b64decode(content[0]["image"].partition(",")[2]) == Path(photo.ref).read_bytes()


def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context for localhost, signed by itself, and a client's context that trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=str(path))

"""The emulator as a process: what a client meets on the wire, and what the invoice says afterwards."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from PIL import Image, ImageDraw

from emulator.faults import FAULTS
from tests.servers.emulator import API_KEY, EmulatorProcess, running_emulator

MODEL = "qwen-image-2.0"
PATIENCE_S = 20.0
SLOW_S = 2.5
PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    with running_emulator(tmp_path_factory.mktemp("state"), limits=f"{MODEL}=10000/1s") as process:
        yield process


def picture_bytes(size: tuple[int, int] = (80, 100), kind: str = "PNG") -> bytes:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4), fill="brown")
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def data_uri(content: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def request(*, images: list[str] | None = None, prompt: str = "on white", model: str = MODEL, **parameters: Any) -> Any:
    content = [{"image": image} for image in (images or [data_uri(picture_bytes())])] + [{"text": prompt}]
    if model != "qwen-image-edit":
        parameters = {"size": "512*512", **parameters}
    return {
        "model": model,
        "input": {"messages": [{"role": "user", "content": content}]},
        "parameters": {name: value for name, value in parameters.items() if value is not None},
    }


def post(
    emulator: EmulatorProcess,
    body: Any,
    *,
    headers: dict[str, str] | None = None,
    key: str | None = API_KEY,
    timeout: float = PATIENCE_S,
    path: str = "/services/aigc/multimodal-generation/generation",
) -> urllib3.BaseHTTPResponse:
    """One connection a call, so that nothing is left over from the call before."""
    sent = {
        "Content-Type": "application/json",
        **({"Authorization": f"Bearer {key}"} if key else {}),
        **(headers or {}),
    }
    with urllib3.PoolManager(retries=False, timeout=timeout) as http:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return http.request("POST", emulator.url + path, body=data, headers=sent)


def get(url: str, *, timeout: float = PATIENCE_S, **headers: str) -> urllib3.BaseHTTPResponse:
    with urllib3.PoolManager(retries=False, timeout=timeout) as http:
        return http.request("GET", url, headers=headers)


def urls(answer: urllib3.BaseHTTPResponse) -> list[str]:
    return [item["image"] for item in answer.json()["output"]["choices"][0]["message"]["content"]]


def billed(emulator: EmulatorProcess) -> int:
    return int(emulator.invoice(summary=True)["pictures"])


def test_an_edit_is_answered_billed_and_delivered(emulator):
    answer = post(emulator, request(n=2, seed=11), headers={"x-packshot-attempt": "attempt-1"})

    assert answer.status == 200
    body = answer.json()
    assert set(body) == {"output", "usage", "request_id"}
    assert body["usage"] == {"width": 512, "height": 512, "image_count": 2}
    assert answer.headers["x-request-id"] == body["request_id"]
    for url in urls(answer):
        fetched = get(url)
        assert fetched.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(fetched.data)).size == (512, 512)
    lines = [line for line in emulator.invoice()["lines"] if line["request_id"] == body["request_id"]]
    assert len(lines) == 2
    expected = {"item": "output", "micros": 200_000, "currency": "CNY", "seed": 11, "model": MODEL, "fault": None}
    assert lines[0].items() >= (expected | {"client_request": "attempt-1", "delivered": True}).items()


def test_the_3_0_models_bill_their_inputs_and_say_so(emulator):
    before = emulator.invoice()
    images = [data_uri(picture_bytes()), data_uri(picture_bytes((60, 60)))]

    answer = post(emulator, request(images=images, model="qwen-image-3.0-pro", size="1024*1024"))

    assert answer.json()["usage"] == {
        "output_width": 1024,
        "output_height": 1024,
        "input_image_count": 2,
        "input_image_type": "qima_input_1k",
        "output_image_count": 1,
        "output_image_type": "qima_output_1k",
    }
    assert emulator.invoice()["micros"] - before["micros"] == 290_000


def test_without_a_size_the_3_0_models_yield_and_bill_the_2k_tier(emulator):
    before = emulator.invoice()["micros"]

    usage = post(emulator, request(model="qwen-image-3.0-pro", size=None)).json()["usage"]

    assert usage["output_image_type"] == "qima_output_2k"
    assert emulator.invoice()["micros"] - before == 520_000


@pytest.mark.parametrize(
    ("key", "headers", "status", "code"),
    [
        (None, {}, 401, "InvalidApiKey"),
        ("wrong", {}, 401, "InvalidApiKey"),
        (API_KEY, {"X-DashScope-Async": "enable"}, 403, "AccessDenied"),
        (API_KEY, {"Content-Type": "text/plain"}, 400, "InvalidParameter"),
    ],
)
def test_a_call_with_the_wrong_headers_is_refused_and_not_billed(emulator, key, headers, status, code):
    before = billed(emulator)

    answer = post(emulator, request(), key=key, headers=headers)

    assert (answer.status, answer.json()["code"]) == (status, code)
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert billed(emulator) == before


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (data_uri(picture_bytes(), "image/jpeg"), "InvalidParameter"),
        (data_uri(b"no picture"), "InvalidParameter"),
        (data_uri(picture_bytes()[:90]), "InvalidParameter"),
        ("data:image/png;base64,%%%", "InvalidParameter"),
        ("data:image/png;base64," + "A" * 10_485_760, "InvalidParameter"),
        ("http://192.0.2.1/a.png", "InvalidParameter"),
        ("http://127.0.0.1:1/a.png", "InvalidParameter"),
        ("http://127.0.0.1/ü.png", "InvalidURL"),
        ("oss://nothing", "InvalidParameter"),
        ("/etc/hostname", "InvalidParameter"),
    ],
)
def test_a_picture_that_cannot_be_used_is_refused_and_not_billed(emulator, image, code):
    before = billed(emulator)

    answer = post(emulator, request(images=[image]))

    assert (answer.status, answer.json()["code"]) == (400, code)
    assert billed(emulator) == before


def test_a_body_the_gateway_does_not_take_is_a_413(emulator):
    assert post(emulator, request(prompt="x" * (17 * 1024 * 1024))).status == 413


def test_an_address_on_this_machine_is_fetched(emulator):
    first = urls(post(emulator, request()))[0]

    assert post(emulator, request(images=[first])).status == 200


def test_a_dead_or_doctored_result_address_answers_like_an_object_store(emulator):
    url = urls(post(emulator, request()))[0]

    assert get(url, Authorization="Bearer x").status == 400
    doctored = get(url.replace("Expires=", "Expires=1"))
    assert doctored.status == 403
    assert b"<Code>SignatureDoesNotMatch</Code>" in doctored.data


@pytest.mark.parametrize(
    "path", ["/services/aigc/image-generation/generation", "/tasks/abc", "/services/aigc/text2image/image-synthesis"]
)
def test_paths_that_are_not_offered_answer_a_documented_error(emulator, path):
    answer = post(emulator, request(model="qwen-image-3.0"), path=path, headers={"X-DashScope-Async": "enable"})

    assert answer.status in (403, 404)
    assert {"request_id", "code", "message"} == set(answer.json())


class Outcome:
    """What a client saw of one call and of the download of its first picture."""

    def __init__(self, emulator: EmulatorProcess, n: int) -> None:
        self.status = self.code = self.broken = self.download = self.usage = None
        self.pictures = 0
        try:
            answer = post(emulator, request(n=n), timeout=1.5)
        except (urllib3.exceptions.ProtocolError, urllib3.exceptions.TimeoutError) as error:
            self.broken = "timeout" if isinstance(error, urllib3.exceptions.TimeoutError) else "connection"
            return
        self.status = answer.status
        if answer.headers["content-type"].startswith("application/json"):
            body = answer.json()
            self.code, self.usage = body.get("code"), body.get("usage")
            if self.code is None:
                self.pictures = len(urls(answer))
                self.download = downloaded(urls(answer)[0])


def downloaded(url: str) -> str:
    begun = time.monotonic()
    try:
        fetched = get(url)
    except urllib3.exceptions.ProtocolError:
        return "cut"
    if fetched.status != 200:
        return str(fetched.status)
    if time.monotonic() - begun > SLOW_S:
        return "slow"
    return "png" if fetched.data.startswith(b"\x89PNG") else "no picture"


# fault: what the caller sees (status or what broke, code), pictures billed of two, first download
EXPECTED: dict[str, tuple[Any, str | None, int, str | None]] = {
    "refused": ("connection", None, 0, None),
    "throttled_rate": (429, "Throttling.RateQuota", 0, None),
    "throttled_burst": (429, "Throttling.BurstRate", 0, None),
    "throttled_quota": (429, "Throttling.AllocationQuota", 0, None),
    "throttled": (429, "Throttling", 0, None),
    "free_quota_used_up": (429, "Throttling.AllocationQuota", 0, None),
    "not_purchased": (429, "CommodityNotPurchased", 0, None),
    "prepaid_overdue": (429, "PrepaidBillOverdue", 0, None),
    "postpaid_overdue": (429, "PostpaidBillOverdue", 0, None),
    "request_timeout": (500, "RequestTimeOut", 0, None),
    "gateway_json": (504, "GatewayTimeout", 0, None),
    "download_failed": (400, "InvalidParameter", 0, None),
    "model_denied": (403, "Model.AccessDenied", 0, None),
    "http_500": (500, "InternalError", 0, None),
    "http_503": (503, "ModelUnavailable", 0, None),
    "serving_error": (503, "ModelServingError", 0, None),
    "gateway_html": (502, None, 0, None),
    "gateway_html_billed": (504, None, 2, None),
    "slow": ("timeout", None, 2, None),
    "stuck": ("timeout", None, 0, None),
    "stuck_billed": ("timeout", None, 2, None),
    "dropped_before_billing": ("connection", None, 0, None),
    "dropped_after_billing": ("connection", None, 2, None),
    "partial": (200, None, 1, "png"),
    "content_refused": (400, "DataInspectionFailed", 0, None),
    "content_refused_output": (400, "DataInspectionFailed", 0, None),
    "no_usage": (200, None, 2, "png"),
    "error_200": (200, "InternalError.Algo", 0, None),
    "half_answer": ("connection", None, 2, None),
    "arrears": (400, "Arrearage", 0, None),
    "bad_key": (401, "InvalidApiKey", 0, None),
    "free_tier_only": (403, "AllocationQuota.FreeTierOnly", 0, None),
    "result_truncated": (200, None, 2, "cut"),
    "result_500": (200, None, 2, "500"),
    "result_expired": (200, None, 2, "403"),
    "result_not_png": (200, None, 2, "no picture"),
    "result_slow": (200, None, 2, "slow"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_does_what_it_says_and_bills_what_it_says(emulator, name):
    seen, code, pictures, download = EXPECTED[name]
    before = billed(emulator)
    emulator.fault(name)

    outcome = Outcome(emulator, n=2)

    assert (outcome.broken or outcome.status, outcome.code, outcome.download) == (seen, code, download)
    deadline = time.monotonic() + PATIENCE_S
    while billed(emulator) - before < pictures and time.monotonic() < deadline:
        time.sleep(0.05)  # the caller left; the work goes on
    assert billed(emulator) - before == pictures
    assert (outcome.usage is None) == (name == "no_usage" or outcome.pictures == 0)
    if pictures:
        lines = emulator.invoice()["lines"][-pictures:]
        assert {line["fault"] for line in lines} == {name}
        assert {line["delivered"] for line in lines} == {outcome.broken is None and outcome.status == 200}
    assert post(emulator, request()).status == 200, "the next call is well again"


@pytest.mark.parametrize("name", ["result_truncated", "result_500", "result_slow"])
def test_a_broken_download_heals(emulator, name):
    emulator.fault(name, downloads=2, seconds=3)
    url = urls(post(emulator, request()))[0]

    assert [downloaded(url) == "png" for _ in range(3)] == [False, False, True]


def test_a_fault_hits_the_call_it_was_meant_for_and_refused_calls_use_none_up(emulator):
    emulator.fault("http_500", prompt_contains="watch")

    assert post(emulator, request(prompt="a mug")).status == 200
    assert post(emulator, request(prompt="a watch", n="1")).status == 400
    assert post(emulator, request(prompt="a watch", images=[data_uri(b"no picture")])).status == 400
    assert post(emulator, request(prompt="a watch")).status == 500
    assert post(emulator, request(prompt="a watch")).status == 200


def test_a_burst_waits_for_a_caller_who_says_so(emulator):
    emulator.fault("throttled_burst", times=2, seconds=0.2)

    patient = post(emulator, request(), headers={"X-DashScope-Wait-Timeout": "5"})
    hasty = post(emulator, request())

    assert (patient.status, hasty.status) == (200, 429)


def test_a_fault_or_limit_that_cannot_be_meant_is_refused_at_the_desk(emulator):
    with pytest.raises(AssertionError, match="not a fault"):
        emulator.fault("flood")
    with pytest.raises(AssertionError, match="not a model"):
        emulator.limit("gpt=1/1s")


def test_the_desk_shows_calls_and_the_page_does_not_run_what_a_prompt_says(emulator):
    post(emulator, request(prompt="<script>alert(1)</script>"))

    call = emulator.calls()[-1]
    assert call.items() >= {"model": MODEL, "status": 200, "code": None, "billed": 1}.items()
    page = get(emulator.root + "/").data
    assert b"&lt;script&gt;" in page
    assert b"<script>" not in page


def test_a_rate_limit_holds_over_all_keys(tmp_path):
    with running_emulator(tmp_path, limits=f"{MODEL}=2/60s") as emulator:
        answers = [post(emulator, request(), key=f"sk-{i}") for i in range(3)]
        other = post(emulator, request(model="qwen-image-2.0-2026-03-03"))
        emulator.limit(f"{MODEL}=3/60s")
        after = post(emulator, request())

        assert [a.status for a in answers] == [200, 200, 429]
        assert answers[2].json()["code"] == "Throttling.RateQuota"
        assert (other.status, after.status) == (200, 200)
        assert billed(emulator) == 4


def test_books_and_pictures_survive_a_kill(tmp_path):
    with running_emulator(tmp_path) as emulator:
        url = urls(post(emulator, request()))[0]

        emulator.restart()
        post(emulator, request())

        assert downloaded(url) == "png"
        assert emulator.invoice(summary=True) == {"currency": "CNY", "micros": 400_000, "pictures": 2}
        assert [call["ordinal"] for call in emulator.calls()] == [1, 2]


def test_singapore_bills_in_dollars_and_other_regions_know_fewer_models(tmp_path):
    with running_emulator(tmp_path, region="ap-southeast-1") as emulator:
        post(emulator, request())
        assert emulator.invoice(summary=True) == {"currency": "USD", "micros": 35_000, "pictures": 1}
    with running_emulator(tmp_path / "us", region="us-east-1") as emulator:
        assert post(emulator, request()).json()["code"] == "ModelNotFound"


def test_a_key_can_be_the_only_one(tmp_path):
    with running_emulator(tmp_path, api_key="sk-mine") as emulator:
        assert post(emulator, request(), key="sk-other").status == 401
        assert post(emulator, request(), key="sk-mine").status == 200


def test_public_addresses_can_have_a_stand_in(tmp_path):
    with running_emulator(tmp_path, fetch="standin") as emulator:
        before, after = (post(emulator, request(images=[f"https://shop.invalid/{i}.png"])) for i in range(2))

        assert (before.status, after.status) == (200, 200)
        assert get(urls(before)[0]).data != get(urls(after)[0]).data


def test_a_retired_model_answers_with_one_warning(tmp_path):
    process = started("--port", "0", "--state", str(tmp_path), "--latency", "0")
    emulator = EmulatorProcess()
    assert process.stdout is not None
    emulator.url = json.loads(process.stdout.readline())["url"]
    try:
        found = [post(emulator, request(model="qwen-image-edit-plus")).status for _ in range(2)]
    finally:
        process.terminate()
        _, err = process.communicate(timeout=PATIENCE_S)

    assert found == [200, 200]
    assert err.count("announced as retired on 2026-10-10") == 1


def test_retired_models_can_be_refused(tmp_path):
    with running_emulator(tmp_path, retired="refuse", unknown_parameters="refuse") as emulator:
        assert post(emulator, request(model="qwen-image-edit-plus")).json()["code"] == "Endpoint.AccessDenied"
        assert post(emulator, request(strength=1)).status == 400


def test_the_same_seed_replays_the_same_faults(tmp_path):
    def run(folder: Path) -> list[Any]:
        with running_emulator(
            folder, fault={"http_500": 0.4, "partial": 0.3}, seed=3, limits=f"{MODEL}=99/1s"
        ) as emulator:
            for _ in range(8):
                post(emulator, request())
            return [call["fault"] for call in emulator.calls()]

    first = run(tmp_path / "a")

    assert first == run(tmp_path / "b")
    assert {"http_500"} < set(first)


def started(*arguments: str, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "emulator", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT, **more)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_leave_it_leaves_with_0_even_while_a_call_is_stuck(tmp_path, number):
    emulator = EmulatorProcess().start(tmp_path)
    emulator.fault("stuck")
    waiting = threading.Thread(target=lambda: Outcome(emulator, n=1))
    waiting.start()
    while get(emulator.root + "/emulator/faults").json()["queue"]:
        time.sleep(0.02)

    begun = time.monotonic()
    os.kill(emulator.pid, number)
    code = emulator.wait()
    waiting.join()

    assert code == 0
    assert time.monotonic() - begun < 4


def test_a_taken_port_is_one_sentence_and_exit_code_1(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = started("--port", str(taken.getsockname()[1]), "--state", str(tmp_path))
        out, err = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, out, err.count("\n")) == (1, "", 1)
    assert "cannot listen on 127.0.0.1" in err


def test_a_state_directory_in_use_or_in_the_way_is_one_sentence_and_exit_code_1(tmp_path):
    (tmp_path / "file").touch()
    with running_emulator(tmp_path / "used"):
        for folder in ("file", "used"):
            process = started("--port", "0", "--state", str(tmp_path / folder))
            out, err = process.communicate(timeout=PATIENCE_S)

            assert (process.returncode, out, err.count("\n")) == (1, "", 1)
            assert "cannot be used" in err


@pytest.mark.parametrize(
    "arguments", [["--host", "0.0.0.0"], ["--fault", "flood=1"], ["--limits", "x"], ["--latency", "-1"]]
)
def test_options_that_cannot_be_meant_leave_with_2(tmp_path, arguments):
    process = started("--port", "0", "--state", str(tmp_path), *arguments)

    assert process.communicate(timeout=PATIENCE_S)[0] == ""
    assert process.returncode == 2


def test_it_leaves_with_its_parent(tmp_path):
    process = started("--port", "0", "--state", str(tmp_path), "--parent-pipe", stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    ready = json.loads(process.stdout.readline())

    process.stdin.close()

    assert process.wait(PATIENCE_S) == 0
    assert ready["pid"] == process.pid
    process.stdout.close()
    assert process.stderr is not None
    process.stderr.close()

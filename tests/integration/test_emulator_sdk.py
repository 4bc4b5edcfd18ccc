"""The provider's own client, unmodified, against the emulator: what it can do there, it can do here."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import dashscope
import pytest
import urllib3
from PIL import Image, ImageDraw

from tests.servers.emulator import API_KEY, EmulatorProcess, running_emulator

MODEL = "qwen-image-2.0"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    with running_emulator(tmp_path_factory.mktemp("state"), limits=f"{MODEL}=1000/1s") as process:
        before, dashscope.base_http_api_url = dashscope.base_http_api_url, process.url
        yield process
        dashscope.base_http_api_url = before


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = Image.new("RGB", (120, 160), "white")
    ImageDraw.Draw(image).ellipse((30, 30, 90, 130), fill="brown")
    image.save(tmp_path / "vase.png")
    return tmp_path / "vase.png"


def edit(
    *images: str, prompt: str = "on a blue background", model: str = MODEL, key: str = API_KEY, **more: Any
) -> Any:
    content = [{"image": image} for image in images] + [{"text": prompt}]
    messages = [{"role": "user", "content": content}]
    return dashscope.MultiModalConversation.call(api_key=key, model=model, messages=messages, **more)


def pictures(answer: Any) -> list[Image.Image]:
    found = []
    for item in answer.output.choices[0].message.content:
        fetched = urllib3.request("GET", item["image"])
        assert fetched.status == 200
        found.append(Image.open(io.BytesIO(fetched.data)))
    return found


def test_a_local_file_is_uploaded_and_edited(emulator, photo):
    answer = edit(f"file://{photo}", size="512*640", n=2, watermark=False, prompt_extend=True, negative_prompt=" ")

    assert answer.status_code == HTTPStatus.OK, answer
    assert [picture.size for picture in pictures(answer)] == [(512, 640)] * 2
    assert answer.usage["image_count"] == 2


def test_two_local_files_share_one_upload_policy(emulator, photo):
    second = photo.with_name("second.png")
    second.write_bytes(photo.read_bytes())

    answer = edit(f"file://{photo}", f"file://{second}", size="512*512")

    assert answer.status_code == HTTPStatus.OK, answer


def test_a_data_uri_is_edited(emulator, photo):
    answer = edit("data:image/png;base64," + base64.b64encode(photo.read_bytes()).decode(), size="512*512", seed=3)

    assert pictures(answer)[0].size == (512, 512)
    assert answer.request_id


def test_a_3_0_model_answers_with_its_own_usage(emulator, photo):
    answer = edit(f"file://{photo}", model="qwen-image-3.0", size="1024*1024")

    assert answer.usage["output_image_type"] == "qima_output_1k"
    assert answer.usage["input_image_count"] == 1


@pytest.mark.parametrize(
    ("parameters", "status", "code"),
    [
        ({"size": "1K"}, 400, "InvalidParameter"),
        ({"n": 9}, 400, "InvalidParameter"),
        ({"key": "nonsense"}, 401, "InvalidApiKey"),
        ({"model": "qwen-image-9"}, 404, "ModelNotFound"),
    ],
)
def test_refusals_arrive_with_code_message_and_request_id(emulator, photo, parameters, status, code):
    uri = "data:image/png;base64," + base64.b64encode(photo.read_bytes()).decode()

    answer = edit(uri, **parameters)

    assert (answer.status_code, answer.code) == (status, code)
    assert answer.message
    assert answer.request_id


def test_a_429_arrives_as_such(emulator, photo):
    emulator.fault("throttled_rate")

    answer = edit(f"file://{photo}", size="512*512")

    assert (answer.status_code, answer.code) == (429, "Throttling.RateQuota")


def test_a_page_of_the_gateway_does_not_pass_for_an_answer(emulator, photo):
    emulator.fault("gateway_html")

    answer = edit(f"file://{photo}", size="512*512")

    assert answer.status_code == 502

import json
from datetime import date
from typing import Any

import pytest

from emulator.checks import Order, read_order
from emulator.refusals import Refusal

PICTURE = "https://example.com/a.png"


def message(*content: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}]}


def request(
    model: Any = "qwen-image-2.0", pictures: int = 1, text: Any = "white background", **parameters: Any
) -> dict:
    content = [{"image": PICTURE}] * pictures + [{"text": text}]
    return {"model": model, "input": message(*content), "parameters": parameters}


def read(content: Any, **more: Any) -> Order:
    settings = {"region": "cn-beijing", "on": date(2026, 11, 1), "refuse_unknown": False, "refuse_retired": False}
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return read_order(body, **(settings | more))


def refusal(content: Any, **more: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read(content, **more)
    return caught.value


def test_a_good_request_becomes_an_order():
    order = read(request(pictures=2, n=3, size="1024*768", seed=7, watermark=True, negative_prompt=" "))

    assert (order.model.id, order.prompt, order.images) == ("qwen-image-2.0", "white background", (PICTURE,) * 2)
    assert (order.n, order.size, order.seed, order.watermark) == (3, (1024, 768), 7, True)


def test_parameters_may_be_absent():
    content = request()
    del content["parameters"]

    assert (read(content).n, read(content).size, read(content).seed) == (1, None, None)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"n": "1"}, "valid integer"),
        ({"n": True}, "valid integer"),
        ({"n": 1.0}, "valid integer"),
        ({"n": None}, "valid integer"),
        ({"n": 0}, "between 1 and 6"),
        ({"n": 7}, "between 1 and 6"),
        ({"seed": -1}, "between 0 and 2147483647"),
        ({"seed": 2**31}, "between 0 and 2147483647"),
        ({"seed": "7"}, "valid integer"),
        ({"watermark": "true"}, "valid boolean"),
        ({"prompt_extend": 1}, "valid boolean"),
        ({"negative_prompt": 3}, "valid string"),
        ({"size": 1024}, "valid string"),
        ({"size": ""}, "Expected format: '<width>*<height>'"),
        ({"size": "1K"}, "Expected format: '<width>*<height>'"),
        ({"size": "3:4"}, "Expected format: '<width>*<height>'"),
        ({"size": "1024x1024"}, "Expected format: '<width>*<height>'"),
        ({"size": " 1024*1024"}, "Expected format: '<width>*<height>'"),
        ({"size": "511*512"}, "total pixels"),
        ({"size": "2048*2064"}, "total pixels"),
    ],
)
def test_a_parameter_of_the_wrong_kind_or_size_is_refused(parameters, words):
    found = refusal(request(**parameters))

    assert (found.status, found.code) == (400, "InvalidParameter")
    assert words in found.message


@pytest.mark.parametrize(
    ("model", "size", "fits"),
    [
        ("qwen-image-2.0", "4096*1024", True),
        ("qwen-image-edit-max", "2064*512", False),
        ("qwen-image-edit-max", "2048*512", True),
        ("qwen-image-3.0", "2560*2560", True),  # seen to work beyond the documented area
        ("qwen-image-3.0", "2576*2560", False),
        ("qwen-image-3.0", "4096*480", False),  # flatter than 8:1
        ("qwen-image-2.1-pro", "2064*2048", False),
    ],
)
def test_each_model_has_its_own_size_rule(model, size, fits):
    if fits:
        assert read(request(model, size=size)).size is not None
    else:
        assert refusal(request(model, size=size)).code == "InvalidParameter"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "Required body invalid"),
        (b"[]", "Required body invalid"),
        (b"[" * 200_000, "Required body invalid"),
        (b"\xff\xfe\xfa", "Required body invalid"),
        (request(text="\ud800"), "valid string"),
        ({"input": message({"text": "x"})}, "Field required: model"),
        ({"model": "qwen-image-2.0"}, "Field required: input"),
        ({"model": "qwen-image-2.0", "input": {}}, "No messages found in input"),
        ({"model": "qwen-image-2.0", "input": {"messages": []}}, "No messages found in input"),
        ({"model": "qwen-image-2.0", "input": {"messages": [{}, {}]}}, "messages length only support 1"),
        ({"model": "qwen-image-2.0", "input": {"messages": [{"role": "system", "content": []}]}}, "role"),
        ({"model": "qwen-image-2.0", "input": message({"image": PICTURE})}, "lack of image or text"),
        ({"model": "qwen-image-2.0", "input": message({"image": PICTURE}, {"text": "  "})}, "lack of image or text"),
        (
            {"model": "qwen-image-2.0", "input": message({"image": PICTURE}, {"text": "a"}, {"text": "b"})},
            "content length only support 2",
        ),
        ({"model": "qwen-image-2.0", "input": message({"image": 1}, {"text": "a"})}, "valid string"),
        ({"model": "qwen-image-2.0", "input": message({"image": PICTURE, "text": "a"})}, "valid item"),
        (request(pictures=4), "supports 0~3 image content items. Got 4 image items."),
        (request("qwen-image-edit", pictures=0), "lack of image or text"),
        (request("qwen-image-edit", n=2), "num_images_per_prompt must be 1"),
        (request("qwen-image", pictures=1), "supports 0~0 image content items"),
        (request("wan2.7-image"), "url error, please check url!"),
        (request("qwen-image-3.0", prompt_extend_mode="agent"), "only supported in T2I mode"),
        (request() | {"parameters": []}, "valid dictionary"),
    ],
)
def test_a_request_that_is_not_formed_well_is_refused_in_the_providers_words(content, words):
    found = refusal(content)

    assert (found.status, found.code) == (400, "InvalidParameter")
    assert words in found.message


def test_a_model_takes_as_many_pictures_as_the_catalogue_says():
    assert len(read(request("qwen-image-2.1-pro", pictures=10)).images) == 10
    assert "0~10" in refusal(request("qwen-image-2.1-pro", pictures=11)).message


@pytest.mark.parametrize("region", ["us-east-1", "cn-hongkong"])
def test_a_model_is_unknown_where_the_region_does_not_offer_it(region):
    assert (refusal(request(), region=region).status, refusal(request("nobody")).code) == (404, "ModelNotFound")
    assert read(request("qwen-image-3.0"), region=region)


def test_unknown_parameters_are_ignored_unless_they_are_to_be_refused():
    unsupported = request("qwen-image-edit", size="1024*1024")

    assert read(request(strength=0.5)).n == 1
    assert read(unsupported).size is None
    assert "Extra inputs are not permitted: parameters.size" in refusal(unsupported, refuse_unknown=True).message


def test_retired_models_answer_unless_they_are_to_be_refused():
    assert read(request("qwen-image-edit-plus")).model.id == "qwen-image-edit-plus"
    assert refusal(request("qwen-image-edit-plus"), refuse_retired=True).code == "Endpoint.AccessDenied"
    assert read(request("qwen-image-edit-plus"), refuse_retired=True, on=date(2026, 10, 9))


def test_what_the_gateway_finds_too_large_is_a_413():
    heavy = "data:image/png;base64," + "A" * (21 * 1024 * 1024)
    two = ["data:image/png;base64," + "A" * (11 * 1024 * 1024)] * 2

    assert refusal(request(text="x" * (17 * 1024 * 1024))).status == 413
    for images in ([heavy], two):
        content = {"model": "qwen-image-2.0", "input": message(*({"image": i} for i in images), {"text": "a"})}
        assert refusal(content).status == 413

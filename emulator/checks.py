"""What the provider refuses before it works, in its words (API reference, sections 2, 3 and 5).

`read_order` turns a request body into an Order or raises a Refusal. It opens no picture; `inputs` does that. JSON types
are taken strictly: "1" is no integer, and neither is true.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from typing import Any

from emulator import refusals
from emulator.refusals import invalid
from models.catalogue import CATALOGUE, Model, SizeRule, parse_size

SEED_MAX = 2_147_483_647
NEGATIVE_CHARS = 500  # longer negative prompts are cut, not refused
PLAIN_BODY_MAX = 16 * 1024 * 1024  # gateway, without Base64; also what may be left after decoding
BASE64_BODY_MAX = 64 * 1024 * 1024
BASE64_ITEM_GATEWAY_MAX = 20 * 1024 * 1024
KNOWN_PARAMETERS = frozenset(
    {"n", "size", "negative_prompt", "prompt_extend", "prompt_extend_mode", "enable_thinking", "seed", "watermark"}
)


@dataclass(frozen=True)
class Order:
    """A call that is well formed. size is (width, height) as asked for, None where the model chooses; seed likewise."""

    model: Model
    prompt: str
    images: tuple[str, ...]
    n: int = 1
    size: tuple[int, int] | None = None
    seed: int | None = None
    watermark: bool = False
    prompt_extend: bool = True


def read_order(body: bytes, *, region: str, on: date, refuse_unknown: bool, refuse_retired: bool) -> Order:
    """Raises Refusal. refuse_unknown: parameters the model does not have (what the provider does is not documented)."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise invalid("Required body invalid, please check the request body format.") from None
    if not isinstance(content, dict):
        raise invalid("Required body invalid, please check the request body format.")
    model = _model(content.get("model"), region)
    if refuse_retired and model.retired_on(on):
        raise refusals.retired()
    prompt, images = _message(model, content.get("input"))
    _check_weight(len(body), images)
    parameters = content.get("parameters", {})
    if not isinstance(parameters, dict):
        raise invalid("Input should be a valid dictionary: parameters")
    unknown = sorted(set(parameters) - model.parameters)
    if unknown and refuse_unknown:
        raise invalid(f"Extra inputs are not permitted: parameters.{unknown[0]}")
    return Order(model, prompt, images, **_parameters(model, parameters, has_images=bool(images)))


def _model(name: Any, region: str) -> Model:
    if name is None or name == "":
        raise invalid("Field required: model")
    if not isinstance(name, str) or not _is_encodable(name):
        raise invalid("Input should be a valid string: model")
    model = CATALOGUE.get(name)
    if model is None or region not in model.regions:
        raise refusals.unknown_model(name)
    return model


def _message(model: Model, content: Any) -> tuple[str, tuple[str, ...]]:
    if not isinstance(content, dict):
        raise invalid("Field required: input")
    messages = content.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("No messages found in input")
    if len(messages) != 1:
        raise invalid("messages length only support 1")
    message = messages[0]
    if not isinstance(message, dict) or message.get("role") != "user":
        raise invalid("Input should be 'user': input.messages.0.role")
    items = message.get("content")
    if not isinstance(items, list) or not items:
        raise invalid("Field required: input.messages.0.content")
    texts = [_text_of(item, "text") for item in items if isinstance(item, dict) and "text" in item]
    images = tuple(_text_of(item, "image") for item in items if isinstance(item, dict) and "image" in item)
    if any(not isinstance(item, dict) or len(item) != 1 or not item.keys() & {"text", "image"} for item in items):
        raise invalid("Input should be a valid item {'image': ...} or {'text': ...}: input.messages.0.content")
    _check_counts(model, texts, images)
    return texts[0], images


def _text_of(item: dict[str, Any], key: str) -> str:
    value = item[key]
    if not isinstance(value, str) or not _is_encodable(value):
        raise invalid(f"Input should be a valid string: input.messages.0.content.{key}")
    return value


def _is_encodable(text: str) -> bool:
    """JSON can spell half a character (a lone surrogate); it is no text and could not be written to the books."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_counts(model: Model, texts: list[str], images: tuple[str, ...]) -> None:
    if len(images) > model.pictures_max:
        internal = f"{model.id}-2in1"
        raise invalid(
            f"Model '{internal}' supports 0~{model.pictures_max} image content items. Got {len(images)} image items. "
            f"(0 images = T2I mode, 1~{model.pictures_max} images = I2I mode)"
        )
    if not model.edits:
        raise invalid("url error, please check url!")
    if not texts or not texts[0].strip() or (not images and model.family == "edit"):
        raise invalid("lack of image or text")
    if len(texts) > 1:
        raise invalid(f"content length only support {len(images) + 1}")


def _check_weight(body_size: int, images: tuple[str, ...]) -> None:
    """The gateway's and the model's limits for what is sent inside the body."""
    encoded = [len(image) for image in images if image.startswith("data:")]
    if any(size > BASE64_ITEM_GATEWAY_MAX for size in encoded) or (not encoded and body_size > PLAIN_BODY_MAX):
        raise refusals.body_too_large()
    if body_size - sum(encoded) + sum(encoded) * 3 // 4 > PLAIN_BODY_MAX:
        raise refusals.body_too_large()


def _parameters(model: Model, given: dict[str, Any], *, has_images: bool) -> dict[str, Any]:
    known = {name: value for name, value in given.items() if name in model.parameters}
    for name in ("prompt_extend", "enable_thinking", "watermark"):
        if name in known and type(known[name]) is not bool:
            raise invalid(f"Input should be a valid boolean: parameters.{name}")
    mode = known.get("prompt_extend_mode", "direct")
    if mode not in ("direct", "agent"):
        raise invalid("Input should be 'direct' or 'agent': parameters.prompt_extend_mode")
    if mode == "agent" and has_images:
        raise invalid("prompt_extend_mode 'agent' is only supported in T2I mode")
    if not isinstance(known.get("negative_prompt", ""), str):
        raise invalid("Input should be a valid string: parameters.negative_prompt")
    size = known.get("size")
    if "size" in known and not isinstance(size, str):
        raise invalid("Input should be a valid string: parameters.size")
    return {
        "n": _number(known, "n", 1, model.n_max, "num_images_per_prompt must be 1" if model.n_max == 1 else "") or 1,
        "seed": _number(known, "seed", 0, SEED_MAX),
        "size": None if size is None else _size(model, size),
        "watermark": known.get("watermark", False),
        "prompt_extend": known.get("prompt_extend", "prompt_extend" in model.parameters),
    }


def _number(known: dict[str, Any], name: str, low: int, high: int, message: str = "") -> int | None:
    if name not in known:
        return None
    value = known[name]
    if type(value) is not int:
        raise invalid(f"Input should be a valid integer: parameters.{name}")
    if not low <= value <= high:
        raise invalid(message or f"Input should be between {low} and {high}: parameters.{name}. Got {value}.")
    return value


def _size(model: Model, text: str) -> tuple[int, int]:
    try:
        width, height = parse_size(text) if text == text.strip() else (0, 0)
    except ValueError:
        width = height = 0
    if not width or not height:
        raise invalid(f"Invalid size: {text!r}. Expected format: '<width>*<height>'")
    if model.size is not None and (problem := _broken_rule(model.size, width, height)):
        raise invalid(f"Invalid size: {text}. {problem}")
    return width, height


def _broken_rule(rule: SizeRule, width: int, height: int) -> str | None:
    area, most = width * height, rule.seen_px or rule.max_px
    if rule.min_px is not None and most is not None and not rule.min_px <= area <= most:
        return f"The total pixels should be between {rule.min_px} and {rule.max_px}, got {area}."
    if rule.ratio_max is not None and max(width / height, height / width) > rule.ratio_max:
        return f"The aspect ratio should be between 1:{rule.ratio_max:g} and {rule.ratio_max:g}:1."
    if rule.min_side is not None and rule.max_side is not None:
        for side in (width, height):
            if not rule.min_side <= side <= rule.max_side:
                return f"Width and height should each be between {rule.min_side} and {rule.max_side}, got {side}."
    return None

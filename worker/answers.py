"""What came back, read as one of the lines of `worker.outcomes`: pictures, a refusal, or nobody's word.

Delivered pictures come first, before any code or status, because delivered pictures are billed; then counted ones.
A JSON object that parses is whole, whatever became of the connection after it. Anything that is not the provider's word
is unknown: gateways speak JSON too, and know nothing of what was drawn behind them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from models.edit import Answer
from models.errors import CallError, NotSent, Rejected, Throttled, Transient
from worker import refusals
from worker.outcomes import broken, of_exception


@dataclass(frozen=True)
class Received:
    """What was read of an answer. broke: the error that ended the reading early, or None."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    broke: BaseException | None = None
    too_large: bool = False


def read_answer(received: Received, *, handed_over: bool = True) -> Answer:
    """The Answer in what was received; raises the table's error where there is none."""
    document = _object(received.body)
    request_id = _text(document.get("request_id")) or received.headers.get("x-request-id") or None
    urls = tuple(_urls(document))
    usage = document.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    if urls:  # before any code or status: delivered pictures are billed pictures
        return Answer(request_id or "", urls, usage, received.status)
    if Answer("", (), usage).pictures > 0:  # before any code too: what is counted may be billed
        raise broken("CountedButMissing", _say(received), http_status=received.status, request_id=request_id)
    code, message = _code(document)
    if code and refusals.is_final(code, message, received.status):
        raise refusals.explain(
            code,
            message,
            http_status=received.status,
            request_id=request_id,
            retry_after_s=_retry_after_s(received.headers),
        )
    raise _no_final_word(received, document, f"{code}: {message}" if code else "", request_id, handed_over)


def read_data(received: Received, host: str) -> dict[str, Any]:
    """The `data` of an answer to a free question (upload policy). Raises Refused by its code, else NotSent."""
    document = _object(received.body)
    request_id = _text(document.get("request_id")) or received.headers.get("x-request-id") or None
    code, message = _code(document)
    if code:
        raise refusals.explain(code, message, http_status=received.status, request_id=request_id)
    if isinstance(document.get("data"), dict):
        return _dict(document["data"])
    said = f"{host} answered {_say(received)}, not JSON of the provider; is DASHSCOPE_HTTP_BASE_URL right?"
    raise NotSent("NotTheProvider", said, http_status=received.status, request_id=request_id)


def _no_final_word(
    received: Received, document: dict[str, Any], foreign: str, request_id: str | None, handed_over: bool
) -> CallError:
    """foreign: a code that is not the provider's, and what came with it; or nothing."""
    status, said = received.status, _say(received)

    def line(key: str) -> CallError:
        words = f"{said}, {foreign}" if foreign else said
        return broken(key, words, http_status=status, request_id=request_id)

    if status == 413:
        return refusals.explain("RequestTooLarge", said, http_status=status, request_id=request_id)
    if status == 429:
        wait_s = max(refusals.UNKNOWN_WAIT_S, _retry_after_s(received.headers))
        return Throttled("GatewayThrottled", said, http_status=status, request_id=request_id, wait_s=wait_s)
    if 300 <= status < 400:
        advice = "DASHSCOPE_HTTP_BASE_URL leads to a host that sends calls elsewhere; correct it"
        return Rejected("Redirected", said, http_status=status, request_id=request_id, advice=advice)
    if not handed_over:
        return line("BrokenWhileSending")
    if received.too_large:
        return line("AnswerTooLarge")
    if received.broke is not None:
        return of_exception(received.broke, handed_over=True)
    if not document:
        return line("TruncatedAnswer" if received.body.lstrip()[:1] == b"{" else "GatewayPage")
    if foreign:
        return line("ForeignCode")
    if 200 <= status < 300 and _says_none(_dict(document.get("output"))):
        return Transient("NoPictures", said, http_status=status, request_id=request_id, wait_s=5.0, tries=3)
    return line("NotAnAnswer")


def _say(received: Received) -> str:
    kind = received.headers.get("content-type", "no content type").partition(";")[0]
    return f"HTTP {received.status} with {len(received.body)} bytes of {kind}"


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body, or {}. A cut-off object never parses, so what parses is whole."""
    try:
        document = json.loads(body, parse_int=_whole)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _whole(digits: str) -> int | float:
    """A number too long for an int of Python's must not cost the answer around it."""
    return int(digits) if len(digits) <= 20 else float(digits)


def _code(document: dict[str, Any]) -> tuple[str, str]:
    """Code and message wherever this family of answers puts them: top level, `error` (OpenAI form), a failed task.

    A code of the provider's is a word; a number is some gateway's copy of the status.
    """
    error, output = _dict(document.get("error")), _dict(document.get("output"))
    for place, names in ((document, ("code",)), (error, ("code", "type")), (output, ("code",))):
        for name in names:
            code = place.get(name)
            if isinstance(code, str) and code.strip():
                return code.strip(), _text(place.get("message")) or _text(place.get("msg"))
    return "", ""


def _says_none(output: dict[str, Any]) -> bool:
    """Does the provider itself say that it drew nothing? What is only missing, pending or of a new shape does not."""
    if output.get("task_status") not in (None, "SUCCEEDED", "FAILED", "CANCELED"):
        return False
    metric = _dict(output.get("task_metric") or output.get("task_metrics"))
    if metric.get("SUCCEEDED") == 0 and metric.get("FAILED") == metric.get("TOTAL"):
        return True
    choices = output.get("choices")
    return isinstance(choices, list) and all(_dict(_dict(each).get("message")).get("content") == [] for each in choices)


def _urls(document: dict[str, Any]) -> Iterator[str]:
    """Addresses over all choices and all items: how several pictures are spread over them is not promised."""
    for choice in _list(_dict(document.get("output")).get("choices")):
        for item in _list(_dict(_dict(choice).get("message")).get("content")):
            url = _dict(item).get("image")
            if isinstance(url, str) and url.startswith(("https://", "http://")):
                yield url


def _retry_after_s(headers: Mapping[str, str]) -> float:
    try:
        asked_s = float(headers.get("retry-after", ""))
    except ValueError:
        return 0.0  # absent, or a date, which nobody has seen the provider send
    return max(0.0, min(asked_s, refusals.RETRY_AFTER_MAX_S)) if math.isfinite(asked_s) else 0.0


def _text(value: Any) -> str:
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

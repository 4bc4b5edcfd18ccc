"""What came back, read as one of the lines of `worker.outcomes`: pictures, a refusal, or nobody's word.

Delivered pictures come first, before any code or status, because delivered pictures are billed. A JSON object that
parses is whole, whatever became of the connection after it. Anything that is not the provider's word is unknown.
"""

from __future__ import annotations

import json
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
    code, message = _code(document)
    if code:
        raise refusals.explain(
            code,
            message,
            http_status=received.status,
            request_id=request_id,
            retry_after_s=_retry_after_s(received.headers),
        )
    raise _without_a_code(received, document, usage, request_id, handed_over)


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


def _without_a_code(
    received: Received, document: dict[str, Any], usage: dict[str, Any], request_id: str | None, handed_over: bool
) -> CallError:
    status, said = received.status, _say(received)

    def line(key: str) -> CallError:
        return broken(key, said, http_status=status, request_id=request_id)

    if status == 413:
        return refusals.explain("RequestTooLarge", said, http_status=status, request_id=request_id)
    if status == 429:
        wait_s = max(refusals.UNKNOWN_WAIT_S, _retry_after_s(received.headers) or 0.0)
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
    if Answer("", (), usage).pictures > 0:
        return line("CountedButMissing")
    if 200 <= status < 300 and isinstance(document.get("output"), dict):
        return Transient("NoPictures", said, http_status=status, request_id=request_id, wait_s=5.0, tries=3)
    return line("NotAnAnswer")


def _say(received: Received) -> str:
    kind = received.headers.get("content-type", "no content type").partition(";")[0]
    return f"HTTP {received.status} with {len(received.body)} bytes of {kind}"


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body, or {}. A cut-off object never parses, so what parses is whole."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _code(document: dict[str, Any]) -> tuple[str, str]:
    """Code and message wherever this family of answers puts them: top level, `error` (OpenAI form), a failed task."""
    error, output = document.get("error"), document.get("output")
    for place in (document, _dict(error), _dict(output)):
        code = _text(place.get("code")) or (_text(place.get("type")) if place is error else "")
        if code:
            return code, _text(place.get("message")) or _text(place.get("msg"))
    return "", ""


def _urls(document: dict[str, Any]) -> Iterator[str]:
    """Addresses over all choices and all items: how several pictures are spread over them is not promised."""
    for choice in _list(_dict(document.get("output")).get("choices")):
        for item in _list(_dict(_dict(choice).get("message")).get("content")):
            url = _dict(item).get("image")
            if isinstance(url, str) and url.startswith(("https://", "http://")):
                yield url


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None  # absent, or a date, which nobody has seen the provider send


def _text(value: Any) -> str:
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

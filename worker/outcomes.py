"""Which failure is which: the one table that says of every way a call can end whether it was sent, and what it cost.

A call ends as *not sent* (free to repeat), *answered* (the provider's word, final) or *unknown* (may have been paid).
Three facts decide, in this order: did the server give a whole JSON object with a code or pictures; had the last byte
of the request been handed to the operating system; which error came. The server cannot carry out a request of which it
has not seen the end, and the body's last piece is always held back until everything before it is out.

`TABLE` is the data, `markdown()` prints it for the documents. It is applied by `of_exception` here, by `worker.answers`
to what came back, and by `worker.refusals` to the codes of answers.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import IncompleteRead, RemoteDisconnected
from typing import Literal

from urllib3 import exceptions as wire

from models.errors import (
    CallError,
    NotSent,
    OutcomeUnknown,
    PackshotError,
    PictureError,
    Refused,
    Rejected,
    SlotMissed,
    Throttled,
    Transient,
    Unsendable,
)


@dataclass(frozen=True)
class Line:
    """key: the code of the error raised, or a name of ours; error: what is raised, None where pictures came."""

    key: str
    happened: str
    outcome: Literal["not sent", "answered", "unknown"]
    error: type[PackshotError] | None
    because: str


TABLE: tuple[Line, ...] = (
    Line(
        "PictureError",
        "an input picture is gone, changed, unreadable or too large, even while it is being sent",
        "not sent",
        PictureError,
        "the request's end is only sent after all pictures proved to be the planned ones",
    ),
    Line(
        "PictureUnavailable",
        "the store or the disk that an input picture lies on does not answer",
        "not sent",
        NotSent,
        "the request's end is only sent after all pictures were read",
    ),
    Line(
        "NoRoom",
        "this machine has no room, on disk or in memory, to make a picture ready",
        "not sent",
        NotSent,
        "pictures are made ready before the call",
    ),
    Line(
        "UploadFailed",
        "the temporary upload of a large picture fails",
        "not sent",
        NotSent,
        "it comes before the call and is free",
    ),
    Line(
        "SlotMissed",
        "the moment of the call's slot passes before it can leave, and no other comes soon",
        "not sent",
        SlotMissed,
        "looked at when the connection stands, before the first byte",
    ),
    Line("NameNotFound", "the host name does not resolve", "not sent", NotSent, "there was nobody to send to"),
    Line("ConnectionRefused", "the host refuses the connection", "not sent", NotSent, "no connection"),
    Line("ConnectFailed", "no route, or another failure to connect", "not sent", NotSent, "no connection"),
    Line("ConnectTimeout", "no connection within the connect time limit", "not sent", NotSent, "no connection"),
    Line("TlsFailed", "the TLS handshake fails", "not sent", NotSent, "the request comes after the handshake"),
    Line("PoolTimeout", "no free connection in the pool", "not sent", NotSent, "nothing was attempted"),
    Line(
        "BrokenWhileSending",
        "reset, broken pipe, gateway page or time-out before the body was out",
        "not sent",
        NotSent,
        "the server cannot carry out a request of which it has not seen the end",
    ),
    Line(
        "Unsendable",
        "an error of our own while the request is prepared or sent, before its end is out",
        "not sent",
        Unsendable,
        "as above, and the same request would meet the same error again",
    ),
    Line("Reset", "the connection is reset after sending", "unknown", OutcomeUnknown, "the edit may have been drawn"),
    Line("Closed", "the server closes without answering", "unknown", OutcomeUnknown, "the edit may have been drawn"),
    Line(
        "ReadTimeout",
        "no whole answer within the call time limit, silent or in drips",
        "unknown",
        OutcomeUnknown,
        "the provider may finish and bill a call that we gave up on",
    ),
    Line(
        "TruncatedAnswer",
        "the answer ends in the middle",
        "unknown",
        OutcomeUnknown,
        "an answer began, so the edit probably was drawn",
    ),
    Line(
        "AnswerTooLarge",
        "the answer is longer than any answer of the provider",
        "unknown",
        OutcomeUnknown,
        "it is not read to its end, so what it says is not known",
    ),
    Line("BadAnswer", "what comes back is not HTTP", "unknown", OutcomeUnknown, "it is not the provider's word"),
    Line(
        "GatewayPage",
        "HTML, plain text or nothing where JSON belongs (502, 503, 504 and the like)",
        "unknown",
        OutcomeUnknown,
        "a gateway lost the answer, not necessarily the request",
    ),
    Line(
        "NotAnAnswer",
        "JSON with neither a code nor pictures in any shape we know; a task that is still pending",
        "unknown",
        OutcomeUnknown,
        "it is not the provider's word that nothing was drawn",
    ),
    Line(
        "ForeignCode",
        "JSON with a code that is not the provider's, under 2xx, 408, 499 or 5xx",
        "unknown",
        OutcomeUnknown,
        "gateways speak JSON too, and do not know what became of the request behind them",
    ),
    Line(
        "CountedButMissing",
        "`usage` counts pictures, but there is no address of any, whatever the code and status",
        "unknown",
        OutcomeUnknown,
        "the provider says it billed; a person has to look",
    ),
    Line("RequestTooLarge", "413, whatever the body", "answered", Rejected, "refused for its size before the model"),
    Line("GatewayThrottled", "429 without a code", "answered", Throttled, "turned away before the model"),
    Line("Redirected", "3xx", "answered", Rejected, "never followed; the host is wrong and nothing was carried out"),
    Line(
        "RefusedByCode",
        "JSON with a code of the provider's, whatever the status (200 too), or any code under another 4xx",
        "answered",
        Refused,
        "the provider's word: failed calls are not billed",
    ),
    Line(
        "NoPictures",
        "200 without a code or a count, and no content in any choice, or all pictures of `task_metric` failed",
        "answered",
        Transient,
        "billing counts delivered pictures and none was delivered",
    ),
    Line("AllPictures", "200 with every picture asked for", "answered", None, "paid"),
    Line("FewerPictures", "200 with fewer pictures than asked for", "answered", None, "paid: those delivered"),
    Line("NoUsage", "200 with pictures but no `usage`", "answered", None, "paid: those delivered are counted"),
    Line(
        "WholeThenBroken",
        "the JSON is whole, then the connection breaks or hangs",
        "answered",
        None,
        "an object that closes is complete; what follows it does not matter",
    ),
    Line(
        "EarlyAnswer",
        "a JSON answer before the body was out",
        "answered",
        Refused,
        "the provider's word, even if it did not care to listen to the end",
    ),
    Line(
        "Killed",
        "our process dies with an attempt open and no answer recorded",
        "unknown",
        OutcomeUnknown,
        "found by rescue: the attempt was committed before anything was sent",
    ),
)
LINES: Mapping[str, Line] = {line.key: line for line in TABLE}


def of_exception(error: BaseException, *, handed_over: bool, begun: bool = False, host: str = "") -> CallError:
    """The error of a call that broke off without a whole answer.

    begun:       the connection stood and the body was being sent
    handed_over: the body's last byte had been handed to the operating system
    host:        for the message, which else is the innermost cause in its own words
    """
    innermost = list(_causes(error))[-1]
    said = f"{host}: {innermost}" if host else str(innermost)
    if handed_over:
        return broken(_after_sending(error), said)
    return broken("BrokenWhileSending" if begun else _before_sending(error), said)


def _before_sending(error: BaseException) -> str:
    chain = list(_causes(error))
    if isinstance(error, wire.NameResolutionError):
        return "NameNotFound"
    if isinstance(error, wire.EmptyPoolError | wire.ClosedPoolError):
        return "PoolTimeout"
    if isinstance(error, wire.SSLError):
        return "TlsFailed"
    if any(isinstance(e, OSError) and e.errno == errno.ECONNREFUSED for e in chain):
        return "ConnectionRefused"
    if isinstance(error, wire.NewConnectionError):  # a ConnectTimeoutError by descent, whatever it was
        return "ConnectFailed"
    if any(isinstance(e, wire.TimeoutError | TimeoutError) for e in chain):
        return "ConnectTimeout"
    return "ConnectFailed"


def _after_sending(error: BaseException) -> str:
    chain = list(_causes(error))
    if any(isinstance(e, wire.ReadTimeoutError | TimeoutError) for e in chain):
        return "ReadTimeout"
    if any(isinstance(e, IncompleteRead) for e in chain):
        return "TruncatedAnswer"
    # RemoteDisconnected is a ConnectionResetError too, so it is asked for first.
    if any(isinstance(e, RemoteDisconnected) for e in chain):
        return "Closed"
    if any(isinstance(e, OSError) for e in chain):
        return "Reset"
    return "BadAnswer"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and what urllib3 packed into its arguments."""
    while error is not None:
        yield error
        inside = [a for a in error.args if isinstance(a, BaseException)]
        error = inside[0] if inside else error.__cause__


def broken(key: str, message: str, *, http_status: int | None = None, request_id: str | None = None) -> CallError:
    """The error of a line of the table."""
    error = LINES[key].error
    if error is None or not issubclass(error, CallError):
        raise TypeError(f"{key} is not the line of a broken call")
    return error(key, message, http_status=http_status, request_id=request_id)


def markdown() -> str:
    """The table, for the documents."""
    rows = ["| what happens | outcome | raised | because |", "|---|---|---|---|"]
    for line in TABLE:
        raised = "nothing: the answer" if line.error is None else f"`{line.error.__name__}` {line.key}"
        rows.append(f"| {line.happened} | {line.outcome} | {raised} | {line.because} |")
    return "\n".join(rows) + "\n"

"""What each code of the provider means: one entry per line of its error page, looked up by code, then by message.

A code is the provider's word that this call bought nothing: billing counts delivered pictures. So every entry becomes
some `Refused`, and the entry only decides whether, when and how often the same call is worth another try. A code that
the page does not know is taken for the provider's only where the status says that the request itself was turned away.
Codes are compared without regard to case; where one code means several things the message decides.
Waits and numbers of tries are the provider's advice where it gives any, else "usually recovers within one minute".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from models.errors import AccountStopped, Refused, Rejected, Throttled, Transient

RETRY_AFTER_MAX_S = 300.0  # undocumented header; believed up to here
UNKNOWN_WAIT_S = 5.0


@dataclass(frozen=True)
class Refusal:
    """One line: `code` (or an alias, or `code.*`), at a message that `pattern` finds, is `error`.

    http:    the documented statuses; for the reader and the tests, never part of the look-up
    wait_s:  shortest wait before another try
    tries:   how many tries in all; None leaves it to the setting
    advice:  what a person should do
    exact:   counts only as it is spelled here, since gateways have a code that differs in case alone
    """

    code: str
    http: tuple[int, ...]
    error: type[Refused]
    pattern: str = ""
    wait_s: float = 0.0
    tries: int | None = None
    advice: str = ""
    aliases: tuple[str, ...] = ()
    kind: Literal["rate", "burst", "quota"] = "rate"
    exact: bool = False

    def fits(self, code: str, message: str) -> bool:
        if self.exact:
            return code == self.code
        names = (self.code, *self.aliases)
        return any(_same(name, code) for name in names) and bool(re.search(self.pattern, message, re.IGNORECASE))


def is_final(code: str, message: str, http_status: int) -> bool:
    """Is a code under this status the provider's word that nothing was bought?

    One of the provider's own is, whatever the status. Any other is, where the request was turned away for what it is
    (4xx); a gateway that gave up waiting says 408 or 499, one that lost the answer 5xx, and neither knows.
    """
    if find(code, message) is not None:
        return True
    return 400 <= http_status < 500 and http_status not in (408, 499)


def explain(
    code: str, message: str, *, http_status: int, request_id: str | None = None, retry_after_s: float | None = None
) -> Refused:
    """The error of an answer that carries a code. Codes we never heard of are judged by their status."""
    entry = find(code, message) or _by_status(code, http_status)
    wait_s = max(entry.wait_s, min(retry_after_s or 0.0, RETRY_AFTER_MAX_S))
    if issubclass(entry.error, Throttled):
        return entry.error(
            code,
            message,
            kind=entry.kind,
            http_status=http_status,
            request_id=request_id,
            wait_s=wait_s,
            tries=entry.tries,
            advice=entry.advice,
        )
    return entry.error(
        code,
        message,
        http_status=http_status,
        request_id=request_id,
        wait_s=wait_s,
        tries=entry.tries,
        advice=entry.advice,
    )


def find(code: str, message: str) -> Refusal | None:
    """First entry that fits; `Throttling.Something` that nobody listed is looked up as `Throttling`."""
    while code:
        for entry in REFUSALS:
            if entry.fits(code, message):
                return entry
        code = code.rpartition(".")[0]
    return None


def _same(name: str, code: str) -> bool:
    name, code = name.casefold(), code.casefold()
    return code.startswith(name[:-1]) if name.endswith(".*") else code == name


def _by_status(code: str, http_status: int) -> Refusal:
    if http_status == 429:
        return Refusal(code, (429,), Throttled, wait_s=UNKNOWN_WAIT_S)
    if http_status == 401:
        return Refusal(code, (401,), AccountStopped, advice=_SET_KEY)
    if 400 <= http_status < 500:
        return Refusal(code, (http_status,), Rejected)
    return Refusal(code, (http_status,), Transient, wait_s=UNKNOWN_WAIT_S)


_SHRINK = "make the picture smaller"
_DOWNLOAD = r"download|timed out during the data inspection"
_SET_KEY = "set DASHSCOPE_API_KEY to a valid key of this region"
_GRANT = "grant the key's workspace access to it in the Model Studio console, or use another model"
_PAY = "settle the account's bill in the Alibaba Cloud console, wait a few minutes, run again"

REFUSALS: tuple[Refusal, ...] = (
    # The request, permanently. Entries with a pattern stand before the one that takes the rest of the code.
    Refusal(
        "InvalidParameter",
        (400,),
        Rejected,
        pattern=r"max bytes per data-uri item|Multimodal file size is too large",
        advice=_SHRINK,
    ),
    Refusal(
        "InvalidParameter",
        (400,),
        Transient,
        pattern=_DOWNLOAD,
        wait_s=5,
        tries=3,
        advice="the provider cannot fetch the picture from where it is; name a local file or s3:// instead",
    ),
    Refusal(
        "InvalidParameter.DataInspection",
        (400,),
        Transient,
        wait_s=5,
        tries=3,
        advice="the provider cannot fetch or read the picture for inspection; name a local file instead",
    ),
    Refusal("InvalidParameter", (400,), Rejected, aliases=("InvalidParameter.*",)),
    Refusal(
        "DataInspectionFailed",
        (400,),
        Rejected,
        pattern=r"\boutput\b",
        advice="the drawn picture was refused, not yours; `packshot retry --new-seed` may pass",
        aliases=("data_inspection_failed",),
    ),
    Refusal(
        "DataInspectionFailed",
        (400,),
        Rejected,
        advice="the picture or the instruction was refused by content inspection; change it",
        aliases=("data_inspection_failed",),
    ),
    Refusal("IPInfringementSuspect", (400,), Rejected, advice="use a picture without other people's brands"),
    Refusal("CustomRoleBlocked", (400,), Rejected, advice="blocked by a rule of your own account"),
    Refusal("FaqRuleBlocked", (400,), Rejected, advice="blocked by a rule of your own account"),
    Refusal("InvalidURL.ConnectionRefused", (400,), Transient, wait_s=10, tries=3),
    Refusal("InvalidURL.Timeout", (400,), Transient, wait_s=10, tries=3),
    Refusal("InvalidURL", (400,), Rejected, advice="the picture's address must be public and percent-encoded"),
    Refusal("BadRequest.InputDownloadFailed", (400,), Transient, wait_s=5, tries=3),
    Refusal("BadRequest.TooLarge", (400,), Rejected, advice=_SHRINK),
    Refusal("BadRequest", (400,), Rejected, aliases=("BadRequest.*",)),
    Refusal("InvalidImageFormat", (400,), Rejected, aliases=("InvalidImage.*", "InvalidImageResolution")),
    Refusal("InvalidFile", (400,), Rejected, aliases=("InvalidFile.*",)),
    Refusal("UnsupportedOperation", (400,), Rejected),
    # The account: nothing will pass until a person acts.
    Refusal("Arrearage", (400,), AccountStopped, advice=_PAY),
    Refusal("InvalidApiKey", (401,), AccountStopped, advice=_SET_KEY, aliases=("invalid_api_key",)),
    Refusal(
        "NOT AUTHORIZED",
        (401,),
        AccountStopped,
        advice="use a key that may use this workspace, or correct DASHSCOPE_WORKSPACE_ID",
        aliases=("NotAuthorized", "not_authorized"),
    ),
    Refusal("AccessDenied", (403,), Rejected, pattern=r"does not support (a?synchronous) calls"),
    Refusal("AccessDenied", (403,), Transient, pattern=r"policy expired", tries=3),
    Refusal("AccessDenied.Unpurchased", (403,), AccountStopped, advice="activate Model Studio for this account"),
    Refusal("AccessDenied", (403,), Rejected),
    Refusal(
        "Model.AccessDenied",
        (403,),
        AccountStopped,
        advice=_GRANT,
        aliases=("App.AccessDenied", "Workspace.AccessDenied"),
    ),
    Refusal(
        "Endpoint.AccessDenied",
        (403,),
        AccountStopped,
        advice="use a key of this workspace; if the key is right, the model may be retired: `packshot models` tells",
    ),
    Refusal(
        "AllocationQuota.FreeTierOnly",
        (403,),
        AccountStopped,
        advice='the free pictures are used up: switch off "free tier only" in the Model Studio console',
    ),
    Refusal(
        "ModelNotFound",
        (404,),
        Rejected,
        advice="no such model for this key and region; `packshot models` lists those there are",
        aliases=("model_not_found", "model_not_supported", "Model.NotExist"),
    ),
    Refusal("WorkSpaceNotFound", (404,), Rejected, advice="correct DASHSCOPE_WORKSPACE_ID"),
    Refusal("NotFound", (404,), Rejected),
    Refusal("RequestTooLarge", (413,), Rejected, advice=_SHRINK),
    # Too fast.
    Refusal("Throttling.RateQuota", (429,), Throttled, wait_s=5, aliases=("limit_requests", "LimitRequests")),
    Refusal("Throttling.BurstRate", (429,), Throttled, wait_s=10, aliases=("limit_burst_rate",), kind="burst"),
    Refusal(
        "Throttling.AllocationQuota",
        (429, 400),
        AccountStopped,
        pattern=r"free allocated quota",
        advice="the free quota is used up and the account has no way to pay: set one up in the console",
        aliases=("insufficient_quota",),
    ),
    Refusal(
        "Throttling.AllocationQuota",
        (429, 400),
        Throttled,
        wait_s=60,
        aliases=("insufficient_quota",),
        kind="quota",
    ),
    Refusal("Throttling", (429,), Throttled, wait_s=5),
    Refusal(
        "CommodityNotPurchased",
        (429,),
        AccountStopped,
        advice=_PAY,
        aliases=("PrepaidBillOverdue", "PostpaidBillOverdue"),
    ),
    # The provider's own trouble. `tries` counts the first one too.
    Refusal("InternalError.Timeout", (500,), Transient, wait_s=5, tries=2),
    Refusal(
        "InternalError",
        (500,),
        Transient,
        wait_s=5,
        tries=4,
        aliases=("InternalError.*", "SystemError", "ModelServiceFailed", "RewriteFailed"),
    ),
    Refusal(
        "RequestTimeOut",
        (500,),
        Transient,
        wait_s=30,
        tries=3,
        advice="the picture is too large or the edit too complex for the time given; ask for a smaller size",
        exact=True,  # RequestTimeout is any gateway's word for 408
    ),
    Refusal("ModelServingError", (500, 503), Transient, wait_s=30),
    Refusal("ModelUnavailable", (503,), Transient, wait_s=30),
)

"""What can go wrong, by name, and when it does.

The registry says of each fault what happens in facts that `generation` and `results` act on; no code asks for a name.
Faults are asked for one by one (a queue, consumed in the order of matching calls) or by share (drawn for each call from
the seed and the call's ordinal, so that the same seed replays the same faults). A call the provider would refuse
anyhow, for its content or for the rate limit, uses up no fault.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from emulator.refusals import Refusal

Ending = Literal["reset", "silence", "page", "half", "no_usage"]
Download = Literal["truncated", "http_500", "expired", "html", "slow"]


@dataclass(frozen=True)
class Fault:
    """One way to go wrong.

    at_door:  happens before the request is read, so it cannot be tied to a model or a prompt
    refusal:  answered instead of any work
    slower:   the call takes this many times the usual latency
    withheld: pictures fewer than asked for, as long as one is left
    billed:   the work is done and billed although the caller gets no proper answer
    ending:   what the caller gets instead of the answer
    page:     status of the gateway's page, for the ending `page`
    download: what happens when the picture is fetched; the call itself is answered properly
    queues:   a caller who sends X-DashScope-Wait-Timeout waits instead of being refused
    """

    name: str
    sentence: str
    at_door: bool = False
    refusal: Refusal | None = None
    slower: float = 1.0
    withheld: int = 0
    billed: bool = False
    ending: Ending | None = None
    page: int = 502
    download: Download | None = None
    queues: bool = False


def _refused(name: str, sentence: str, status: int, code: str, message: str, *, queues: bool = False) -> Fault:
    return Fault(name, sentence, refusal=Refusal(status, code, message), queues=queues)


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("refused", "The connection is reset before the request is read.", at_door=True, ending="reset"),
        _refused(
            "throttled_rate",
            "429: the model's rate limit, as if other applications of the account had used it up.",
            429,
            "Throttling.RateQuota",
            "Requests rate limit exceeded, please try again later.",
        ),
        _refused(
            "throttled_burst",
            "429: calls rose too quickly; a call that sends X-DashScope-Wait-Timeout waits instead.",
            429,
            "Throttling.BurstRate",
            "Request rate increased too quickly. To ensure system stability, please adjust your client logic.",
            queues=True,
        ),
        _refused(
            "throttled_quota",
            "429: the allocated quota is used up for now.",
            429,
            "Throttling.AllocationQuota",
            "Allocated quota exceeded, please increase your quota limit.",
        ),
        _refused(
            "free_quota_used_up",
            "429: the free quota is used up and the account has no way to pay; the code is throttled_quota's.",
            429,
            "Throttling.AllocationQuota",
            "Free allocated quota exceeded.",
        ),
        _refused("throttled", "429: throttled without a reason.", 429, "Throttling", "Requests throttling triggered."),
        _refused("http_500", "500: an internal error.", 500, "InternalError", "Internal server error."),
        _refused(
            "request_timeout",
            "500: the provider itself had no time left for the picture.",
            500,
            "RequestTimeOut",
            "Request timed out, please try again later.",
        ),
        _refused(
            "http_503",
            "503: the model is unavailable.",
            503,
            "ModelUnavailable",
            "Model is unavailable, please try again later.",
        ),
        _refused(
            "serving_error",
            "503: the provider has no capacity left.",
            503,
            "ModelServingError",
            "Too many requests. Your requests are being throttled due to system capacity limits.",
        ),
        _refused(
            "gateway_json",
            "504: the gateway had no time left, and says so in JSON; nothing is billed.",
            504,
            "GatewayTimeout",
            "Gateway timeout.",
        ),
        Fault("gateway_html", "502: a page of the gateway; nothing is billed.", ending="page", page=502),
        Fault(
            "gateway_html_billed", "504: a page of the gateway, after billing.", billed=True, ending="page", page=504
        ),
        Fault("slow", "The call takes ten times as long, at least two seconds.", slower=10.0, billed=True),
        Fault("stuck", "No answer until the caller leaves; nothing is billed.", ending="silence"),
        Fault("stuck_billed", "No answer until the caller leaves; the work is billed.", billed=True, ending="silence"),
        Fault("dropped_before_billing", "The connection is reset before the work is billed.", ending="reset"),
        Fault(
            "dropped_after_billing", "The connection is reset after the work is billed.", billed=True, ending="reset"
        ),
        Fault(
            "partial", "One picture fewer than asked for (one stays one); the rest is billed.", withheld=1, billed=True
        ),
        _refused(
            "content_refused",
            "400: the content inspection refuses the input.",
            400,
            "DataInspectionFailed",
            "Input data may contain inappropriate content.",
        ),
        _refused(
            "content_refused_output",
            "400: the content inspection refuses what was drawn.",
            400,
            "DataInspectionFailed",
            "Output data may contain inappropriate content.",
        ),
        _refused(
            "download_failed",
            "400: the provider could not fetch an input picture.",
            400,
            "InvalidParameter",
            "Failed to download multimodal content",
        ),
        Fault("no_usage", "A good answer that says nothing about usage.", billed=True, ending="no_usage"),
        _refused(
            "error_200", "An error under HTTP 200.", 200, "InternalError.Algo", "An error occurred during inference."
        ),
        Fault("half_answer", "Billed, and the answer is cut in the middle.", billed=True, ending="half"),
        _refused(
            "arrears",
            "400: the account is in arrears.",
            400,
            "Arrearage",
            "Access denied, please make sure your account is in good standing.",
        ),
        _refused(
            "not_purchased",
            "429: the service was never bought.",
            429,
            "CommodityNotPurchased",
            "Commodity has not purchased yet.",
        ),
        _refused(
            "prepaid_overdue", "429: the prepaid bill is overdue.", 429, "PrepaidBillOverdue", "Prepaid bill overdue."
        ),
        _refused(
            "postpaid_overdue",
            "429: the postpaid bill is overdue.",
            429,
            "PostpaidBillOverdue",
            "Postpaid bill overdue.",
        ),
        _refused("bad_key", "401: the key is not valid any more.", 401, "InvalidApiKey", "Invalid API-key provided."),
        _refused(
            "model_denied",
            "403: the key has no grant for the model.",
            403,
            "Model.AccessDenied",
            "Model access denied.",
        ),
        _refused(
            "free_tier_only",
            "403: the free tier is used up while only the free tier may be used.",
            403,
            "AllocationQuota.FreeTierOnly",
            "The free tier of the model has been exhausted. Disable the free-tier-only mode to continue.",
        ),
        Fault(
            "result_truncated",
            "The download ends before Content-Length, then heals.",
            billed=True,
            download="truncated",
        ),
        Fault("result_500", "The download answers 500, then heals.", billed=True, download="http_500"),
        Fault("result_expired", "The address of the result is dead at once.", billed=True, download="expired"),
        Fault("result_not_png", "The download is a page of HTML under 200, then heals.", billed=True, download="html"),
        Fault("result_slow", "The download trickles for some seconds, then heals.", billed=True, download="slow"),
    )
}


@dataclass
class Wanted:
    """One entry of the queue: the next `times` calls that match have this fault.

    downloads: how often each picture's download fails before it heals
    seconds:   how long `slow` and `result_slow` take; None leaves it to the fault
    """

    fault: Fault
    times: int = 1
    model: str | None = None
    prompt_contains: str | None = None
    downloads: int = 1
    seconds: float | None = None

    def matches(self, model: str, prompt: str) -> bool:
        return self.model in (None, model) and (self.prompt_contains or "") in prompt

    def to_json(self) -> dict[str, Any]:
        facts = {"times": self.times, "model": self.model, "prompt_contains": self.prompt_contains}
        return {"fault": self.fault.name, **facts, "downloads": self.downloads, "seconds": self.seconds}


@dataclass
class Faults:
    shares: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    queue: list[Wanted] = field(default_factory=list)

    def at_door(self, ordinal: int) -> Wanted | None:
        """The fault of a call of which nothing is read yet, if it is one that happens at the door."""
        if self.queue and self.queue[0].fault.at_door:
            return self._use(self.queue[0])
        drawn = None if self.queue else self._drawn(ordinal)
        return drawn if drawn and drawn.fault.at_door else None

    def take(self, ordinal: int, model: str, prompt: str) -> Wanted | None:
        """The fault of a call that is about to be served: the first of the queue that matches, else by share."""
        for wanted in self.queue:
            if not wanted.fault.at_door and wanted.matches(model, prompt):
                return self._use(wanted)
        drawn = self._drawn(ordinal)
        return drawn if drawn and not drawn.fault.at_door else None

    def _use(self, wanted: Wanted) -> Wanted:
        wanted.times -= 1
        if wanted.times <= 0:
            self.queue.remove(wanted)
        return wanted

    def _drawn(self, ordinal: int) -> Wanted | None:
        point = random.Random(f"{self.seed}:{ordinal}").random()
        for name, share in self.shares.items():
            if point < share:
                return Wanted(FAULTS[name])
            point -= share
        return None


def parse_share(text: str) -> tuple[str, float]:
    """`http_500=0.02` -> the name and its share of calls. Raises ValueError, in words fit to print."""
    name, _, share = text.partition("=")
    known_fault(name)
    try:
        value = float(share)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is not NAME=SHARE with a share from 0 to 1; write {name}=0.05")
    return name, value


def parse_wanted(order: Any) -> Wanted:
    """A fault as the desk takes it. Raises ValueError, in words fit to print."""
    if not isinstance(order, dict):
        raise ValueError('a fault is an object; write {"fault": "http_500", "times": 1}')
    unknown = set(order) - {"fault", "times", "model", "prompt_contains", "downloads", "seconds"}
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; known: fault, times, model, prompt_contains, ...")
    fault = known_fault(order.get("fault"))
    times, downloads = order.get("times", 1), order.get("downloads", 1)
    if not (type(times) is int and type(downloads) is int and times >= 1 and downloads >= 1):
        raise ValueError("times and downloads are whole numbers from 1 up")
    model, words, seconds = order.get("model"), order.get("prompt_contains"), order.get("seconds")
    if fault.at_door and (model or words):
        raise ValueError(f"{fault.name} happens before the request is read; leave out model and prompt_contains")
    if not isinstance(model, str | None) or not isinstance(words, str | None):
        raise ValueError("model and prompt_contains are texts")
    if seconds is not None and (type(seconds) not in (int, float) or not 0 <= seconds <= 3600):
        raise ValueError("seconds is a number from 0 to 3600")
    return Wanted(fault, times, model, words, downloads, seconds)


def known_fault(name: Any) -> Fault:
    if not isinstance(name, str) or name not in FAULTS:
        raise ValueError(f"{name!r} is not a fault; write one of {', '.join(FAULTS)}")
    return FAULTS[name]

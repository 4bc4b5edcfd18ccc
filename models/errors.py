"""Every error of ours, in one tree. Each class answers two questions: may the same thing be tried again, did it cost?

PackshotError
|-- UsageError               the command was used wrongly: exit 2
|   |-- SettingsError        a setting is missing or does not fit the others
|   `-- UnknownBatch         no batch of that name in this ledger
|-- ManifestError            the manifest has problems: exit 1, nothing written, nothing bought
|-- BatchChanged             the manifest differs from the one this batch was made from
|-- LedgerUnavailable        the database cannot be used now (locked, not migrated, gone)
|   `-- LedgerFull           no room for its file               again: after a person acted; stops the run
|-- CallError                one call of the provider brought no pictures
|   |-- NotSent              the request never left whole       again: yes   cost: no
|   |   |-- SlotMissed       its moment passed before it could  again: yes, and it is not counted as a try
|   |   `-- Unsendable       by a fault of our own              again: no    cost: no
|   |-- OutcomeUnknown       sent, then no answer               again: ask   cost: maybe
|   `-- Refused              the provider's own word            cost: no
|       |-- Throttled        too fast                           again: yes, and it is not counted as a try
|       |-- Transient        provider's trouble                 again: a few times
|       |-- Rejected         this edit will never pass          again: no
|       `-- AccountStopped   key, money or grants               again: after a person acted; stops the batch
|-- PictureError             an input picture cannot be sent    again: no    cost: no
|-- ResultError              fetching a result that is paid
|   |-- ResultUnavailable    broken download                    again: yes   cost: already paid
|   |-- ResultBlocked        at an address we do not go to      again: after a person acted; stops the batch
|   `-- ResultLost           expired, or never a picture        again: no    cost: already paid
`-- StorageError             storing a picture that is paid, or looking before paying
    |-- StorageUnavailable   server or network trouble          again: yes
    `-- StorageRefused       no bucket, no permission, no room  again: after a person acted; stops the batch
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

Cost = Literal["no", "maybe", "paid"]


class PackshotError(Exception):
    """Root of the tree. `str(error)` is one sentence fit to print: the thing, the place, the way out."""

    retryable: ClassVar[bool] = False
    cost: ClassVar[Cost] = "no"
    exit_code: ClassVar[int] = 1


class UsageError(PackshotError):
    exit_code = 2


class SettingsError(UsageError):
    pass


class UnknownBatch(UsageError):
    pass


class ManifestError(PackshotError):
    """Carries all problems of all rows; the command prints them and leaves with 1."""


class BatchChanged(PackshotError):
    pass


class LedgerUnavailable(PackshotError):
    retryable = True


class LedgerFull(LedgerUnavailable):
    retryable = False


class CallError(PackshotError):
    """A call that brought no pictures. Keeps the provider's own words.

    code:        the provider's code (`Throttling.RateQuota`), or ours for what happened on the way
    message:     the provider's message, or the library's, unchanged
    http_status: None when no status line was read
    request_id:  the provider's id of the call, where it gave one
    """

    def __init__(
        self, code: str, message: str, *, http_status: int | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.http_status = http_status
        self.request_id = request_id


class NotSent(CallError):
    retryable = True


class SlotMissed(NotSent):
    """The moment that the rate limit gave the call had passed before it could leave: this machine was slow."""


class Unsendable(NotSent):
    """An error nobody expected, before the request's end was out: the same request would meet it again."""

    retryable = False


class OutcomeUnknown(CallError):
    cost = "maybe"


class Refused(CallError):
    """The provider answered with a code. Its word is final: nothing was billed.

    wait_s: the shortest wait the reference advises before the next try of this code
    tries:  how many tries in all this code is worth; None leaves it to the setting
    advice: what a person should do, in one sentence; empty where there is nothing to say
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        http_status: int | None = None,
        request_id: str | None = None,
        wait_s: float = 0.0,
        tries: int | None = None,
        advice: str = "",
    ) -> None:
        super().__init__(code, message, http_status=http_status, request_id=request_id)
        self.wait_s = wait_s
        self.tries = tries
        self.advice = advice


class Throttled(Refused):
    """kind: `rate` (the window is full), `burst` (rose too quickly) or `quota` (allocated amount used up for now)."""

    retryable = True

    def __init__(
        self, code: str, message: str, *, kind: Literal["rate", "burst", "quota"] = "rate", **facts: Any
    ) -> None:
        super().__init__(code, message, **facts)
        self.kind = kind


class Transient(Refused):
    retryable = True


class Rejected(Refused):
    pass


class AccountStopped(Refused):
    pass


class PictureError(PackshotError):
    """An input picture cannot be sent: gone, changed since planning, unreadable, too large. Nothing was sent."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ResultError(PackshotError):
    cost = "paid"


class ResultUnavailable(ResultError):
    retryable = True


class ResultBlocked(ResultError):
    pass


class ResultLost(ResultError):
    pass


class StorageError(PackshotError):
    pass


class StorageUnavailable(StorageError):
    retryable = True


class StorageRefused(StorageError):
    pass

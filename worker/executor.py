"""One job from claim to done: claim, prepare, admit, call, record, copy, settle. Read it from top to bottom.

Promises: nothing is sent before the intent is on disk; an answer is on disk before anything else happens; whoever
lost the claim records what it learned about its call and stops. Whether and when to try again is `worker.retry`'s
word; waiting is done here, and only for as long as nobody says stop.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

import structlog
from sqlalchemy import Connection

from models import attempt as attempts
from models import batch, catalogue, job
from models import output as outputs
from models.attempt import OpenAttempt
from models.database import Database
from models.edit import Answer, Edit
from models.errors import (
    CallError,
    LedgerUnavailable,
    NotSent,
    OutcomeUnknown,
    PackshotError,
    PictureError,
    Refused,
    ResultBlocked,
    ResultLost,
    ResultUnavailable,
    SettingsError,
    SlotMissed,
    StorageRefused,
    StorageUnavailable,
    Throttled,
    Unsendable,
)
from models.job import Claim
from models.output import OutputToStore
from worker import retry
from worker.limiter import Limiter, LimiterUnavailable
from worker.results import Fetched
from worker.storage import Storage
from worker.wire import Slot

URL_LIFE_S = 24 * 3600.0  # documented life of a result address
MISSED_PATIENCE_S = 2.0  # so long an intent may stand open for another slot: a person's order acts within two seconds
LEAD_S = 0.05  # a worker wakes so long before its slot, to write down the intent and to connect
LEAVING_PATIENCE_S = 30.0  # how long a leaving process waits for a ledger that cannot be written
ANSWER_PATIENCE_S = 600.0  # the same, with a paid answer in hand: only the ledger can keep it from being paid again

log = structlog.get_logger()
T = TypeVar("T")


class Calls(Protocol):
    """What the executor needs of `worker.provider.Provider`."""

    def prepared(self, edit: Edit, *, region: str) -> AbstractContextManager[Any]: ...
    def send(self, letter: Any, *, attempt: str, slot: Slot) -> Answer: ...


class Fetches(Protocol):
    """What the executor needs of `worker.results.Fetcher`."""

    def fetch(self, url: str) -> Fetched: ...


@dataclass(frozen=True)
class Admitted:
    """An intent on disk and the slot of its call, on `time.monotonic`."""

    attempt: OpenAttempt
    slot: Slot


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Executor:
    """Works on jobs, one per call of `execute`; shared by all threads of a worker.

    owner:   names this process in claims and attempts
    storage: gives the storage of a batch's output place
    stop:    set when the process is to leave: nothing new is sent, what is in flight is recorded
    """

    database: Database
    provider: Calls
    fetcher: Fetches
    storage: Callable[[str], Storage]
    limiter: Limiter
    models: Mapping[str, catalogue.Model]
    owner: str
    lease_s: float
    max_tries: int
    max_wait_s: float = 60.0
    stop: threading.Event = field(default_factory=threading.Event)
    now: Callable[[], datetime] = utc_now
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    patience_s: float = 1.0
    refused: LedgerUnavailable | None = field(default=None, init=False)  # the last write, by a ledger that is away

    def execute(self, job_id: int) -> None:
        """Take a job as far as it goes now. Never raises for what can happen to a job."""
        claim = self._claim(job_id)
        if claim is None:
            return
        try:
            answered = claim.answered_attempt_id or self._buy(claim)
            if answered is not None:
                self._deliver(claim, answered)
        except LedgerUnavailable as error:  # leaving, and the ledger did not come back: the next run finds it as it is
            log.error("left before the ledger could be written", batch=claim.batch, job=claim.job_id, error=str(error))
        except Exception as error:  # a bug must not leave money unaccounted for
            log.exception("a job met an error nobody expected", batch=claim.batch, job=claim.job_id)
            self._settle_bug(claim, error)

    def _buy(self, claim: Claim) -> int | None:
        """Returns the attempt to deliver, or None when the job was settled otherwise.

        All that is free and takes an uneven time comes before the slot: who waits for the store of a picture must not
        let the slot pass, and calls that leave late crowd those that leave on time.
        """
        try:
            with self.provider.prepared(claim.edit, region=claim.region) as letter:
                admitted = self._admit(claim)
                return None if admitted is None else self._call(claim, admitted, letter)
        except (CallError, PictureError, SettingsError) as error:
            self._settle(claim, None, error)
            return None

    # -- claim and admit -------------------------------------------------------------------------------------

    def _claim(self, job_id: int) -> Claim | None:
        if self.stop.is_set():
            return None
        token = secrets.token_hex(16)  # of all repeats, so that one finds the claim whose commit was not confirmed
        try:
            return self._write(
                lambda tx: job.claim(tx, job_id, owner=self.owner, lease_s=self.lease_s, now=self.now(), token=token)
            )
        except LedgerUnavailable as error:  # leaving: the job lies in the ledger as it is, and is handed out again
            log.warning("left without a job that was handed out", job=job_id, error=str(error))
            return None

    def _admit(self, claim: Claim) -> Admitted | None:
        """Wait until shortly before a slot of the model's lane, and write down the intent. None: given back."""
        lane = claim.edit.model
        try:
            slot = self._slot(lane)
        except PackshotError as error:  # the limiter cannot be asked: no call, come back later
            self._postpone(claim, after_s=self.patience_s, code="LimiterUnavailable", message=str(error))
            return None
        if slot is None:
            self._postpone(claim)
            return None
        attempt = self._write(lambda tx: self._open(tx, claim), durable=True)
        if attempt is None:
            self.limiter.give_back(lane)
            self._postpone(claim)
            return None
        return Admitted(attempt, slot)

    def _slot(self, lane: str, *, patience_s: float = float("inf")) -> Slot | None:
        """Returns shortly before a slot. None: told to leave, or there is none soon enough.

        Raises what the limiter does.
        """
        while True:
            wait_s = self.limiter.acquire(lane)
            slot = Slot(time.monotonic() + wait_s, self.limiter.slack_s(lane))
            if wait_s > patience_s or self.stop.wait(max(0.0, wait_s - LEAD_S)):
                self.limiter.give_back(lane)
                return None
            if not slot.is_missed(time.monotonic()):
                return slot

    def _open(self, tx: Connection, claim: Claim) -> OpenAttempt | None:
        """The intent; from here the lease is counted anew, as the wait for the slot has used it up in part."""
        attempt = job.open_attempt(tx, claim, worker=self.owner, now=self.now())
        if attempt is not None:
            job.renew(tx, claim, lease_s=self.lease_s, now=self.now())
        return attempt

    # -- call and record -------------------------------------------------------------------------------------

    def _call(self, claim: Claim, admitted: Admitted, letter: Any) -> int | None:
        """One paid call. Returns the attempt to deliver, or None when the job was settled otherwise."""
        attempt = admitted.attempt
        try:
            answer = self._send(letter, attempt, admitted.slot, claim.edit.model)
        except (CallError, PictureError, SettingsError) as error:
            self._settle(claim, attempt, error)
            return None
        delivered = self._keep(claim, attempt, answer)
        self.limiter.succeeded(claim.edit.model)
        log.info("answered", batch=claim.batch, job=claim.job_id, attempt=attempt.id, pictures=answer.pictures)
        return delivered

    def _send(self, letter: Any, attempt: OpenAttempt, slot: Slot, lane: str) -> Answer:
        """In another slot where this one is missed. Raises what the provider does; SlotMissed where none comes soon."""
        give_up_at = slot.at + MISSED_PATIENCE_S
        while True:
            try:
                return self.provider.send(letter, attempt=str(attempt.id), slot=slot)
            except SlotMissed as missed:
                log.info("a slot was missed", lane=lane, attempt=attempt.id)
                try:
                    another = self._slot(lane, patience_s=give_up_at - time.monotonic())
                except LimiterUnavailable as error:
                    raise SlotMissed(missed.code, str(error)) from error
                if another is None:
                    raise
                slot = another

    def _keep(self, claim: Claim, attempt: OpenAttempt, answer: Answer) -> int:
        """Record a paid answer, and wait for the ledger long. The log has what a person needs, should it never come.

        Told at the first refusal, too: whoever is killed while waiting says nothing more.
        """
        charge_micros = self._price(claim, attempt, answer)
        paid = log.bind(
            batch=claim.batch,
            job=claim.job_id,
            attempt=attempt.id,
            request_id=answer.request_id,
            pictures=answer.pictures,
            charge_micros=charge_micros,
            currency=claim.currency,
        )
        try:
            return self._patiently(
                lambda: self._writing(durable=True),
                lambda tx: job.record_answer(
                    tx, attempt, answer, charge_micros=charge_micros, url_life_s=URL_LIFE_S, now=self.now()
                ),
                leaving_s=ANSWER_PATIENCE_S,
                refused=lambda: paid.warning("a paid answer waits for the ledger"),
            )
        except LedgerUnavailable:
            paid.error("a paid answer was not recorded; its call will count as unknown")
            raise

    def _price(self, claim: Claim, attempt: OpenAttempt, answer: Answer) -> int:
        """Today's price; the dearer one its size may have, where the answer tells no area.

        What was reserved, where the price has gone from the settings since the batch was planned.
        """
        edit, today = claim.edit, self.now().date()
        pictures, inputs = answer.pictures, len(edit.pictures)
        try:
            model = self.models[edit.model]
            if answer.area_px is None:
                size = edit.parameters.get("size")
                return model.worst_case_micros(claim.region, today, n=pictures, inputs=inputs, size=size)
            return model.cost_micros(claim.region, today, pictures=pictures, inputs=inputs, area_px=answer.area_px)
        except LookupError:
            return attempt.hold.amount_micros

    def _settle(self, claim: Claim, attempt: OpenAttempt | None, error: PackshotError) -> None:
        """No pictures: write what is known of the call, where one began, and what becomes of the job, as one."""
        unsent = self._read(lambda ledger: attempts.unsent(ledger, claim.job_id, of=claim.tries)) if claim.tries else 0
        decision = retry.decide(
            error,
            tries=claim.tries + 1,
            unsent=unsent,
            max_tries=self.max_tries,
            chance=self.chance(),
            throttles=claim.throttles + 1,
        )
        log.info("no pictures", batch=claim.batch, job=claim.job_id, error=str(error), then=str(decision))
        if isinstance(error, Unsendable):
            log.error("an error nobody expected kept a call from being sent", job=claim.job_id, exc_info=error)
        if isinstance(error, Throttled):
            self.limiter.throttled(claim.edit.model, error.kind)

        def settle(tx: Connection) -> None:
            now = self.now()
            call = attempt or self._open(tx, claim)  # what could not even be prepared is a call not sent
            if call is None:
                job.postpone(tx, claim, now, due_at=now)
                return
            _record(tx, call, error, now)
            match decision:
                case retry.Again(wait_s=wait_s, counted=counted):
                    job.postpone(
                        tx,
                        claim,
                        now,
                        due_at=now + timedelta(seconds=min(wait_s, self.max_wait_s)),
                        counted=counted,
                        throttled=isinstance(error, Throttled),
                        code=getattr(error, "code", type(error).__name__),
                        message=getattr(error, "message", str(error)),
                    )
                case retry.AskExposure():
                    # a call that the provider can be asked for (asynchronous, by task id) is asked for here first
                    due_at = now + timedelta(seconds=self.patience_s)
                    job.rebuy_or_hold(tx, claim, call.hold, now, due_at=due_at)
                case retry.StopBatch(code=code, message=message, advice=advice):
                    here = f"{self.owner}: " if isinstance(error, SettingsError) else ""  # others may be set right
                    reason = "; ".join(filter(None, (message.strip().rstrip("."), advice)))
                    batch.stop(tx, claim.batch_id, code=code, message=here + reason)
                    job.postpone(tx, claim, now, due_at=now, code=code, message=message)
                case retry.GiveUp(code=code, message=message):
                    job.fail(tx, claim, now, code=code, message=message)

        self._write(settle, durable=True)

    # -- copy and settle -------------------------------------------------------------------------------------

    def _deliver(self, claim: Claim, attempt_id: int) -> None:
        """Copy every paid picture to every row's key; then the job is done.

        One picture's trouble does not keep the others: the addresses of all of them are dying.
        """
        taken: KeyTaken | None = None
        missing: ResultUnavailable | None = None
        for output in self._read(lambda connection: outputs.waiting(connection, claim.job_id, attempt_id)):
            if not self._write(lambda tx: job.renew(tx, claim, lease_s=self.lease_s, now=self.now())):
                return  # somebody else owns the job now, and copies
            try:
                self._store(claim, output)
            except KeyTaken as error:
                taken = error
            except ResultLost as error:
                self._give_up_output(output, reason=str(error))
            except ResultUnavailable as error:
                if self.now() < output.expires_at:
                    missing = error
                    if self.stop.is_set():
                        break  # a silent host may take minutes for each
                else:
                    self._give_up_output(output, reason=f"its address has died; the last try said: {error}")
            except StorageUnavailable as error:
                self._copy_later(claim, error)
                return
            except (StorageRefused, ResultBlocked) as error:
                self._stop_batch(claim, code=type(error).__name__, message=str(error))
                self._copy_later(claim, error)
                return
        if missing is not None:
            self._copy_later(claim, missing)
        elif taken is not None:
            self._fail(claim, code="KeyTaken", message=str(taken))
        else:
            self._write(lambda tx: _finish(tx, claim, attempt_id, self.now()))

    def _store(self, claim: Claim, output: OutputToStore) -> None:
        storage = self.storage(claim.output)
        fetched = self.fetcher.fetch(output.url)
        stored = []
        for row_id, key, sku in output.copies:
            found = storage.head(key)
            if found is not None and found.metadata.get("batch") != claim.batch:
                raise KeyTaken(storage.address(key))
            metadata = {
                "batch": claim.batch,
                "sku": sku,
                "job": claim.digest[:12],
                "seed": str(output.seed),
                "model": claim.edit.model,
                "request-id": output.request_id,
            }
            storage.put(key, fetched.data, sha256=fetched.sha256, metadata=metadata)
            stored.append((row_id, key))
        self._write(
            lambda tx: outputs.record_output(
                tx,
                output,
                stored=stored,
                sha256=fetched.sha256,
                size=len(fetched.data),
                width=fetched.width,
                height=fetched.height,
                now=self.now(),
            )
        )

    def _give_up_output(self, output: OutputToStore, *, reason: str) -> None:
        self._write(lambda tx: outputs.record_lost(tx, output.id, reason=reason))

    def _stop_batch(self, claim: Claim, *, code: str, message: str) -> None:
        self._write(lambda tx: batch.stop(tx, claim.batch_id, code=code, message=message))

    def _copy_later(self, claim: Claim, error: PackshotError) -> None:
        failures = claim.copies + 1
        stuck = isinstance(error, ResultUnavailable) and failures >= job.STUCK_COPIES
        wait_s = retry.copy_wait_s(failures, self.chance(), longest_s=self.max_wait_s, stuck=stuck)
        self._postpone(claim, after_s=wait_s, copy_failed=True, code=type(error).__name__, message=str(error))

    # -- helpers ---------------------------------------------------------------------------------------------

    def _fail(self, claim: Claim, *, code: str, message: str) -> None:
        self._write(lambda tx: job.fail(tx, claim, self.now(), code=code, message=message))

    def _postpone(
        self,
        claim: Claim,
        *,
        after_s: float = 0.0,
        copy_failed: bool = False,
        code: str | None = None,
        message: str | None = None,
    ) -> None:
        def put_back(tx: Connection) -> bool:
            now = self.now()
            due_at = now + timedelta(seconds=after_s)
            return job.postpone(tx, claim, now, due_at=due_at, copy_failed=copy_failed, code=code, message=message)

        self._write(put_back)

    def _settle_bug(self, claim: Claim, error: Exception) -> None:
        """An error of ours: the call, if it was made, is unknown; the job waits for a person and says why.

        The provider's door has told apart what broke off before sending (Unsendable), so what comes here may be paid.
        """
        code, message = "UnexpectedError", f"{type(error).__name__}: {error}"  # the provider has an InternalError

        def settle(tx: Connection) -> None:
            now, call = self.now(), job.call_under_way(tx, claim)
            if call is not None and attempts.record_unknown(tx, call, code=code, message=message, now=now):
                job.hold(tx, claim, now, code=code, message=message)
            else:
                job.fail(tx, claim, now, code=code, message=message)

        self._write(settle, durable=True)

    def _write(self, work: Callable[[Connection], T], *, durable: bool = False) -> T:
        """One transaction, repeated until the ledger takes it: what is known must not be lost to a restart of it."""
        return self._patiently(lambda: self._writing(durable=durable), work)

    @contextmanager
    def _writing(self, *, durable: bool) -> Iterator[Connection]:
        """Only a write that was taken ends an outage: a full disk can still be read."""
        with self.database.write(durable=durable) as connection:
            yield connection
        self.refused = None

    def _read(self, work: Callable[[Connection], T]) -> T:
        """Asked until the ledger answers: a restart of it is no reason to fail a job that is paid."""
        return self._patiently(self.database.read, work)

    def _patiently(
        self,
        begin: Callable[[], AbstractContextManager[Connection]],
        work: Callable[[Connection], T],
        *,
        leaving_s: float = LEAVING_PATIENCE_S,
        refused: Callable[[], None] = lambda: None,
    ) -> T:
        """leaving_s: how long still to try once told to stop. refused: told of the first refusal."""
        told, leaving_since = False, None
        while True:
            try:
                with begin() as connection:
                    return work(connection)
            except LedgerUnavailable as error:
                if not told:
                    refused()
                told = True
                if self.stop.is_set():
                    leaving_since = self.clock() if leaving_since is None else leaving_since
                    if self.clock() - leaving_since > leaving_s:
                        raise
                if self.refused is None:  # once an outage, not once a second and thread
                    log.warning("the ledger cannot be used; trying again", error=str(error))
                self.refused = error
                time.sleep(self.patience_s)


class KeyTaken(PackshotError):
    """Something that this batch did not make appeared at a key after the batch was checked. Never overwritten."""

    def __init__(self, address: str) -> None:
        super().__init__(f"{address}: something else is there; move it away, then retry copies the paid picture")


def _record(tx: Connection, attempt: OpenAttempt, error: PackshotError, now: datetime) -> None:
    match error:
        case OutcomeUnknown():
            attempts.record_unknown(
                tx, attempt, code=error.code, message=error.message, http_status=error.http_status, now=now
            )
        case Refused():
            attempts.record_refusal(
                tx,
                attempt,
                verdict="throttled" if isinstance(error, Throttled) else "refused",
                code=error.code,
                message=error.message,
                http_status=error.http_status,
                request_id=error.request_id,
                now=now,
            )
        case NotSent() | PictureError():
            attempts.record_not_sent(tx, attempt, code=error.code, message=error.message, now=now)
        case _:
            attempts.record_not_sent(tx, attempt, code=type(error).__name__, message=str(error), now=now)


def _finish(tx: Connection, claim: Claim, attempt_id: int, now: datetime) -> bool:
    """All that could be copied is copied: succeeded, or failed where paid pictures were lost."""
    stored, lost, billed = outputs.delivery(tx, attempt_id)
    if lost or stored < billed:
        missing = max(lost, billed - stored)
        return job.fail(
            tx,
            claim,
            now,
            code="ResultLost",
            message=f"{missing} of {billed} paid pictures can no longer be fetched; retry buys the edit again",
        )
    note = f"asked for {claim.edit.n} pictures, got and paid {billed}" if billed < claim.edit.n else None
    return job.succeed(tx, claim, now, note=note)

"""Is it all there, and does it all agree? The ledger against the provider's own books and the pictures themselves.

Independent of `packshot audit` on purpose: the sums are made anew from the records, the bytes are compared with what
the provider drew. Each difference is one sentence; none means that the promise held.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from models import ledger
from models.tables import accounts, attempts, batches, entries, jobs, objects, outputs, rows
from tests.servers.emulator import EmulatorProcess

SURPLUS = "paid twice; another call was delivered"
DEAD_RESULTS = ("result_expired",)  # what was billed can never be fetched


@dataclass
class Bill:
    """What the provider billed for one attempt of ours."""

    micros: int = 0
    pictures: int = 0
    request_id: str = ""
    fault: str | None = None


@dataclass
class Proof:
    """Everything that is compared, read once. read: the bytes that are stored under a key, or raises."""

    connection: Connection
    batch_id: int
    emulator: EmulatorProcess
    read: Callable[[str], bytes]
    bills: dict[int, Bill] = field(default_factory=dict)
    attempts: dict[int, Any] = field(default_factory=dict)
    charges: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for line in self.emulator.invoice()["lines"]:
            bill = self.bills.setdefault(int(line["client_request"]), Bill())
            bill.micros += line["micros"]
            bill.pictures += line["item"] == "output"
            bill.request_id, bill.fault = line["request_id"], line["fault"]
        for record in self.connection.execute(select(attempts).where(attempts.c.batch_id == self.batch_id)):
            self.attempts[record.id] = record
        charged = select(entries).where(entries.c.batch_id == self.batch_id, entries.c.kind == "charge")
        for record in self.connection.execute(charged):
            self.charges[record.attempt_id] = self.charges.get(record.attempt_id, 0) + record.amount_micros

    def differences(self) -> list[str]:
        return [
            *ledger.verify_chain(self.connection, self.batch_id),
            *self._sums(),
            *self._every_moment(),
            *self._bills(),
            *self._exposure(),
            *self._jobs(),
            *self._pictures(),
        ]

    # -- money -------------------------------------------------------------------------------------------------------

    @property
    def account(self) -> ledger.Account:
        found = ledger.account(self.connection, ledger.batch_account(self.batch_id))
        assert found is not None
        return found

    def paid_unseen_micros(self) -> int:
        """Billed for calls whose answer never came."""
        return sum(bill.micros for id_, bill in self.bills.items() if self._outcome(id_) == "unknown")

    def _outcome(self, attempt_id: int) -> str:
        record = self.attempts.get(attempt_id)
        return record.outcome if record else "never made"

    def _sums(self) -> Iterator[str]:
        stored, sums = self.account, ledger.recompute(self.connection, self.batch_id)
        for name in ("reserved_micros", "charged_micros", "exposed_micros"):
            if getattr(stored, name) != getattr(sums, name):
                yield f"the account says {name} {getattr(stored, name)}, its entries {getattr(sums, name)}"
        days = select(accounts.c.id, accounts.c.currency).where(accounts.c.id.startswith("day:"))
        for account_id, currency in self.connection.execute(days):
            day, found = account_id.split(":")[1], ledger.account(self.connection, account_id)
            sums = ledger.recompute_day(self.connection, day, currency, rehearsal=False)
            if found is None or (found.reserved_micros, found.charged_micros, found.exposed_micros) != (
                sums.reserved_micros,
                sums.charged_micros,
                sums.exposed_micros,
            ):
                yield f"the account of {day} is not the sum of its entries"

    def _every_moment(self) -> Iterator[str]:
        """Entry after entry: what was spent or set aside, unknown calls included, never passed the budget."""
        budget, charged, reserved = self.account.budget_micros, 0, 0
        own = select(entries).where(entries.c.batch_id == self.batch_id).order_by(entries.c.seq)
        standing: dict[tuple[int, int], int] = {}
        for entry in self.connection.execute(own):
            hold = (entry.job_id, entry.hold)
            if entry.kind == "reserve":
                standing[hold] = entry.amount_micros
                reserved += entry.amount_micros
            else:
                reserved -= standing.pop(hold, 0)
                charged += entry.amount_micros if entry.kind == "charge" else 0
            if budget is not None and charged + reserved > budget:
                yield f"at entry {entry.seq} {charged} were charged and {reserved} reserved of a budget of {budget}"

    def _bills(self) -> Iterator[str]:
        """Attempt by attempt: what is charged was billed, and what is billed was charged or is of unknown outcome."""
        for id_ in sorted(self.bills.keys() | self.charges.keys()):
            bill, charge, record = self.bills.get(id_, Bill()), self.charges.get(id_, 0), self.attempts.get(id_, Bill())
            outcome = self._outcome(id_)
            if charge and bill.micros != charge:
                yield f"attempt {id_} ({outcome}) was charged {charge}, billed {bill.micros} (fault {bill.fault})"
            elif not charge and outcome != "unknown":
                yield f"attempt {id_} ({outcome}) was billed {bill.micros} (fault {bill.fault}) and not charged"
            elif charge and (record.pictures, record.request_id) != (bill.pictures, bill.request_id):
                yield f"attempt {id_} says {record.pictures} pictures of {record.request_id}, the bill differs"

    def _exposure(self) -> Iterator[str]:
        """What was paid without an answer, or paid twice, stays within what is stated."""
        found, unseen = self.account, self.paid_unseen_micros()
        if unseen > found.exposed_micros:
            yield f"{unseen} were billed for unknown calls, {found.exposed_micros} are stated as exposed"
        if found.rebought_micros > found.exposure_limit_micros:
            yield f"{found.rebought_micros} were bought again, {found.exposure_limit_micros} is the limit"
        by_job: dict[int, list[int]] = defaultdict(list)
        for id_, bill in self.bills.items():
            if id_ in self.attempts:
                by_job[self.attempts[id_].job_id].append(bill.micros)
        twice = sum(sum(micros) - max(micros) for micros in by_job.values())
        if twice > found.rebought_micros:
            yield f"{twice} were paid twice, {found.rebought_micros} are stated as bought again"

    # -- jobs and pictures -------------------------------------------------------------------------------------------

    def _jobs(self) -> Iterator[str]:
        """Every job is at an end, nothing is set aside any more, and nothing answered was bought again."""
        for record in self.connection.execute(select(jobs).where(jobs.c.batch_id == self.batch_id)):
            if record.status not in ("succeeded", "failed", "held"):
                yield f"job {record.id} is {record.status}"
            if record.status in ("failed", "held") and not record.code:
                yield f"job {record.id} is {record.status} and nobody says why"
            if record.code == "UnexpectedError":
                yield f"job {record.id} met an error of ours: {record.message}"
            if record.hold is not None or record.claim_token is not None:
                yield f"job {record.id} is {record.status} and still has a reservation or a claim"
        if self.account.reserved_micros:
            yield f"{self.account.reserved_micros} are still reserved"
        answered_at: dict[int, Any] = {}
        for record in sorted(self.attempts.values(), key=lambda found: found.id):
            if record.outcome == "open":
                yield f"attempt {record.id} is still open"
            if record.verdict == "pictures":
                answered_at[record.job_id] = min(record.closed_at, answered_at.get(record.job_id, record.closed_at))
        for record in self.attempts.values():
            if record.job_id in answered_at and record.opened_at > answered_at[record.job_id]:
                yield f"attempt {record.id} bought job {record.job_id} again although an answer was recorded"

    def _pictures(self) -> Iterator[str]:
        """Every billed and answered picture is stored for every row, in the bytes that the provider drew."""
        delivered = dict(
            self.connection.execute(
                select(jobs.c.answered_attempt_id, jobs.c.id).where(jobs.c.batch_id == self.batch_id)
            ).all()
        )
        wanted: dict[int, int] = defaultdict(int)
        for (job_id,) in self.connection.execute(select(rows.c.job_id).where(rows.c.batch_id == self.batch_id)):
            wanted[job_id] += 1
        copies: dict[int, list[Any]] = defaultdict(list)
        for record in self.connection.execute(
            select(objects).join(outputs).where(outputs.c.batch_id == self.batch_id).order_by(objects.c.id)
        ):
            copies[record.output_id].append(record)
        seen: dict[int, int] = defaultdict(int)
        drawn = self._drawn()
        for output in self.connection.execute(select(outputs).where(outputs.c.batch_id == self.batch_id)):
            seen[output.attempt_id] += 1
            if output.attempt_id not in delivered:
                if output.lost != SURPLUS:
                    yield f"output {output.id} of attempt {output.attempt_id} is not delivered, without a reason"
                continue
            if output.stored_at is None:
                if self.bills[output.attempt_id].fault not in DEAD_RESULTS:
                    yield f"output {output.id} of attempt {output.attempt_id} is paid and not stored ({output.lost})"
                continue
            if len(copies[output.id]) != wanted[output.job_id]:
                yield f"output {output.id} has {len(copies[output.id])} copies for {wanted[output.job_id]} rows"
            if drawn.get((self.bills[output.attempt_id].request_id, output.number)) != output.sha256:
                yield f"output {output.id} is not what the provider drew"
            for copy in copies[output.id]:
                yield from self._copy(copy, output.sha256)
        for id_ in self.charges:
            if id_ in self.attempts and seen[id_] != self.attempts[id_].pictures:
                yield f"attempt {id_} was billed {self.attempts[id_].pictures} pictures, {seen[id_]} are known"

    def _copy(self, copy: Any, sha256: str) -> Iterator[str]:
        try:
            data = self.read(copy.key)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is not the picture
            yield f"{copy.key} cannot be read: {error}"
            return
        if not hashlib.sha256(data).hexdigest() == copy.sha256 == sha256:
            yield f"{copy.key} holds other bytes than were paid"

    def _drawn(self) -> dict[tuple[str, int], str]:
        """Of each picture that the provider keeps: (request id, number) -> hex sha256."""
        assert self.emulator.state_dir is not None
        found = {}
        for path in (self.emulator.state_dir / "results").glob("*/*.png"):
            request_id, _, number = path.stem.rpartition("-")
            found[request_id, int(number)] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


def prove(connection: Connection, name: str, emulator: EmulatorProcess, read: Callable[[str], bytes]) -> Proof:
    batch_id = connection.execute(select(batches.c.id).where(batches.c.name == name)).scalar_one()
    return Proof(connection, batch_id, emulator, read)


def folder_reader(folder: Path) -> Callable[[str], bytes]:
    return lambda key: (folder / key).read_bytes()

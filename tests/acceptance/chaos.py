"""A night in which everything goes wrong at once, and the proof in the morning.

    python -m tests.acceptance.chaos --jobs 2000 --minutes 5 --seed 7

Starts the whole cluster, submits one batch with a budget, and while it is worked on kills, stops, freezes, wipes and
restarts whatever the cluster is made of, by a schedule that the seed decides; the provider's double misbehaves in every
way it knows, by the same seed. A reader looks all the time whether the budget holds and Redis stays small. A person,
as a script, does only what a person would: resumes what stopped, gives more budget to what ran out of it.

In the end every job must have succeeded, failed for a named reason, or be held; and the ledger, the provider's invoice
and the pictures in S3 must agree (`proof`, and `packshot audit --deep`). Prints a table; leaves with 1 and the
differences otherwise.

The same seed gives the same events at the same times and the same faults to the same calls; which job a call is for is
decided by the race that this is about.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from redis.exceptions import RedisError

from models.database import Database
from tests.acceptance.proof import Proof, prove
from tests.servers.cli import write_manifest
from tests.servers.cluster import BUCKET, Cluster, ClusterProcess
from tests.servers.postgres import PostgresProcess

PRICE = 200_000
MODEL = "qwen-image-2.0"
LEASE_S = 11.0  # as in tests.servers.cluster
PATIENCE_S = 10.0  # how long an event waits for a call to be answered since the one before
SETTLE_S = 240.0  # after the last event: for leases to run out, and for what waits its turn
REDIS_MOST = 1000

# Every fault of the emulator by share of calls, except the two throttles that stop a lane for 10 s and a minute and
# what stops the account: those come by the schedule.
SHARES = {
    "refused": 0.012,
    "throttled": 0.008,
    "throttled_rate": 0.008,
    "http_500": 0.012,
    "http_503": 0.012,
    "serving_error": 0.008,
    "gateway_html": 0.008,
    "gateway_html_billed": 0.008,
    "dropped_before_billing": 0.008,
    "dropped_after_billing": 0.012,
    "half_answer": 0.008,
    "stuck": 0.004,
    "stuck_billed": 0.006,
    "slow": 0.008,
    "partial": 0.012,
    "no_usage": 0.008,
    "error_200": 0.008,
    "content_refused": 0.008,
    "content_refused_output": 0.008,
    "result_truncated": 0.012,
    "result_500": 0.012,
    "result_slow": 0.006,
    "result_expired": 0.004,
    "result_not_png": 0.004,
}

# One deck of cards: what happens, and how often before the deck is shuffled anew.
DECK = {
    "worker killed": 5,
    "scheduler killed": 2,
    "worker stopped": 2,
    "worker frozen past its lease": 1,
    "Redis killed": 1,
    "Redis wiped": 1,
    "Redis lost with its data": 1,
    "PostgreSQL restarted": 1,
    "PostgreSQL killed": 1,
    "S3 away": 1,
    "account in arrears": 1,
}
# And once a night, at some time between these parts of it. A refused burst leaves a lane a quarter of its rate, so it
# comes late; a refused quota stops it for a minute, so it comes in long nights only, like the second restart.
ONCE = {
    "provider restarted": (0.2, 0.5),
    "burst refused": (0.7, 0.9),
}
LONG_ONLY = {
    "provider restarted again": (0.5, 0.8),
    "quota refused": (0.3, 0.6),
}
LONG_S = 180.0


@dataclass(frozen=True)
class Event:
    """at_s: after the first job succeeded. pick: [0, 1), which of several. lasts_s: how long something is away."""

    at_s: float
    what: str
    pick: float
    lasts_s: float


def schedule(seed: int, seconds: float) -> list[Event]:
    """What will happen when: pure, the same for the same seed and length."""
    dice = random.Random(seed)
    gap_s = min(5.0, seconds / (sum(DECK.values()) + 2))
    events: list[Event] = []
    at_s, deck = 0.0, []
    while at_s + 1.5 * gap_s < seconds:
        if not deck:
            deck = [what for what, count in DECK.items() for _ in range(count)]
            dice.shuffle(deck)
        at_s += dice.uniform(0.5, 1.5) * gap_s
        events.append(Event(at_s, deck.pop(), dice.random(), dice.uniform(0.5, 3.0)))
    once = ONCE | LONG_ONLY if seconds >= LONG_S else ONCE
    events += [Event(dice.uniform(*parts) * seconds, what, dice.random(), 1.0) for what, parts in once.items()]
    return sorted(events, key=lambda event: event.at_s)


@dataclass
class Readings:
    """What the reader saw, over and over while all of this went on."""

    count: int = 0
    blind: int = 0
    most_used_micros: int = 0
    most_keys: int = 0
    most_messages: int = 0
    over: list[str] = field(default_factory=list)


@dataclass
class Chaos:
    """One run. happened: how often what was done to the cluster."""

    cluster: Cluster
    jobs: int
    seconds: float
    seed: int
    workers: int = 3
    say: Callable[[str], None] = lambda _: None
    happened: Counter[str] = field(default_factory=Counter)
    readings: Readings = field(default_factory=Readings)
    complaints: list[str] = field(default_factory=list)
    hands: list[ClusterProcess] = field(default_factory=list)
    schedulers: list[ClusterProcess] = field(default_factory=list)
    frozen: list[tuple[float, ClusterProcess]] = field(default_factory=list)
    leaving: list[threading.Thread] = field(default_factory=list)
    budget_micros: int = 0
    took_s: float = 0.0

    def run(self) -> list[str]:
        """From the submission to the proof. Returns the differences; empty: the promise held."""
        began = time.monotonic()
        self._submit()
        self.schedulers = [self.cluster.start_scheduler(), self.cluster.start_scheduler()]
        self.hands = [self.cluster.start_worker() for _ in range(self.workers)]
        self._wait(lambda: self.cluster.count("succeeded") > 0, within_s=120)
        with self._reader():
            self._disturb()
            self._calm()
            self._settle()
        self.took_s = time.monotonic() - began
        return [*self.complaints, *self.readings.over, *self._redis_differences(), *self._proof_differences()]

    # -- the batch ---------------------------------------------------------------------------------------------------

    def _submit(self) -> None:
        """Rows with one and with two pictures, every tenth for two products; a budget a little above the quote."""
        rows: list[dict[str, Any]] = []
        for number in range(self.jobs):
            row = {"sku": f"S{number:05}", "prompt": f"number {number} on white", "n": 2 if number % 4 == 0 else 1}
            rows.append(row)
            if number % 10 == 0:
                rows.append({**row, "sku": f"T{number:05}"})
        quote = sum(PRICE * (2 if number % 4 == 0 else 1) for number in range(self.jobs))
        self.budget_micros = quote + quote // 50
        write_manifest(
            self.cluster.folder / "night.yaml",
            rows,
            output=f"s3://{BUCKET}/night",
            budget=_amount(self.budget_micros),
        )
        self.cluster.cli.ok("submit", "night.yaml")

    # -- the trouble -------------------------------------------------------------------------------------------------

    def _disturb(self) -> None:
        """Event after event at its time, or later where nothing moved since the one before: to kill what a slow machine
        has not brought up yet proves little."""
        began, moved = time.monotonic(), self._moved()
        for event in schedule(self.seed, self.seconds):
            while (now := time.monotonic()) - began < event.at_s or (
                now - began < event.at_s + PATIENCE_S and self._moved() == moved
            ):
                self._thaw(due_by=now)
                self._be_the_person()
                time.sleep(0.1)
            began += max(0.0, now - began - event.at_s)
            moved = self._moved()
            if self._left() == 0:
                self.say("every job is at its end; the rest of the schedule has nothing to disturb")
                return
            self.say(f"{event.at_s:6.1f} s  {event.what}")
            self.happened[event.what.removesuffix(" again")] += 1
            self._do(event)

    def _do(self, event: Event) -> None:
        cluster = self.cluster
        match event.what:
            case "worker killed":
                self._chosen(event).kill()
                self._replace_workers()
            case "worker stopped":
                self._stop(self._chosen(event))
                self._replace_workers()
            case "worker frozen past its lease":
                frozen = self._chosen(event)
                frozen.freeze()
                self.frozen.append((time.monotonic() + LEASE_S + 5.0, frozen))
            case "scheduler killed":
                victim = self.schedulers.pop(int(event.pick * len(self.schedulers)))
                victim.kill()
                self.schedulers.append(cluster.start_scheduler())
            case "Redis killed" | "Redis lost with its data":
                cluster.redis.kill()
                if event.what != "Redis killed":
                    cluster.redis.wipe()
                time.sleep(event.lasts_s)
                cluster.redis.start()
            case "Redis wiped":
                cluster.redis.wipe()
            case "PostgreSQL restarted" | "PostgreSQL killed":
                cluster.postgres.stop() if event.what == "PostgreSQL restarted" else cluster.postgres.kill()
                time.sleep(event.lasts_s)
                cluster.postgres.start()
            case "S3 away":
                cluster.s3.kill()
                time.sleep(event.lasts_s)
                cluster.s3.start()
            case "provider restarted" | "provider restarted again":
                cluster.emulator.restart()
            case "burst refused":
                cluster.emulator.fault("throttled_burst")
            case "quota refused":
                cluster.emulator.fault("throttled_quota")
            case "account in arrears":
                cluster.emulator.fault("arrears")
            case _:
                raise ValueError(event.what)

    def _chosen(self, event: Event) -> ClusterProcess:
        cold = [process for _, process in self.frozen]
        there = [process for process in self.hands if process.is_alive() and process not in cold]
        return there[int(event.pick * len(there))]

    def _replace_workers(self) -> None:
        """What died or was told to leave has a successor at once, as any supervisor sees to."""
        self.hands = [process for process in self.hands if process.is_alive()]
        while len(self.hands) < self.workers:
            self.hands.append(self.cluster.start_worker())

    def _stop(self, process: ClusterProcess) -> None:
        """SIGTERM; it must leave by itself, with 0, and own nothing any more."""
        self.hands.remove(process)

        def leave() -> None:
            try:
                code = process.stop(90)
            except Exception as error:  # noqa: BLE001  # a thread's trouble is told, not lost
                self.complaints.append(f"a worker did not leave when told to: {error} ({process.log.name})")
                return
            began = "worker starts" in process.log.read_text()  # before that it knows no signals, and owns nothing
            if code != 0 and began:
                self.complaints.append(f"a worker that was told to leave left with {code} ({process.log.name})")

        self.leaving.append(threading.Thread(target=leave))
        self.leaving[-1].start()

    def _thaw(self, *, due_by: float) -> None:
        for due, process in list(self.frozen):
            if due <= due_by:
                process.thaw()
                self.frozen.remove((due, process))

    def _be_the_person(self) -> None:
        """Resume what stopped; give more to what ran out of budget."""
        facts = self._ask(
            "SELECT b.state, b.code, a.budget_micros - a.charged_micros - a.reserved_micros - a.exposed_micros, "
            "(SELECT count(*) FROM jobs WHERE status = 'planned' AND answered_attempt_id IS NULL), "
            "(SELECT count(*) FROM jobs WHERE status IN ('queued', 'running')) "
            "FROM batches b JOIN accounts a ON a.id = 'batch:' || b.id"
        )
        if not facts:
            return
        state, code, free, planned, in_hand = facts[0]
        if state == "stopped":
            result = self.cluster.cli.run("resume", "night")
            self.happened[f"resumed by a person ({code})"] += result.code == 0
        elif planned and not in_hand and free < 2 * PRICE:
            more = self.budget_micros + self.jobs * PRICE // 20
            result = self.cluster.cli.run("budget", "night", _amount(more), "--reason", "the night must go on")
            if result.code == 0:
                self.budget_micros = more
                self.happened["more budget by a person"] += 1

    # -- the end -----------------------------------------------------------------------------------------------------

    def _calm(self) -> None:
        """Everything runs again."""
        self.say("          calm")
        self._thaw(due_by=float("inf"))
        self._replace_workers()
        for thread in self.leaving:
            thread.join()

    def _settle(self) -> None:
        """Until no job waits or is under way; bounded."""
        give_up, said = time.monotonic() + SETTLE_S + 0.1 * self.jobs, 0
        while (left := self._left()) != 0:
            if time.monotonic() > give_up:
                self.complaints.append(f"{left} jobs never came to an end")
                return
            if (second := int(time.monotonic())) // 10 != said // 10:
                said = second
                self.say(f"          settling: {left} jobs to go")
            self._be_the_person()
            time.sleep(0.5)
        time.sleep(1.0)  # for calls nobody waits for any more, which the provider still bills

    def _left(self) -> int | None:
        """Jobs that are not at their end; None while nobody can say."""
        found = self._ask("SELECT count(*) FROM jobs WHERE status IN ('planned', 'queued', 'running')")
        return int(found[0][0]) if found else None

    def _moved(self) -> int | None:
        """A number that grows with every answer; None while nobody can say."""
        found = self._ask("SELECT count(*) FROM attempts WHERE outcome = 'answered'")
        return int(found[0][0]) if found else None

    def _ask(self, sql: str) -> list[tuple[Any, ...]]:
        try:
            return self.cluster.query(sql)
        except psycopg.OperationalError:
            return []

    def _wait(self, condition: Callable[[], bool], *, within_s: float) -> None:
        give_up = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > give_up:
                raise TimeoutError(f"it did not begin\n{self.cluster.talk()}")
            time.sleep(0.2)

    # -- the reader --------------------------------------------------------------------------------------------------

    @contextmanager
    def _reader(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._read, args=[stop])
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _read(self, stop: threading.Event) -> None:
        """Every tenth of a second: is what is spent, reserved and perhaps spent within the budget of this moment?"""
        seen, connection = self.readings, None
        redis = self.cluster.redis.client()
        while not stop.wait(0.1):
            try:
                connection = connection or psycopg.connect(self.cluster.env["PACKSHOT_DATABASE_URL"], autocommit=True)
                found = connection.execute(
                    "SELECT budget_micros, charged_micros + reserved_micros + exposed_micros "
                    "FROM accounts WHERE id LIKE 'batch:%'"
                ).fetchone()
            except psycopg.OperationalError:
                connection, found = None, None
            if found is None:
                seen.blind += 1
            else:
                seen.count += 1
                seen.most_used_micros = max(seen.most_used_micros, int(found[1]))
                if found[1] > found[0]:
                    seen.over.append(f"{found[1]} were used of a budget of {found[0]}")
            with suppress(RedisError, OSError):
                seen.most_keys = max(seen.most_keys, redis.dbsize())
                seen.most_messages = max(seen.most_messages, redis.llen("packshot") + redis.hlen("unacked"))
        if connection is not None:
            connection.close()

    # -- the proof ---------------------------------------------------------------------------------------------------

    def _redis_differences(self) -> Iterator[str]:
        for what, most in (("keys", self.readings.most_keys), ("messages", self.readings.most_messages)):
            if most >= REDIS_MOST:
                yield f"Redis held {most} {what}"

    def _proof_differences(self) -> Iterator[str]:
        with self.proof() as found:
            yield from found.differences()
        audit = self.cluster.cli.run("audit", "night", "--deep", timeout_s=600)
        if audit.code != 0:
            yield f"packshot audit --deep:\n{audit.out}{audit.err}"

    @contextmanager
    def proof(self) -> Iterator[Proof]:
        client = self.cluster.s3.client()

        def read(key: str) -> bytes:
            return bytes(client.get_object(Bucket=BUCKET, Key=f"night/{key}")["Body"].read())

        database = Database(self.cluster.env["PACKSHOT_DATABASE_URL"])
        try:
            with database.read() as connection:
                yield prove(connection, "night", self.cluster.emulator, read)
        finally:
            database.close()

    def table(self) -> list[tuple[str, str]]:
        """What happened, in figures."""
        cluster, seen = self.cluster, self.readings
        invoice, calls = cluster.emulator.invoice(summary=True), cluster.emulator.calls()
        faults = Counter(call["fault"] for call in calls if call["fault"])
        ends = dict(cluster.query("SELECT status, count(*) FROM jobs GROUP BY status"))
        reasons = dict(
            cluster.query("SELECT code, count(*) FROM jobs WHERE status IN ('failed', 'held') GROUP BY code")
        )
        outcomes = dict(
            cluster.query("SELECT trim(outcome || ' ' || verdict), count(*) FROM attempts GROUP BY 1 ORDER BY 2 DESC")
        )
        stored, lost = cluster.query("SELECT count(stored_at), count(lost) FROM outputs")[0]
        ((copies,),) = cluster.query("SELECT count(*) FROM objects")
        with self.proof() as found:
            account, unseen = found.account, found.paid_unseen_micros()
        return [
            ("seed", f"{self.seed}: {self.jobs:,} jobs, {self.seconds:g} s of trouble, {self.took_s:.0f} s in all"),
            ("done to it", _counts(self.happened)),
            ("faults", f"{faults.total():,} of {len(calls):,} calls: {_counts(faults)}"),
            ("attempts", _counts(outcomes)),
            ("jobs", f"{_counts(ends)}{f' ({_counts(reasons)})' if reasons else ''}"),
            ("pictures", f"{invoice['pictures']:,} billed, {stored:,} stored in {copies:,} objects, {lost:,} lost"),
            (
                "money",
                f"{_amount(invoice['micros'])} billed = {_amount(account.charged_micros)} charged + {_amount(unseen)} "
                f"billed unseen (of {_amount(account.exposed_micros)} exposed; {_amount(account.rebought_micros)} "
                f"bought again of {_amount(account.exposure_limit_micros)} allowed)",
            ),
            (
                "budget",
                f"{_amount(self.budget_micros)}, at most {_amount(seen.most_used_micros)} used in {seen.count:,} "
                f"readings ({seen.blind:,} while the ledger was away)",
            ),
            ("Redis", f"at most {seen.most_keys:,} keys and {seen.most_messages:,} messages"),
        ]


def chaos_in(
    folder: Path, postgres: PostgresProcess, database_url: str, *, jobs: int, seconds: float, seed: int, **more: Any
) -> tuple[list[str], list[tuple[str, str]]]:
    """Run it. Returns the differences and the table."""
    faults = more.pop("faults", SHARES)
    limit = f"{MODEL}={max(2, math.ceil(2.0 * jobs / seconds))}/1s"
    with Cluster(folder, postgres, database_url, limits=limit, fault=faults, seed=seed) as cluster:
        cluster.env |= {"PACKSHOT_BREAKER": "off", "PACKSHOT_EXPOSURE_LIMIT": "8%"}
        chaos = Chaos(cluster, jobs, seconds, seed, **more)
        differences = chaos.run()
        return differences, chaos.table()


def print_report(differences: list[str], table: list[tuple[str, str]]) -> None:
    for name, figures in table:
        print(f"{name:<12} {figures}")
    print(f"{'differences':<12} {len(differences) or 'none'}")
    for difference in differences:
        print(f"  - {difference}")


def _counts(found: dict[str, int] | Counter[str]) -> str:
    order = sorted(found.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count:,}" for name, count in order if count) or "none"


def _amount(micros: int) -> str:
    return f"{micros / 1e6:.2f} CNY"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, help="instead of minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--fault", action="append", default=[], metavar="NAME=SHARE", help="instead of all of them")
    given = parser.parse_args()
    faults = {name: float(share) for name, _, share in (text.partition("=") for text in given.fault)} or SHARES
    folder = Path(tempfile.mkdtemp(prefix="packshot-chaos-"))
    with PostgresProcess() as postgres:
        url = postgres.create_database("night")
        Database(url).upgrade()
        differences, table = chaos_in(
            folder,
            postgres,
            url,
            jobs=given.jobs,
            seconds=given.seconds or given.minutes * 60,
            seed=given.seed,
            workers=given.workers,
            faults=faults,
            say=lambda sentence: print(sentence, file=sys.stderr, flush=True),
        )
    print_report(differences, table)
    if differences:
        print(f"what the processes said is in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

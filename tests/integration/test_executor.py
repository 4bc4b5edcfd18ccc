"""The executor against a real ledger and a real folder, at moments that no two processes would hit by themselves.

The provider and the clock are in the test's hand, so that a lease can run out in the middle of a call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from models import batch, job, ledger
from models.catalogue import CATALOGUE
from models.database import Database
from models.edit import Answer, Edit, Picture
from models.errors import (
    LedgerFull,
    LedgerUnavailable,
    NotSent,
    OutcomeUnknown,
    ResultLost,
    ResultUnavailable,
    SettingsError,
    SlotMissed,
    StorageUnavailable,
    Throttled,
    Transient,
    Unsendable,
)
from models.settings import Settings
from models.tables import attempts, entries, jobs, objects, outputs
from worker.executor import Executor
from worker.limiter import LimiterUnavailable, LocalLimiter
from worker.results import Fetched
from worker.retry import NOT_SENT_TRIES
from worker.storage import Storage, open_storage
from worker.wire import Slot

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LEASE_S = 900.0


@dataclass
class Clock:
    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Provider:
    """Answers each call with one picture; `during` happens while the call is under way."""

    usage: dict[str, int] = field(default_factory=lambda: {"image_count": 1})
    during: Callable[[], None] = lambda: None
    raises: Exception | None = None
    unprepared: Exception | None = None
    calls: list[str] = field(default_factory=list)

    def prepared(self, edit: Edit, *, region: str) -> nullcontext[None]:
        if self.unprepared is not None:
            raise self.unprepared
        return nullcontext()

    def send(self, letter: None, *, attempt: str, slot: Slot) -> Answer:
        self.calls.append(attempt)
        during, self.during = self.during, lambda: None
        during()
        if self.raises is not None:
            raise self.raises
        n = self.usage.get("image_count", 1)
        urls = tuple(f"https://results/{attempt}" + "?again" * number for number in range(n))
        return Answer(f"request-{attempt}", urls, self.usage)


@dataclass
class Fetcher:
    """Each result is its own address. broken: what is raised instead for an address, until it is taken out."""

    broken: dict[str, Exception] = field(default_factory=dict)

    def fetch(self, url: str) -> Fetched:
        if url in self.broken:
            raise self.broken[url]
        data = url.encode()
        return Fetched(data, hashlib.sha256(data).hexdigest(), 512, 512)


@dataclass
class House:
    """A ledger with one queued job, and workers for it."""

    database: Database
    folder: Path
    clock: Clock
    job_id: int
    fetcher: Fetcher = field(default_factory=Fetcher)

    def worker(self, provider: Provider, *, name: str = "first", storage: Storage | None = None) -> Executor:
        place = storage or open_storage(str(self.folder), Settings())
        return Executor(
            database=self.database,
            provider=provider,
            fetcher=self.fetcher,
            storage=lambda _place: place,
            limiter=LocalLimiter({name: model.limits for name, model in CATALOGUE.items()}),
            models=CATALOGUE,
            owner=name,
            lease_s=LEASE_S,
            max_tries=5,
            now=self.clock,
            chance=lambda: 0.0,
            patience_s=0.0,
        )

    def rescue(self) -> None:
        with self.database.read() as connection:
            found = job.abandoned(connection, self.clock())
        for each in found:
            with self.database.write() as tx:
                job.rescue(tx, each, self.clock())

    def queue(self) -> None:
        with self.database.write() as tx:
            assert job.queue(tx, self.job_id, self.clock())

    def wait_until_due(self) -> None:
        with self.database.read() as connection:
            due_at = connection.execute(select(jobs.c.due_at).where(jobs.c.id == self.job_id)).scalar_one()
        self.clock.now = max(self.clock.now, due_at)

    def free_micros(self) -> int:
        with self.database.read() as connection:
            account = ledger.account(connection, "batch:1")
        assert account is not None
        assert account.budget_micros is not None
        return account.budget_micros - account.charged_micros - account.reserved_micros - account.exposed_micros

    def status(self) -> str:
        with self.database.read() as connection:
            return str(connection.execute(select(jobs.c.status).where(jobs.c.id == self.job_id)).scalar_one())

    def charges(self) -> list[int]:
        with self.database.read() as connection:
            query = select(entries.c.attempt_id).where(entries.c.kind == "charge").order_by(entries.c.seq)
            return list(connection.execute(query).scalars())

    def charged_micros(self) -> int:
        with self.database.read() as connection:
            account = ledger.account(connection, "batch:1")
        assert account is not None
        return account.charged_micros

    def outcomes(self) -> list[str]:
        with self.database.read() as connection:
            return list(connection.execute(select(attempts.c.outcome).order_by(attempts.c.id)).scalars())

    def picture(self) -> str:
        return (self.folder / "A-1.png").read_text()


@pytest.fixture
def make_house(database: Database, tmp_path: Path) -> Callable[..., House]:
    def make(
        *, exposure_limit_micros: int, model: str = "qwen-image-2.0", size: str | None = None, n: int = 1
    ) -> House:
        parameters = {"n": n, "size": size} if size else {"n": n}
        edit = Edit(model, (Picture("/photos/a.jpg", "ab" * 32, 10),), "on white", parameters, 7)
        row = SimpleNamespace(
            number=1,
            file="m.yaml",
            line=1,
            sku="A",
            recipe="white",
            edit=edit,
            digest=edit.digest(with_seed=True),
            destinations=tuple(f"A-{number}.png" for number in range(1, n + 1)),
            seeded_destinations=None,
            columns={},
            worst_case_micros=n * 200_000,
        )
        with database.write() as tx:
            batch_id = batch.begin(
                tx,
                name="night",
                rehearsal=False,
                manifest="m.yaml",
                checksum="0" * 64,
                header={},
                output=str(tmp_path / "out"),
                region="cn-beijing",
                currency="CNY",
                priority=50,
                quote_micros=200_000,
                row_count=1,
                job_count=1,
                models=[model],
                budget_micros=1_000_000,
                exposure_limit_micros=exposure_limit_micros,
                now=NOON,
            )
            batch.add_block(tx, batch_id, [row])
            batch.open_(tx, batch_id)
            job_id = tx.execute(select(jobs.c.id)).scalar_one()
        house = House(database, tmp_path / "out", Clock(), job_id)
        house.queue()
        return house

    return make


def test_a_worker_whose_lease_ran_out_and_that_answers_late_is_paid_once_and_delivered(
    make_house: Callable[..., House],
):
    # given: nothing may be bought again while unsure
    house = make_house(exposure_limit_micros=0)

    def lease_runs_out() -> None:
        house.clock.pass_(LEASE_S + 1)
        house.rescue()
        assert house.status() == "held"

    # when
    provider = Provider(during=lease_runs_out)
    house.worker(provider).execute(house.job_id)

    # then: the late answer is recorded and charged once; the stale worker copies nothing
    assert house.outcomes() == ["answered"]
    assert len(house.charges()) == 1
    assert house.status() == "planned"
    assert not (house.folder / "A-1.png").exists()

    # when: the job is handed out again, only the copy is left
    house.queue()
    house.worker(provider, name="second").execute(house.job_id)

    # then
    assert house.status() == "succeeded"
    assert provider.calls == ["1"]
    assert house.picture() == "https://results/1"


def test_a_late_answer_never_overwrites_what_another_worker_delivered(make_house: Callable[..., House]):
    # given: it may be bought again, and is, while the first call is still under way
    house = make_house(exposure_limit_micros=200_000)
    second = Provider()

    def another_worker_does_it() -> None:
        house.clock.pass_(LEASE_S + 1)
        house.rescue()
        assert house.status() == "planned"
        house.queue()
        house.worker(second, name="second").execute(house.job_id)
        assert house.status() == "succeeded"

    # when
    house.worker(Provider(during=another_worker_does_it)).execute(house.job_id)

    # then: both calls were paid and are charged, each once; the picture is the second worker's
    assert house.outcomes() == ["answered", "answered"]
    assert sorted(house.charges()) == [1, 2]
    assert house.status() == "succeeded"
    assert house.picture() == "https://results/2"
    with house.database.read() as connection:
        assert len(connection.execute(select(objects)).all()) == 1
        account = ledger.account(connection, "batch:1")
    assert account is not None
    assert (account.charged_micros, account.exposed_micros, account.reserved_micros) == (400_000, 0, 0)


def test_two_workers_with_the_same_message_make_one_call(make_house: Callable[..., House]):
    house = make_house(exposure_limit_micros=0)
    other = Provider()
    provider = Provider(during=lambda: house.worker(other, name="second").execute(house.job_id))

    house.worker(provider).execute(house.job_id)

    assert (len(provider.calls), len(other.calls)) == (1, 0)
    assert house.status() == "succeeded"


def test_nothing_is_sent_for_a_batch_that_was_paused_while_the_job_waited_for_its_slot(
    make_house: Callable[..., House],
):
    # given
    house = make_house(exposure_limit_micros=0)
    provider = Provider()
    worker = house.worker(provider)

    given_back: list[str] = []

    class PausedMeanwhile(LocalLimiter):
        def acquire(self, lane: str) -> float:
            with house.database.write() as tx:
                batch.pause(tx, 1, code="Paused", message="")
            return super().acquire(lane)

        def give_back(self, lane: str) -> None:
            given_back.append(lane)

    worker.limiter = PausedMeanwhile({"qwen-image-2.0": CATALOGUE["qwen-image-2.0"].limits})

    # when
    worker.execute(house.job_id)

    # then
    assert provider.calls == []
    assert house.status() == "planned"
    assert house.outcomes() == []
    assert given_back == ["qwen-image-2.0"]


def test_what_is_free_and_takes_its_time_comes_before_the_slot_and_the_intent_comes_before_the_call(
    make_house: Callable[..., House],
):
    # given
    house = make_house(exposure_limit_micros=0)
    provider, order = Provider(), []
    worker = house.worker(provider)
    prepared, send, acquire = provider.prepared, provider.send, worker.limiter.acquire

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            order.append((name, house.outcomes()))
            return function(*args, **named)

        return call

    provider.prepared = noted("prepared", prepared)  # type: ignore[method-assign]
    provider.send = noted("sent", send)  # type: ignore[method-assign]
    worker.limiter.acquire = noted("slot", acquire)  # type: ignore[method-assign]

    # when
    worker.execute(house.job_id)

    # then
    assert order == [("prepared", []), ("slot", []), ("sent", ["open"])]


@dataclass
class Lane(LocalLimiter):
    """Hands out the slots that it was given: seconds to wait, or an error."""

    waits: list[float | Exception]
    given_back: int = 0

    def acquire(self, lane: str) -> float:
        wait = self.waits.pop(0)
        if isinstance(wait, Exception):
            raise wait
        return wait

    def slack_s(self, lane: str) -> float:
        return 0.01

    def give_back(self, lane: str) -> None:
        self.given_back += 1

    def succeeded(self, lane: str) -> None:
        pass


@dataclass
class Late(Provider):
    """Misses its first slots."""

    misses: int = 1
    slots: list[Slot] = field(default_factory=list)

    def send(self, letter: None, *, attempt: str, slot: Slot) -> Answer:
        self.slots.append(slot)
        if len(self.slots) <= self.misses:
            raise SlotMissed("SlotMissed", "the moment of its slot had passed")
        return super().send(letter, attempt=attempt, slot=slot)


def test_a_call_that_misses_its_slot_goes_in_another_as_the_same_attempt(make_house: Callable[..., House]):
    house, provider = make_house(exposure_limit_micros=0), Late(misses=2)
    worker = house.worker(provider)
    worker.limiter = Lane([0.0, 0.0, 0.05])

    worker.execute(house.job_id)

    assert house.outcomes() == ["answered"]
    assert house.status() == "succeeded"
    assert provider.slots == sorted(provider.slots, key=lambda slot: slot.at)
    assert len(provider.slots) == 3


@pytest.mark.parametrize("then", [3.0, LimiterUnavailable("Redis is away")], ids=["none soon", "no limiter"])
def test_a_call_that_misses_its_slot_and_finds_none_soon_was_not_sent_and_waits(make_house, then):
    house = make_house(exposure_limit_micros=0)
    worker = house.worker(Late())
    worker.limiter = Lane([0.0, then])

    worker.execute(house.job_id)

    assert house.outcomes() == ["not_sent"]
    assert house.status() == "planned"
    assert house.free_micros() == 1_000_000
    with house.database.read() as connection:
        assert connection.execute(select(jobs.c.tries)).scalar_one() == 0


def test_a_call_that_misses_slot_after_slot_gives_up_after_two_seconds(make_house: Callable[..., House]):
    house, provider = make_house(exposure_limit_micros=0), Late(misses=9)
    worker = house.worker(provider)
    worker.limiter = Lane([0.0, 0.3, 1.9])

    worker.execute(house.job_id)

    assert house.outcomes() == ["not_sent"]
    assert len(provider.slots) == 2


def test_a_call_that_misses_its_slot_while_its_worker_leaves_is_not_sent(make_house: Callable[..., House]):
    house, provider = make_house(exposure_limit_micros=0), Late(misses=9)
    worker = house.worker(provider)
    worker.limiter = lane = Lane([0.0, 1.0])
    provider.slots = Telling(worker.stop.set)

    worker.execute(house.job_id)

    assert house.outcomes() == ["not_sent"]
    assert lane.given_back == 1


class Telling(list[Slot]):
    """A list that says when something is added."""

    def __init__(self, told: Callable[[], None]) -> None:
        super().__init__()
        self._told = told

    def append(self, slot: Slot) -> None:
        super().append(slot)
        self._told()


def test_who_sleeps_through_a_slot_takes_another_before_anything_is_written(make_house, monkeypatch):
    # given: a process that is frozen while it waits for its slot
    house, provider = make_house(exposure_limit_micros=0), Late(misses=0)
    worker = house.worker(provider)
    worker.limiter = Lane([0.0, 0.5])
    clock = [100.0]
    monkeypatch.setattr("worker.executor.time", SimpleNamespace(monotonic=lambda: clock[0], sleep=None))

    def sleep(seconds: float) -> bool:
        clock[0] += seconds + (20.0 if clock[0] == 100.0 else 0.0)
        return False

    worker.stop = SimpleNamespace(wait=sleep, is_set=lambda: False)

    # when
    worker.execute(house.job_id)

    # then
    assert [slot.at for slot in provider.slots] == [120.5]
    assert house.outcomes() == ["answered"]


def test_what_cannot_be_prepared_takes_no_slot_and_is_tried_as_a_call_not_sent(make_house: Callable[..., House]):
    # given: a store that is away for good
    house = make_house(exposure_limit_micros=0)
    provider = Provider(unprepared=NotSent("UploadFailed", "the store does not answer"))
    worker = house.worker(provider)
    worker.limiter.acquire = lambda _lane: pytest.fail("nothing is there to be sent")  # type: ignore[method-assign]

    # when
    for _ in range(30):
        worker.execute(house.job_id)
        if house.status() == "failed":
            break
        house.wait_until_due()
        house.queue()

    # then: tried as often as a network that is away, and free
    assert house.status() == "failed"
    assert house.outcomes() == ["not_sent"] * NOT_SENT_TRIES
    assert (house.charged_micros(), provider.calls) == (0, [])


def test_a_call_has_its_whole_lease_however_long_it_waited_for_its_slot(make_house: Callable[..., House]):
    # given: a wait of most of a lease, then a call of most of a lease, and a rescue that looks in the middle of it
    house = make_house(exposure_limit_micros=1_000_000)

    def call_for_long() -> None:
        house.clock.pass_(0.9 * LEASE_S)
        house.rescue()

    worker = house.worker(Provider(during=call_for_long))
    acquire = worker.limiter.acquire

    def wait_for_long(lane: str) -> float:
        house.clock.pass_(0.9 * LEASE_S)
        return acquire(lane)

    worker.limiter.acquire = wait_for_long  # type: ignore[method-assign]

    # when
    worker.execute(house.job_id)

    # then: nobody took it for dead, nothing is exposed
    assert house.status() == "succeeded"
    assert house.outcomes() == ["answered"]


def test_an_answer_is_recorded_although_the_ledger_was_away_when_it_came(
    make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
):
    # given: the ledger refuses three times after the call
    house = make_house(exposure_limit_micros=0)
    write, refusals = house.database.write, iter([True, True, True])

    def away(*, durable: bool = False):
        if house.outcomes() == ["open"] and next(refusals, False):
            raise LedgerUnavailable("the ledger is away")
        return write(durable=durable)

    provider = Provider(during=lambda: monkeypatch.setattr(house.database, "write", away))

    # when
    house.worker(provider).execute(house.job_id)

    # then
    assert house.status() == "succeeded"
    assert len(provider.calls) == 1
    assert len(house.charges()) == 1


def test_a_leaving_worker_waits_ten_minutes_for_the_ledger_with_a_paid_answer_in_hand(
    make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
):
    # given: told to stop during the call, and a ledger that is away for nine and a half minutes
    house, watch = make_house(exposure_limit_micros=0), Clock()
    provider = Provider()
    worker = house.worker(provider)
    worker.clock = lambda: (watch() - NOON).total_seconds()
    write = house.database.write

    def away(*, durable: bool = False):
        watch.pass_(10)
        if watch() < NOON + timedelta(seconds=570):
            raise LedgerUnavailable("the ledger is away")
        return write(durable=durable)

    def stopped() -> None:
        worker.stop.set()
        monkeypatch.setattr(house.database, "write", away)

    provider.during = stopped

    # when
    worker.execute(house.job_id)

    # then
    assert house.status() == "succeeded"
    assert len(house.charges()) == 1


def test_only_a_write_that_was_taken_ends_an_outage(make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch):
    # given: a ledger that can be read and takes no writes, as on a full disk
    house = make_house(exposure_limit_micros=0)
    worker, seen, write = house.worker(Provider()), [], house.database.write
    refusals = iter([True, True, False])

    def full(*, durable: bool = False):
        seen.append(worker.refused)
        if next(refusals, False):
            raise LedgerFull("no room")
        return write(durable=durable)

    monkeypatch.setattr(house.database, "write", full)

    # when
    worker.execute(house.job_id)

    # then
    assert [str(error) for error in seen[:4]] == ["None", "no room", "no room", "None"]
    assert house.status() == "succeeded"


def test_an_answer_that_is_given_up_leaves_what_is_known_of_it_in_the_log_and_no_address(
    make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
):
    # given: a ledger that does not come back
    house, watch = make_house(exposure_limit_micros=0), Clock()
    provider = Provider()
    worker = house.worker(provider)
    worker.clock = lambda: (watch() - NOON).total_seconds()

    def away(*, durable: bool = False):
        watch.pass_(10)
        raise LedgerUnavailable("the ledger is away")

    def stopped() -> None:
        worker.stop.set()
        monkeypatch.setattr(house.database, "write", away)

    provider.during = stopped

    # when
    with capture_logs() as lines:
        worker.execute(house.job_id)

    # then: once at the first refusal, since a kill may come, and once at the end
    paid = [line for line in lines if line["event"].startswith("a paid answer")]
    assert [line["log_level"] for line in paid] == ["warning", "error"]
    for line in paid:
        facts = (line["batch"], line["job"], line["attempt"], line["request_id"], line["charge_micros"])
        assert facts == ("night", house.job_id, 1, "request-1", 200_000)
    assert "https://results" not in str(lines)


def test_a_worker_that_leaves_while_the_ledger_is_away_leaves_an_unclaimed_job_in_peace(
    make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
):
    # given
    house, watch = make_house(exposure_limit_micros=0), Clock()
    provider = Provider()
    worker = house.worker(provider)
    worker.clock = lambda: (watch() - NOON).total_seconds()

    def away(*, durable: bool = False):
        worker.stop.set()
        watch.pass_(10)
        raise LedgerUnavailable("the ledger is away")

    # when
    with monkeypatch.context() as patched:
        patched.setattr(house.database, "write", away)
        worker.execute(house.job_id)

    # then
    assert (house.status(), provider.calls) == ("queued", [])


def test_a_claim_whose_commit_was_not_confirmed_is_found_again_by_the_worker_that_made_it(
    make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
):
    # given: the claim is committed, and the connection is lost before the word of it
    house = make_house(exposure_limit_micros=0)
    write, losses = house.database.write, iter([True])

    @contextmanager
    def lossy(*, durable: bool = False):
        with write(durable=durable) as tx:
            yield tx
        if next(losses, False):
            raise LedgerUnavailable("the connection was lost")

    monkeypatch.setattr(house.database, "write", lossy)

    # when
    house.worker(Provider()).execute(house.job_id)

    # then: not after its lease
    assert house.status() == "succeeded"
    assert len(house.charges()) == 1


def test_a_paid_job_is_delivered_although_the_ledger_went_away_right_after_the_answer(
    make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
):
    # given: the answer is recorded, and the ledger cannot be read twice when the copy is about to begin
    house = make_house(exposure_limit_micros=0)
    read, refusals = house.database.read, iter([True, True])

    def away():
        if next(refusals, False):
            raise LedgerUnavailable("the ledger is away")
        return read()

    provider = Provider(during=lambda: monkeypatch.setattr(house.database, "read", away))

    # when
    house.worker(provider).execute(house.job_id)

    # then
    assert house.status() == "succeeded"
    assert len(house.charges()) == 1


def test_a_storage_that_is_away_delays_the_copy_and_buys_nothing_again(make_house: Callable[..., House]):
    # given
    house = make_house(exposure_limit_micros=0)
    provider = Provider()

    class Away:
        def head(self, key: str) -> None:
            raise StorageUnavailable("the storage is away")

    # when
    house.worker(provider, storage=Away()).execute(house.job_id)  # type: ignore[arg-type]

    # then
    assert house.status() == "planned"
    assert house.outcomes() == ["answered"]

    # when
    house.clock.pass_(60)
    house.queue()
    house.worker(provider).execute(house.job_id)

    # then
    assert house.status() == "succeeded"
    assert provider.calls == ["1"]


@pytest.mark.parametrize("back_after", [timedelta(hours=1), timedelta(hours=24)])
def test_a_paid_picture_is_tried_for_as_long_as_its_address_lives(make_house: Callable[..., House], back_after):
    # given
    house, provider = make_house(exposure_limit_micros=0), Provider()
    away = {"https://results/1": ResultUnavailable("no connection could be made")}
    house.fetcher.broken = away

    # when
    for _ in range(12):
        house.worker(provider).execute(house.job_id)
        assert house.status() == "planned"
        house.wait_until_due()
        house.queue()
    assert timedelta(minutes=15) < house.clock() - NOON < timedelta(hours=1)  # ever less often
    house.clock.now = NOON + back_after
    away.clear()
    house.worker(provider).execute(house.job_id)

    # then
    assert house.status() == "succeeded"
    assert house.picture() == "https://results/1"
    assert provider.calls == ["1"]


def test_a_paid_picture_is_lost_when_its_address_is_dead_and_not_before(make_house: Callable[..., House]):
    # given
    house = make_house(exposure_limit_micros=0)
    house.fetcher.broken = {"https://results/1": ResultUnavailable("HTTP 404 instead of a picture")}

    # when
    house.worker(Provider()).execute(house.job_id)
    house.queue()
    house.clock.now = NOON + timedelta(hours=24, seconds=-1)
    house.worker(Provider()).execute(house.job_id)

    # then
    assert house.status() == "planned"

    # when
    house.queue()
    house.clock.pass_(1)
    house.worker(Provider()).execute(house.job_id)

    # then
    assert house.status() == "failed"
    with house.database.read() as connection:
        lost = connection.execute(select(outputs.c.lost)).scalar_one()
    assert lost == "its address has died; the last try said: HTTP 404 instead of a picture"


@pytest.mark.parametrize(
    ("trouble", "status"),
    [(ResultUnavailable("damaged"), "planned"), (ResultLost("no PNG"), "failed")],
    ids=["unavailable", "lost"],
)
def test_the_trouble_with_one_picture_does_not_keep_the_others(make_house: Callable[..., House], trouble, status):
    house = make_house(exposure_limit_micros=0, n=3)
    house.fetcher.broken = {"https://results/1": trouble}

    house.worker(Provider(usage={"image_count": 3})).execute(house.job_id)

    assert house.status() == status
    assert sorted(path.name for path in house.folder.glob("*.png")) == ["A-2.png", "A-3.png"]


def test_a_leaving_worker_tries_no_more_pictures_of_a_host_that_does_not_answer(make_house: Callable[..., House]):
    # given
    house = make_house(exposure_limit_micros=0, n=3)
    asked: list[str] = []
    worker = house.worker(Provider(usage={"image_count": 3}))

    def silent(url: str) -> Fetched:
        asked.append(url)
        worker.stop.set()
        raise ResultUnavailable("the server was silent for too long")

    house.fetcher.fetch = silent  # type: ignore[method-assign]

    # when
    worker.execute(house.job_id)

    # then
    assert asked == ["https://results/1"]
    assert house.status() == "planned"


def test_a_place_that_is_taken_keeps_its_own_picture_and_no_other(make_house: Callable[..., House]):
    # given
    house = make_house(exposure_limit_micros=0, n=3)
    house.folder.mkdir()
    (house.folder / "A-2.png").write_text("somebody else's")

    # when
    house.worker(Provider(usage={"image_count": 3})).execute(house.job_id)

    # then
    assert house.status() == "failed"
    assert (house.folder / "A-2.png").read_text() == "somebody else's"
    assert (house.folder / "A-3.png").read_text().endswith("?again?again")

    # when: it is moved away
    (house.folder / "A-2.png").unlink()
    with house.database.write() as tx:
        assert job.retry(tx, house.job_id)
    house.queue()
    house.worker(Provider()).execute(house.job_id)

    # then
    assert house.status() == "succeeded"
    assert house.charges() == [1]


def test_a_setting_that_is_wrong_on_one_worker_stops_the_batch_with_that_workers_name(
    make_house: Callable[..., House],
):
    house = make_house(exposure_limit_micros=0)

    house.worker(Provider(raises=SettingsError("there is no key.")), name="worker:north:7").execute(house.job_id)

    with house.database.read() as connection:
        stopped = batch.get(connection, 1)
    assert stopped.state == "stopped"
    assert stopped.message == "worker:north:7: there is no key; correct the setting and run again"


def test_an_error_of_our_own_after_sending_leaves_the_call_unknown_and_the_job_to_a_person(
    make_house: Callable[..., House],
):
    house = make_house(exposure_limit_micros=1_000_000)

    house.worker(Provider(raises=ZeroDivisionError("a bug"))).execute(house.job_id)

    assert house.status() == "held"
    assert house.outcomes() == ["unknown"]


def test_an_error_of_our_own_before_sending_fails_the_job_and_costs_nothing(make_house: Callable[..., House]):
    house = make_house(exposure_limit_micros=0)

    house.worker(Provider(raises=Unsendable("Unsendable", "ValueError: a bug"))).execute(house.job_id)

    assert house.status() == "failed"
    assert house.outcomes() == ["not_sent"]
    assert house.free_micros() == 1_000_000


def test_a_network_that_is_away_for_minutes_fails_no_job_and_uses_up_no_try_of_what_follows(
    make_house: Callable[..., House],
):
    # given: a job that is tried again for as long as it may be, by the ledger's own clock
    house = make_house(exposure_limit_micros=0)
    away_until = house.clock() + timedelta(minutes=2)

    def go_on(provider: Provider) -> None:
        house.worker(provider).execute(house.job_id)
        if house.status() == "planned":
            house.wait_until_due()
            house.queue()

    # when: the network is away for two minutes, then the provider has trouble of its own
    while house.clock() < away_until:
        go_on(Provider(raises=NotSent("ConnectFailed", "no route")))
        assert house.status() == "queued"
    for _ in range(3):
        go_on(Provider(raises=Transient("InternalError", "oops", tries=4)))
        go_on(Provider(raises=Throttled("Throttling", "slow", wait_s=5)))
        assert house.status() == "queued"
    house.worker(Provider()).execute(house.job_id)

    # then
    assert house.status() == "succeeded"
    assert set(house.outcomes()) == {"not_sent", "answered"}


def test_a_network_that_stays_away_fails_the_job_after_some_minutes(make_house: Callable[..., House]):
    house = make_house(exposure_limit_micros=0)
    started = house.clock()

    while house.status() == "queued":
        house.worker(Provider(raises=NotSent("ConnectFailed", "no route"))).execute(house.job_id)
        if house.status() == "planned":
            house.wait_until_due()
            house.queue()

    assert house.status() == "failed"
    assert timedelta(minutes=3) <= house.clock() - started <= timedelta(minutes=10)
    assert house.free_micros() == 1_000_000


@pytest.mark.parametrize(
    ("usage", "charged_micros"),
    [
        ({}, 520_000),  # 1500 is no multiple of 16: what is drawn may lie beyond the border of the dearer tier
        ({"output_image_count": 1, "output_width": 1488, "output_height": 1488}, 270_000),
        ({"output_image_count": 1, "output_width": 1504, "output_height": 1504}, 520_000),
    ],
)
def test_an_answer_without_an_area_is_charged_at_the_dearer_price_its_size_may_have(
    make_house: Callable[..., House], usage: dict[str, int], charged_micros: int
):
    house = make_house(exposure_limit_micros=0, model="qwen-image-3.0-pro", size="1500*1500")

    house.worker(Provider(usage=usage)).execute(house.job_id)

    assert house.status() == "succeeded"
    assert house.charged_micros() == charged_micros


def test_pictures_that_are_billed_and_not_given_an_address_are_charged_and_missed(make_house: Callable[..., House]):
    # given
    house = make_house(exposure_limit_micros=0, n=3)
    provider = Provider(usage={"image_count": 3})
    sent = provider.send
    provider.send = lambda *args, **named: replace(sent(*args, **named), urls=("https://results/1",))  # type: ignore[method-assign]

    # when
    house.worker(provider).execute(house.job_id)

    # then
    assert house.charged_micros() == 600_000
    assert house.status() == "failed"
    assert house.picture() == "https://results/1"
    with house.database.read() as connection:
        assert connection.execute(select(attempts.c.pictures)).scalar_one() == 3
        assert str(connection.execute(select(jobs.c.message)).scalar_one()).startswith("2 of 3 paid pictures")


def test_fewer_pictures_than_asked_for_are_charged_as_given_and_the_job_is_done(make_house: Callable[..., House]):
    house = make_house(exposure_limit_micros=0, n=3)

    house.worker(Provider(usage={"image_count": 2})).execute(house.job_id)

    assert house.charged_micros() == 400_000
    assert house.free_micros() == 600_000
    assert house.status() == "succeeded"


def test_an_unknown_call_is_bought_again_only_within_the_exposure_limit(make_house: Callable[..., House]):
    # given: room for one
    house = make_house(exposure_limit_micros=200_000)
    lost = Provider(raises=OutcomeUnknown("Reset", "the connection was reset"))

    # when
    house.worker(lost).execute(house.job_id)
    assert house.status() == "planned"
    house.clock.pass_(60)
    house.queue()
    house.worker(lost).execute(house.job_id)

    # then
    assert house.status() == "held"
    assert house.outcomes() == ["unknown", "unknown"]
    with house.database.read() as connection:
        account = ledger.account(connection, "batch:1")
    assert account is not None
    assert (account.exposed_micros, account.rebought_micros) == (400_000, 200_000)

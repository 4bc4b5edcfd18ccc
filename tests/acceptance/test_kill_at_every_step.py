"""Killed at every named point between planned and done, and started again: nothing is lost, nothing is paid twice.

The process dies by SIGKILL at the point itself (`killing.py`); what the provider billed, what the ledger says and what
lies in the folder is compared before and after the resumption.
"""

import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from models import batch
from models.database import Database
from scheduler.audit import audit
from tests.acceptance.killing import PLANNING, POINTS, REFUSED, RELEASED, RESCUED, Point
from tests.acceptance.proof import folder_reader, prove
from tests.servers import nursery
from tests.servers.cli import Cli, fast_env, until, write_manifest
from tests.servers.cluster import BUCKET, Cluster, ClusterProcess
from tests.servers.emulator import EmulatorProcess, running_emulator
from tests.servers.postgres import PostgresProcess

ROOT = Path(__file__).parents[2]
PRICE = 200_000
JOBS, PICTURES, COPIES = 5, 7, 9
VICTIM = 2  # two pictures, for two rows
VICTIM_MICROS = 2 * PRICE
UNKNOWN = [name for name, point in POINTS.items() if point.fate in ("unpaid", "paid")]
NO_EXPOSURE = {"PACKSHOT_EXPOSURE_LIMIT": "0"}
ROWS = [
    {"sku": "A", "prompt": "one on white"},
    {"sku": "B", "prompt": "two on white", "n": 2},
    {"sku": "C", "prompt": "two on white", "n": 2},
    {"sku": "D", "prompt": "three on white", "n": 2},
    {"sku": "E", "prompt": "four on white"},
    {"sku": "F", "prompt": "five on white"},
]


@dataclass
class Stage:
    """One folder, one emulator, one batch `shoot` of five jobs worth seven pictures."""

    cli: Cli
    emulator: EmulatorProcess

    def write(self, budget_micros: int, rows: list[dict[str, object]] | None = None) -> None:
        write_manifest(self.cli.folder / "shoot.yaml", rows or ROWS, budget=f"{budget_micros / 1e6:.2f} CNY")

    def killed_at(
        self, point: str, job: int | str = VICTIM, *, command: tuple[str, ...] = ("run", "shoot.yaml"), **env: str
    ) -> None:
        """`packshot run`, or another command, until it dies there."""
        knife = [sys.executable, "-m", "tests.acceptance.killing", point, str(job), *command]
        wanted = {**self.cli.environment(), **env, "PYTHONPATH": str(ROOT)}
        code, out, err = nursery.run(knife, env=wanted, cwd=self.cli.folder, timeout_s=60)
        assert code == -signal.SIGKILL, f"it did not come to the point\n{out}\n{err}"

    def resume(self, **env: str) -> dict[str, object]:
        return self.cli.ok("run", "shoot.yaml", "--json", env=env).json

    def bought(self, job: int = VICTIM) -> list[tuple[str, int]]:
        """(outcome, micros billed) of each call for a job."""
        billed: dict[int, int] = {}
        for line in self.emulator.invoice()["lines"]:
            billed[int(line["client_request"])] = billed.get(int(line["client_request"]), 0) + line["micros"]
        calls = self.cli.query("select id, outcome from attempts where job_id = ? order by id", job)
        return [(outcome, billed.get(id_, 0)) for id_, outcome in calls]

    def differences(self) -> list[str]:
        database = Database(f"sqlite:///{self.cli.ledger}")
        try:
            with database.read() as connection:
                read = folder_reader(self.cli.folder / "out")
                audited = audit(connection, batch.get(connection, 1), read=lambda _place, key: read(key))
                return [*prove(connection, "shoot", self.emulator, read).differences(), *audited]
        finally:
            database.close()

    def money(self) -> tuple[int, int, int]:
        """(charged, reserved, exposed) of the batch, in micro-units; never more than its budget."""
        ((budget, *used),) = self.cli.query(
            "select budget_micros, charged_micros, reserved_micros, exposed_micros from accounts where id = 'batch:1'"
        )
        assert sum(used) <= budget
        charged, reserved, exposed = used
        return charged, reserved, exposed

    def visible(self) -> list[str]:
        """What somebody who looks into the output folder sees."""
        return sorted(path.name for path in (self.cli.folder / "out").rglob("*") if not _is_hidden(path))

    def assert_complete(self, copies: int = COPIES) -> None:
        assert self.differences() == []
        assert len(self.visible()) == copies
        assert all(name.endswith(".png") for name in self.visible())


def _is_hidden(path: Path) -> bool:
    return not path.is_file() or any(part.startswith(".") for part in path.parts)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    # latency: long enough that a process is dead before its answer comes
    with running_emulator(tmp_path / "emulator", latency=0.15, limits="qwen-image-2.0=1000/1s") as emulator:
        env = fast_env(
            emulator.url,
            PACKSHOT_YES="1",
            PACKSHOT_EXPOSURE_LIMIT="100%",
            PACKSHOT_CONCURRENCY="1",
            PACKSHOT_MAX_WAIT_S="0.2",
            PACKSHOT_BREAKER="off",
        )
        yield Stage(Cli(tmp_path, env), emulator)


@pytest.mark.parametrize("name", POINTS)
def test_killed_there_it_goes_on_and_pays_nothing_twice(stage: Stage, name: str):
    """Exposure allowed, and a budget that is exactly the quote and what that exposure needs."""
    # given
    point = POINTS[name]
    stage.write(PICTURES * PRICE + (VICTIM_MICROS if name in UNKNOWN else 0))
    stage.killed_at(name)
    assert_as_the_point_says(stage, point)

    # when
    facts = stage.resume()

    # then: what became of the job's calls is what the point's fate allows, and no more
    assert facts["rows"]["succeeded"] == len(ROWS)
    assert (
        stage.bought()
        == {
            "not begun": [("answered", VICTIM_MICROS)],
            "unpaid": [("unknown", 0), ("answered", VICTIM_MICROS)],
            "paid": [("unknown", VICTIM_MICROS), ("answered", VICTIM_MICROS)],
            "answered": [("answered", VICTIM_MICROS)],
            "stored": [("answered", VICTIM_MICROS)],
        }[point.fate]
    )
    assert [stage.bought(job) for job in (1, 3, 4, 5)] == [[("answered", n * PRICE)] for n in (1, 2, 1, 1)]
    assert stage.money() == (PICTURES * PRICE, 0, VICTIM_MICROS if name in UNKNOWN else 0)
    stage.assert_complete()


def assert_as_the_point_says(stage: Stage, point: Point) -> None:
    """What a process that died there left behind, before anybody puts it in order."""
    outcomes = [outcome for (outcome,) in stage.cli.query("select outcome from attempts where job_id = ?", VICTIM)]
    ((status,),) = stage.cli.query("select status from jobs where id = ?", VICTIM)
    charged, reserved, _ = stage.money()
    assert outcomes == {"not begun": [], "unpaid": ["open"], "paid": ["open"]}.get(point.fate, ["answered"])
    assert (status == "succeeded") == (point.fate == "stored")
    if point.fate in ("unpaid", "paid"):
        assert (charged, reserved) == (PRICE, VICTIM_MICROS)  # counts as spent although nobody knows
    if point.fate in ("answered", "stored"):
        assert (charged, reserved) == (PRICE + VICTIM_MICROS, 0)


@pytest.mark.parametrize("name", UNKNOWN)
def test_with_no_exposure_allowed_it_is_held_until_a_person_releases_it(stage: Stage, name: str):
    # given
    stage.write(PICTURES * PRICE + VICTIM_MICROS)
    stage.killed_at(name, **NO_EXPOSURE)

    # when
    resumed = stage.cli.run("run", "shoot.yaml", "--json", env=NO_EXPOSURE)

    # then: all else is done, and this one is not bought again
    paid = VICTIM_MICROS if POINTS[name].fate == "paid" else 0
    assert resumed.code == 1
    assert resumed.json["rows"] == {**dict.fromkeys(resumed.json["rows"], 0), "succeeded": 4, "held": 2}
    assert stage.bought() == [("unknown", paid)]
    assert stage.money() == ((PICTURES - 2) * PRICE, 0, VICTIM_MICROS)
    assert stage.differences() == []
    held = stage.cli.ok("held", "shoot", "--json").json
    assert "WorkerVanished" in str(held)

    # when
    released = stage.cli.ok("release", "shoot", "--json", "--reason", "the client waits", env=NO_EXPOSURE)

    # then
    assert released.json["rows"]["succeeded"] == len(ROWS)
    assert stage.bought() == [("unknown", paid), ("answered", VICTIM_MICROS)]
    assert [text for text in stage.differences() if "0 is the limit" not in text] == []  # a person may pass it
    assert len(stage.visible()) == COPIES


@pytest.mark.parametrize("name", REFUSED)
def test_killed_at_a_refusal(stage: Stage, name: str):
    # given
    stage.emulator.fault("http_500", prompt_contains="two")
    unknown = REFUSED[name].fate == "unpaid"
    stage.write(PICTURES * PRICE + (VICTIM_MICROS if unknown else 0))
    stage.killed_at(name)

    # when
    stage.resume()

    # then: a refusal costs nothing, but only who wrote it down knows that
    assert stage.bought() == [("unknown" if unknown else "answered", 0), ("answered", VICTIM_MICROS)]
    assert stage.money() == (PICTURES * PRICE, 0, VICTIM_MICROS if unknown else 0)
    stage.assert_complete()


@pytest.mark.parametrize("name", RESCUED)
def test_killed_again_while_the_first_death_is_put_in_order(stage: Stage, name: str):
    # given
    stage.write(PICTURES * PRICE + VICTIM_MICROS)
    stage.killed_at("answer arrived, not recorded")
    stage.killed_at(name, "any")

    # when
    stage.resume()

    # then: it is counted as exposed and as bought again once
    assert stage.bought() == [("unknown", VICTIM_MICROS), ("answered", VICTIM_MICROS)]
    assert stage.cli.query("select rebought_micros from accounts where id = 'batch:1'") == [(VICTIM_MICROS,)]
    stage.assert_complete()


@pytest.mark.parametrize("name", RELEASED)
def test_killed_while_a_person_releases_what_is_held(stage: Stage, name: str):
    # given
    stage.write(PICTURES * PRICE + VICTIM_MICROS)
    stage.killed_at("answer arrived, not recorded", **NO_EXPOSURE)
    assert stage.cli.run("run", "shoot.yaml", env=NO_EXPOSURE).code == 1
    stage.killed_at(name, "any", command=("release", "shoot"), **NO_EXPOSURE)

    # when
    resumed = stage.cli.run("run", "shoot.yaml", "--json", env=NO_EXPOSURE)

    # then: the word counts where it was on disk, with its record, and the rest is still a person's to say
    on_disk = RELEASED[name].fate == "not begun"
    assert resumed.json["jobs"]["held"] == (0 if on_disk else 1)
    assert stage.cli.query("select what from decisions") == ([("release",)] if on_disk else [])
    rebought = VICTIM_MICROS if on_disk else 0
    assert stage.cli.query("select rebought_micros from accounts where id = 'batch:1'") == [(rebought,)]
    assert stage.bought() == [("unknown", VICTIM_MICROS), *([("answered", VICTIM_MICROS)] if on_disk else [])]
    assert [text for text in stage.differences() if "0 is the limit" not in text] == []


@pytest.mark.parametrize("name", PLANNING)
def test_killed_while_the_batch_is_written_it_is_written_anew(stage: Stage, name: str):
    # given
    stage.write(PICTURES * PRICE)
    stage.killed_at(name, "any")
    assert stage.emulator.calls() == []

    # when
    facts = stage.resume()

    # then
    assert facts["rows"]["succeeded"] == len(ROWS)
    assert stage.cli.query("select count(*) from batches") == [(1,)]
    assert stage.money() == (PICTURES * PRICE, 0, 0)
    stage.assert_complete()


def test_one_batch_killed_at_one_point_after_the_other_with_others_in_flight(stage: Stage):
    # given: four calls at once, so that every death leaves others at any point of their own
    rows: list[dict[str, object]] = [
        {"sku": f"S{number:03}", "prompt": f"number {number} on white", "n": 1 + number % 2} for number in range(60)
    ]
    quote = sum(row["n"] * PRICE for row in rows)  # type: ignore[operator]
    stage.write(2 * quote, rows)

    # when
    for name in list(POINTS)[::2]:
        stage.killed_at(name, "any", PACKSHOT_CONCURRENCY="4")
        stage.money()
    facts = stage.resume(PACKSHOT_CONCURRENCY="4")

    # then
    assert facts["rows"]["succeeded"] == len(rows)
    charged, reserved, exposed = stage.money()
    assert (charged, reserved) == (quote, 0)
    assert 0 < exposed <= 2 * 4 * 2 * PRICE * len(UNKNOWN)
    stage.assert_complete(copies=quote // PRICE)


@pytest.mark.parametrize(
    "name",
    [
        "last byte sent, no answer yet",
        "inside the transaction of the answer",
        "answer recorded",
        "stored for both rows, not recorded",
    ],
)
def test_a_worker_of_the_cluster_killed_there_is_replaced_and_nothing_is_paid_twice(
    tmp_path: Path, postgres: PostgresProcess, postgres_url: str, name: str
):
    """The same with PostgreSQL, Redis and S3: a lease runs out, rescue puts the job back, another worker goes on."""
    with Cluster(tmp_path, postgres, postgres_url) as cluster:
        # given: short leases, and one worker that will die of its second job
        cluster.env |= {"PACKSHOT_CALL_TIMEOUT_S": "2", "PACKSHOT_CONNECT_TIMEOUT_S": "1", "PACKSHOT_LEASE_S": "3.5"}
        write_manifest(tmp_path / "shoot.yaml", ROWS, output=f"s3://{BUCKET}/shoot")
        cluster.cli.ok("submit", "shoot.yaml")
        cluster.start_scheduler()
        knife = [sys.executable, "-m", "tests.acceptance.killing", name, str(VICTIM), "worker"]
        env = {**cluster.cli.environment(), "PYTHONPATH": str(ROOT), "PACKSHOT_CONCURRENCY": "1"}
        doomed = ClusterProcess(knife, env, tmp_path / "knife.log")
        cluster.processes.append(doomed)
        until(lambda: not doomed.is_alive(), within_s=60)

        # when
        cluster.start_worker()
        cluster.until_done(JOBS, within_s=60)

        # then
        client, database = cluster.s3.client(), Database(postgres_url)
        with database.read() as connection:
            found = prove(
                connection,
                "shoot",
                cluster.emulator,
                lambda key: client.get_object(Bucket=BUCKET, Key=f"shoot/{key}")["Body"].read(),
            )
            assert found.differences() == [], cluster.talk()
            calls = [record for record in found.attempts.values() if record.job_id == VICTIM]
        database.close()
        unknown = ["unknown"] if name in UNKNOWN else []
        assert [record.outcome for record in sorted(calls, key=lambda call: call.id)] == [*unknown, "answered"]
        assert found.paid_unseen_micros() == VICTIM_MICROS * len(unknown)

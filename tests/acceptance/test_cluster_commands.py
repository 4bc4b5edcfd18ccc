"""What a person orders of the cluster acts at once, on a batch of 100,000 rows; what is wrong is said in one line.

All tests share one cluster: a scheduler, two workers, and a batch far larger than they can finish.
"""

import json
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import TEMPLATE
from tests.servers.cli import Result, until, write_manifest
from tests.servers.cluster import BUCKET, Cluster
from tests.servers.postgres import PostgresProcess

pytestmark = pytest.mark.alone
ROWS, FIRST = 100_000, 100
RATE = 20
ACTS_WITHIN_S = 2.0
KEYS_MAX = 1000
ROOT = Path(__file__).parents[2]


class Sampler(threading.Thread):
    """Counts keys and messages in Redis as long as it lives."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(daemon=True)
        self.client = cluster.redis.client()
        self.samples, self.most = 0, 0
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.wait(0.1):
            messages = self.client.llen("packshot") + self.client.hlen("unacked")
            self.most, self.samples = max(self.most, messages + self.client.dbsize()), self.samples + 1


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresProcess) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    url = postgres.create_database("commands", template=TEMPLATE)
    with Cluster(folder, postgres, url, limits=f"qwen-image-2.0={RATE}/1s", latency=0.1) as found:
        found.env |= {"PACKSHOT_CONCURRENCY": "32", "PACKSHOT_CALL_TIMEOUT_S": "60", "PACKSHOT_LEASE_S": "90"}
        found.start_scheduler()
        found.start_worker()
        found.start_worker()
        yield found
    postgres.drop_database("commands")


@pytest.fixture(scope="module")
def sampler(cluster: Cluster) -> Iterator[Sampler]:
    found = Sampler(cluster)
    found.start()
    yield found
    found.stopping.set()
    found.join()


@pytest.fixture(scope="module")
def large(cluster: Cluster, sampler: Sampler) -> str:
    """A batch of ROWS rows: the first submitted as anybody would, the others written beside them by the database,
    since a manifest of that size takes a minute to check and this is about what comes after."""
    submit(cluster, "large", FIRST)
    with psycopg.connect(cluster.env["PACKSHOT_DATABASE_URL"]) as connection:
        connection.execute(
            """
            WITH one AS (SELECT * FROM jobs WHERE edit->>'prompt' = 'number 0 of large'), made AS (
                INSERT INTO jobs (batch_id, digest, model, n, worst_case_micros, status,
                                  tries, throttles, copies, holds, round, edit)
                SELECT batch_id, 'large' || i, model, n, worst_case_micros, 'planned', 0, 0, 0, 0, 0,
                       replace(edit::text, 'number 0 of', 'number ' || i || ' of')::json
                FROM one, generate_series(%(first)s, %(last)s) AS i
                RETURNING id, batch_id, substr(digest, 6)::int AS i)
            INSERT INTO rows (batch_id, job_id, number, file, line, sku, recipe, destinations, columns)
            SELECT made.batch_id, made.id, i, file, line, 'S' || i, recipe,
                   json_build_array('S' || i || '-edit-1.png'), columns
            FROM made JOIN rows ON rows.batch_id = made.batch_id AND rows.number = 1
            """,
            {"first": FIRST + 1, "last": ROWS},
        )
        connection.execute("UPDATE batches SET rows = %s, jobs = %s WHERE name = 'large'", [ROWS, ROWS])
        connection.execute("ANALYZE jobs, rows")
    return "large"


@pytest.fixture
def running(cluster: Cluster, large: str) -> str:
    """The large batch, while its calls are being made."""
    begun = len(calls(cluster, large))
    until(lambda: len(calls(cluster, large)) > begun + 3, within_s=60)
    return large


def submit(cluster: Cluster, name: str, rows: int, **top: object) -> None:
    """A small batch whose prompts name it."""
    lines = [{"sku": f"S{number}", "prompt": f"number {number} of {name}"} for number in range(rows)]
    write_manifest(cluster.folder / f"{name}.yaml", lines, output=f"s3://{BUCKET}/{name}", **top)
    assert cluster.cli.ok("submit", f"{name}.yaml").out == f"{name}\n"


def calls(cluster: Cluster, name: str, *, status: int | None = None) -> list[float]:
    """When the provider was called for a batch: Unix seconds, in order. status: only calls that ended so."""
    found = []
    for line in (cluster.folder / "emulator" / "calls.jsonl").read_text().splitlines():
        call = json.loads(line)
        if call["prompt"].endswith(f" of {name}") and status in (None, call["status"]):
            found.append(datetime.fromisoformat(call["at"]).timestamp())
    return sorted(found)


def order(cluster: Cluster, *arguments: str) -> float:
    """Give an order; when the command returned."""
    cluster.cli.ok(*arguments)
    return time.time()


def assert_no_call_after(cluster: Cluster, name: str, moment: float) -> None:
    """Looks for a second longer."""
    until(lambda: time.time() > moment + 1.0)
    assert [at - moment for at in calls(cluster, name) if at > moment] == []


def first_call_after(cluster: Cluster, name: str, moment: float) -> float:
    until(lambda: any(at > moment for at in calls(cluster, name)))
    return next(at for at in calls(cluster, name) if at > moment)


# -- orders -----------------------------------------------------------------------------------------------------------


def test_pause_stops_the_buying_and_resume_starts_it_again(cluster: Cluster, running: str):
    # when
    paused = order(cluster, "pause", running, "--reason", "the client called")

    # then
    assert_no_call_after(cluster, running, paused + ACTS_WITHIN_S)
    assert cluster.cli.run("status", running, "--json").json["state"] == "paused"
    assert cluster.count("queued") == 0

    # when
    resumed = order(cluster, "resume", running)

    # then
    assert first_call_after(cluster, running, resumed - ACTS_WITHIN_S) < resumed + ACTS_WITHIN_S


def test_a_smaller_budget_stops_the_buying_and_a_larger_one_starts_it_again(cluster: Cluster, running: str):
    # when
    lowered = order(cluster, "budget", running, "0.20 CNY")

    # then
    assert_no_call_after(cluster, running, lowered + ACTS_WITHIN_S)
    facts = cluster.cli.run("status", running, "--json").json
    assert facts["state"] == "out_of_budget"
    assert facts["money"][0]["reserved_micros"] == 0

    # when
    raised = order(cluster, "budget", running, "none")

    # then
    assert first_call_after(cluster, running, raised - ACTS_WITHIN_S) < raised + ACTS_WITHIN_S


def test_what_comes_later_with_a_higher_priority_goes_first_and_equals_take_turns(cluster: Cluster, running: str):
    # given: two that come later, before which nothing may pass
    for name in ("ham", "eggs"):
        submit(cluster, name, 50, priority=0)
    assert calls(cluster, "eggs") == []

    # when
    order(cluster, "priority", "ham", "90")
    raised = order(cluster, "priority", "eggs", "90")
    until(lambda: all(len(calls(cluster, name, status=200)) == 50 for name in ("ham", "eggs")), within_s=60)

    # then
    ham, eggs = calls(cluster, "ham", status=200), calls(cluster, "eggs", status=200)
    assert min(ham + eggs) < raised + ACTS_WITHIN_S
    handed_out_last = min(ham[-1], eggs[-1]) - ACTS_WITHIN_S
    passed = [at for at in calls(cluster, running) if raised + ACTS_WITHIN_S < at < handed_out_last]
    assert passed == []
    while_both_wait = sorted(ham + eggs)[20:80]
    assert 15 <= len(set(while_both_wait) & set(ham)) <= 45


def test_redis_never_holds_more_than_the_next_moments_of_work(sampler: Sampler, running: str):
    assert sampler.samples > 50
    assert sampler.most < KEYS_MAX


def test_cancel_gives_up_what_waits_and_delivers_what_is_paid(cluster: Cluster, running: str):
    # when
    result = cluster.cli.ok("cancel", running, "--yes")
    cancelled = time.time()

    # then
    assert re.fullmatch(r"large: cancelled, [\d,]+ jobs given up\n", result.out)
    assert_no_call_after(cluster, running, cancelled + ACTS_WITHIN_S)
    facts = cluster.cli.ok("watch", running, "--json").json
    assert facts["state"] == "cancelled"
    assert facts["pictures"]["stored"] == facts["pictures"]["billed"] == len(calls(cluster, running, status=200))
    assert facts["rows"]["cancelled"] + facts["rows"]["succeeded"] == ROWS


# -- looking on -------------------------------------------------------------------------------------------------------


def test_the_commands_of_the_page_work_in_its_order(cluster: Cluster):
    # given: the cluster runs by the page's own commands, and its manifest is there
    page = [words for words in readme_commands() if words[0] == "packshot"]
    for part in ("scheduler", "worker"):
        assert ["packshot", part] in page
        assert any(process.log.name.startswith(part) for process in cluster.processes)
    rows = [{"sku": f"S{number}", "prompt": f"number {number} of shop"} for number in range(4)]
    write_manifest(cluster.folder / "shop.yaml", rows, output=f"s3://{BUCKET}/shop", priority=99)

    # when
    said = {
        words[1]: cluster.cli.run(*(word.replace("s3://bucket", f"s3://{BUCKET}") for word in words[1:]))
        for words in page
        if words[1] not in ("scheduler", "worker")
    }

    # then
    codes = {name: result.code for name, result in said.items()}
    assert codes == {**dict.fromkeys(said, 0), "cancel": 1}, list(map(str, said.values()))
    assert "finished" in said["cancel"].err  # the page's batch came to its end under `watch`
    assert said["submit"].out == "shop\n"
    assert "4 succeeded" in said["watch"].out
    assert "shop" in said["list"].out
    assert {"pause", "resume", "cancel", "priority", "budget", "doctor"} <= set(said)


def readme_commands() -> Iterator[list[str]]:
    section = (ROOT / "README.md").read_text().split("\n## More than one machine\n")[1].split("\n## ")[0]
    for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL):
        for line in block.splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def test_submitted_again_a_batch_goes_on_and_a_changed_one_is_refused(cluster: Cluster):
    # given
    submit(cluster, "twice", 2, priority=99)

    # when
    again = cluster.cli.run("submit", "twice.yaml")
    changed = cluster.cli.run("submit", "twice.yaml", "--set", "size=1024*1024")

    # then
    assert (again.code, again.out) == (0, "twice\n")
    assert "is in the ledger already" in again.err
    assert changed.code != 0
    assert "give the new one another name" in changed.err


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"PACKSHOT_REDIS_URL": ""}, "PACKSHOT_REDIS_URL is not set"),
        ({"PACKSHOT_DATABASE_URL": "sqlite:///ledger.db"}, "several processes and hosts cannot share"),
    ],
)
def test_without_the_parts_of_a_cluster_submit_says_what_is_missing(cluster: Cluster, env: dict[str, str], words: str):
    # given
    write_manifest(cluster.folder / "alone.yaml", [{"sku": "S1", "prompt": "on white"}])

    # when
    result = cluster.cli.run("submit", "alone.yaml", env=env)

    # then
    assert result.code == 2
    assert words in result.err
    assert "Traceback" not in result.err


# -- doctor -----------------------------------------------------------------------------------------------------------


def findings(result: Result) -> dict[str, tuple[str, str]]:
    return {found["part"]: (found["state"], found["said"]) for found in result.json}


def test_doctor_finds_nothing_wrong_with_a_cluster_that_works(cluster: Cluster):
    # when
    result = cluster.cli.run("doctor", "--output", f"s3://{BUCKET}/probe", "--json")

    # then
    found = findings(result)
    assert result.code == 0, found
    assert {state for state, _ in found.values()} == {"ok"}
    assert found["workers"][1].startswith("2 answer")


NOBODY = "127.0.0.1:1"
BROKEN: dict[str, tuple[dict[str, str], str, str]] = {
    "database": ({"PACKSHOT_DATABASE_URL": f"postgresql://packshot@{NOBODY}/x"}, "database", "PACKSHOT_DATABASE_URL"),
    "no tables": ({"PACKSHOT_DATABASE_URL": "postgresql://EMPTY"}, "migrations", "run: packshot db upgrade"),
    "redis": ({"PACKSHOT_REDIS_URL": f"redis://{NOBODY}/0"}, "redis", "PACKSHOT_REDIS_URL"),
    "no worker": ({"PACKSHOT_REDIS_URL": "redis://OTHER"}, "workers", "start one: packshot worker"),
    "no bucket": ({}, "storage", "bucket"),
    "wrong key": ({"DASHSCOPE_API_KEY": "not-a-key"}, "provider", "DASHSCOPE_API_KEY"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_doctor_names_the_one_part_that_is_wrong_and_its_mend(cluster: Cluster, postgres: PostgresProcess, what: str):
    # given
    env, part, mend = BROKEN[what]
    env = {name: _here(cluster, postgres, value) for name, value in env.items()}
    output = f"s3://{'no-such-bucket' if what == 'no bucket' else BUCKET}/probe"

    # when
    result = cluster.cli.run("doctor", "--output", output, "--json", env=env)

    # then
    found = findings(result)
    wrong = {name: said for name, (state, said) in found.items() if state == "wrong"}
    assert list(wrong) == [part], found
    assert mend in wrong[part]
    assert result.code == 1


def _here(cluster: Cluster, postgres: PostgresProcess, url: str) -> str:
    if url == "postgresql://EMPTY":
        return postgres.url
    return cluster.redis.url.removesuffix("/0") + "/7" if url == "redis://OTHER" else url


@pytest.mark.parametrize(
    ("name", "value", "mend"),
    [("appendonly", "no", "--appendonly yes"), ("maxmemory-policy", "allkeys-lru", "--maxmemory-policy noeviction")],
)
def test_doctor_finds_a_redis_that_may_forget(cluster: Cluster, name: str, value: str, mend: str):
    # given
    client = cluster.redis.client()
    before = client.config_get(name)[name]
    client.config_set(name, value)

    # when
    try:
        result = cluster.cli.run("doctor", "--output", f"s3://{BUCKET}/probe")
    finally:
        client.config_set(name, before)

    # then
    wrong = [line for line in result.out.splitlines() if line.startswith("wrong")]
    assert len(wrong) == 1, result
    assert wrong[0].split()[1] == "redis"
    assert mend in wrong[0]


# -- Celery's own tools -----------------------------------------------------------------------------------------------


def celery(cluster: Cluster, *arguments: str) -> subprocess.Popen[str]:
    command = str(Path(sys.executable).with_name("celery"))
    return subprocess.Popen(
        [command, "-A", "worker.broker", *arguments], cwd=cluster.folder, env=cluster.cli.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def inspect(cluster: Cluster, what: str) -> dict[str, Any]:
    said, _ = celery(cluster, "inspect", what, "--timeout", "5", "--json").communicate(timeout=60)
    found: dict[str, Any] = json.loads(said[said.index("{") :])
    return found


def test_celery_inspect_shows_the_workers_what_they_do_and_how_they_are_set(cluster: Cluster):
    # when
    ping, stats, conf = (inspect(cluster, what) for what in ("ping", "stats", "conf"))

    # then
    assert len(ping) == 2
    assert {name.partition("-")[0] for name in ping} == {"packshot"}
    assert {found["pool"]["implementation"].rpartition(":")[2] for found in stats.values()} == {"TaskPool"}
    assert {found["prefetch_count"] for found in stats.values()} == {32}
    assert {found["task_acks_late"] for found in conf.values()} == {False}


def test_celery_shows_a_job_while_it_runs_and_its_events_by_name(cluster: Cluster):
    # given
    events = celery(cluster, "events", "--dump")
    assert events.stdout is not None
    seen: list[str] = []
    threading.Thread(target=lambda: seen.extend(iter(events.stdout.readline, "")), daemon=True).start()  # type: ignore[union-attr]
    until(lambda: any("heartbeat" in line for line in seen))
    cluster.emulator.fault("slow", times=4, seconds=40)

    # when
    submit(cluster, "seen", 4, priority=99)
    until(lambda: cluster.query("SELECT count(*) FROM attempts WHERE outcome = 'open'")[0][0] == 4)
    active = inspect(cluster, "active")

    # then
    tasks = [task for found in active.values() for task in found]
    ids = cluster.query("SELECT j.id FROM jobs j JOIN batches b ON b.id = j.batch_id WHERE b.name = 'seen'")
    assert [task["name"] for task in tasks] == ["packshot.execute"] * 4
    assert {(task["args"][0],) for task in tasks} == set(ids)
    until(lambda: any("task received: packshot.execute" in line for line in seen))
    events.terminate()
    events.wait(30)

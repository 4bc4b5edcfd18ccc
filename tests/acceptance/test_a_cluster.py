"""Schedulers, workers, Redis, PostgreSQL and S3 as real processes: whatever dies, the batch ends complete and exact."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.cli import until, write_manifest
from tests.servers.cluster import BUCKET, Cluster
from tests.servers.postgres import PostgresProcess


@pytest.fixture
def make_cluster(tmp_path: Path, postgres: PostgresProcess, postgres_url: str) -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(**emulator: object) -> Cluster:
        cluster = Cluster(tmp_path, postgres, postgres_url, **emulator)
        made.append(cluster.__enter__())
        return cluster

    yield make
    for cluster in made:
        cluster.__exit__()


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster()


def submit(cluster: Cluster, jobs: int, name: str = "night", **top: object) -> None:
    rows = [{"sku": f"S{number:04}", "prompt": f"number {number} on white"} for number in range(jobs)]
    write_manifest(cluster.folder / f"{name}.yaml", rows, output=f"s3://{BUCKET}/{name}", **top)
    result = cluster.cli.ok("submit", f"{name}.yaml")
    assert result.out.strip() == name


def assert_exact(cluster: Cluster, jobs: int, *, bought_again: int | None = 0) -> None:
    """Every job done once, every charge on the invoice, every picture in S3 with the right bytes and metadata.

    bought_again: how many calls may be on the invoice whose answer nobody saw; None = as many as are unknown
    """
    facts = cluster.cli.run("status", "night", "--json").json
    assert facts["jobs"]["succeeded"] == jobs, cluster.talk()
    assert facts["pictures"]["stored"] == facts["pictures"]["billed"] == jobs
    answered = cluster.query("SELECT job_id, count(*) FROM attempts WHERE verdict = 'pictures' GROUP BY job_id")
    assert Counter(count for _, count in answered) == {1: jobs}
    charged = {
        str(a): m for a, m in cluster.query("SELECT attempt_id, amount_micros FROM entries WHERE kind = 'charge'")
    }
    unknown = {str(a) for (a,) in cluster.query("SELECT id FROM attempts WHERE outcome = 'unknown'")}
    invoiced = {line["client_request"]: line["micros"] for line in cluster.emulator.invoice()["lines"]}
    assert {a: m for a, m in invoiced.items() if a in charged} == charged
    assert set(invoiced) - set(charged) <= unknown
    if bought_again is not None:
        assert len(unknown) == bought_again
    client = cluster.s3.client()
    stored = cluster.query(
        "SELECT o.key, o.sha256, r.sku, a.seed FROM objects o JOIN rows r ON r.id = o.row_id "
        "JOIN outputs p ON p.id = o.output_id JOIN attempts a ON a.id = p.attempt_id"
    )
    assert len(stored) == jobs
    for key, sha256, sku, seed in stored:
        found = client.get_object(Bucket=BUCKET, Key=f"night/{key}")
        assert hashlib.sha256(found["Body"].read()).hexdigest() == sha256
        assert found["Metadata"]["sku"] == sku
        assert found["Metadata"]["seed"] == str(seed)
    money = facts["money"][0]
    assert money["reserved_micros"] == 0
    assert money["charged_micros"] == sum(charged.values())


def test_a_batch_over_two_workers_buys_each_edit_exactly_once(cluster: Cluster):
    # given
    cluster.start_scheduler()
    cluster.start_worker()
    cluster.start_celery_worker()  # Celery's own command works as well

    # when
    submit(cluster, 500)
    watched = cluster.cli.run("watch", "night", "--json", timeout_s=180)

    # then
    assert watched.code == 0, (watched, cluster.talk())
    assert_exact(cluster, 500)
    assert len(cluster.emulator.calls()) == 500
    workers = {owner for (owner,) in cluster.query("SELECT DISTINCT worker FROM attempts")}
    assert len(workers) == 2
    assert len(cluster.redis.client().keys("*")) < 20


def test_killed_workers_and_schedulers_lose_nothing(cluster: Cluster):
    # given
    scheduler, worker = cluster.start_scheduler(), cluster.start_worker()
    cluster.start_worker()
    submit(cluster, 150)

    # when: a worker, then the scheduler, then both of what is left are killed in the middle
    cluster.until_done(20)
    worker.kill()
    cluster.start_worker()
    cluster.until_done(50)
    scheduler.kill()
    cluster.start_scheduler()
    cluster.until_done(80)
    for process in cluster.processes:
        process.kill()
    cluster.start_scheduler()
    cluster.start_worker()

    # then
    cluster.until_done(150)
    assert_exact(cluster, 150, bought_again=None)


def test_a_rolling_restart_of_the_workers_loses_and_repeats_nothing(cluster: Cluster):
    # given
    cluster.start_scheduler()
    first, second = cluster.start_worker(), cluster.start_worker()
    submit(cluster, 120)

    # when
    cluster.until_done(20)
    assert first.stop() == 0, cluster.talk()
    third = cluster.start_worker()
    cluster.until_done(60)
    assert second.stop() == 0, cluster.talk()
    assert cluster.query("SELECT 1 FROM jobs WHERE claim_owner LIKE %s", f"%:{second.pid}:%") == []

    # then
    cluster.until_done(120)
    assert third.is_alive()
    assert_exact(cluster, 120)
    assert len(cluster.emulator.calls()) == 120


@pytest.mark.parametrize("data", ["kept", "wiped"])
def test_redis_restarted_with_or_without_its_data(cluster: Cluster, data: str):
    # given
    cluster.start_scheduler()
    cluster.start_worker()
    submit(cluster, 120)
    cluster.until_done(20)

    # when
    cluster.redis.kill()
    if data == "wiped":
        cluster.redis.wipe()
    cluster.redis.restart()

    # then
    cluster.until_done(120)
    assert_exact(cluster, 120)
    assert len(cluster.emulator.calls()) == 120


def test_postgresql_away_for_a_while_and_no_answer_is_lost(cluster: Cluster):
    # given
    cluster.start_scheduler()
    cluster.start_worker()
    submit(cluster, 80)
    cluster.until_done(15)

    # when
    cluster.postgres.stop()
    until(lambda: len(cluster.emulator.calls()) and _is_quiet(cluster))
    cluster.postgres.restart()

    # then
    cluster.until_done(80)
    assert_exact(cluster, 80)
    assert len(cluster.emulator.calls()) == 80


def _is_quiet(cluster: Cluster) -> bool:
    """No call ended during the last second."""
    import time

    before = len(cluster.emulator.calls())
    time.sleep(1.0)
    return len(cluster.emulator.calls()) == before


def test_s3_away_for_a_while_and_no_edit_is_bought_again(cluster: Cluster):
    # given
    cluster.start_scheduler()
    cluster.start_worker()
    submit(cluster, 60)
    cluster.until_done(10)

    # when
    cluster.s3.kill()
    paid = "SELECT count(*) FROM jobs WHERE status = 'planned' AND answered_attempt_id IS NOT NULL"
    until(lambda: cluster.query(paid)[0][0] >= 5)
    waiting = cluster.cli.run("status", "night", "--json").json
    assert waiting["pictures"]["awaiting_copy"] >= 5
    cluster.s3.restart()

    # then
    cluster.until_done(60)
    assert_exact(cluster, 60)
    assert len(cluster.emulator.calls()) == 60


def test_a_standby_scheduler_takes_over_and_doubled_messages_are_harmless(cluster: Cluster):
    # given: two schedulers, and every message sent twice
    first = cluster.start_scheduler()
    until(lambda: "active scheduler" in first.log.read_text())
    second = cluster.start_scheduler()
    cluster.start_worker()
    submit(cluster, 100)
    cluster.until_done(10)
    assert "active scheduler" not in second.log.read_text()

    # when
    for (job_id,) in cluster.query("SELECT id FROM jobs"):
        _send(cluster, job_id)
    first.kill()
    until(lambda: "active scheduler" in second.log.read_text(), within_s=15)

    # then
    cluster.until_done(100)
    assert_exact(cluster, 100)
    assert len(cluster.emulator.calls()) == 100


def _send(cluster: Cluster, job_id: int) -> None:
    from models.settings import Settings
    from worker.broker import CeleryBroker

    queue = CeleryBroker(Settings(PACKSHOT_REDIS_URL=cluster.redis.url))
    queue.enqueue(job_id)
    queue.close()

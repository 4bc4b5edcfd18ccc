"""Schedulers, workers, Redis, PostgreSQL and S3 as real processes: whatever dies, the batch ends complete and exact."""

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import pytest
import urllib3

from models.database import Database
from tests.acceptance.proof import SURPLUS, prove
from tests.servers.cli import until, write_manifest
from tests.servers.cluster import BUCKET, Cluster, ClusterProcess
from tests.servers.doubling import Doubler
from tests.servers.postgres import PostgresProcess

REDIS_BACK_S = 10.0  # after its return, calls go on within this time
ANEW_S = 30.0  # or within this, where Celery gave up and the worker had to start as a process does, on a busy machine
REDIS_DONE_S = 40.0  # and the batch is done, messages that were lost with it included
POSTGRES_AWAY_S = 10.0  # these two are what is promised, so they are really waited for
S3_AWAY_S = 20.0
QUICK_LEASE = {"PACKSHOT_CALL_TIMEOUT_S": "6", "PACKSHOT_CONNECT_TIMEOUT_S": "1", "PACKSHOT_LEASE_S": "7.5"}


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


def assert_exact(cluster: Cluster, jobs: int, *, unknown: Collection[int] = ()) -> None:
    """Every job bought by one answered call, every charge on the invoice, every picture in S3 as the provider drew it.

    unknown: exactly these attempts have no known end; only they may be on the invoice besides, and be bought again
    """
    facts = cluster.cli.run("status", "night", "--json").json
    assert facts["jobs"]["succeeded"] == jobs, cluster.talk()
    assert facts["pictures"]["stored"] == facts["pictures"]["billed"] == jobs
    answered = cluster.query("SELECT job_id FROM attempts WHERE verdict = 'pictures'")
    assert Counter(Counter(answered).values()) == {1: jobs}
    others = cluster.query(
        "SELECT id, outcome FROM attempts WHERE verdict <> 'pictures' AND code <> 'SlotMissed' ORDER BY id"
    )
    assert others == [(id_, "unknown") for id_ in sorted(unknown)]
    assert cluster.query("SELECT id FROM attempts WHERE outcome = 'open'") == []
    charged = dict(cluster.query("SELECT attempt_id, amount_micros FROM entries WHERE kind = 'charge'"))
    invoiced = {int(line["client_request"]): line["micros"] for line in cluster.emulator.invoice()["lines"]}
    assert {id_: micros for id_, micros in invoiced.items() if id_ not in unknown} == charged
    calls = Counter(call["prompt"] for call in cluster.emulator.calls())
    assert len(calls) == jobs
    assert calls.total() - jobs <= len(unknown)
    assert facts["money"][0]["reserved_micros"] == 0
    assert facts["money"][0]["charged_micros"] == sum(charged.values())
    assert_proven(cluster)


def assert_proven(cluster: Cluster) -> None:
    """The ledger, the provider's books and the bucket agree, and each picture says of itself where it comes from."""
    client = cluster.s3.client()
    metadata: dict[str, dict[str, str]] = {}

    def read(key: str) -> bytes:
        found = client.get_object(Bucket=BUCKET, Key=f"night/{key}")
        metadata[key] = {name: unquote(value) for name, value in found["Metadata"].items()}
        return bytes(found["Body"].read())

    database = Database(cluster.env["PACKSHOT_DATABASE_URL"])
    with database.read() as connection:
        assert prove(connection, "night", cluster.emulator, read).differences() == [], cluster.talk()
    database.close()
    stored = cluster.query(
        "SELECT o.key, o.sha256, r.sku, j.digest, a.seed, a.model, a.request_id FROM objects o "
        "JOIN rows r ON r.id = o.row_id JOIN outputs p ON p.id = o.output_id JOIN attempts a ON a.id = p.attempt_id "
        "JOIN jobs j ON j.id = a.job_id"
    )
    assert metadata == {
        key: {"batch": "night", "sku": sku, "job": digest[:12], "seed": str(seed), "model": model,
              "request-id": request_id, "sha256": sha256}
        for key, sha256, sku, digest, seed, model, request_id in stored
    }  # fmt: skip
    listed = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="night/")
    assert {found["Key"].removeprefix("night/") for page in listed for found in page["Contents"]} == set(metadata)
    audit = cluster.cli.run("audit", "night")
    assert audit.code == 0, audit


def begun_since(cluster: Cluster, moment: datetime) -> int:
    return int(cluster.query("SELECT count(*) FROM attempts WHERE opened_at > %s", moment)[0][0])


def under_way(cluster: Cluster, *, for_s: float = 0.0, worker: ClusterProcess | None = None) -> int:
    """Calls without an end, begun so long ago; of all workers, or of one."""
    whose = f"%:{worker.pid}:%" if worker else "%"
    begun = "SELECT count(*) FROM attempts WHERE outcome = 'open' AND opened_at < now() - %s * interval '1 second'"
    return int(cluster.query(f"{begun} AND worker LIKE %s", for_s, whose)[0][0])


# -- nothing dies -----------------------------------------------------------------------------------------------------


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
    workers = {owner for (owner,) in cluster.query("SELECT DISTINCT worker FROM attempts")}
    assert len(workers) == 2
    assert len(cluster.redis.client().keys("*")) < 20


def test_flower_shows_the_workers_and_what_they_did(cluster: Cluster):
    # given
    cluster.start_scheduler()
    workers = {f"packshot-{cluster.start_worker().pid}", f"packshot-{cluster.start_worker().pid}"}
    flower = cluster.start_flower()

    def ask(path: str) -> str:
        answer = urllib3.request("GET", flower + path, retries=False, timeout=20)
        assert answer.status == 200, (path, answer.data)
        return answer.data.decode()

    def online() -> set[str]:
        try:
            found = json.loads(ask("/api/workers?status=true"))
        except urllib3.exceptions.HTTPError:
            return set()  # not there yet
        return {name.partition("@")[0] for name, is_online in found.items() if is_online}

    until(lambda: online() == workers, within_s=60)

    # when
    submit(cluster, 20)
    cluster.until_done(20)

    # then
    jobs = {f"[{id_}]" for (id_,) in cluster.query("SELECT id FROM jobs")}

    def tasks() -> list[dict[str, str]]:
        return list(json.loads(ask("/api/tasks?state=SUCCESS")).values())

    until(lambda: len(tasks()) == 20)
    assert {task["name"] for task in tasks()} == {"packshot.execute"}
    assert {task["args"] for task in tasks()} == jobs
    settings = json.loads(ask("/api/workers?refresh=true"))
    assert {worker["stats"]["pool"]["max-concurrency"] for worker in settings.values()} == {8}
    page = ask("/workers")
    assert all(name in page for name in workers)
    assert_exact(cluster, 20)


# -- our processes die, leave and stand still -------------------------------------------------------------------------


def test_killed_workers_and_schedulers_lose_nothing(make_cluster: Callable[..., Cluster]):
    # given
    cluster = make_cluster(latency=0.5)
    cluster.env |= QUICK_LEASE
    scheduler, worker = cluster.start_scheduler(), cluster.start_worker()
    second = cluster.start_worker()
    submit(cluster, 100)

    def kill(process: ClusterProcess) -> set[int]:
        """In the middle of its calls: which of them nobody will ever hear of."""
        until(lambda: len(cluster.calling(process)) >= 2)
        process.kill()
        return cluster.calling(process)

    # when: a worker, then the scheduler, then all that is left are killed in the middle
    cluster.until_done(20)
    unheard = kill(worker)
    third = cluster.start_worker()
    cluster.until_done(40)
    scheduler.kill()
    scheduler = cluster.start_scheduler()
    cluster.until_done(60)
    unheard |= kill(second) | kill(third)
    scheduler.kill()
    cluster.start_scheduler()
    cluster.start_worker()

    # then: only what was under way at a kill is not known, and is bought again; no more than a worker has hands
    cluster.until_done(100)
    assert 0 < len(unheard) <= 3 * 8
    assert_exact(cluster, 100, unknown=unheard)


def test_a_rolling_restart_of_the_workers_loses_and_repeats_nothing(cluster: Cluster):
    # given: more hands than the limit has use for, so that jobs wait for their slot in both workers
    cluster.env |= {
        "PACKSHOT_LIMITS": "qwen-image-2.0=6/1s",
        "PACKSHOT_CALL_TIMEOUT_S": "20",
        "PACKSHOT_LEASE_S": "25",
    }
    cluster.start_scheduler()
    first, second = cluster.start_worker(), cluster.start_worker()
    submit(cluster, 120)

    # when
    cluster.until_done(20)
    leave(cluster, first)
    third = cluster.start_worker()
    cluster.until_done(60)
    leave(cluster, second)

    # then
    cluster.until_done(120)
    assert third.is_alive()
    assert_exact(cluster, 120)
    assert cluster.query("SELECT count(*) FROM entries WHERE kind = 'release' AND reason = 'put back'")[0][0] > 0


def leave(cluster: Cluster, worker: ClusterProcess) -> None:
    """SIGTERM in the middle of slow calls: nothing new is begun, what is under way is recorded, all else given back."""
    cluster.emulator.fault("slow", times=8, seconds=6)
    until(lambda: under_way(cluster, for_s=1.5, worker=worker) >= 2)
    told = datetime.now(UTC)
    assert worker.stop() == 0, cluster.talk()
    mine = f"%:{worker.pid}:%"
    assert cluster.query("SELECT id FROM jobs WHERE claim_owner LIKE %s", mine) == []
    sent = (
        "SELECT verdict, opened_at, closed_at FROM attempts WHERE coalesce(code, '') <> 'SlotMissed' AND worker LIKE %s"
    )
    calls = cluster.query(sent, mine)
    assert {verdict for verdict, _, _ in calls} == {"pictures"}
    assert max(closed for _, _, closed in calls) > told + timedelta(seconds=2), "it had hands free for two seconds"
    assert max(opened for _, opened, _ in calls) < told + timedelta(seconds=2), "and began nothing with them"


def test_a_standby_scheduler_takes_over_and_doubled_messages_are_harmless(cluster: Cluster):
    # given: two schedulers, two workers, and every message delivered twice
    cluster.env["PACKSHOT_LIMITS"] = "qwen-image-2.0=20/1s"  # so that there is something to hand out all the time
    first = cluster.start_scheduler()
    until(lambda: "active scheduler" in first.log.read_text())
    second = cluster.start_scheduler()
    cluster.start_worker()
    cluster.start_worker()
    with Doubler(cluster.redis) as doubler:
        submit(cluster, 100)
        cluster.until_done(20)
        assert "active scheduler" not in second.log.read_text()

        # when: the active one stands still until the other has taken over, and goes on in the belief that it is active
        first.freeze()  # perhaps inside a transaction, whose locks are taken from it
        until(lambda: "active scheduler" in second.log.read_text(), within_s=20)
        cluster.until_done(50)
        first.thaw()

        # then
        cluster.until_done(100)
        until(lambda: "standing by" in first.log.read_text())
    assert doubler.doubled == {id_ for (id_,) in cluster.query("SELECT id FROM jobs")}
    assert len({owner for (owner,) in cluster.query("SELECT DISTINCT worker FROM attempts")}) == 2
    assert_exact(cluster, 100)


def stand_still_in_four_calls(cluster: Cluster, *, exposure_limit: str) -> ClusterProcess:
    """A worker that is frozen while its four calls are under way; the provider has answered and billed them all."""
    cluster.env |= {**QUICK_LEASE, "PACKSHOT_EXPOSURE_LIMIT": exposure_limit}
    cluster.start_scheduler()
    worker = cluster.start_worker()
    cluster.emulator.fault("slow", times=4, seconds=3)
    submit(cluster, 4)
    until(lambda: under_way(cluster, for_s=0.5) == 4)
    worker.freeze()
    until(lambda: len(cluster.emulator.calls()) == 4)
    return worker


def test_a_worker_whose_lease_ran_out_finishes_late_and_is_charged_once(cluster: Cluster):
    # given: nothing may be bought again, so what the frozen worker left is held
    late = stand_still_in_four_calls(cluster, exposure_limit="0")
    cluster.start_worker()
    until(lambda: cluster.count("held") == 4)
    assert cluster.query("SELECT count(*) FROM attempts WHERE outcome = 'unknown'") == [(4,)]

    # when
    late.thaw()

    # then: its answers are the truth all the same, and are delivered
    cluster.until_done(4, within_s=30)
    assert late.is_alive()
    assert_exact(cluster, 4)


def test_a_late_answer_replaces_no_picture_that_was_delivered_meanwhile(cluster: Cluster):
    # given: what the frozen worker left was bought again, and delivered
    late = stand_still_in_four_calls(cluster, exposure_limit="100%")
    cluster.start_worker()
    cluster.until_done(4)
    delivered, pictures = "SELECT answered_attempt_id FROM jobs ORDER BY id", "SELECT * FROM objects ORDER BY id"
    before = cluster.query(delivered), cluster.query(pictures), written(cluster)

    # when
    late.thaw()
    until(lambda: cluster.query("SELECT count(*) FROM attempts WHERE verdict = 'pictures'") == [(8,)])

    # then: both calls were billed and are charged, and the first delivery stands
    assert cluster.query("SELECT count(*), count(DISTINCT attempt_id) FROM entries WHERE kind = 'charge'") == [(8, 8)]
    assert cluster.query("SELECT count(*) FROM outputs WHERE lost = %s", SURPLUS) == [(4,)]
    assert (cluster.query(delivered), cluster.query(pictures), written(cluster)) == before
    assert len(cluster.emulator.calls()) == 8
    assert_proven(cluster)


def written(cluster: Cluster) -> list[tuple[str, str, datetime]]:
    """Each picture of the bucket, and when it was written."""
    listed = cluster.s3.client().list_objects_v2(Bucket=BUCKET, Prefix="night/")
    return [(found["Key"], found["ETag"], found["LastModified"]) for found in listed["Contents"]]


# -- servers go away --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["kept", "wiped"])
def test_redis_restarted_with_or_without_its_data(cluster: Cluster, data: str):
    # given
    cluster.env["PACKSHOT_LIMITS"] = "qwen-image-2.0=40/1s"  # so that messages lie in the queue
    cluster.start_scheduler()
    cluster.start_worker()
    submit(cluster, 120)
    cluster.until_done(20)

    # when: away until all has come to rest
    cluster.redis.kill()
    until(lambda: under_way(cluster) == 0)
    assert cluster.count("succeeded") < 100
    if data == "wiped":
        cluster.redis.wipe()
    cluster.redis.restart()
    back = datetime.now(UTC)

    # then
    try:
        anew = "it begins anew" in cluster.talk()
        until(lambda: begun_since(cluster, back) > 0, within_s=ANEW_S if anew else REDIS_BACK_S)
    except AssertionError:
        pytest.fail(f"no call was begun within {REDIS_BACK_S:g} s of the return of Redis:\n{cluster.talk()}")
    cluster.until_done(120, within_s=REDIS_DONE_S)
    assert_exact(cluster, 120)


def test_postgresql_away_for_ten_seconds_and_no_answer_is_lost(cluster: Cluster):
    # given: calls under way whose answers come in three seconds or less
    cluster.start_scheduler()
    worker = cluster.start_worker()
    submit(cluster, 80)
    cluster.until_done(15)
    cluster.emulator.fault("slow", times=8, seconds=4)
    until(lambda: under_way(cluster, for_s=0.5) >= 6)

    # when
    cluster.postgres.stop()
    gone, before = time.monotonic(), len(cluster.emulator.calls())
    until(lambda: time.monotonic() >= gone + POSTGRES_AWAY_S)
    came = {call["request_id"] for call in cluster.emulator.calls()[before:]}
    back = datetime.now(UTC)
    cluster.postgres.restart()

    # then: no call was begun meanwhile, and the answers that came waited for their record
    assert 6 <= len(came) <= 8
    cluster.until_done(80)
    recorded = cluster.query("SELECT request_id, closed_at FROM attempts WHERE request_id = ANY(%s)", list(came))
    assert {request_id for request_id, _ in recorded} == came
    assert all(closed_at > back for _, closed_at in recorded)
    assert worker.is_alive()
    assert_exact(cluster, 80)


def test_s3_away_for_twenty_seconds_and_no_edit_is_bought_again(cluster: Cluster):
    # given
    cluster.start_scheduler()
    cluster.start_worker()
    submit(cluster, 60)
    cluster.until_done(10)

    # when: connections are refused at first, then requests are answered 503
    cluster.s3.kill()
    gone = time.monotonic()
    until(lambda: time.monotonic() >= gone + S3_AWAY_S / 2)
    with cluster.s3.overloaded() as overloaded:
        until(lambda: time.monotonic() >= gone + S3_AWAY_S)
        asked = len(overloaded.requests)
    waiting = cluster.cli.run("status", "night", "--json").json
    cluster.s3.restart()

    # then: buying went on, the copies wait
    assert asked >= 10
    assert waiting["state"] == "running"
    assert waiting["pictures"]["billed"] == 60
    assert waiting["pictures"]["awaiting_copy"] == 60 - waiting["pictures"]["stored"] >= 20
    cluster.until_done(60, within_s=30)
    assert_exact(cluster, 60)

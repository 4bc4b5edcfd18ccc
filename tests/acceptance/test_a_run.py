"""One command takes a manifest to pictures; killed, stopped, changed or starved, it keeps its promises."""

import json
import os
import signal
from pathlib import Path

import pytest
from PIL import Image

from tests.servers.cli import Cli, draw_photo, fast_env, until, write_manifest
from tests.servers.emulator import EmulatorProcess, running_emulator

LIMITS = "qwen-image-2.0=1000/1s"


@pytest.fixture
def emulator(tmp_path: Path):
    with running_emulator(tmp_path / "emulator", limits=LIMITS) as running:
        yield running


@pytest.fixture
def cli(tmp_path: Path, emulator: EmulatorProcess) -> Cli:
    return Cli(tmp_path, fast_env(emulator.url))


def test_rows_that_ask_for_the_same_edit_are_paid_once_and_each_gets_its_copy(cli: Cli, emulator: EmulatorProcess):
    # given
    rows = [{"sku": sku, "prompt": "on pure white"} for sku in ("A", "B", "C")] + [{"sku": "D", "prompt": "in green"}]
    write_manifest(cli.folder / "shared.yaml", rows)

    # when
    facts = cli.ok("run", "shared.yaml", "--json").json

    # then
    assert facts["state"] == "finished"
    assert facts["rows"]["succeeded"] == 4
    assert facts["jobs"]["succeeded"] == 2
    assert facts["pictures"] == {"billed": 2, "stored": 2, "awaiting_copy": 0, "lost": 0, "not_given": 0}
    assert facts["money"][0]["charged_micros"] == emulator.invoice()["micros"] == 400_000
    pictures = {sku: (cli.folder / "out" / f"{sku}-edit-1.png").read_bytes() for sku in "ABCD"}
    assert pictures["A"] == pictures["B"] == pictures["C"] != pictures["D"]
    assert Image.open(cli.folder / "out" / "A-edit-1.png").size == (512, 512)


def test_the_seed_is_in_the_attempt_and_in_the_object_and_is_the_same_the_next_time(cli: Cli):
    # given
    write_manifest(cli.folder / "seeds.yaml", [{"sku": "A", "prompt": "on white"}])
    write_manifest(
        cli.folder / "again.yaml", [{"sku": "A", "prompt": "on white"}, {"sku": "B", "prompt": "red", "seed": 7}]
    )

    # when
    cli.ok("run", "seeds.yaml")
    cli.ok("run", "again.yaml", "--set", "output=out2")

    # then
    (first,), (again,), (given,) = cli.query("select seed from attempts order by job_id")
    assert first == again
    assert given == 7
    sidecar = json.loads((cli.folder / "out2/.packshot/objects/B-edit-1.png.json").read_text())
    assert '"seed": "7"' in json.dumps(sidecar)


def test_killed_in_the_middle_it_goes_on_and_buys_nothing_answered_again(cli: Cli, emulator: EmulatorProcess):
    # given: a run of sixty slow edits
    rows = [{"sku": f"S{number:02}", "prompt": f"number {number} on white"} for number in range(60)]
    write_manifest(cli.folder / "killed.yaml", rows, budget="20 CNY")
    env = {"PACKSHOT_CONCURRENCY": "6", "PACKSHOT_EXPOSURE_LIMIT": "100%", "PACKSHOT_YES": "1"}

    # when: it is killed twice, with calls in flight
    for goal in (10, 30):
        with cli.start("run", "killed.yaml", env=env) as process:
            until(lambda goal=goal: len(cli.query("select 1 from jobs where status = 'succeeded'")) >= goal)
            process.send_signal(signal.SIGKILL)
            process.wait()
    answered_before = {attempt for (attempt,) in cli.query("select id from attempts where outcome = 'answered'")}
    facts = cli.ok("run", "killed.yaml", "--json", env=env).json

    # then
    assert facts["rows"]["succeeded"] == 60
    assert facts["pictures"]["stored"] == facts["pictures"]["billed"] == 60
    assert len(list((cli.folder / "out").glob("*.png"))) == 60
    charged = dict(cli.query("select attempt_id, count(*) from entries where kind = 'charge' group by attempt_id"))
    assert set(charged.values()) == {1}
    assert answered_before <= set(charged)
    per_job = cli.query("select job_id from attempts where outcome = 'answered' group by job_id having count(*) > 1")
    assert per_job == []
    unknown = {attempt for (attempt,) in cli.query("select id from attempts where outcome = 'unknown'")}
    besides = [line for line in emulator.invoice()["lines"] if int(line["client_request"]) not in charged]
    assert {int(line["client_request"]) for line in besides} <= unknown
    assert facts["money"][0]["charged_micros"] + sum(line["micros"] for line in besides) == emulator.invoice()["micros"]


def test_one_interrupt_records_what_is_in_flight_and_the_next_run_finishes(cli: Cli, emulator: EmulatorProcess):
    # given
    rows = [{"sku": f"S{number:02}", "prompt": f"number {number} on white"} for number in range(40)]
    write_manifest(cli.folder / "stopped.yaml", rows)
    env = {"PACKSHOT_CONCURRENCY": "4", "PACKSHOT_YES": "1"}

    # when
    with cli.start("run", "stopped.yaml", env=env) as process:
        until(lambda: len(cli.query("select 1 from jobs where status = 'succeeded'")) >= 5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)

    # then: nothing is left open, and everything that was called is accounted for
    assert process.returncode == 1
    assert "no new work" in said
    assert "Traceback" not in said
    assert cli.query("select 1 from attempts where outcome in ('open', 'unknown')") == []
    assert cli.query("select 1 from jobs where status in ('queued', 'running')") == []
    assert emulator.invoice()["micros"] == cli.ok("cost", "stopped", "--json").json["charges"][0]["micros"]

    # when
    facts = cli.ok("run", "stopped.yaml", "--json", env=env).json

    # then
    assert facts["rows"]["succeeded"] == 40
    assert len(emulator.invoice()["lines"]) == 40


def test_a_changed_manifest_under_an_old_name_is_reported_and_not_run(cli: Cli, emulator: EmulatorProcess):
    # given
    write_manifest(cli.folder / "spring.yaml", [{"sku": "A", "prompt": "on white"}, {"sku": "B", "prompt": "on grey"}])
    cli.ok("run", "spring.yaml")

    # when
    rows = [{"sku": "A", "prompt": "on black"}, {"sku": "B", "prompt": "on grey"}, {"sku": "C", "prompt": "on red"}]
    write_manifest(cli.folder / "spring.yaml", rows, priority=90)
    result = cli.run("run", "spring.yaml")

    # then
    assert result.code == 1
    assert "priority: was 50, is 90" in result.err
    assert "(A, spring.yaml:1): prompt changed" in result.err
    assert "(C, spring.yaml:1) is new" in result.err
    assert len(emulator.calls()) == 2


def test_the_same_command_again_finds_nothing_to_do(cli: Cli, emulator: EmulatorProcess):
    write_manifest(cli.folder / "twice.yaml", [{"sku": "A", "prompt": "on white"}])
    first = cli.ok("run", "twice.yaml", "--json").json
    assert cli.ok("run", "twice.yaml", "--json").json == first
    assert len(emulator.calls()) == 1


def test_a_budget_is_kept_and_the_batch_says_what_remains(cli: Cli, emulator: EmulatorProcess):
    # given: ten edits at 0.20, and room for three
    rows = [{"sku": f"S{number}", "prompt": f"number {number}"} for number in range(10)]
    write_manifest(cli.folder / "poor.yaml", rows, budget="0.75 CNY")

    # when
    result = cli.run("run", "poor.yaml", "--json")

    # then
    assert result.code == 1
    assert result.json["state"] == "out_of_budget"
    assert result.json["rows"]["succeeded"] == 3
    assert "7 rows remain" in result.err or result.json["rows"]["planned"] == 7
    assert emulator.invoice()["micros"] == 600_000


def test_a_refused_edit_fails_alone_and_retry_buys_it_with_a_new_seed(cli: Cli, emulator: EmulatorProcess):
    # given
    emulator.fault("content_refused_output", prompt_contains="daring")
    rows = [{"sku": "A", "prompt": "daring"}, {"sku": "B", "prompt": "on white"}]
    write_manifest(cli.folder / "bold.yaml", rows)
    first = cli.run("run", "bold.yaml", "--json")
    assert first.code == 1
    assert first.json["rows"]["failed"] == 1
    shown = cli.ok("status", "bold")
    assert "DataInspectionFailed" in shown.out
    assert "packshot retry bold" in shown.out

    # when
    nothing = cli.run("retry", "bold", "--code", "InternalError")
    again = cli.ok("retry", "bold", "--code", "DataInspectionFailed", "--sku", "A", "--new-seed", "--json")

    # then
    assert nothing.code == 2
    assert "no failed job of bold has the code 'InternalError'; there are: DataInspectionFailed" in nothing.err
    assert again.json["rows"]["succeeded"] == 2
    seeds = cli.query("select seed from attempts where job_id = (select job_id from rows where sku = 'A') order by id")
    assert len(seeds) == 2
    assert seeds[0] != seeds[1]
    assert emulator.invoice()["pictures"] == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("arrears", "Arrearage"),
        ("bad_key", "InvalidApiKey"),
        ("free_tier_only", "AllocationQuota.FreeTierOnly"),
    ],
)
def test_what_needs_a_person_stops_the_batch_at_once_and_says_what_to_do(
    cli: Cli, emulator: EmulatorProcess, fault: str, words: str
):
    # given
    emulator.fault(fault, times=100)
    rows = [{"sku": f"S{number}", "prompt": f"number {number}"} for number in range(30)]
    write_manifest(cli.folder / "halt.yaml", rows)

    # when
    result = cli.run("run", "halt.yaml", "--json", env={"PACKSHOT_CONCURRENCY": "2", "PACKSHOT_YES": "1"})

    # then
    assert result.code == 1
    assert result.json["state"] == "stopped"
    assert result.json["reason"]["code"] == words
    assert result.json["rows"]["planned"] == 30
    assert len(emulator.calls()) <= 4
    assert result.json["money"][0]["reserved_micros"] == 0

    # when: the person acted
    emulator.clear_faults()

    # then
    assert cli.ok("run", "halt.yaml", "--json", env={"PACKSHOT_YES": "1"}).json["rows"]["succeeded"] == 30


def test_an_object_that_is_not_ours_is_reported_before_anything_is_bought(cli: Cli, emulator: EmulatorProcess):
    # given
    (cli.folder / "out").mkdir()
    (cli.folder / "out" / "A-edit-1.png").write_bytes(b"somebody's only copy")
    write_manifest(cli.folder / "clash.yaml", [{"sku": "A", "prompt": "on white"}])

    # when
    result = cli.run("run", "clash.yaml")

    # then
    assert result.code == 1
    assert "A-edit-1.png" in result.err
    assert "nothing was bought" in result.err
    assert emulator.calls() == []
    assert (cli.folder / "out" / "A-edit-1.png").read_bytes() == b"somebody's only copy"


def test_a_picture_that_changed_after_planning_is_not_sent(cli: Cli, emulator: EmulatorProcess):
    # given: a batch that stands still, and a picture that is replaced meanwhile
    draw_photo(cli.folder / "mine.png", colour="blue")
    emulator.fault("arrears")
    write_manifest(cli.folder / "swap.yaml", [{"sku": "A", "prompt": "on white", "image": "mine.png"}])
    cli.run("run", "swap.yaml")
    draw_photo(cli.folder / "mine.png", colour="green")

    # when
    result = cli.run("run", "swap.yaml")

    # then
    assert result.code == 1
    assert "pictures changed" in result.err
    assert emulator.invoice()["pictures"] == 0


def test_two_runs_on_one_ledger_are_refused(cli: Cli):
    # given
    rows = [{"sku": f"S{number}", "prompt": f"number {number}"} for number in range(20)]
    write_manifest(cli.folder / "one.yaml", rows)
    write_manifest(cli.folder / "two.yaml", [{"sku": "B", "prompt": "b"}], output="out2")

    # when
    with cli.start("run", "one.yaml", env={"PACKSHOT_LIMITS": "qwen-image-2.0=2/1s"}) as process:
        until(lambda: cli.query("select 1 from attempts"))
        second = cli.run("run", "two.yaml")

        # then
        assert second.code == 1
        assert str(process.pid) in second.err
        assert os.path.exists(cli.ledger)

"""What guards the money: budgets of batch and day, the circuit breaker, a person's decisions, and the audit."""

import signal
import sqlite3
from pathlib import Path

import pytest

from tests.servers.cli import Cli, fast_env, until, write_manifest
from tests.servers.emulator import EmulatorProcess, running_emulator

LIMITS = "qwen-image-2.0=1000/1s"


@pytest.fixture
def emulator(tmp_path: Path):
    with running_emulator(tmp_path / "emulator", limits=LIMITS) as running:
        yield running


@pytest.fixture
def cli(tmp_path: Path, emulator: EmulatorProcess) -> Cli:
    return Cli(tmp_path, fast_env(emulator.url, PACKSHOT_YES="1", PACKSHOT_MAX_WAIT_S="0.2"))


def numbered(count: int, word: str = "number") -> list[dict[str, str]]:
    return [{"sku": f"S{number:03}", "prompt": f"{word} {number} on white"} for number in range(count)]


def test_a_batch_out_of_budget_goes_on_when_a_person_gives_more(cli: Cli, emulator: EmulatorProcess):
    # given
    write_manifest(cli.folder / "poor.yaml", numbered(6), budget="0.50 CNY")
    stopped = cli.run("run", "poor.yaml", "--json")
    assert (stopped.code, stopped.json["state"]) == (1, "out_of_budget")
    assert stopped.json["rows"]["planned"] == 4

    # when
    cli.ok("budget", "poor", "1.20 CNY", "--reason", "the client agreed")
    facts = cli.ok("run", "poor.yaml", "--json").json

    # then
    assert facts["rows"]["succeeded"] == 6
    assert facts["money"][0]["budget_micros"] == 1_200_000
    assert emulator.invoice()["micros"] == 1_200_000
    assert cli.query("select what, reason from decisions") == [("budget", "the client agreed")]


def test_the_budget_of_the_day_holds_over_all_batches(cli: Cli, emulator: EmulatorProcess):
    # given
    write_manifest(cli.folder / "one.yaml", numbered(4, "first"), output="one")
    write_manifest(cli.folder / "two.yaml", numbered(4, "second"), output="two")
    day = {"PACKSHOT_DAILY_BUDGET": "1 CNY"}

    # when
    cli.ok("run", "one.yaml", env=day)
    second = cli.run("run", "two.yaml", "--json", env=day)

    # then: five pictures at 0.20 are the day's all
    assert second.json["state"] == "out_of_budget"
    assert second.json["rows"]["succeeded"] == 1
    assert emulator.invoice()["micros"] == 1_000_000

    # when: more is allowed
    facts = cli.ok("run", "two.yaml", "--json", env={"PACKSHOT_DAILY_BUDGET": "10 CNY"}).json

    # then
    assert facts["rows"]["succeeded"] == 4


def test_a_daily_budget_in_another_currency_is_no_budget_and_is_refused(cli: Cli, emulator: EmulatorProcess):
    write_manifest(cli.folder / "one.yaml", numbered(1))
    refused = cli.run("run", "one.yaml", env={"PACKSHOT_DAILY_BUDGET": "10 USD"})
    assert refused.code == 2
    assert "names no amount in CNY" in refused.err
    assert emulator.calls() == []


def test_a_batch_that_fails_alike_pauses_itself_and_goes_on_when_it_is_mended(cli: Cli, emulator: EmulatorProcess):
    # given
    emulator.fault("content_refused", times=1000)
    write_manifest(cli.folder / "burning.yaml", numbered(200))
    env = {"PACKSHOT_BREAKER": "8/50%", "PACKSHOT_CONCURRENCY": "4", "PACKSHOT_LIMITS": "qwen-image-2.0=20/1s"}

    # when
    result = cli.run("run", "burning.yaml", "--json", env=env)

    # then
    assert result.code == 1
    assert result.json["state"] == "paused"
    assert result.json["reason"]["code"] == "CircuitBreaker"
    assert "DataInspectionFailed" in result.json["reason"]["message"]
    failed = result.json["rows"]["failed"]
    assert 8 <= failed < 60
    assert result.json["rows"]["planned"] == 200 - failed
    assert result.json["money"][0]["reserved_micros"] == 0

    # when
    emulator.clear_faults()
    cli.run("run", "burning.yaml")
    facts = cli.ok("retry", "burning", "--json").json

    # then
    assert facts["rows"]["succeeded"] == 200


def test_held_jobs_are_listed_with_what_is_known_and_let_go_on_a_persons_word(cli: Cli, emulator: EmulatorProcess):
    # given
    emulator.fault("dropped_after_billing", prompt_contains="number 0")
    emulator.fault("dropped_before_billing", prompt_contains="number 1")
    write_manifest(cli.folder / "unsure.yaml", numbered(3))
    assert cli.run("run", "unsure.yaml", env={"PACKSHOT_EXPOSURE_LIMIT": "0"}).code == 1

    # when
    listed = cli.ok("held", "unsure", "--json").json
    shown = cli.ok("held", "unsure")

    # then
    assert [each["skus"] for each in listed] == [["S000"], ["S001"]]
    assert all(each["attempts"][0]["outcome"] == "unknown" for each in listed)
    assert all(each["attempts"][0]["said"] for each in listed)
    assert "packshot release unsure" in shown.err

    # when: one is bought again, one is let go
    who = {"PACKSHOT_USER": "night shift"}
    cli.run("release", "unsure", "--sku", "S000", "--reason", "the client waits", env=who)
    cli.ok("forgive", "unsure", "--sku", "S001", "--reason", "shot by hand", env=who)
    facts = cli.ok("status", "unsure", "--json").json

    # then
    assert facts["rows"]["succeeded"] == 2
    assert facts["rows"]["cancelled"] == 1
    assert facts["money"][0]["exposure_micros"] == 400_000
    assert cli.query("select what, who, reason from decisions order by id") == [
        ("release", "night shift", "the client waits"),
        ("forgive", "night shift", "shot by hand"),
    ]
    cli.ok("audit", "unsure", "--deep")


def test_pictures_paid_and_not_stored_are_an_alarm_of_their_own(cli: Cli, emulator: EmulatorProcess):
    # given: one result that keeps failing, one that died before it was copied
    emulator.fault("result_not_png", prompt_contains="number 0", downloads=1000)
    emulator.fault("result_expired", prompt_contains="number 1")
    write_manifest(cli.folder / "late.yaml", numbered(3))

    # when: the run goes on trying until it is told to leave
    with cli.start("run", "late.yaml") as process:
        until(lambda: cli.query("select 1 from jobs where copies >= 8"))
        facts = cli.ok("status", "late", "--json").json
        shown = cli.ok("status", "late")
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=30)[1]

    # then
    assert "paid pictures cannot be fetched" in told
    assert process.returncode == 1
    waiting, lost = facts["undelivered"]
    assert (waiting["sku"], waiting["lost"]) == ("S000", False)
    assert 86_000 < waiting["seconds_left"] <= 86_400
    assert (lost["sku"], lost["lost"], lost["micros"]) == ("S001", True, 200_000)
    assert "paid and not stored" in shown.out
    assert "lost" in shown.out

    # when: the command is given again, the cause is still there, and nothing may be bought
    refused = cli.run("run", "late.yaml", env={"PACKSHOT_DAILY_BUDGET": "1 USD"})

    # then: it is not kept waiting for a day
    assert refused.code != 0
    assert "0 of them copied, 1 still wait" in refused.err

    # when: the cause is gone
    emulator.restart()
    assert cli.run("resume", "late").code == 1  # for the one that is lost

    # then
    assert (cli.folder / "out" / "S000-edit-1.png").exists()
    cli.ok("audit", "late", "--deep")


def test_the_audit_finds_what_was_tampered_with(cli: Cli):
    # given
    write_manifest(cli.folder / "clean.yaml", numbered(4))
    cli.ok("run", "clean.yaml")
    assert "everything fits" in cli.ok("audit", "--deep").out

    # when: an object is changed, an entry is edited, an account is wrong
    (cli.folder / "out" / "S001-edit-1.png").write_bytes(b"not what was paid for")
    with sqlite3.connect(cli.ledger) as connection:
        connection.execute("drop trigger entries_are_never_changed")
        connection.execute("update entries set amount_micros = 1 where kind = 'charge' and seq = 2 or seq = 3")
        connection.execute("update accounts set charged_micros = charged_micros + 5 where id like 'batch:%'")
        connection.execute("delete from objects where key = 'S002-edit-1.png'")

    # then
    shallow = cli.run("audit", "clean", "--json")
    deep = cli.run("audit", "clean", "--deep", "--json")
    assert (shallow.code, deep.code) == (1, 1)
    said = " / ".join(finding["said"] for finding in shallow.json["findings"])
    assert "was edited" in said
    assert "its entries add up to" in said
    assert "are stored" in said
    more = {finding["said"] for finding in deep.json["findings"]} - {f["said"] for f in shallow.json["findings"]}
    assert len(more) == 1
    assert "S001-edit-1.png" in more.pop()


def test_entries_cannot_be_changed_or_removed(cli: Cli):
    write_manifest(cli.folder / "fixed.yaml", numbered(1))
    cli.ok("run", "fixed.yaml")
    with sqlite3.connect(cli.ledger) as connection:
        for statement in ("update entries set amount_micros = 0", "delete from entries"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)


def test_pause_and_resume_from_another_shell(cli: Cli, emulator: EmulatorProcess):
    # given
    write_manifest(cli.folder / "long.yaml", numbered(60))
    with cli.start("run", "long.yaml", env={"PACKSHOT_LIMITS": "qwen-image-2.0=2/1s"}) as process:
        until(lambda: len(cli.query("select 1 from jobs where status = 'succeeded'")) >= 3)

        # when
        cli.ok("pause", "long", "--reason", "lunch")
        assert process.wait(timeout=30) == 1

    # then
    facts = cli.ok("status", "long", "--json").json
    assert facts["state"] == "paused"
    assert facts["reason"]["message"] == "lunch"
    seen = len(emulator.calls())
    assert seen < 60

    # when
    cli.ok("resume", "long")

    # then
    assert cli.ok("run", "long.yaml", "--json").json["rows"]["succeeded"] == 60
    assert len(emulator.calls()) == 60

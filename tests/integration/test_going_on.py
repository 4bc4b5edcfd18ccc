"""What is paid is delivered whatever keeps the rest from being bought, and status says all that a person must know."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.database import Database
from scheduler.lock import only_engine
from tests.servers.cli import Cli, fast_env, write_manifest
from tests.servers.emulator import EmulatorProcess, running_emulator
from tests.servers.here import InHere

BLOCKED = {"PACKSHOT_ALLOW_PRIVATE_HOSTS": "0"}
NO_KEY = {"DASHSCOPE_API_KEY": ""}
ROWS = [{"sku": "A", "prompt": "on white"}, {"sku": "B", "prompt": "on grey"}]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    with running_emulator(tmp_path_factory.mktemp("emulator"), limits="qwen-image-2.0=1000/1s") as running:
        yield running


@pytest.fixture
def here(
    tmp_path: Path,
    emulator: EmulatorProcess,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> InHere:
    env = fast_env(emulator.url, PACKSHOT_YES="1", PACKSHOT_USER="anna", PACKSHOT_CONCURRENCY="1")
    return InHere(Cli(tmp_path, env), monkeypatch, capsys)


@pytest.fixture
def paid(here: InHere) -> InHere:
    """Batch `shop` of two rows: paid, and not copied since the addresses of its results are not gone to."""
    write_manifest(here.folder / "shop.yaml", ROWS)
    assert here.run("run", "shop.yaml", env=BLOCKED).code == 1
    assert pictures(here)["stored"] == 0
    assert pictures(here)["awaiting_copy"] == pictures(here)["billed"] > 0
    return here


def pictures(here: InHere, name: str = "shop") -> dict[str, int]:
    found: dict[str, int] = here.ok("status", name, "--json").json["pictures"]
    return found


def edit_the_prompt(here: InHere) -> None:
    write_manifest(here.folder / "shop.yaml", [{"sku": "A", "prompt": "on black"}, ROWS[1]])


def delete_the_photo(here: InHere) -> None:
    (here.folder / "photo.png").unlink()


def nothing(_: InHere) -> None:
    pass


# -- paid pictures and a run that cannot buy -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "env", "code", "said"),
    [
        (nothing, NO_KEY, 2, "DASHSCOPE_API_KEY"),
        (nothing, {"DASHSCOPE_HTTP_BASE_URL": "http://127.0.0.1:9/api/v1"}, 1, "nothing was bought"),
        (edit_the_prompt, {}, 1, "the manifest is not the one"),
        (delete_the_photo, {}, 1, "photo.png"),
    ],
    ids=["no key", "no provider", "another prompt", "no photo"],
)
def test_a_run_that_is_refused_copies_first_what_is_paid(paid: InHere, change, env, code, said):
    # given
    change(paid)
    billed = pictures(paid)["billed"]

    # when
    result = paid.run("run", "shop.yaml", env=env)

    # then
    assert result.code == code, result
    assert said in result.err
    assert "copying first what is paid" in result.err
    assert pictures(paid) == {**pictures(paid), "billed": billed, "stored": billed, "awaiting_copy": 0}


def test_a_refusal_with_nothing_paid_makes_no_ledger(here: InHere):
    write_manifest(here.folder / "shop.yaml", ROWS)
    delete_the_photo(here)
    assert here.run("run", "shop.yaml").code == 1
    assert not here.ledger.exists()


def test_resume_copies_what_is_paid_without_manifest_and_key(paid: InHere):
    # given
    (paid.folder / "shop.yaml").unlink()
    rest = paid.ok("status", "shop", "--json").json["rows"]["planned"] - pictures(paid)["billed"]

    # when
    result = paid.run("resume", "shop", env=NO_KEY)

    # then
    assert result.code == (2 if rest else 0), result
    assert pictures(paid)["awaiting_copy"] == 0


def test_resume_works_on_a_batch_to_its_end_by_its_name_alone(paid: InHere):
    (paid.folder / "shop.yaml").unlink()
    done = paid.ok("resume", "shop", "--json").json
    assert done["rows"]["succeeded"] == 2
    assert done["pictures"]["stored"] == 2
    paid.ok("resume", "shop", env=NO_KEY)  # with nothing left to do it is no matter


def test_resume_asks_before_it_spends_much_and_still_copies_what_is_paid(paid: InHere):
    result = paid.run("resume", "shop", env={"PACKSHOT_YES": "", "PACKSHOT_CONFIRM_OVER": "0"})
    assert pictures(paid)["awaiting_copy"] == 0
    assert result.code == (0 if pictures(paid)["billed"] == 2 else 2), result


def test_a_paused_batch_is_resumed_and_worked_on(here: InHere):
    # given
    write_manifest(here.folder / "shop.yaml", ROWS, budget="0.10 CNY")
    assert "out of budget: 2 rows remain" in here.run("run", "shop.yaml").err
    here.ok("pause", "shop")
    assert here.ok("budget", "shop", "none").err == "to go on: packshot resume shop\n"

    # then
    assert here.ok("resume", "shop", "--json").json["rows"]["succeeded"] == 2


def test_a_rehearsal_is_resumed_as_one(here: InHere):
    # given
    write_manifest(here.folder / "try.yaml", ROWS, budget="0.20 CNY")
    assert here.run("rehearse", "try.yaml").code == 1
    assert here.ok("budget", "try", "none").err == "to go on: packshot resume try --rehearsal\n"

    # when
    done = here.ok("resume", "try", "--rehearsal", "--json", env=NO_KEY).json

    # then
    assert done["rehearsal"]
    assert done["rows"]["succeeded"] == 2


def test_resume_beside_a_run_gives_the_order_and_leaves_the_work_to_it(here: InHere):
    # given
    write_manifest(here.folder / "shop.yaml", ROWS, budget="0.10 CNY")
    here.run("run", "shop.yaml")
    here.ok("pause", "shop")

    # when
    database = Database(f"sqlite:///{here.ledger}")
    with only_engine(database):
        result = here.ok("resume", "shop")
        again = here.run("resume", "shop")
    database.close()

    # then
    assert "shop: may be bought again; but another packshot" in result.err
    assert here.ok("status", "shop", "--json").json["state"] == "out_of_budget"
    assert again.code == 1
    assert "another packshot (process " in again.err


def test_what_stopped_the_buying_stays_told_when_only_copies_were_made(paid: InHere):
    # given: the account was stopped as well
    with sqlite3.connect(paid.ledger) as ledger:
        ledger.execute("update batches set code = 'Arrearage', message = 'pay the bill'")

    # when
    done = paid.run("retry", "shop", "--json").json

    # then
    assert done["pictures"]["awaiting_copy"] == 0
    assert (done["state"], done["reason"]["code"]) == ("stopped", "Arrearage")


def test_a_cancelled_batch_is_not_resumed(here: InHere):
    write_manifest(here.folder / "shop.yaml", ROWS, budget="0.10 CNY")
    here.run("run", "shop.yaml")
    here.ok("cancel", "shop", "--yes")
    result = here.run("resume", "shop")
    assert result.code == 1
    assert "shop is cancelled and cannot be resumed" in result.err


def test_retry_with_nothing_failed_copies_what_is_paid(paid: InHere):
    result = paid.run("retry", "shop", "--json")
    assert "no failed job" in result.err
    assert "paid pictures wait to be copied" in result.err
    assert result.json["pictures"]["awaiting_copy"] == 0


def test_status_says_how_to_go_on_without_folder_and_options(paid: InHere):
    (paid.ledger.parent / "ledger.db.lock").write_text("999999999")  # a process that is no more
    assert "go on: packshot resume shop\n" in paid.ok("status", "shop").out


# -- what status, rows and cost say ----------------------------------------------------------------------------


def test_a_partial_delivery_is_told_and_counted(here: InHere, emulator: EmulatorProcess):
    # given
    emulator.fault("partial", times=1, prompt_contains="three of it")
    write_manifest(here.folder / "part.yaml", [{"sku": "A", "prompt": "three of it", "n": 3}])

    # when
    done = here.ok("run", "part.yaml", "--json").json
    shown = here.ok("status", "part").out

    # then
    assert done["rows"]["succeeded"] == 1
    given = done["pictures"]["billed"]
    assert done["pictures"]["not_given"] == 3 - given > 0
    assert [trouble["code"] for trouble in done["troubles"]] == ["Partial"]
    assert f"{3 - given} asked for but not given, and not billed" in shown
    assert f"1 succeeded: Partial: asked for 3 pictures, got and paid {given} (e.g. A)" in shown


def test_rows_lists_each_row_with_what_became_of_it(here: InHere, emulator: EmulatorProcess):
    # given
    emulator.fault("content_refused", times=9, prompt_contains="daring")
    write_manifest(here.folder / "mixed.yaml", [*ROWS, {"sku": "C", "prompt": "daring"}])
    assert here.run("run", "mixed.yaml").code == 1

    # when
    (failed,) = here.ok("rows", "mixed", "--status", "failed", "--json").json
    everything = here.ok("rows", "mixed", "--json").json
    shown = here.ok("rows", "mixed", "--code", "DataInspectionFailed").out

    # then
    assert (failed["sku"], failed["status"], failed["code"]) == ("C", "failed", "DataInspectionFailed")
    assert failed["message"]
    assert failed["charged_micros"] == 0
    assert [each["charged_micros"] for each in everything] == [200_000, 200_000, 0]
    assert all(each["outputs"] and each["recipe"] for each in everything)
    assert "C" in shown
    assert "DataInspectionFailed: " in shown
    assert here.run("rows", "mixed", "--status", "lost").code == 2
    assert here.run("rows", "mixed", "--code", "DataInspektion").code == 2
    (trouble,) = here.ok("status", "mixed", "--json").json["troubles"]
    assert (trouble["code"], trouble["jobs"], trouble["example"]) == ("DataInspectionFailed", 1, "C")

    # and: a mistyped code or sku is no empty success
    for option in (["--code", "DataInspektion"], ["--sku", "Z"]):
        result = here.run("retry", "mixed", *option)
        assert result.code == 2, result
    assert "there are: DataInspectionFailed" in here.run("retry", "mixed", "--code", "DataInspektion").err
    assert "no row of mixed has the sku 'Z'" in here.run("retry", "mixed", "--sku", "Z").err


def test_retry_with_nothing_to_do_prints_the_status_as_json(here: InHere):
    write_manifest(here.folder / "shop.yaml", ROWS)
    here.ok("run", "shop.yaml")
    assert here.ok("retry", "shop", "--json").json == here.ok("status", "shop", "--json").json


def test_what_was_lost_and_bought_again_is_no_alarm_any_more(here: InHere, emulator: EmulatorProcess):
    # given
    emulator.fault("result_expired", times=1, prompt_contains="fleeting")
    write_manifest(here.folder / "shop.yaml", [{"sku": "A", "prompt": "fleeting"}])
    assert here.run("run", "shop.yaml").code == 1
    assert "paid and not stored" in here.ok("status", "shop").out

    # when
    done = here.ok("retry", "shop", "--json").json

    # then
    assert done["undelivered"] == []
    assert done["pictures"]["lost"] == 1
    assert "paid and not stored" not in here.ok("status", "shop").out


def test_rehearsals_and_real_batches_are_never_summed_or_listed_together(here: InHere):
    # given
    write_manifest(here.folder / "shop.yaml", ROWS)
    here.ok("run", "shop.yaml")
    write_manifest(here.folder / "try.yaml", ROWS[:1])
    here.ok("rehearse", "try.yaml")

    # then
    assert here.ok("cost", "--json").json["pictures"] == 2
    assert here.ok("cost", "--rehearsal", "--json").json["pictures"] == 1
    assert here.ok("cost", "--rehearsal").out == "1 picture, 0.20 CNY\n"
    assert [each["batch"] for each in here.ok("status", "--real", "--json").json] == ["shop"]
    assert [each["batch"] for each in here.ok("status", "--rehearsal", "--json").json] == ["try"]


def test_the_quote_states_the_exposure(here: InHere):
    write_manifest(here.folder / "shop.yaml", ROWS)
    env = {"PACKSHOT_EXPOSURE_LIMIT": "50%"}
    assert "exposure  at most 0.20 CNY" in here.ok("plan", "shop.yaml", env=env).out
    assert here.ok("plan", "shop.yaml", "--json", env=env).json["exposure_limit_micros"] == 200_000


def test_one_is_not_several(here: InHere):
    write_manifest(here.folder / "one.yaml", ROWS[:1])
    assert here.ok("check", "one.yaml").out == "one.yaml: 1 row is in order\n"
    assert "1 call, 1 picture, 0.20 CNY" in here.ok("plan", "one.yaml").out

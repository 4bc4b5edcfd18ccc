"""Each command: its help, its example, its JSON; what scripts rely on keeps its names."""

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from models import job
from scheduler.cli.app import app
from tests.servers.cli import Cli, draw_photo, fast_env, write_manifest
from tests.servers.emulator import EmulatorProcess, running_emulator
from tests.servers.here import InHere

ROOT = Path(__file__).parents[2]
LIMITS = "qwen-image-2.0=1000/1s,qwen-image-2.0-pro=1000/1s"


def commands() -> dict[str, Any]:
    """Every command by what a person types: `check`, `db upgrade`, ..."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {each}": one for each, one in inner.items()} if inner else {name: command}
    return found


ALL = commands()
EXAMPLES = {name: command.epilog.removeprefix("Example: ") for name, command in ALL.items()}
ALONE = [
    "check", "plan", "schema", "models", "run", "rehearse", "retry", "release", "held", "forgive",
    "status", "rows", "cost", "list", "audit", "settings", "db upgrade",
]  # fmt: skip


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    with running_emulator(tmp_path_factory.mktemp("emulator"), limits=LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, emulator: EmulatorProcess) -> Cli:
    """A folder with two batches that were bought: hello's manifest, and one with two models and a failure."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "manifests").symlink_to(ROOT / "manifests")
    cli = Cli(folder, fast_env(emulator.url, PACKSHOT_LIMITS=LIMITS))
    emulator.fault("content_refused", times=9, prompt_contains="daring")
    recipes = {"white": "{name} on white", "pro": {"prompt": "{name} on grey", "model": "qwen-image-2.0-pro", "n": 2}}
    rows = [
        {"sku": "A", "name": "mug", "shelf": "top"},
        {"sku": "B", "name": "mug", "shelf": "low"},  # the same edits as A: bought once, stored twice
        {"sku": "C", "name": "cup", "recipe": "white"},
        {"sku": "D", "prompt": "daring", "shelf": "top"},
    ]
    write_manifest(folder / "mixed.yaml", rows, recipes=recipes, budget="50 CNY")
    assert cli.run("run", "mixed.yaml", "--yes").code == 1
    return cli


@pytest.fixture
def here(shop: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InHere:
    return InHere(shop, monkeypatch, capsys)


# -- help ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(ALL) - {"emulator"}))
def test_help_explains_a_command_and_shows_an_example(here: InHere, name: str):
    said = here.ok(*name.split(), "--help")
    assert said.err == ""
    assert ALL[name].help.splitlines()[0].rstrip(".") in " ".join(said.out.split())
    assert re.search(rf"Example: .*packshot {name}", said.out)


@pytest.mark.parametrize("name", sorted(ALL))
def test_an_example_names_options_that_there_are(name: str):
    words = shlex.split(EXAMPLES[name])
    known = {option for parameter in ALL[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("--") and name != "emulator":
            assert word in known


@pytest.mark.parametrize("name", ALONE)
def test_the_example_of_a_command_for_one_machine_works(here: InHere, name: str):
    # given: hello is there, bought once for all examples
    if not (here.folder / "out/hello").exists():
        here.ok("run", "manifests/hello.yaml", "--yes")

    # when
    command = EXAMPLES[name].partition(" > ")[0]
    settings, _, arguments = command.partition("packshot ")
    env = dict(pair.split("=") for pair in settings.split())
    result = here.run(*shlex.split(arguments), env=env)

    # then
    assert result.code == 0, result


def test_help_at_the_top_names_every_command_and_the_manifest_first(here: InHere):
    said = here.ok("--help").out
    listed = re.findall(r"^│ ([a-z]+) ", said, flags=re.MULTILINE)
    assert set(listed) == {name.split()[0] for name in ALL}
    assert listed[0] == "check"
    assert here.ok("--version").out.startswith("packshot 0.")


@pytest.mark.parametrize("arguments", [["chek", "x"], ["check"], ["plan", "--nonsense", "x"], ["retry"], ["db"]])
def test_a_command_used_wrongly_leaves_with_two_and_says_how_it_is_used(here: InHere, arguments: list[str]):
    result = here.run(*arguments)
    assert result.code == 2
    assert "Usage: packshot" in result.err + result.out


@pytest.mark.parametrize("name", ["status", "rows", "cost", "retry", "release", "held", "forgive", "pause", "budget"])
def test_a_batch_that_is_not_there_is_told_with_those_there_are(here: InHere, name: str):
    result = here.run(name, "nope", *(["1 CNY"] if name == "budget" else []))
    assert result.code == 2, result
    assert "no batch 'nope' in this ledger; there are: " in result.err
    assert "mixed" in result.err


def test_looking_at_manifests_and_models_loads_no_database_library(shop: Cli):
    code = "import sys; from scheduler.cli import main\ntry: main()\nfinally: print('sqlalchemy' in sys.modules)"
    env = {**shop.environment(), "PYTHONPATH": str(ROOT)}
    for arguments in (["check", "mixed.yaml"], ["plan", "mixed.yaml"], ["schema"], ["models"], ["--help"]):
        asked = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(asked, cwd=shop.folder, env=env, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False", arguments


# -- json ----------------------------------------------------------------------------------------------------


def test_status_has_the_names_that_scripts_rely_on(here: InHere):
    facts = here.ok("status", "mixed", "--json").json
    assert {"batch", "state", "rows", "jobs", "pictures", "calls", "money"} <= set(facts)
    assert facts["batch"] == "mixed"
    assert facts["state"] == "finished"
    assert set(facts["rows"]) == set(facts["jobs"]) == set(job.STATUSES)
    assert (facts["rows"]["succeeded"], facts["rows"]["failed"]) == (5, 1)
    assert (facts["jobs"]["succeeded"], facts["jobs"]["failed"]) == (3, 1)
    assert {"billed", "stored", "awaiting_copy"} <= set(facts["pictures"])
    assert facts["pictures"]["billed"] == facts["pictures"]["stored"] == 4
    assert {"answered", "throttled", "failed", "unknown"} <= set(facts["calls"])
    assert (facts["calls"]["answered"], facts["calls"]["failed"], facts["calls"]["unknown"]) == (3, 1, 0)
    (money,) = facts["money"]
    assert {
        "currency", "quoted_micros", "reserved_micros", "charged_micros", "exposure_micros", "budget_micros",
    } <= set(money)  # fmt: skip
    assert money["currency"] == "CNY"
    assert money["charged_micros"] == 2 * 200_000 + 2 * 500_000
    assert money["quoted_micros"] == money["charged_micros"] + 200_000
    assert (money["reserved_micros"], money["exposure_micros"], money["budget_micros"]) == (0, 0, 50_000_000)


def test_status_without_a_batch_and_list_say_the_same_of_every_batch(here: InHere):
    every = here.ok("status", "--json").json
    assert every == here.ok("list", "--json").json
    assert next(one for one in every if one["batch"] == "mixed") == here.ok("status", "mixed", "--json").json


def test_cost_has_the_names_that_scripts_rely_on(here: InHere, emulator: EmulatorProcess):
    facts = here.ok("cost", "mixed", "--json").json
    assert {"pictures", "charges", "groups"} <= set(facts)
    assert facts["pictures"] == 4
    assert facts["charges"] == [{"currency": "CNY", "micros": 1_400_000}]
    assert facts["groups"] == []


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("model", {"qwen-image-2.0", "qwen-image-2.0-pro"}),
        ("day", None),
        ("sku", {"A", "B", "C"}),
        ("shelf", {"top", "low", ""}),
        ("name", {"mug", "cup"}),
        ("recipe", None),
    ],
)
def test_the_groups_of_cost_add_up_to_the_whole(here: InHere, by: str, keys: set[str] | None):
    facts = here.ok("cost", "mixed", "--by", by, "--json").json
    assert sum(group["pictures"] for group in facts["groups"]) == facts["pictures"] == 4
    assert sum(charge["micros"] for group in facts["groups"] for charge in group["charges"]) == 1_400_000
    if keys is not None:
        assert {group["key"] for group in facts["groups"]} == keys
    assert here.ok("cost", "mixed", "--by", by).out.splitlines()[-1] == "4 pictures, 1.40 CNY"


def test_cost_by_a_column_that_no_row_has_names_those_there_are(here: InHere):
    result = here.run("cost", "mixed", "--by", "colour")
    assert result.code == 2
    assert "write one of model, day, sku, name, recipe, shelf" in result.err


def test_plan_as_json_is_the_quote_and_its_problems(here: InHere):
    facts = here.ok("plan", "mixed.yaml", "--json").json
    assert (facts["batch"], facts["rows"], facts["jobs"], facts["pictures"], facts["objects"]) == ("mixed", 6, 4, 5, 8)
    assert facts["quote_micros"] == sum(quote["micros"] for quote in facts["by_model"]) == 1_600_000
    assert {quote["model"]: quote["pictures"] for quote in facts["by_model"]} == {
        "qwen-image-2.0": 3,
        "qwen-image-2.0-pro": 2,
    }
    broken = here.run("plan", "manifests/broken.yaml", "--json")
    assert broken.code == 1
    assert {"file", "line", "column", "value"} <= set(broken.json["problems"][0])


def test_check_as_json_lists_problems_and_leaves_with_one(here: InHere):
    assert here.ok("check", "mixed.yaml", "--json").json == {
        "batch": "mixed", "rows": 6, "problems": [], "warnings": [],
    }  # fmt: skip
    broken = here.run("check", "manifests/broken.yaml", "--json")
    assert broken.code == 1
    assert len(broken.json["problems"]) > 60


def test_models_as_json_has_limits_and_prices_of_the_region(here: InHere):
    models = {each["model"]: each for each in here.ok("models", "--region", "ap-southeast-1", "--json").json}
    plain = models["qwen-image-2.0"]
    assert plain["limits"] == [{"requests": 1000, "window_s": 1}]  # this account's, by PACKSHOT_LIMITS
    assert {price["region"] for price in plain["prices"]} == {"ap-southeast-1"}
    assert {price["currency"] for price in plain["prices"]} == {"USD"}
    assert here.run("models", "--region", "mars").code == 2


def test_settings_never_show_a_secret(here: InHere):
    # given
    secrets = {
        "DASHSCOPE_API_KEY": "sk-0123456789abcdef",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG",
        "PACKSHOT_DATABASE_URL": "postgresql://me:hunter2hunter2@host/ledger",
        "PACKSHOT_REDIS_URL": "redis://:hunter2hunter2@host:6379/0",
    }

    # when
    said = [here.ok("settings", *options, env=secrets).out for options in ([], ["--json"])]

    # then
    for text in said:
        for secret in ("0123456789abcdef", "wJalrXUtnFEMI/K7MDENG", "hunter2"):
            assert secret not in text
        assert all(name in text for name in secrets)
    origins = {line["name"]: line["origin"] for line in json.loads(said[1])}
    assert origins["DASHSCOPE_API_KEY"] == "environment"
    assert origins["PACKSHOT_CONCURRENCY"] == "default"


def test_a_settings_file_beside_the_manifest_goes_before_the_one_here_and_the_environment_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    # given
    cli = InHere(Cli(tmp_path), monkeypatch, capsys)
    (tmp_path / "far").mkdir()
    write_manifest(tmp_path / "far" / "m.yaml", [{"sku": "A", "prompt": "x"}])
    (tmp_path / "packshot.toml").write_text('PACKSHOT_REGION = "cn-hongkong"\nPACKSHOT_LIMITS = "qwen-image-2.0=4/1s"')
    (tmp_path / "far" / "packshot.toml").write_text('PACKSHOT_REGION = "ap-southeast-1"')

    # then
    assert cli.ok("plan", "far/m.yaml", "--json").json["region"] == "ap-southeast-1"
    beijing = {"PACKSHOT_REGION": "cn-beijing"}
    assert cli.ok("plan", "far/m.yaml", "--json", env=beijing).json["region"] == "cn-beijing"
    origins = {line["name"]: line["origin"] for line in cli.ok("settings", "--json").json}
    assert origins["PACKSHOT_LIMITS"] == str(tmp_path / "packshot.toml")


def test_schema_is_one_and_takes_the_examples(here: InHere):
    schema = here.ok("schema").json
    jsonschema.Draft202012Validator.check_schema(schema)
    hello = yaml.safe_load((ROOT / "manifests/hello.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(hello, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**hello, "bugdet": "5 CNY"}, schema)


def test_upgrading_twice_changes_nothing_the_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    cli = InHere(Cli(tmp_path), monkeypatch, capsys)
    assert "now at version" in cli.ok("db", "upgrade").out
    before = cli.query("select name, sql from sqlite_master order by name")
    assert "already at version" in cli.ok("db", "upgrade").out
    assert cli.query("select name, sql from sqlite_master order by name") == before
    assert cli.ok("status").err == "no batch in this ledger yet; packshot run MANIFEST makes one\n"


def test_tables_are_never_cut_off_where_no_terminal_is(here: InHere):
    narrow = here.ok("models", env={"COLUMNS": "20"}).out
    assert narrow == here.ok("models", env={"COLUMNS": "200"}).out
    assert "…" not in narrow
    assert {line.split()[0] for line in narrow.splitlines()} >= {"model", "qwen-image-2.0-pro-2026-06-22"}
    assert all(line == line.rstrip() for line in narrow.splitlines())


def test_every_result_as_json_is_one_document_on_stdout_and_talk_is_elsewhere(here: InHere):
    for arguments in (
        ["check", "mixed.yaml"], ["plan", "mixed.yaml"], ["status"], ["status", "mixed"], ["cost"], ["cost", "mixed"],
        ["models"], ["settings"], ["list"], ["held", "mixed"], ["rows", "mixed"], ["audit"],
        ["run", "mixed.yaml"], ["schema"],
    ):  # fmt: skip
        result = here.run(*arguments, *([] if arguments == ["schema"] else ["--json"]))
        assert isinstance(json.loads(result.out), dict | list), arguments


# -- the emulator as a command ---------------------------------------------------------------------------------


def test_the_emulator_command_serves_a_run_and_leaves_cleanly_when_told_to(tmp_path: Path):
    # given
    draw_photo(tmp_path / "photo.png")
    write_manifest(tmp_path / "one.yaml", [{"sku": "A", "prompt": "on white"}])
    cli = Cli(tmp_path)
    assert "--fault" in cli.ok("emulator", "--help").out
    with cli.start("emulator", "--port", "0", "--state", "books", "--latency", "0") as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())

        # when
        done = Cli(tmp_path, fast_env(ready["url"])).ok("run", "one.yaml", "--json").json
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)

    # then
    assert process.returncode == 0
    assert "Traceback" not in said
    assert done["money"][0]["charged_micros"] == 200_000
    assert "200000" in (tmp_path / "books" / "invoice.jsonl").read_text()

"""Bad input and bad luck: one clear sentence each, the right exit code, nothing bought, nothing lost, no traceback."""

import ctypes
import errno
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.servers.cli import COMMAND, Cli, Result, draw_photo, fast_env, until, write_manifest
from tests.servers.emulator import EmulatorProcess, running_emulator
from tests.servers.here import InHere
from tests.servers.misbehaving import Peer, nobody, serve
from tests.servers.s3 import S3Process

ROOT = Path(__file__).parents[2]
ONE = [{"sku": "A", "prompt": "on white"}]
FAR, FAR_MODEL = "eu-central-1", "qwen-image-2.1-turbo"
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    with running_emulator(tmp_path_factory.mktemp("emulator"), limits="qwen-image-2.0=1000/1s") as running:
        yield running


@pytest.fixture
def cli(tmp_path: Path, emulator: EmulatorProcess) -> Cli:
    emulator.clear_faults()
    return Cli(tmp_path, fast_env(emulator.url))


@pytest.fixture
def here(cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InHere:
    return InHere(cli, monkeypatch, capsys)


@pytest.fixture
def ledger(cli: Cli, migrated_file: Path) -> Path:
    """A ledger with its tables and no batch."""
    cli.ledger.parent.mkdir()
    return Path(shutil.copy(migrated_file, cli.ledger))


@pytest.fixture
def nothing_bought(emulator: EmulatorProcess) -> Iterator[None]:
    """The test calls the provider not once."""
    before = len(emulator.calls())
    yield
    assert len(emulator.calls()) == before


def refused(result: Result, code: int, *words: str) -> str:
    """One sentence on stderr, its exit code, no traceback, no result; returns the sentence."""
    assert result.code == code, result
    assert "Traceback" not in result.err, result
    assert result.out == "", result
    said = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1, result
    for word in words:
        assert word in said[0], result
    return said[0]


def run_under(cli: Cli, limit: Callable[[], None], *arguments: str) -> Result:
    """A command in a process that is limited before it begins."""
    done = subprocess.run(
        [COMMAND, *arguments], cwd=cli.folder, env=cli.environment(), preexec_fn=limit, capture_output=True, text=True
    )
    return Result(done.returncode, done.stdout, done.stderr)


def permissions_count() -> None:
    """Root passes every permission by a capability; without it a read-only folder is one for root too."""
    if os.geteuid() == 0:
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability)


def answering_html(peer: Peer) -> None:
    peer.read_request()
    peer.answer(200, b"<html><body>Welcome to the hotel Wi-Fi</body></html>", {"Content-Type": "text/html"})


# -- the key and the provider --------------------------------------------------------------------------------


def test_a_wrong_key_is_found_before_anything_is_written_or_bought(tmp_path: Path):
    with running_emulator(tmp_path / "emulator", api_key="sk-the-right-one") as strict:
        # given
        cli = Cli(tmp_path, fast_env(strict.url, DASHSCOPE_API_KEY="sk-the-wrong-one"))
        write_manifest(tmp_path / "key.yaml", ONE)

        # when
        said = refused(cli.run("run", "key.yaml"), 1, "InvalidApiKey", "nothing was bought")

        # then
        assert "sk-the-wrong-one" not in said
        assert cli.query("select 1 from batches") == []
        assert strict.calls() == []

        # and with the right one it works
        assert cli.ok("run", "key.yaml", env={"DASHSCOPE_API_KEY": "sk-the-right-one"})


@pytest.mark.usefixtures("nothing_bought")
def test_without_a_key_the_way_out_is_named_and_no_ledger_is_made(here: InHere):
    write_manifest(here.folder / "key.yaml", ONE)
    refused(here.run("run", "key.yaml", env={"DASHSCOPE_API_KEY": ""}), 2, "DASHSCOPE_API_KEY", "packshot rehearse")
    assert not here.ledger.exists()


def test_a_provider_that_answers_html_is_told_as_such(here: InHere):
    write_manifest(here.folder / "html.yaml", ONE)
    with serve(answering_html) as server:
        result = here.run("run", "html.yaml", env={"DASHSCOPE_HTTP_BASE_URL": server.url})
    refused(result, 1, server.url, "nothing was bought", "DASHSCOPE_HTTP_BASE_URL")
    assert here.query("select 1 from batches") == []


def test_a_provider_that_refuses_connections_is_told_with_its_address(here: InHere):
    write_manifest(here.folder / "shut.yaml", ONE)
    with nobody() as port:
        result = here.run("run", "shut.yaml", env={"DASHSCOPE_HTTP_BASE_URL": f"http://127.0.0.1:{port}"})
    refused(result, 1, f"127.0.0.1:{port}", "refused", "DASHSCOPE_HTTP_BASE_URL", "nothing was bought")


def test_a_provider_whose_name_does_not_resolve_is_told_with_its_name(here: InHere):
    write_manifest(here.folder / "name.yaml", ONE)
    result = here.run("run", "name.yaml", env={"DASHSCOPE_HTTP_BASE_URL": "https://dashscope.invalid"})
    refused(result, 1, "dashscope.invalid", "DASHSCOPE_HTTP_BASE_URL", "nothing was bought")


def test_a_region_without_a_shared_host_asks_for_the_workspace(here: InHere):
    write_manifest(here.folder / "far.yaml", ONE, region=FAR, model=FAR_MODEL, defaults={"n": 1})
    result = here.run("run", "far.yaml", env={"DASHSCOPE_HTTP_BASE_URL": ""})
    refused(result, 2, FAR, "DASHSCOPE_WORKSPACE_ID")
    assert not here.ledger.exists()


def test_a_permanent_refusal_fails_its_job_alone_and_names_the_providers_code_and_words(
    cli: Cli, emulator: EmulatorProcess
):
    # given
    emulator.fault("content_refused", prompt_contains="impossible", times=9)
    write_manifest(cli.folder / "one.yaml", [*ONE, {"sku": "B", "prompt": "impossible"}])

    # when
    result = cli.run("run", "one.yaml")

    # then
    assert result.code == 1
    assert "Traceback" not in result.err
    ((code, words),) = cli.query("select code, message from jobs where status = 'failed'")
    assert f"1 failed: {code}: {words} (e.g. B)" in result.out
    assert emulator.calls()[-1]["code"] == code or emulator.calls()[-2]["code"] == code
    assert cli.ok("status", "one", "--json").json["rows"]["succeeded"] == 1
    assert cli.query("select count(*) from attempts where verdict = 'refused'") == [(1,)]


def test_results_at_a_private_address_stop_the_batch_and_are_fetched_once_that_is_allowed(
    cli: Cli, emulator: EmulatorProcess
):
    # given
    before = emulator.invoice()["pictures"]
    write_manifest(cli.folder / "private.yaml", [{"sku": f"S{number}", "prompt": f"{number}"} for number in range(5)])
    env = {"PACKSHOT_CONCURRENCY": "1", "PACKSHOT_ALLOW_PRIVATE_HOSTS": "0"}

    # when
    stopped = cli.run("run", "private.yaml", "--json", env=env)
    bought = emulator.invoice()["pictures"] - before
    done = cli.ok("run", "private.yaml", "--json")

    # then
    assert stopped.code == 1
    assert stopped.json["state"] == "stopped"
    assert "PACKSHOT_ALLOW_PRIVATE_HOSTS=1" in stopped.json["reason"]["message"]
    assert stopped.json["pictures"] == {
        "billed": bought,
        "stored": 0,
        "awaiting_copy": bought,
        "lost": 0,
        "not_given": 0,
    }
    assert bought < 5
    assert done.json["pictures"] == {"billed": 5, "stored": 5, "awaiting_copy": 0, "lost": 0, "not_given": 0}
    assert emulator.invoice()["pictures"] - before == 5


# -- the manifest and its pictures ---------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_bought")
@pytest.mark.parametrize("command", ["check", "plan", "run", "rehearse"])
def test_the_broken_manifest_tells_every_mistake_at_once_and_writes_nothing(here: InHere, command: str):
    # given
    expected = (ROOT / "tests/unit/broken.expected.txt").read_text(encoding="utf-8").splitlines()
    errors = [line.partition(": ")[2] for line in expected if line.startswith("error")]
    ledger = here.ledger
    here.folder, here.env = ROOT, {"PACKSHOT_DATABASE_URL": f"sqlite:///{ledger}"}

    # when
    result = here.run(command, "manifests/broken.yaml")

    # then
    assert result.code == 1
    assert result.out == ""
    assert set(errors) <= set(result.err.splitlines())
    assert f"{len(errors)} problems found; nothing was written or bought" in result.err
    assert not ledger.exists()


@pytest.mark.usefixtures("nothing_bought")
@pytest.mark.parametrize(
    ("name", "text", "code", "words"),
    [
        ("empty.yaml", "", 1, "an empty manifest"),
        ("empty.csv", "", 1, "an empty table"),
        ("header.csv", "sku,image,prompt\n", 1, "nothing to edit"),
        ("norows.yaml", "batch: x\n", 1, "nothing to edit"),
        ("model.yaml", "model: qwen-9\nrows: [{image: photo.png, prompt: x}]\n", 1, "'qwen-9' is not a model"),
        ("gone.yaml", "rows: [{image: gone.png, prompt: x}]\n", 1, "gone.png"),
        ("twice.yaml", "batch: a\nbatch: b\n", 1, "batch"),
        ("photo.png", None, 2, "is no manifest by its name"),
        ("nowhere.yaml", None, 2, "does not exist"),
        (".", None, 2, "no manifest"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_is_told_in_one_sentence(
    here: InHere, name: str, text: str | None, code: int, words: str
):
    draw_photo(here.folder / "photo.png")
    if text is not None:
        (here.folder / name).write_text(text)
    result = here.run("run", name)
    assert result.code == code, result
    assert words in result.err
    assert "Traceback" not in result.err
    assert not here.ledger.exists()


def test_a_picture_replaced_while_the_batch_waits_is_not_sent(cli: Cli, emulator: EmulatorProcess):
    # given: a batch that the provider stopped, and a picture that is another one now
    draw_photo(cli.folder / "mine.png", colour="blue")
    emulator.fault("arrears", times=99)
    write_manifest(cli.folder / "swap.yaml", [{"sku": "A", "prompt": "p", "image": "mine.png"}])
    assert cli.run("run", "swap.yaml").code == 1
    emulator.clear_faults()
    calls = len(emulator.calls())
    draw_photo(cli.folder / "mine.png", colour="green")

    # when
    refused(cli.run("run", "swap.yaml"), 1, "nothing was run")

    # then: and with the old picture it goes on
    assert len(emulator.calls()) == calls
    draw_photo(cli.folder / "mine.png", colour="blue")
    assert cli.ok("run", "swap.yaml", "--json").json["rows"]["succeeded"] == 1


# -- money ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_bought")
def test_a_dear_batch_is_not_run_unasked_where_nobody_can_be_asked(here: InHere):
    write_manifest(here.folder / "dear.yaml", ONE)
    result = here.run("run", "dear.yaml", env={"PACKSHOT_CONFIRM_OVER": "0.19"})
    refused(result, 2, "0.20 CNY", "PACKSHOT_CONFIRM_OVER", "--yes")
    assert here.query("select 1 from batches") == []


@pytest.mark.usefixtures("nothing_bought")
def test_a_budget_smaller_than_one_edit_buys_nothing_and_says_so(cli: Cli):
    write_manifest(cli.folder / "poor.yaml", ONE, budget="0.19 CNY")
    result = cli.run("run", "poor.yaml")
    assert result.code == 1
    assert "the quote is above the budget" in result.err
    assert "out of budget: 1 row remains" in result.err
    facts = cli.ok("status", "poor", "--json").json
    assert facts["state"] == "out_of_budget"
    assert facts["money"][0]["charged_micros"] == 0


# -- disk, bucket, ledger ------------------------------------------------------------------------------------


def a_photo_that_does_not_compress(path: Path) -> Path:
    Image.effect_noise((900, 900), 90).convert("RGB").save(path, "JPEG", quality=90)
    return path


@pytest.mark.usefixtures("ledger")
def test_a_file_that_may_not_grow_stops_the_batch_and_the_paid_picture_is_copied_later(
    cli: Cli, emulator: EmulatorProcess
):
    # given: no file may grow to the size of a picture; the ledger, which is there already, stays below
    photo = a_photo_that_does_not_compress(cli.folder / "noise.jpg")
    write_manifest(cli.folder / "full.yaml", [{"sku": "A", "prompt": "full", "size": "1536*1536", "image": photo.name}])
    before = emulator.invoice()["pictures"]

    # when
    limit = (900_000, resource.RLIM_INFINITY)
    stopped = run_under(cli, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit), "run", "full.yaml")

    # then
    assert stopped.code == 1, stopped
    assert "Traceback" not in stopped.err
    assert "StorageRefused" in stopped.out
    assert "larger than allowed" in stopped.out
    assert "1 paid and waiting to be copied" in stopped.out
    assert not list((cli.folder / "out").glob("*.png"))

    # when
    facts = cli.ok("run", "full.yaml", "--json").json

    # then
    assert facts["pictures"] == {"billed": 1, "stored": 1, "awaiting_copy": 0, "lost": 0, "not_given": 0}
    assert emulator.invoice()["pictures"] == before + 1


def test_a_full_disk_stops_the_batch_and_the_paid_picture_is_copied_once_there_is_room(
    cli: Cli, emulator: EmulatorProcess
):
    """A real file system of 100 KB, mounted for one process alone."""
    # given
    small = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "sh", "-c"]
    mount = 'mount -t tmpfs -o size=100k,nr_inodes=50 none out && exec "$@"'
    (cli.folder / "out").mkdir()
    if not shutil.which("unshare") or subprocess.run([*small, mount, "-", "true"], cwd=cli.folder).returncode:
        pytest.skip("this system lets nobody mount a small file system; the limit on file size is tested above")
    photo = a_photo_that_does_not_compress(cli.folder / "noise.jpg")
    write_manifest(cli.folder / "tiny.yaml", [{"sku": "A", "prompt": "tiny", "size": "1024*1024", "image": photo.name}])
    before = emulator.invoice()["pictures"]

    # when
    done = subprocess.run(
        [*small, mount, "-", COMMAND, "run", "tiny.yaml"],
        cwd=cli.folder, env=cli.environment(), capture_output=True, text=True,
    )  # fmt: skip

    # then
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "the disk is full; make room and run again" in done.stdout
    assert cli.ok("run", "tiny.yaml", "--json").json["pictures"]["stored"] == 1
    assert emulator.invoice()["pictures"] == before + 1


@pytest.mark.usefixtures("nothing_bought")
def test_an_output_folder_that_cannot_be_written_is_found_before_anything_is_bought(cli: Cli):
    write_manifest(cli.folder / "shut.yaml", ONE)
    (cli.folder / "out").mkdir(mode=0o555)
    refused(run_under(cli, permissions_count, "run", "shut.yaml"), 1, "out", os.strerror(errno.EACCES).lower())
    assert cli.query("select 1 from batches") == []


@pytest.mark.usefixtures("nothing_bought")
@pytest.mark.parametrize("command", ["run", "rehearse"])
def test_a_working_folder_that_cannot_be_written_is_told_with_the_way_out(cli: Cli, command: str):
    write_manifest(cli.folder / "shut.yaml", ONE)
    cli.folder.chmod(0o555)
    try:
        refused(
            run_under(cli, permissions_count, command, "shut.yaml"), 1, "Permission denied", "PACKSHOT_DATABASE_URL"
        )
        assert run_under(cli, permissions_count, "plan", "shut.yaml").code == 0
    finally:
        cli.folder.chmod(0o755)


@pytest.mark.usefixtures("nothing_bought")
def test_a_ledger_that_cannot_be_written_is_told_before_anything_is_bought(cli: Cli, ledger: Path):
    write_manifest(cli.folder / "shut.yaml", ONE)
    ledger.chmod(0o444)
    ledger.parent.chmod(0o555)
    try:
        refused(run_under(cli, permissions_count, "run", "shut.yaml"), 1, "ledger")
    finally:
        ledger.parent.chmod(0o755)


@pytest.mark.usefixtures("nothing_bought")
@pytest.mark.parametrize(
    "command", [("run", "l.yaml"), ("rehearse", "l.yaml"), ("status",), ("cost",), ("db", "upgrade")]
)
def test_a_ledger_of_a_newer_version_is_left_alone(here: InHere, ledger: Path, command: tuple[str, ...]):
    write_manifest(here.folder / "l.yaml", ONE)
    with sqlite3.connect(ledger) as connection:
        connection.execute("update alembic_version set version_num = '9999'")
    refused(here.run(*command), 1, "9999", "newer")
    assert here.query("select version_num from alembic_version") == [("9999",)]


@pytest.mark.usefixtures("nothing_bought")
@pytest.mark.parametrize("command", [("run", "l.yaml"), ("status",), ("db", "upgrade")])
def test_a_file_that_is_no_ledger_is_left_alone(here: InHere, command: tuple[str, ...]):
    write_manifest(here.folder / "l.yaml", ONE)
    here.ledger.parent.mkdir()
    here.ledger.write_bytes(b"minutes of the annual meeting " * 99)
    refused(here.run(*command), 1, "ledger.db", "not a database")
    assert here.ledger.read_bytes().startswith(b"minutes")


def test_before_the_first_batch_status_and_cost_say_how_to_begin(here: InHere):
    for command in ("status", "cost"):
        refused(here.run(command), 1, "no ledger", "packshot run")
    assert not here.ledger.parent.exists()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Process]:
    with S3Process(tmp_path_factory.mktemp("s3")) as running:
        running.make_bucket("pictures")
        yield running


@pytest.mark.usefixtures("nothing_bought")
def test_a_bucket_that_does_not_exist_is_found_before_anything_is_bought(here: InHere, s3: S3Process):
    write_manifest(here.folder / "b.yaml", ONE, output="s3://no-such-bucket/shop")
    refused(here.run("run", "b.yaml", env=s3.env()), 1, "s3://no-such-bucket", "NoSuchBucket")
    assert here.query("select 1 from batches") == []


@pytest.mark.usefixtures("nothing_bought")
@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_what_somebody_else_put_at_a_key_is_never_overwritten(here: InHere, s3: S3Process, kind: str):
    # given
    if kind == "bucket":
        s3.client().put_object(Bucket="pictures", Key="shop/A-edit-1.png", Body=b"somebody's only copy")
    else:
        (here.folder / "shop").mkdir()
        (here.folder / "shop/A-edit-1.png").write_bytes(b"somebody's only copy")
    write_manifest(here.folder / "clash.yaml", ONE, output="s3://pictures/shop" if kind == "bucket" else "shop")

    # when
    refused(here.run("run", "clash.yaml", env=s3.env()), 1, "A-edit-1.png", "nothing was bought")

    # then
    if kind == "bucket":
        found = s3.client().get_object(Bucket="pictures", Key="shop/A-edit-1.png")["Body"].read()
    else:
        found = (here.folder / "shop/A-edit-1.png").read_bytes()
    assert found == b"somebody's only copy"
    assert here.query("select 1 from batches") == []


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_bought")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("PACKSHOT_REGION = ", "cannot be read"),
        ("PACKSHOT_REGON = 'cn-beijing'", "did you mean PACKSHOT_REGION?"),
        ("PACKSHOT_CONCURRENCY = 0", "PACKSHOT_CONCURRENCY"),
        ("PACKSHOT_REGION = 5", "PACKSHOT_REGION"),
        ("PACKSHOT_LIMITS = 'fast'", "'fast' is not MODEL=REQUESTS/SECONDSs"),
    ],
)
def test_a_broken_settings_file_is_told_with_its_path(here: InHere, text: str, words: str):
    write_manifest(here.folder / "sub.yaml", ONE)
    (here.folder / "packshot.toml").write_text(text)
    refused(here.run("run", "sub.yaml", env={"PACKSHOT_LIMITS": ""}), 2, "packshot.toml", words)
    assert not here.ledger.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PACKSHOT_CONCURRENCY", "many"),
        ("PACKSHOT_CONFIRM_OVER", "10%"),
        ("PACKSHOT_EXPOSURE_LIMIT", "200%"),
        ("PACKSHOT_LOG", "loud"),
        ("PACKSHOT_DATABASE_URL", "mysql://host/name"),
        ("PACKSHOT_REGION", "mars"),
        ("PACKSHOT_LEASE_S", "1"),
        ("PACKSHOT_ALLOW_PRIVATE_HOSTS", "perhaps"),
        ("DASHSCOPE_HTTP_BASE_URL", "http://"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(here: InHere, name: str, value: str):
    refused(here.run("status", env={name: value}), 2, name)


def test_a_misspelt_setting_in_the_environment_is_told(here: InHere):
    result = here.ok("settings", env={"PACKSHOT_EXPOSURE_LIMT": "0"})
    assert "PACKSHOT_EXPOSURE_LIMT is not a setting; did you mean PACKSHOT_EXPOSURE_LIMIT?" in result.err


# -- the plug ------------------------------------------------------------------------------------------------


def test_sigterm_records_what_is_in_flight_and_the_next_run_finishes(cli: Cli, emulator: EmulatorProcess):
    # given
    rows = [{"sku": f"S{number:02}", "prompt": f"term {number}"} for number in range(30)]
    write_manifest(cli.folder / "term.yaml", rows)
    env = {"PACKSHOT_LIMITS": "qwen-image-2.0=4/1s", "PACKSHOT_YES": "1"}
    before = emulator.invoice()["micros"]

    # when
    with cli.start("run", "term.yaml", env=env) as process:
        until(lambda: len(cli.query("select 1 from jobs where status = 'succeeded'")) >= 2)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)

    # then
    assert process.returncode == 1
    assert "no new work" in said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert cli.query("select 1 from attempts where outcome in ('open', 'unknown')") == []
    ((charged,),) = cli.query("select charged_micros from accounts where id like 'batch:%'")
    assert emulator.invoice()["micros"] - before == charged
    assert cli.ok("run", "term.yaml", "--json", "--yes").json["rows"]["succeeded"] == 30
    assert emulator.invoice()["micros"] - before == 30 * 200_000


def test_status_answers_while_a_run_goes_on_and_after_a_kill_says_that_nobody_works(cli: Cli, here: InHere):
    # given
    write_manifest(
        cli.folder / "k.yaml", [{"sku": f"S{number:02}", "prompt": f"kill {number}"} for number in range(24)]
    )
    with cli.start("run", "k.yaml", env={"PACKSHOT_LIMITS": "qwen-image-2.0=1/1s"}) as process:
        until(lambda: cli.query("select 1 from jobs where status = 'succeeded'"))

        # when
        working = here.ok("status", "k").out
        process.kill()
        process.wait()

    # then
    assert "k: running" in working
    assert "nobody works" not in working
    assert "nobody works on it now; go on: packshot resume k" in here.ok("status", "k").out


def test_leaving_early_through_a_pipe_says_nothing(cli: Cli):
    whole = f"{COMMAND} models | head -n 1; {COMMAND} schema | true"
    done = subprocess.run(["sh", "-c", whole], cwd=cli.folder, env=cli.environment(), capture_output=True, text=True)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1

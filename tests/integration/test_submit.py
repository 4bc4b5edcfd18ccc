"""`submit`, `cancel` and `watch` against a real ledger: what is refused before it is handed to the cluster, and why."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from sqlalchemy import func, select, text

import scheduler.run
from models import batch, job
from models.database import Database
from models.errors import LedgerUnavailable
from models.tables import batches, jobs
from scheduler.cli import cluster as commands
from scheduler.lock import only_engine
from tests.servers.cli import Cli, Result, fast_env, write_manifest
from tests.servers.emulator import EmulatorProcess
from tests.servers.here import InHere


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    found = EmulatorProcess()
    found.start(tmp_path_factory.mktemp("emulator"), limits="qwen-image-2.0=1000/1s", latency=0.0)
    yield found
    found.kill()


@pytest.fixture
def cli(tmp_path: Path, postgres_url: str, emulator: EmulatorProcess) -> Cli:
    """Redis is named and not there: what hands a batch over needs none."""
    write_manifest(tmp_path / "night.yaml", [{"sku": "S1", "prompt": "on white"}])
    env = fast_env(emulator.url, PACKSHOT_DATABASE_URL=postgres_url, PACKSHOT_REDIS_URL="redis://127.0.0.1:1/0")
    return Cli(tmp_path, {**env, "PACKSHOT_YES": "1"})


@contextmanager
def ledger(cli: Cli) -> Iterator[Database]:
    database = Database(cli.env["PACKSHOT_DATABASE_URL"])
    yield database
    database.close()


def change(cli: Cli, sql: str) -> None:
    with ledger(cli) as database, database.write() as tx:
        tx.execute(text(sql))


def engine_of_night(cli: Cli) -> str | None:
    with ledger(cli) as database, database.read() as connection:
        return connection.execute(text("SELECT engine FROM batches")).scalar_one_or_none()


def submit(cli: Cli, **env: str) -> Result:
    return cli.run("submit", "night.yaml", env=env)


def test_a_daily_budget_in_another_currency_is_no_budget_and_is_refused(cli: Cli):
    result = submit(cli, PACKSHOT_DAILY_BUDGET="100 USD")

    assert result.code == 2
    assert "names no amount in CNY" in result.err
    assert engine_of_night(cli) is None


def test_a_key_that_the_provider_does_not_take_is_told_before_the_batch_is_written(cli: Cli):
    result = submit(cli, DASHSCOPE_API_KEY="not-a-key")

    assert result.code == 1
    assert "nothing was bought" in result.err
    assert engine_of_night(cli) is None


def test_without_a_key_of_its_own_a_host_may_submit_and_is_told_that_the_provider_was_not_asked(cli: Cli):
    result = submit(cli, DASHSCOPE_API_KEY="")

    assert result.code == 0, result
    assert "warning: DASHSCOPE_API_KEY is not set here" in result.err


def test_a_batch_that_was_cancelled_is_not_handed_over_again(cli: Cli):
    # given
    cli.ok("submit", "night.yaml")
    cli.ok("cancel", "night", "--yes")

    # when
    result = submit(cli)

    # then
    assert (result.code, result.out) == (1, "")
    assert "was cancelled, and that is for good; give the manifest another name" in result.err


def test_a_batch_that_a_run_works_on_is_taken_over_only_when_the_run_has_ended(cli: Cli):
    # given
    cli.ok("submit", "night.yaml")
    change(cli, "UPDATE batches SET engine = 'embedded'")

    # when
    with ledger(cli) as database, only_engine(database):
        during = submit(cli)
    engine = engine_of_night(cli)
    after = submit(cli)

    # then
    assert (during.code, engine) == (1, "embedded")
    assert "another packshot run works on this ledger" in during.err
    assert (after.code, engine_of_night(cli)) == (0, "cluster")


def change_the_prompt(cli: Cli) -> None:
    write_manifest(cli.folder / "night.yaml", [{"sku": "S1", "prompt": "on grey"}])


def hand_out(cli: Cli) -> None:
    """As a scheduler would."""
    with ledger(cli) as database, database.write() as tx:
        assert job.queue(tx, tx.execute(select(jobs.c.id)).scalar_one(), datetime.now(UTC))


@pytest.fixture
def here(cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InHere:
    return InHere(cli, monkeypatch, capsys)


def at(monkeypatch: pytest.MonkeyPatch, place: object, name: str, happens: Callable[[], object]) -> None:
    """Something happens once when `name` is called."""
    before, todo = getattr(place, name), [happens]

    def called(*args, **kwargs):
        if todo:
            todo.pop()()
        return before(*args, **kwargs)

    monkeypatch.setattr(place, name, called)


def test_a_batch_that_is_handed_out_while_a_changed_one_is_submitted_stays(cli, here, monkeypatch):
    # given
    cli.ok("submit", "night.yaml")
    change_the_prompt(cli)
    at(monkeypatch, scheduler.run, "check_destinations", lambda: hand_out(cli))

    # when
    result = here.run("submit", "night.yaml")

    # then
    assert result.code == 1
    assert "prompt changed" in result.err
    assert "give the new one another name" in result.err
    with ledger(cli) as database, database.read() as connection:
        assert connection.execute(select(jobs.c.status)).scalar_one() == "queued"


def test_a_batch_that_is_handed_out_while_its_records_are_being_replaced_stays(cli, here, monkeypatch):
    # given: the look whether it is untouched comes a moment too early
    cli.ok("submit", "night.yaml")
    change_the_prompt(cli)
    at(monkeypatch, batch, "_delete_all", lambda: hand_out(cli))

    # when
    result = here.run("submit", "night.yaml")

    # then
    assert result.code == 1
    assert "give the new one another name" in result.err


def test_a_batch_that_a_person_has_given_orders_to_is_not_replaced(cli: Cli):
    cli.ok("submit", "night.yaml")
    cli.ok("pause", "night")
    change_the_prompt(cli)

    result = submit(cli)

    assert result.code == 1
    assert "give the new one another name" in result.err


def test_of_two_who_submit_the_same_at_once_one_batch_comes_about(cli, here, monkeypatch):
    # given: the other is written and handed out while this one looks at the places
    def other() -> None:
        cli.ok("submit", "night.yaml")
        hand_out(cli)

    at(monkeypatch, scheduler.run, "check_destinations", other)

    # when
    result = here.run("submit", "night.yaml")

    # then
    assert (result.code, result.out) == (0, "night\n")


def test_whoever_is_replaced_while_writing_is_told_so(cli, here, monkeypatch):
    # given
    at(monkeypatch, batch, "add_block", lambda: cli.ok("submit", "night.yaml"))

    # when
    result = here.run("submit", "night.yaml")

    # then
    assert result.code == 1
    assert "was submitted by somebody else while this one was being written" in result.err
    with ledger(cli) as database, database.read() as connection:
        assert connection.execute(select(batches.c.state)).scalar_one() == "open"
        assert connection.execute(select(func.count()).select_from(jobs)).scalar_one() == 1


def test_a_batch_that_is_finished_cannot_be_cancelled(cli: Cli):
    # given
    cli.ok("submit", "night.yaml")
    change(cli, "UPDATE jobs SET status = 'succeeded'")

    # when
    result = cli.run("cancel", "night", "--yes")

    # then
    assert result.code == 1
    assert "night is finished: nothing is left to be cancelled" in result.err


def test_watch_goes_on_when_the_ledger_was_away_for_a_moment(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    # given: a batch that ended, and a ledger that cannot be asked at first
    cli.ok("submit", "night.yaml")
    cli.ok("cancel", "night", "--yes")
    look, refusals = commands._look, iter([True, True])

    def away(*asked):
        if next(refusals, False):
            raise LedgerUnavailable("the ledger is away")
        return look(*asked)

    for name, value in cli.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(cli.folder)
    monkeypatch.setattr(commands, "AWAY_S", 0.0)
    monkeypatch.setattr(commands, "_look", away)

    # when
    try:
        commands.watch("night", json=False)
    except typer.Exit as left:
        pytest.fail(f"left with {left.exit_code}")

    # then
    said = capsys.readouterr()
    assert said.err.count("the ledger is away; trying again") == 2
    assert "night: cancelled" in said.out

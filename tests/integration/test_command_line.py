"""The command against what a shell and a system can do to it: always one sentence, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.settings import load
from scheduler.cli.app import decision
from tests.servers.cli import Cli, write_manifest


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def shell(cli: Cli, line: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", line],
        cwd=cli.folder,
        env={**cli.environment(), "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


LONG = "x" * 300


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (f"packshot check {LONG}.yaml", 2, "cannot be read: File name too long; write the path of a manifest"),
        ("mkdir d.yaml; packshot check d.yaml", 2, "d.yaml is a folder; write"),
        ("ln -s nowhere l.yaml; packshot check l.yaml", 2, "l.yaml is a link to what does not exist; write"),
        ("packshot settings > /dev/full", 1, "error: No space left on device"),
        ("mkdir gone; cd gone; rmdir ../gone; packshot settings", 2, "the working folder is not there any more"),
        ("packshot emulator --port 99999 --state s", 2, "--port 99999 is none; write a number up to 65535"),
        ("packshot emulator --port -1 --state s", 2, "--port -1 is none"),
    ],
)
def test_it_is_told_in_one_sentence(cli: Cli, line: str, code: int, words: str):
    done = shell(cli, line)

    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_table_that_cannot_be_named_is_a_mistake_of_the_manifest(cli: Cli):
    (cli.folder / "m.yaml").write_text(f"tables: [{LONG}.csv]\n")

    result = cli.run("check", "m.yaml")

    assert result.code == 1
    assert "cannot be read: File name too long" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_is_closed_is_nobody_s_trouble(cli: Cli, closed: str):
    assert shell(cli, f"packshot settings {closed}").returncode == 0


def test_files_of_the_working_folder_are_no_part_of_the_emulator(cli: Cli):
    for name in ("html", "models", "uvicorn"):
        (cli.folder / f"{name}.py").write_text("raise SystemExit('taken for ours')")

    assert shell(cli, "packshot emulator --help").returncode == 0


def test_the_emulator_s_help_has_an_example_and_says_what_each_fault_does(cli: Cli):
    said = shell(cli, "packshot emulator --help").stdout

    assert "Example: packshot emulator --port 8090" in said
    assert "The connection is reset before the request is read." in said


def test_a_user_without_a_name_decides_by_number(monkeypatch: pytest.MonkeyPatch):
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nobody)

    assert decision("retry", load(environ={}), "").who == f"uid {os.getuid()}"


def test_a_rehearsal_in_a_folder_that_cannot_be_written_says_so(cli: Cli):
    write_manifest(cli.folder / "m.yaml", [{"sku": "A", "prompt": "red"}])
    (cli.folder / ".packshot").write_text("in the way")

    result = cli.run("rehearse", "m.yaml", env={"PACKSHOT_DATABASE_URL": f"sqlite:///{cli.folder}/ledger.db"})

    assert result.code == 1
    assert "cannot make the emulator's folder" in result.err
    assert "Traceback" not in result.err

"""Which ledger a command opens, and that none is made where another knows what is paid."""

import pytest

from models.errors import UsageError
from models.settings import load
from scheduler.cli.app import open_ledger


@pytest.fixture(autouse=True)
def _logs_as_they_are(monkeypatch):
    """A command sets the logs of its whole process, and here that is everybody's."""
    monkeypatch.setattr("models.logs.configure", lambda _level: None)


def test_no_new_ledger_is_made_while_the_manifest_s_folder_has_one(tmp_path, monkeypatch):
    project = tmp_path / "my project"
    project.mkdir()
    monkeypatch.chdir(project)
    with open_ledger(load(project, environ={}), create=True):
        pass
    monkeypatch.chdir(tmp_path)

    with (
        pytest.raises(UsageError, match=r"buy again .* cd '.*/my project' first, or set PACKSHOT_DATABASE_URL"),
        open_ledger(load(project, environ={}), create=True),
    ):
        pass

    assert not (tmp_path / ".packshot").exists()


def test_a_command_below_the_ledger_s_folder_uses_it_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with open_ledger(load(environ={}), create=True):
        pass
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")

    with open_ledger(load(tmp_path / "below", environ={}), create=True) as database:
        assert database.file is not None
        assert database.file.resolve() == tmp_path / ".packshot" / "ledger.db"

    assert capsys.readouterr().err == "ledger: sqlite:///../.packshot/ledger.db\n"

"""packshot in this very process: for commands that end before other processes matter. A real start costs a second."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import StringIO

import pytest

from scheduler.cli import main
from tests.servers.cli import Cli, Result


class InHere(Cli):
    """Like Cli: same folder, same environment, same results."""

    def __init__(self, cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(cli.folder, cli.env)
        self._patch, self._printed = monkeypatch, capsys

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, timeout_s: float = 0) -> Result:
        wanted = {**self.environment(), **(env or {})}
        with self._patch.context() as patch:
            for name in set(os.environ) - set(wanted):
                patch.delenv(name)
            for name, value in wanted.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr("sys.argv", ["packshot", *arguments])
            patch.setattr("sys.stdin", StringIO())
            self._printed.readouterr()
            with pytest.raises(SystemExit) as left:
                main()
            said = self._printed.readouterr()
        return Result(int(left.value.code or 0), said.out, said.err)

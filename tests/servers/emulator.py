"""A real emulator process for tests: start it, misuse it, read its books, kill it, start it again."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import urllib3

from tests.servers import nursery

API_KEY = "sk-rehearsal"
READY_WITHIN_S = 30


class EmulatorProcess:
    """Options are the command's, with underscores: latency=0, limits="...", fault={"slow": 0.1}, retired="refuse".

    url:  base of the API, `http://127.0.0.1:PORT/api/v1`
    root: `http://127.0.0.1:PORT`
    """

    def __init__(self) -> None:
        self.url = ""
        self.port = 0
        self.state_dir: Path | None = None
        self._options: dict[str, Any] = {}
        self._process: subprocess.Popen[str] | None = None
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=5, read=60))

    @property
    def root(self) -> str:
        return self.url.removesuffix("/api/v1")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, state_dir: Path, *, port: int = 0, **options: Any) -> EmulatorProcess:
        """Waits for the ready line. Raises RuntimeError with what the process said where it does not come."""
        options = {"latency": 0, **options}
        command = [sys.executable, "-m", "emulator", "--port", str(port), "--state", str(state_dir)]
        self._process = nursery.popen(
            command + _arguments(options),
            env=os.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
            cwd=nursery.ROOT,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the emulator left with {self._process.wait()} before it was ready")
        self.url = json.loads(line)["url"]
        self.port = int(self.root.rpartition(":")[2])
        self.state_dir, self._options = state_dir, options
        return self

    def restart(self) -> EmulatorProcess:
        """The same state, port and options again; whatever is still running is killed first."""
        assert self.state_dir is not None
        self.kill()
        return self.start(self.state_dir, port=self.port, **self._options)

    def invoice(self, *, summary: bool = False) -> dict[str, Any]:
        """{"currency", "micros", "pictures", "lines": [...]}"""
        return self._ask("GET", "/emulator/invoice" + ("?summary=1" if summary else ""))

    def calls(self) -> list[dict[str, Any]]:
        """Every generation call that ended, oldest first."""
        found: list[dict[str, Any]] = self._ask("GET", "/emulator/calls")["calls"]
        return found

    def fault(self, name: str, times: int = 1, **match: Any) -> None:
        """The next `times` matching calls have this fault. match: model, prompt_contains, downloads, seconds."""
        self._ask("POST", "/emulator/faults", {"fault": name, "times": times, **match})

    def clear_faults(self) -> None:
        self._ask("DELETE", "/emulator/faults")

    def limit(self, limits: str) -> None:
        """`qwen-image-2.0=100/1s`, from now on."""
        self._ask("POST", "/emulator/limits", {"limits": limits})

    def kill(self) -> None:
        """SIGKILL; does nothing where nothing runs."""
        if self._process is not None:
            self._process.kill()
            self.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Waits until the process has left (at most 30 s, then it is killed); returns its exit code."""
        process, self._process = self._process, None
        assert process is not None
        try:
            code = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        for pipe in (process.stdout, process.stdin):
            if pipe is not None:
                pipe.close()
        self._http.clear()
        return code

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = (
            self._http.request(method, self.root + path, json=body)
            if body is not None
            else self._http.request(method, self.root + path)
        )
        if answer.status != 200:
            raise AssertionError(f"{method} {path}: {answer.status} {answer.data!r}")
        found: dict[str, Any] = json.loads(answer.data)
        return found


def _arguments(options: dict[str, Any]) -> list[str]:
    arguments: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            arguments.append(flag)
        elif isinstance(value, dict):
            for key, share in value.items():
                arguments += [flag, f"{key}={share}"]
        elif value is not None and value is not False:
            arguments += [flag, str(value)]
    return arguments


@contextlib.contextmanager
def running_emulator(state_dir: Path | None = None, **options: Any) -> Iterator[EmulatorProcess]:
    """An emulator for the length of a block, with --latency 0 unless said otherwise; killed at the end."""
    with contextlib.ExitStack() as stack:
        folder = state_dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        emulator = EmulatorProcess()
        stack.callback(lambda: emulator.kill())
        yield emulator.start(folder, **options)

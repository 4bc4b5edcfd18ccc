"""packshot as a user runs it: the installed command, in a folder of its own, with an environment of its own."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tests.servers import nursery

COMMAND = str(Path(sys.executable).with_name("packshot"))
OURS = ("PACKSHOT_", "DASHSCOPE_", "AWS_")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __str__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


@dataclass
class Cli:
    """Runs commands in `folder`. env: on top of an environment without any setting of ours."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        return {**clean, "COLUMNS": "200", "NO_COLOR": "1", **self.env}

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, timeout_s: float = 120) -> Result:
        wanted = {**self.environment(), **(env or {})}
        return Result(*nursery.run([COMMAND, *arguments], env=wanted, cwd=self.folder, timeout_s=timeout_s))

    def ok(self, *arguments: str, **options: Any) -> Result:
        """Run a command that must succeed."""
        result = self.run(*arguments, **options)
        assert result.code == 0, result
        return result

    @contextmanager
    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
        """Start a command and leave it running; whatever is left of it at the end is killed."""
        process = nursery.popen(
            [COMMAND, *arguments],
            cwd=self.folder,
            env={**self.environment(), **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()

    @property
    def ledger(self) -> Path:
        return self.folder / ".packshot" / "ledger.db"

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Ask the SQLite ledger; empty while it is not there yet."""
        if not self.ledger.exists():
            return []
        with sqlite3.connect(self.ledger, timeout=30) as connection:
            try:
                return connection.execute(sql, parameters).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise


def until(condition: Any, *, within_s: float = 30.0, every_s: float = 0.02) -> None:
    """Wait for another process to come to a point; fails when it does not."""
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(every_s)


def draw_photo(path: Path, *, colour: str = "crimson", side: int = 400) -> Path:
    """A plain product photo: a disc on grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (side, side), "#d8d8d8")
    ImageDraw.Draw(image).ellipse((side // 4, side // 4, side * 3 // 4, side * 3 // 4), fill=colour)
    image.save(path)
    return path


def write_manifest(
    path: Path, rows: list[Mapping[str, Any]], *, recipes: Mapping[str, Any] | None = None, **top: Any
) -> Path:
    """A YAML manifest (JSON is YAML) next to one drawn photo, `photo.png`, which rows use unless they say otherwise."""
    if not (path.parent / "photo.png").exists():
        draw_photo(path.parent / "photo.png")
    top = {"batch": path.stem, "output": "out", "model": "qwen-image-2.0", "defaults": {"size": "512*512"}, **top}
    if recipes:
        top["recipes"] = dict(recipes)
    path.write_text(json.dumps({**top, "rows": [{"image": "photo.png", **row} for row in rows]}), encoding="utf-8")
    return path


def fast_env(emulator_url: str, *, rate: str = "1000/1s", **more: str) -> dict[str, str]:
    """Settings of a run against an emulator on this machine."""
    return {
        "DASHSCOPE_API_KEY": "sk-rehearsal",
        "DASHSCOPE_HTTP_BASE_URL": emulator_url,
        "PACKSHOT_ALLOW_PRIVATE_HOSTS": "1",
        "PACKSHOT_LIMITS": f"qwen-image-2.0={rate}",
        **more,
    }

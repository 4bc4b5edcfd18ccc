"""The emulator as a command, and as the stage of a rehearsal. It is started as a process, never imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from models.errors import PackshotError, UsageError
from models.settings import Settings
from scheduler.cli.app import app, load_settings

REHEARSAL_LATENCY_S = 0.8
EMULATOR = (sys.executable, "-P", "-m", "emulator")  # -P: a user's html.py in the working folder is no part of it


class EmulatorFailed(PackshotError):
    pass


@app.command(
    "emulator",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    epilog="Example: packshot emulator --port 8090 --state /tmp/emulator",
)
def emulator(context: typer.Context) -> None:
    """Start a double of the provider on this machine: bills, limits and fails on request, and keeps its invoice."""
    command = [*EMULATOR, *_account(load_settings()), *context.args]  # what is said last holds
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606


def check_faults(faults: list[str]) -> None:
    """Raises UsageError, in the emulator's words, where it would not take them."""
    if not faults:
        return
    command = [*EMULATOR, "--port", "0", "--state", os.devnull, "--only-check"]
    done = subprocess.run([*command, *(f"--fault={fault}" for fault in faults)], capture_output=True, text=True)
    if done.returncode != 0:
        raise UsageError(
            (done.stderr.strip().splitlines() or ["the emulator did not start"])[-1].rpartition("error: ")[2]
        )


@contextmanager
def rehearsal_emulator(settings: Settings, state: Path, region: str, faults: list[str]) -> Iterator[str]:
    """An emulator that lives exactly as long as this process, however it ends. Yields its address.

    It limits and bills as the settings say, wherever they were set: the engine paces and books by the same ones.

    Raises EmulatorFailed with the emulator's own words when it does not start.
    """
    command = [*EMULATOR, "--port", "0", "--state", str(state), "--region", region]
    command += ["--latency", str(REHEARSAL_LATENCY_S), "--fetch", "standin", "--parent-pipe"]
    command += _account(settings)
    for fault in faults:
        command += ["--fault", fault]
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmulatorFailed(
            f"{state}: cannot make the emulator's folder: {error.strerror}; work in a folder of your own"
        ) from None
    with (state / "emulator.log").open("ab") as talk:
        process = subprocess.Popen(  # a group of its own: Ctrl-C is for us, the provider goes on answering
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=talk, start_new_session=True
        )
    try:
        assert process.stdout is not None  # noqa: S101
        ready = process.stdout.readline()
        if not ready:
            said = (state / "emulator.log").read_text(errors="replace").strip().splitlines()
            raise EmulatorFailed(f"the emulator did not start: {said[-1] if said else 'it said nothing'}")
        yield str(json.loads(ready)["url"])
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _account(settings: Settings) -> list[str]:
    """Said even where nothing is set, so that the emulator never reads another value out of its environment."""
    return [f"--limits={settings.limits}", f"--prices={settings.prices}"]

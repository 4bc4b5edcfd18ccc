"""packshot on the command line: results to stdout, talk to stderr; exits 0 done, 1 rows or jobs wrong, 2 misused."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from models.errors import PackshotError

INTERRUPTED = 130  # typer's exit code for Ctrl-C


def main() -> None:
    """The console script. Every error of ours, and of the system, becomes one sentence on stderr and its exit code."""
    _open_what_is_closed()
    try:
        from scheduler.cli.app import app

        try:
            app()
        finally:
            sys.stdout.flush()  # a full disk shows here, and not when the interpreter leaves
    except PackshotError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:  # the reader of our stdout went away, e.g. `| head`
        _hush()
        raise SystemExit(1) from None
    except OSError as error:
        _hush()
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            _interrupted()
        raise


def _open_what_is_closed() -> None:
    """`packshot status >&-` says nothing; and no file of ours may come to lie where stdout was."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for the life of the process
            if getattr(sys, name).fileno() != number:
                os.dup2(getattr(sys, name).fileno(), number)


def _hush() -> None:
    """What is still to be written has nowhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupted() -> NoReturn:
    print("interrupted; nothing is lost, the same command goes on", file=sys.stderr)
    raise SystemExit(1) from None

"""packshot on the command line: results to stdout, talk to stderr; exits 0 done, 1 rows or jobs wrong, 2 misused."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from models.errors import PackshotError

INTERRUPTED = 130  # typer's exit code for Ctrl-C


def main() -> None:
    """The console script. Every error of ours becomes one sentence on stderr and its exit code."""
    try:
        from scheduler.cli.app import app

        app()
    except PackshotError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:  # the reader of our stdout went away, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            _interrupted()
        raise


def _interrupted() -> NoReturn:
    print("interrupted; nothing is lost, the same command goes on", file=sys.stderr)
    raise SystemExit(1) from None

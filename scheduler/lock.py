"""One embedded engine per ledger: two would each keep their own limiter and pass the account's limit together."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

from models.database import Database
from models.errors import LedgerUnavailable

_ADVISORY_KEY = 0x7061636B73686F74  # "packshot"


@contextmanager
def only_engine(database: Database) -> Iterator[None]:
    """Hold the ledger's engine lock; the operating system, or the server, frees it when the process dies.

    Raises LedgerUnavailable naming the process that holds it.
    """
    if database.file is None:
        with database.read() as connection:
            if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY_KEY}).scalar_one():
                raise LedgerUnavailable("another packshot run works on this ledger; wait for it, or stop it")
            yield
        return
    path = _lock_file(database.file)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise LedgerUnavailable(f"{path}: cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            raise LedgerUnavailable(
                f"another packshot (process {holder}) works on the ledger {database.file}; wait for it, or stop it"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def nobody_works(database: Database) -> bool:
    """Whether the engine that last held the lock is gone for sure. False where that cannot be told.

    A look at the process it named, not at the lock: taking that, for however short, could turn a run away.
    """
    if database.file is None:
        return False
    try:
        os.kill(int(_lock_file(database.file).read_text()), 0)
    except (FileNotFoundError, ProcessLookupError):
        return True
    except (OSError, ValueError):
        return False
    return False


def _lock_file(ledger: Path) -> Path:
    return ledger.with_name(ledger.name + ".lock")

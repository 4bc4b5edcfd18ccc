"""Everything the emulator owns, opened together: its books, its stores, its limits and its faults."""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO

from emulator.calls import Calls
from emulator.faults import Faults
from emulator.inputs import Inputs
from emulator.invoice import Invoice
from emulator.limits import Limits
from emulator.options import Options
from emulator.pictures import Pictures
from emulator.results import Results
from emulator.uploads import Uploads
from models.catalogue import Model, with_overrides

DRAWING_THREADS = 4


class House:
    """Raises OSError where the state directory cannot be used. clock: Unix seconds."""

    def __init__(self, options: Options, clock: Callable[[], float] = time.time) -> None:
        self.options = options
        self.clock = clock
        folder = options.state
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder / "lock")
        self.models = with_overrides(options.limits, options.prices)
        self.invoice = Invoice(folder, _currency(self.models.values(), options.region))
        self.calls = Calls(folder)
        self.results = Results(folder, clock, options.url_life_s)
        self.uploads = Uploads(folder, clock)
        self.inputs = Inputs(self.uploads, options.fetch)
        self.limits = Limits(clock, options.limits)
        self.faults = Faults(options.shares, options.seed)
        self.pictures = Pictures()
        self.threads = ThreadPoolExecutor(DRAWING_THREADS, "draw")
        self._said: set[str] = set()

    def today(self) -> date:
        return datetime.fromtimestamp(self.clock(), UTC).date()

    def say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            print(sentence, file=sys.stderr, flush=True)

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.invoice.close()
        self.calls.close()
        self._lock.close()


def _currency(models: Iterable[Model], region: str) -> str:
    """One region bills in one currency."""
    return next(filter(None, (model.currency(region) for model in models)), "CNY")


def _locked(path: Path) -> IO[str]:
    """Two emulators would mix their books. The lock goes with the process, however it ends."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise OSError("another emulator is using it") from None
    return file

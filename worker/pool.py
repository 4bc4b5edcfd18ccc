"""The embedded engine's hands: a thread pool in this process behind the same `enqueue(job_id)`."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from models.database import Database
from models.errors import PackshotError
from models.settings import Settings
from worker.build import build_executor

log = structlog.get_logger()


class ThreadBroke(PackshotError):
    """An error of ours in the middle of a job, outside of what the executor settles."""


class EmbeddedBroker:
    """A thread pool that works on jobs in this process. `enqueue` never blocks."""

    def __init__(self, settings: Settings, database: Database, *, owner: str) -> None:
        self.executor = build_executor(settings, database, owner=owner)
        self._pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="job")
        self._under_way: set[Future[None]] = set()
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._slots = settings.concurrency
        self._broke: ThreadBroke | None = None

    def enqueue(self, job_id: int) -> None:
        """Hand a job over. Call it after the commit that made the job `queued`."""
        future = self._pool.submit(self.executor.execute, job_id)
        with self._lock:
            self._under_way.add(future)
        future.add_done_callback(self._forget)

    def under_way(self) -> int:
        with self._lock:
            return len(self._under_way)

    def free_slots(self) -> int:
        return max(0, self._slots - self.under_way())

    def rate(self, model: str) -> float:
        """Present requests per second of a model's lane."""
        return self.executor.limiter.rate(model)

    def trouble(self) -> PackshotError | None:
        """Why no job comes to an end: a thread broke off, or the ledger takes no writes (LedgerUnavailable)."""
        return self._broke or self.executor.refused

    def stop(self) -> None:
        """Take no new work: waiting jobs give their claims back, calls in flight are recorded."""
        self.executor.stop.set()

    def join(self) -> None:
        self._pool.shutdown(wait=True)

    def wait(self, timeout_s: float) -> None:
        """Until a job finishes, or the time is over."""
        self._finished.wait(timeout_s)
        self._finished.clear()

    def _forget(self, future: Future[None]) -> None:
        with self._lock:
            self._under_way.discard(future)
        if error := future.exception():  # the claim stays; it is found when its lease ends, or by the next run
            log.error("a job's thread broke off; the ledger tells how far it came", exc_info=error)
            self._broke = ThreadBroke(
                f"a job met an error nobody expected ({type(error).__name__}: {error}); nothing is lost, "
                "the same command goes on where this one stopped"
            )
        self._finished.set()

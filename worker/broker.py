"""The one door between the scheduler and the workers: `enqueue(job_id)`, and what must be asked before it opens.

Embedded, the door leads to a thread pool in this process (`embedded`); in the cluster, to Celery on Redis
(`CeleryBroker`). `celery -A worker.broker worker -P threads` starts a worker as well: `app` is made when asked for, so
that a command that needs no cluster does not load one.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import structlog

from models.errors import PackshotError, SettingsError
from models.settings import Settings
from worker.preflight import ProviderNotReady, check_provider, preflight, read_object

if TYPE_CHECKING:
    from models.database import Database
    from worker.limiter import Limiter
    from worker.pool import EmbeddedBroker

__all__ = [
    "CeleryBroker",
    "ProviderNotReady",
    "QueueUnavailable",
    "check_provider",
    "embedded",
    "need_cluster",
    "preflight",
    "read_object",
    "work_for_cluster",
]
log = structlog.get_logger()


SEE_TO_REDIS = "see that Redis runs and that PACKSHOT_REDIS_URL is right"


class QueueUnavailable(PackshotError):
    """Redis cannot be reached, or refuses. Nothing was handed over."""

    retryable = True


@dataclass(frozen=True)
class ServerFacts:
    """What must be right of a Redis server. eviction: its maxmemory-policy."""

    version: str
    append_only: bool
    eviction: str


def need_cluster(settings: Settings) -> None:
    """Raises SettingsError where the settings are those of one machine."""
    redis_url(settings)
    if settings.database_url.startswith("sqlite"):
        raise SettingsError(
            "PACKSHOT_DATABASE_URL is a SQLite file, which several processes and hosts cannot share safely; "
            "write postgresql://user@host/name, or use packshot run on one machine"
        )


def redis_url(settings: Settings) -> str:
    """Raises SettingsError where there is none."""
    if settings.redis_url is None:
        raise SettingsError(
            "PACKSHOT_REDIS_URL is not set: the cluster's queue lives in Redis; write redis://host:6379/0"
        )
    return settings.redis_url.get_secret_value()


def work_for_cluster() -> None:
    """Be one worker of the cluster until SIGTERM, as `celery -A worker.broker worker -P threads` is.

    Celery gives up for good on some errors that come of a connection closed under it while Redis dies. By then it has
    let the calls in flight end; this process begins anew, as a supervisor would have it do.
    """
    from worker import tasks

    command = ["worker", "--pool", "threads", "--hostname", f"packshot-{os.getpid()}@%h"]
    try:
        _cluster_app().worker_main(command)
    finally:
        if tasks.broke_off():
            log.error("the worker broke off without being told to; it begins anew")
            os.execv(sys.executable, [sys.executable, "-P", "-m", "worker"])  # noqa: S606


def embedded(settings: Settings, database: Database, *, owner: str) -> EmbeddedBroker:
    """A pool of threads in this process."""
    from worker.pool import EmbeddedBroker

    return EmbeddedBroker(settings, database, owner=owner)


class CeleryBroker:
    """The cluster's queue, as the scheduler sees it."""

    def __init__(self, settings: Settings) -> None:
        from worker.queue import make_app

        self._settings = settings
        self._app = make_app(settings)

    @cached_property
    def _limiter(self) -> Limiter:
        from worker.build import build_limiter

        return build_limiter(self._settings)

    def enqueue(self, job_id: int) -> None:
        """Send a job's id. Call it after the commit that made the job `queued`. Raises QueueUnavailable."""
        from kombu.exceptions import OperationalError
        from redis.exceptions import RedisError

        from worker.queue import QUEUE, TASK

        try:
            self._app.send_task(TASK, args=[job_id], exchange="", routing_key=QUEUE, retry=False)
        except (OperationalError, RedisError, OSError) as error:
            raise QueueUnavailable(f"the queue in Redis cannot be written: {error}; {SEE_TO_REDIS}") from error

    def waiting(self) -> tuple[set[int], int]:
        """Job ids whose messages nobody took yet, and how many messages were taken and not begun.

        Raises QueueUnavailable. Dispatch keeps the queue short, so it is read whole.
        """
        from kombu.exceptions import OperationalError
        from redis.exceptions import RedisError

        from worker.queue import QUEUE, job_id_of

        try:
            with self._app.connection_for_read() as connection:
                client = connection.default_channel.client
                return {job_id_of(raw) for raw in client.lrange(QUEUE, 0, -1)}, int(client.hlen("unacked"))
        except (OperationalError, RedisError, OSError) as error:
            raise QueueUnavailable(f"the queue in Redis cannot be read: {error}; {SEE_TO_REDIS}") from error

    def length(self) -> int:
        """How many messages lie in Redis: those that nobody took yet, and those that were taken and not begun.

        Raises QueueUnavailable. Asked in every round of dispatch, so it keeps its connection.
        """
        from kombu.exceptions import OperationalError
        from redis.exceptions import RedisError

        from worker.queue import QUEUE

        try:
            with self._app.pool.acquire(block=True) as connection:
                client = connection.default_channel.client
                return int(client.llen(QUEUE)) + int(client.hlen("unacked"))
        except (OperationalError, RedisError, OSError) as error:
            raise QueueUnavailable(f"the queue in Redis cannot be read: {error}") from error

    def rate(self, model: str) -> float:
        """Present requests per second of a model's lane."""
        return self._limiter.rate(model)

    def workers(self, timeout_s: float = 1.5, *, host: str | None = None) -> list[str]:
        """Names of the workers that answer now; with a host, the first that answers there."""
        from kombu.exceptions import OperationalError
        from redis.exceptions import RedisError

        try:
            there = {} if host is None else {"pattern": f"*@{host}", "matcher": "glob", "limit": 1}
            return sorted(self._app.control.inspect(timeout=timeout_s, **there).ping() or {})
        except (OperationalError, RedisError, OSError) as error:
            raise QueueUnavailable(f"the workers cannot be asked: {error}; {SEE_TO_REDIS}") from error

    def server_facts(self) -> ServerFacts:
        """Of the Redis server, by INFO: managed services forbid CONFIG. Raises QueueUnavailable."""
        from kombu.exceptions import OperationalError
        from redis.exceptions import RedisError

        try:
            with self._app.connection_for_read() as connection:
                said = connection.default_channel.client.info()
        except (OperationalError, RedisError, OSError) as error:
            raise QueueUnavailable(f"Redis cannot be asked: {error}; {SEE_TO_REDIS}") from error
        version = said.get("valkey_version") or said.get("redis_version", "?")
        return ServerFacts(str(version), bool(said.get("aof_enabled")), str(said.get("maxmemory_policy", "?")))

    def close(self) -> None:
        self._app.close()


@cache
def _cluster_app() -> Any:
    from models import settings as settings_module
    from worker.queue import make_app

    return make_app(settings_module.load())


def __getattr__(name: str) -> Any:
    if name in ("app", "celery"):
        try:
            return _cluster_app()
        except PackshotError as error:  # Celery's own command would print it as a traceback
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None
    raise AttributeError(name)

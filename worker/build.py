"""Put one worker process together from its settings: one provider, one limiter, one fetcher, one client per storage."""

from __future__ import annotations

import functools
import sys

from models.database import Database
from models.settings import Settings
from worker.executor import LEAD_S, Executor
from worker.limiter import Limiter, LocalLimiter
from worker.provider import Provider
from worker.results import Fetcher
from worker.storage import Storage, open_storage

SWITCH_S = 0.0005  # a thread that wakes for its slot gets the interpreter this soon; Python's own 5 ms are the margin


def build_executor(settings: Settings, database: Database, *, owner: str) -> Executor:
    """An executor ready to work. Raises SettingsError where a setting does not allow one.

    Without a key it would stop one batch after the other.
    """
    sys.setswitchinterval(SWITCH_S)
    provider = Provider(settings)
    provider.need_key()

    @functools.lru_cache(maxsize=64)
    def storage(place: str) -> Storage:
        return open_storage(place, settings)

    return Executor(
        database=database,
        provider=provider,
        fetcher=Fetcher(settings),
        storage=storage,
        limiter=build_limiter(settings),
        models=settings.models,
        owner=owner,
        lease_s=settings.lease_s,
        max_tries=settings.max_tries,
        max_wait_s=settings.max_wait_s,
    )


def build_limiter(settings: Settings) -> Limiter:
    """The limiter shared by all workers where there is a Redis, else one for this process alone."""
    limits = {name: model.limits for name, model in settings.models.items()}
    if settings.redis_url is None:
        return LocalLimiter(limits, share=settings.share, lead_s=LEAD_S)
    from worker.limiter_redis import RedisLimiter

    url = settings.redis_url.get_secret_value()
    shared: Limiter = RedisLimiter(url, limits, share=settings.share, lead_s=LEAD_S)
    return shared

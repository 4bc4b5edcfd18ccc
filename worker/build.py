"""Put one worker process together from its settings: one provider, one limiter, one fetcher, one client per storage."""

from __future__ import annotations

import functools

from models.database import Database
from models.settings import Settings
from worker.executor import Executor
from worker.limiter import Limiter, LocalLimiter
from worker.provider import Provider
from worker.results import Fetcher
from worker.storage import Storage, open_storage


def build_executor(settings: Settings, database: Database, *, owner: str) -> Executor:
    """An executor ready to work. Raises SettingsError where a setting does not allow one."""

    @functools.lru_cache(maxsize=64)
    def storage(place: str) -> Storage:
        return open_storage(place, settings)

    return Executor(
        database=database,
        provider=Provider(settings),
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
        return LocalLimiter(limits, share=settings.share)
    from worker.limiter_redis import RedisLimiter

    shared: Limiter = RedisLimiter(settings.redis_url.get_secret_value(), limits, share=settings.share)
    return shared

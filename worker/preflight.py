"""What is asked before anything is bought: is the provider there, does the storage take a write, are the keys free?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from models import catalogue
from models.errors import CallError, PackshotError, Rejected, Throttled, Transient
from models.settings import Settings, mask_user

if TYPE_CHECKING:
    from worker.storage import Storage


def preflight(settings: Settings, output: str, batch: str, keys: Callable[[], Iterable[str]]) -> list[str]:
    """Before anything is bought: does the storage take a write, and what foreign object is at one of the keys?

    What this batch itself put there (before a crash kept it from writing it down) is not foreign.
    Raises StorageRefused or StorageUnavailable, each one sentence with the way out.
    """
    from worker.storage import open_storage

    storage = open_storage(output, settings)
    storage.check()
    foreign = []
    for key in storage.existing(keys()):
        found = storage.head(key)
        if found is not None and not (found.is_ours and found.metadata.get("batch") == batch):
            foreign.append(storage.address(key))
    return sorted(foreign)


class ProviderNotReady(PackshotError):
    """The provider cannot be used as things are: a wrong key, address or account. Nothing was bought."""


def check_provider(settings: Settings, region: str, models: Sequence[str] = ()) -> None:
    """Ask the provider something free, so that a wrong key or address is one sentence and not ten thousand failures.

    models: those to be bought of. Without any it is asked about one that the region has, and that the workspace may
            not use it is no matter: whoever says so has taken the key.
    Raises ProviderNotReady. What only speaks against the question itself is let pass: the calls will tell.
    """
    from worker.provider import Provider

    provider = Provider(settings)
    try:
        for model in models or [_offered(settings, region)]:
            try:
                provider.check_key(region, model)
            except (Rejected, Transient, Throttled):
                continue
            except CallError as error:
                if not models and error.code.casefold() in _OF_THE_MODEL:
                    continue
                advice = getattr(error, "advice", "") or "see that DASHSCOPE_HTTP_BASE_URL and the network are right"
                url = mask_user(settings.provider_url(region))
                raise ProviderNotReady(f"{url}: {error.code}: {error.message}; {advice}; nothing was bought") from None
    finally:
        provider.close()


_OF_THE_MODEL = ("model.accessdenied", "allocationquota.freetieronly")


def _offered(settings: Settings, region: str) -> str:
    """A model of the region that edits and is not retired."""
    day = catalogue.today()
    return next(
        model.id
        for model in settings.models.values()
        if model.edits and region in model.regions and not model.retired_on(day)
    )


def read_object(settings: Settings, place: str, key: str) -> bytes:
    """The bytes stored at a key. Raises StorageError where they cannot be read."""
    return _storage(place, settings).read(key)


@functools.lru_cache(maxsize=16)
def _storage(place: str, settings: Settings) -> Storage:
    from worker.storage import open_storage

    return open_storage(place, settings)

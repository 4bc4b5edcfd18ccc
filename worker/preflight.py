"""What is asked before anything is bought: is the provider there, does the storage take a write, are the keys free?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from models.errors import CallError, PackshotError, Rejected, Throttled, Transient
from models.settings import Settings

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


def check_provider(settings: Settings, region: str) -> None:
    """Ask the provider something free, so that a wrong key or address is one sentence and not ten thousand failures.

    Raises ProviderNotReady. What only speaks against the question itself is let pass: the calls will tell.
    """
    from worker.provider import Provider

    provider = Provider(settings)
    try:
        provider.check_key(region)
    except (Rejected, Transient, Throttled):
        return
    except CallError as error:
        advice = getattr(error, "advice", "") or "see that DASHSCOPE_HTTP_BASE_URL and the network are right"
        url = settings.provider_url(region)
        raise ProviderNotReady(f"{url}: {error.code}: {error.message}; {advice}; nothing was bought") from None
    finally:
        provider.close()


def read_object(settings: Settings, place: str, key: str) -> bytes:
    """The bytes stored at a key. Raises StorageError where they cannot be read."""
    return _storage(place, settings).read(key)


@functools.lru_cache(maxsize=16)
def _storage(place: str, settings: Settings) -> Storage:
    from worker.storage import open_storage

    return open_storage(place, settings)

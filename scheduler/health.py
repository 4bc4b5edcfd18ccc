"""Is a service of this host alive? Asked by health checks every few seconds, so each answer is one cheap question.

A scheduler shows it by a lease of its own in the ledger, the standby too; a worker by answering through Redis, so a
worker that hangs or has lost its queue does not count as alive.
"""

from __future__ import annotations

from datetime import UTC, datetime

from models.settings import Settings

SIGN = "alive:"  # begins the names of the leases by which schedulers show that they live
ANSWER_WITHIN_S = 5.0


def schedulers(settings: Settings, host: str) -> list[str]:
    """Names of the schedulers of a host that are at work or stand by. Raises LedgerUnavailable."""
    from models import lease
    from models.database import Database

    database = Database(settings.database_url)
    try:
        with database.read() as connection:
            found = lease.alive(connection, SIGN, datetime.now(UTC))
    finally:
        database.close()
    return [name for name in found if name.startswith(f"{host}:")]


def workers(settings: Settings, host: str) -> list[str]:
    """The first worker of a host that answers. Raises QueueUnavailable."""
    from worker.broker import CeleryBroker

    queue = CeleryBroker(settings)
    try:
        return queue.workers(ANSWER_WITHIN_S, host=host)
    finally:
        queue.close()

"""What an admission costs, against a bare PING to the same Redis in the same run.

    .venv/bin/python -m tests.benchmarks.limiter [ROUNDS]

A ratio travels from machine to machine, microseconds do not. The rounds take turns, so that a busy moment hits all
alike, and the median is told.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

from models.catalogue import Limit
from tests.servers.redis import RedisProcess
from worker.limiter import LocalLimiter
from worker.limiter_redis import RedisLimiter

ROUNDS = 3000
LIMITS = {"m": [Limit(1000, 1.0), Limit(60_000, 60.0)]}


def main(rounds: int = ROUNDS) -> dict[str, float]:
    """Prints a table; returns the medians in microseconds."""
    with RedisProcess() as server:
        bare, shared, local = (
            RedisLimiter(server.url, LIMITS)._redis,
            RedisLimiter(server.url, LIMITS),
            LocalLimiter(LIMITS),
        )
        known = RedisLimiter(server.url, LIMITS)
        known.acquire("m")
        what: dict[str, Callable[[], object]] = {
            "PING": bare.ping,
            "acquire, Redis": lambda: shared.acquire("m"),
            "acquire, in process": lambda: local.acquire("m"),
            "succeeded at full pace, Redis": lambda: known.succeeded("m"),
        }
        took: dict[str, list[float]] = {name: [] for name in what}
        for number in range(rounds + 100):
            for name, call in what.items():
                began = time.perf_counter()
                call()
                if number >= 100:  # connections and the script are there by then
                    took[name].append(1e6 * (time.perf_counter() - began))
    medians = {name: median(times) for name, times in took.items()}
    print(f"{'what':32}{'median us':>12}{'x PING':>10}")
    for name, us in medians.items():
        print(f"{name:32}{us:12.1f}{us / medians['PING']:10.2f}")
    return medians


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))

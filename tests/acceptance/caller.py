"""A worker reduced to its calls: threads that take slots of the shared limiter and buy one edit in each.

Argument: a JSON object with redis, api, limits, threads (by model), picture, begins (Unix time), lasts_s. Prints which
slots of that time it was given by model (`slots`: microseconds of the server's clock), and how late this process itself
woke up from plain sleeps meanwhile (`overslept_ms`: its 99th percentile), which tells how busy the machine was.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from models.edit import Edit, Picture
from models.errors import PackshotError, Throttled
from models.settings import Settings
from tests.servers.emulator import API_KEY
from worker.build import SWITCH_S
from worker.executor import LEAD_S
from worker.limiter_redis import RedisLimiter
from worker.provider import Provider
from worker.wire import Slot


def main(order: dict[str, Any]) -> None:
    settings = Settings(
        DASHSCOPE_API_KEY=API_KEY, DASHSCOPE_HTTP_BASE_URL=order["api"], PACKSHOT_LIMITS=order["limits"]
    )
    limiter = RedisLimiter(
        order["redis"], {name: model.limits for name, model in settings.models.items()}, lead_s=LEAD_S
    )
    provider = Provider(settings)
    sys.setswitchinterval(SWITCH_S)
    slots: dict[str, list[float]] = {model: [] for model in order["threads"]}
    ends = order["begins"] + order["lasts_s"]

    def work(model: str) -> None:
        sleep_until(order["begins"])
        while True:
            parameters = {"size": "512*512"}
            edit = Edit(model, (Picture(order["picture"]),), "on white", parameters, random.randrange(10**6))
            with provider.prepared(edit, region="cn-beijing") as letter:
                wait_s = limiter.acquire(model)
                slot = Slot(time.monotonic() + wait_s, limiter.slack_s(model))
                if time.time() + wait_s >= ends:
                    return
                slots[model].append(limiter._mine.slots[model])
                time.sleep(max(0.0, wait_s - LEAD_S))
                with suppress(PackshotError):  # the emulator's log says what became of it
                    try:
                        provider.send(letter, attempt="1", slot=slot)
                        limiter.succeeded(model)
                    except Throttled as error:
                        limiter.throttled(model, error.kind)

    overslept: list[float] = []
    threads = [threading.Thread(target=work, args=[model]) for model, count in order["threads"].items()
               for _ in range(count)]  # fmt: skip
    threads.append(threading.Thread(target=watch_the_machine, args=[order["begins"], ends, overslept.append]))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    late_ms = 1000 * sorted(overslept)[int(0.99 * len(overslept))]
    print(json.dumps({"slots": slots, "overslept_ms": late_ms}))


def watch_the_machine(begins: float, ends: float, note: Callable[[float], None]) -> None:
    """Sleep 20 ms at a time, and note by how many seconds each sleep was too long."""
    sleep_until(begins)
    while time.time() < ends:
        wanted = time.time() + 0.02
        sleep_until(wanted)
        note(time.time() - wanted)


def sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

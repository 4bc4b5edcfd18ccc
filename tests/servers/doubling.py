"""A broker that delivers everything twice: whatever is put into the cluster's queue is put there again at once.

Redis tells of each command it is given (MONITOR), so no message slips by, however soon a worker takes it. The copy is
the same message to the letter, its delivery tag too, as after a visibility time-out.
"""

from __future__ import annotations

import threading
from typing import Any

from redis import Redis

from tests.servers.redis import RedisProcess
from worker.queue import QUEUE, job_id_of

PUT = f"LPUSH {QUEUE} "


class Doubler(threading.Thread):
    """Use as a context manager. doubled: the jobs whose message was sent a second time."""

    def __init__(self, redis: RedisProcess) -> None:
        super().__init__(daemon=True)
        self.doubled: set[int] = set()
        self.trouble: Exception | None = None
        self._ours: set[str] = set()
        self._watch = Redis.from_url(redis.url, protocol=2, decode_responses=True, socket_timeout=None)  # may be silent
        self._put = redis.client()
        self._watching, self._leaving = threading.Event(), threading.Event()

    def run(self) -> None:
        try:
            with self._watch.monitor() as monitor:
                self._watching.set()
                for told in monitor.listen():
                    if self._leaving.is_set():
                        return
                    if told["command"].startswith(PUT):
                        self._double(told["command"].removeprefix(PUT))
        except Exception as error:  # noqa: BLE001  # a thread's error must reach the test
            self.trouble = error

    def _double(self, message: str) -> None:
        if message not in self._ours:
            self._ours.add(message)
            self._put.lpush(QUEUE, message)
            self.doubled.add(job_id_of(message))

    def __enter__(self) -> Doubler:
        self.start()
        assert self._watching.wait(10)
        return self

    def __exit__(self, *_: Any) -> None:
        self._leaving.set()
        self._put.ping()  # something to be told of
        self.join(10)
        assert self.trouble is None, self.trouble

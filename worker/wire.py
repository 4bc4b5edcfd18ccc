"""Connections that never outlive a deadline, and those for paid calls: one call each.

One call each: a kept-alive connection that the server is just closing breaks *after* the request was handed over, and
nobody can tell that from a call that was drawn and billed. A fresh connection cannot be stale. It costs a handshake
(milliseconds) per call of many seconds, and saves an outcome that would count as spent.

Never past its deadline: urllib3's time limits are per read, so a server that drips bytes could hold a call, and with
it a claim, for ever. Inside `until(deadline)` every piece sent and every read is given only the time that is left,
on connections of `Deadlined`; those of `worker.addresses` are such too.
Looking up the name, connecting and the TLS handshake have the connect time limit per step instead; if they take longer
than the deadline nothing is sent any more.

In its slot: `until(deadline, slot)` connects at once and holds the request back until the slot's moment. What takes an
uneven time is over by then, so calls arrive as evenly as their slots were handed out. Where it took longer, nothing is
sent: a call that leaves late crowds one that leaves on time, and the provider would refuse that one.
"""

from __future__ import annotations

import io
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from http.client import HTTPResponse
from socket import socket
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from models.errors import SlotMissed

PIECE = 16 * 1024  # sent at once; also the most that TLS puts into one record


@dataclass(frozen=True)
class Slot:
    """When a request may leave: from `at` on, on the clock of its deadline, and no more than `slack_s` later."""

    at: float
    slack_s: float = float("inf")

    def is_missed(self, now: float) -> bool:
        return now > self.at + self.slack_s


@dataclass(frozen=True)
class Deadline:
    """A moment on `clock` that nothing may pass."""

    at: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> Deadline:
        return cls(clock() + seconds, clock)

    @property
    def passed(self) -> bool:
        return self.clock() >= self.at

    def left_s(self) -> float:
        """Seconds left, more than none. Raises TimeoutError."""
        left = self.at - self.clock()
        if left <= 0:
            raise TimeoutError("the time limit of the whole call has passed")
        return left


@cache
def tls_context() -> ssl.SSLContext:
    """One for the process: urllib3 else reads the certificate store for every connection, some 35 ms of CPU each."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


_deadline: ContextVar[Deadline | None] = ContextVar("deadline", default=None)
_slot: ContextVar[Slot | None] = ContextVar("slot", default=None)


@contextmanager
def until(deadline: Deadline, slot: Slot | None = None) -> Iterator[None]:
    """Requests made inside, on `Deadlined` connections, end by `deadline`; so do their bodies, read here or later.

    slot: a connection that stands waits for it before it sends, or raises SlotMissed
    """
    before, waited = _deadline.set(deadline), _slot.set(slot)
    try:
        yield
    finally:
        _deadline.reset(before)
        _slot.reset(waited)


def arriving(body: Any, deadline: Deadline, most: int = 1 << 18) -> Iterator[bytes]:
    """An S3 object's body as it comes in; between two pieces the deadline is looked at.

    body: botocore's, whose own `read` waits until all it was asked for is there, however slowly that drips in; so the
    stream inside is asked, for what has come. What comes is late by one silence of the server at most.
    Raises TimeoutError, and what urllib3 raises.
    """
    while deadline.left_s() and (piece := body._raw_stream.read1(most)):
        yield piece


def call_pool(*, size: int) -> urllib3.PoolManager:
    """At most `size` calls at once per host; no retries, no redirects, no proxy from the environment."""
    manager = urllib3.PoolManager(
        num_pools=16, maxsize=size, block=True, retries=False, ssl_context=tls_context(), blocksize=PIECE
    )
    manager.pool_classes_by_scheme = {"http": _CallPool, "https": _CallPoolTLS}
    return manager


class _Timed(io.RawIOBase):
    """The reading side of a socket, each read limited to the time left, and to the read time limit where it has one."""

    def __init__(self, sock: socket, deadline: Deadline) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline = deadline
        self._silence_s = sock.gettimeout()

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        """What http.client asks a socket for."""
        return io.BufferedReader(self, PIECE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._deadline.left_s()
        self._sock.settimeout(left_s if self._silence_s is None else min(left_s, self._silence_s))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class Deadlined:
    """Mixed into urllib3's connections."""

    sock: socket | None

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        deadline, slot = _deadline.get(), _slot.get()
        if deadline is not None and slot is not None:
            time.sleep(min(max(0.0, slot.at - deadline.clock()), deadline.left_s()))
            if slot.is_missed(deadline.clock()):
                raise SlotMissed("SlotMissed", "the moment of its slot had passed")

    def send(self, data: Any) -> None:
        deadline = _deadline.get()
        if deadline is None or not isinstance(data, bytes):
            super().send(data)  # type: ignore[misc]
            return
        for start in range(0, len(data), PIECE):
            if self.sock is not None:  # the first piece of a call connects, under the connect time limit
                self.sock.settimeout(deadline.left_s())
            super().send(memoryview(data)[start : start + PIECE])  # type: ignore[misc]

    def response_class(self, sock: Any, *args: Any, **kw: Any) -> HTTPResponse:
        deadline = _deadline.get()
        return HTTPResponse(sock if deadline is None else _Timed(sock, deadline), *args, **kw)  # type: ignore[arg-type]


class _CallConnection(Deadlined, HTTPConnection):  # type: ignore[misc]
    pass


class _CallConnectionTLS(Deadlined, HTTPSConnection):  # type: ignore[misc]
    pass


class _CallPool(HTTPConnectionPool):
    ConnectionCls = _CallConnection

    def _put_conn(self, conn: Any) -> None:
        _close(conn)
        super()._put_conn(conn)


class _CallPoolTLS(HTTPSConnectionPool):
    ConnectionCls = _CallConnectionTLS

    def _put_conn(self, conn: Any) -> None:
        _close(conn)
        super()._put_conn(conn)


def _close(conn: Any) -> None:
    """Back to the pool without its socket: the next call connects anew."""
    if conn is not None:
        conn.close()

"""Connections for paid calls: one call each, and never past its deadline.

One call each: a kept-alive connection that the server is just closing breaks *after* the request was handed over, and
nobody can tell that from a call that was drawn and billed. A fresh connection cannot be stale. It costs a handshake
(milliseconds) per call of many seconds, and saves an outcome that would count as spent.

Never past its deadline: urllib3's time limits are per read, so a server that drips bytes could hold a call, and with
it a claim, for ever. Inside `until(deadline)` every piece sent and every read is given only the time that is left.
Looking up the name, connecting and the TLS handshake have the connect time limit per step instead; if they take longer
than the deadline nothing is sent any more.

Not before its slot either: `until(deadline, not_before=moment)` connects at once and holds the request back until then.
What takes an uneven time is over by that moment, so calls arrive as evenly as their slots were handed out.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPResponse
from socket import socket
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from worker.addresses import tls_context

PIECE = 16 * 1024  # sent at once; also the most that TLS puts into one record


@dataclass(frozen=True)
class Deadline:
    """A moment on `clock` that nothing may pass."""

    at: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> Deadline:
        return cls(clock() + seconds, clock)

    def left_s(self) -> float:
        """Seconds left, more than none. Raises TimeoutError."""
        left = self.at - self.clock()
        if left <= 0:
            raise TimeoutError("the time limit of the whole call has passed")
        return left


_deadline: ContextVar[Deadline | None] = ContextVar("deadline", default=None)
_not_before: ContextVar[float] = ContextVar("not_before", default=float("-inf"))


@contextmanager
def until(deadline: Deadline, *, not_before: float = float("-inf")) -> Iterator[None]:
    """Requests made inside, on connections of this module, end by `deadline`.

    not_before: a moment on its clock until which a connection that stands waits before it sends
    """
    before, waited = _deadline.set(deadline), _not_before.set(not_before)
    try:
        yield
    finally:
        _deadline.reset(before)
        _not_before.reset(waited)


def call_pool(*, size: int) -> urllib3.PoolManager:
    """At most `size` calls at once per host; no retries, no redirects, no proxy from the environment."""
    manager = urllib3.PoolManager(
        num_pools=16, maxsize=size, block=True, retries=False, ssl_context=tls_context(), blocksize=PIECE
    )
    manager.pool_classes_by_scheme = {"http": _CallPool, "https": _CallPoolTLS}
    return manager


class _Timed(io.RawIOBase):
    """The reading side of a socket, each read limited to the time left."""

    def __init__(self, sock: socket, deadline: Deadline) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        """What http.client asks a socket for."""
        return io.BufferedReader(self, PIECE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._deadline.left_s())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Deadlined:
    """Mixed into urllib3's connections."""

    sock: socket | None

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        deadline = _deadline.get()
        if deadline is not None:
            time.sleep(min(max(0.0, _not_before.get() - deadline.clock()), deadline.left_s()))

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


class _CallConnection(_Deadlined, HTTPConnection):  # type: ignore[misc]
    pass


class _CallConnectionTLS(_Deadlined, HTTPSConnection):  # type: ignore[misc]
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

"""Answers that are not answers: resets, silence, halves. They need the socket below HTTP.

`Protocol` puts the connection's transport where a response finds it (`scope["state"]["transport"]`).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

CHUNKS = 20
silent: set[asyncio.Transport | None] = set()  # connections that get no answer; closed when the emulator leaves


class Protocol(H11Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(cast(asyncio.Transport, transport))


class Reset(Response):
    """RST: the kernel forgets the connection, and what was not sent yet with it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = transport_of(scope)
        if transport is None:  # no server below, as in unit tests
            return
        taken = transport.get_extra_info("socket")
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        await _until_gone(receive)


class Silence(Response):
    """No byte until the caller leaves."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = transport_of(scope)
        silent.add(transport)
        try:
            await _until_gone(receive)
        finally:
            silent.discard(transport)


class Cut(Response):
    """Promises all of a body and closes the connection after `share` of it."""

    def __init__(self, content: bytes, share: float, headers: dict[str, str], media_type: str) -> None:
        super().__init__(content, 200, headers, media_type)
        self._share = share

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        part = bytes(self.body)[: int(len(self.body) * self._share)]
        await send({"type": "http.response.body", "body": part, "more_body": True})
        if transport := transport_of(scope):
            transport.close()
            await _until_gone(receive)


class Trickle(Response):
    """A whole body, spread over `seconds`."""

    def __init__(self, content: bytes, seconds: float, headers: dict[str, str], media_type: str) -> None:
        super().__init__(content, 200, headers, media_type)
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        body = bytes(self.body)
        step = len(body) // CHUNKS + 1
        for start in range(0, len(body), step):
            await asyncio.sleep(self._seconds / CHUNKS)
            await send({"type": "http.response.body", "body": body[start : start + step], "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Noted(Response):
    """A body that says, once it is on an open connection, that it was delivered."""

    def __init__(self, content: bytes, headers: dict[str, str], delivered: Callable[[], None]) -> None:
        super().__init__(content, 200, headers, "application/json")
        self._delivered = delivered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = transport_of(scope)
        gone = transport is not None and transport.is_closing()
        await super().__call__(scope, receive, send)
        if not gone:
            self._delivered()


def transport_of(scope: Scope) -> asyncio.Transport | None:
    state: dict[str, Any] = scope.get("state") or {}
    return cast("asyncio.Transport | None", state.get("transport"))


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

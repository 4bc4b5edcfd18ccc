"""A server on a raw socket that does to a connection exactly what it is told: the failures no web framework can do."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Peer:
    """One connection, seen from the server. Everything a behaviour needs to misbehave."""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        self.sock = sock
        self.server = server
        self._seen = b""

    def read_head(self) -> tuple[str, dict[str, str]]:
        while b"\r\n\r\n" not in self._seen:
            block = self.sock.recv(65536)
            if not block:
                raise ConnectionError("the client left")
            self._seen += block
        head, _, self._seen = self._seen.partition(b"\r\n\r\n")
        line, *rest = head.decode("latin-1").split("\r\n")
        return line, {name.lower(): value.strip() for name, _, value in (r.partition(":") for r in rest)}

    def read_request(self) -> Request:
        """The whole request, remembered by the server."""
        line, headers = self.read_head()
        length = int(headers.get("content-length", 0))
        body = bytearray(self._seen)
        while len(body) < length:
            block = self.sock.recv(min(1 << 20, length - len(body)))
            if not block:
                raise ConnectionError("the client left in the middle of its request")
            body += block
        self._seen = bytes(body[length:])
        request = Request(line, headers, bytes(body[:length]))
        self.server.requests.append(request)
        return request

    def answer(
        self, status: int, body: bytes | dict[str, Any], headers: dict[str, str] | None = None, *, cut: int = 0
    ) -> None:
        """A well-formed answer; `cut`: this many bytes of the announced body are never sent."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        known = {
            "Content-Type": "application/json" if isinstance(body, dict) else "text/html",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in known.items())
        self.send(f"HTTP/1.1 {status} x\r\n{head}\r\n".encode() + data[: len(data) - cut])

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reset(self) -> None:
        """Not a goodbye but a slammed door: RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def hang(self) -> None:
        """Say nothing until the client gives up or the test ends."""
        self.sock.settimeout(10)
        with contextlib.suppress(OSError):
            while self.sock.recv(65536):
                pass

    def drip(self, data: bytes, pause_s: float) -> None:
        """Byte by byte, each one in time, the whole never."""
        with contextlib.suppress(OSError):
            for byte in data:
                self.send(bytes([byte]))
                if self.server.closing.wait(pause_s):
                    return


Behaviour = Callable[[Peer], None]


@dataclass
class Server:
    port: int
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}/api/v1"


@contextlib.contextmanager
def serve(behaviour: Behaviour, tls: ssl.SSLContext | None = None, *, port: int = 0) -> Iterator[Server]:
    """Each connection gets a thread in which `behaviour` is called once, then it is closed.

    port: that of a server which is away just now; 0 = any
    """
    listener = socket.create_server(("127.0.0.1", port), backlog=64)
    server = Server(listener.getsockname()[1], "https" if tls else "http")

    def attend(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.closing(sock):
            behaviour(Peer(tls.wrap_socket(sock, server_side=True) if tls else sock, server))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                server.connections += 1
                threading.Thread(target=attend, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


@contextlib.contextmanager
def nobody() -> Iterator[int]:
    """A port of this machine that refuses connections."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextlib.contextmanager
def full() -> Iterator[int]:
    """A port that never takes another connection: its queue is full and nobody accepts."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]

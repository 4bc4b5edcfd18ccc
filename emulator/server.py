"""Starting and stopping: bind, say so in one JSON line, serve, leave with 0 when told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator

import uvicorn

from emulator.app import create_app
from emulator.house import House
from emulator.options import Options, read_options
from emulator.wire import Protocol, silent

GRACE_S = 5  # for calls in flight when the emulator is told to leave
BACKLOG = 2048
OPEN_FILES = 8192
SWITCH_S = 0.0005  # a call that arrives while pictures are drawn gets its moment noted this soon, not after 5 ms each


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 told to leave, 1 cannot start."""
    options = read_options(arguments)
    if options.only_check:
        return 0
    _allow_many_connections()
    sys.setswitchinterval(SWITCH_S)
    try:
        house = House(options)
    except (OSError, ValueError, KeyError) as error:
        return _fail(f"the state directory {options.state} cannot be used: {error}")
    try:
        listener = _listen(options)
    except OSError as error:
        return _fail(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}")
    config = uvicorn.Config(
        create_app(house),
        http=Protocol,
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=75,
    )
    server = Server(config, json.dumps({"url": _url(listener), "pid": os.getpid()}))
    if options.parent_pipe:
        threading.Thread(target=_leave_with_parent, args=(server,), daemon=True).start()
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        house.close()
    return 0


class Server(uvicorn.Server):
    """uvicorn, except that being told to leave is no failure: signals are not raised again after the shutdown."""

    def __init__(self, config: uvicorn.Config, ready_line: str) -> None:
        super().__init__(config)
        self._ready_line = ready_line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._ready_line, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for transport in list(silent):
            if transport is not None:
                transport.abort()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(options: Options) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((options.host, options.port))
    listener.listen(BACKLOG)
    return listener


def _allow_many_connections() -> None:
    """A rehearsal may hold a thousand calls; many shells allow 1024 open files unless asked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}/api/v1"


def _leave_with_parent(server: Server) -> None:
    """Reads stdin until the other end is closed, which also happens when the parent is killed."""
    while os.read(0, 4096):  # not sys.stdin: its lock would be held when the interpreter leaves
        pass
    server.should_exit = True


def _fail(sentence: str) -> int:
    print(f"packshot emulator: {sentence}", file=sys.stderr)
    return 1

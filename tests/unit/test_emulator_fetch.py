"""Input addresses: which are fetched, from where, and for how long."""

import socket
import time

import pytest

from emulator import inputs
from emulator.inputs import Inputs
from emulator.refusals import Refusal
from tests.servers.misbehaving import serve

PICTURE = inputs.stand_in("http://shop.example/a.png")


def answering(peer):
    peer.read_request()
    peer.answer(200, PICTURE)


def test_an_address_of_this_machine_is_asked_by_its_own_name():
    with serve(answering) as server:
        opened = Inputs(None).open(f"http://localhost:{server.port}/a.png?b=c", "qwen-image-2.0", resolve_oss=False)
    assert opened.image.size == (640, 800)
    assert server.requests[0].line == "GET /a.png?b=c HTTP/1.1"
    assert server.requests[0].headers["host"] == f"localhost:{server.port}"


def test_a_name_is_looked_up_once_so_that_it_cannot_lead_elsewhere_the_second_time(monkeypatch):
    # given a name that leads to this machine when it is looked at, and out of the house when it is looked up again
    looked_up = []

    def rebinding(host, port, *rest, really=socket.getaddrinfo, **more):
        if host != "shop.example":
            return really(host, port, *rest, **more)
        looked_up.append(host)
        if len(looked_up) > 1:
            raise OSError("led elsewhere")
        return really("127.0.0.1", port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    # when it is fetched from, then it is the address that was looked at
    with serve(answering) as server:
        opened = Inputs(None).open(f"http://shop.example:{server.port}/a.png", "qwen-image-2.0", resolve_oss=False)
    assert opened.image.size == (640, 800)
    assert looked_up == ["shop.example"]


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nX-Long: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    ],
)
def test_an_answer_that_drips_is_a_failed_download_when_its_time_is_over(monkeypatch, head):
    def drip(peer):
        peer.read_request()
        peer.send(head)
        peer.drip(b"x" * 9999, 0.02)

    monkeypatch.setattr(inputs, "FETCH_TOTAL_S", 0.2)
    started = time.monotonic()
    with serve(drip) as server, pytest.raises(Refusal, match="download image failed"):
        Inputs(None).open(f"http://localhost:{server.port}/a.png", "qwen-image-2.0", resolve_oss=False)
    assert time.monotonic() - started < 4

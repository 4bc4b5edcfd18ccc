import socket

import pytest
import urllib3

from worker.addresses import BlockedAddress, guarded_pool, is_public


@pytest.mark.parametrize("address", ["8.8.8.8", "47.100.1.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_an_address_of_the_open_internet_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
        "2002:7f00:0001::",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::8.8.8.8",
        "64:ff9b:1:ffff::1",
        "::8.8.8.8",
        "::127.0.0.1",
        "fec0::1",
        "feff::1",
        "not an address",
        "",
    ],
)
def test_an_address_of_our_own_network_is_not_public_however_it_is_wrapped(address):
    assert not is_public(address)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_private_peer_is_refused_before_a_byte_is_sent(scheme):
    # given a server on loopback
    with socket.create_server(("127.0.0.1", 0)) as server, guarded_pool(allow_private=False) as pool:
        url = f"{scheme}://localhost:{server.getsockname()[1]}/secret?Signature=abc"
        # when it is asked for something
        with pytest.raises(BlockedAddress) as caught:
            pool.request("GET", url)
        # then it saw a connection and nothing on it, and the sentence names the way out without the signature
        peer, _ = server.accept()
        with peer:
            assert peer.recv(1) == b""
        assert "PACKSHOT_ALLOW_PRIVATE_HOSTS" in str(caught.value)
        assert "abc" not in str(caught.value)


def test_private_peers_are_reached_where_they_are_allowed():
    with socket.create_server(("127.0.0.1", 0)) as server, guarded_pool(allow_private=True) as pool:
        server.settimeout(0.05)
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            pool.request("GET", f"http://127.0.0.1:{server.getsockname()[1]}/", timeout=0.05)

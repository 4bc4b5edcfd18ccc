"""Fetching a paid picture from servers that behave, and from all the others."""

import hashlib
import io
import ipaddress
import itertools
import logging
import socket
import ssl
import traceback
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from PIL import Image

from models.errors import ResultBlocked, ResultLost, ResultUnavailable
from models.settings import Settings
from tests.servers.misbehaving import nobody, serve
from worker import addresses
from worker.addresses import guarded_pool
from worker.results import Fetcher

EXPIRES = 1_800_000_000
QUERY = f"?Expires={EXPIRES}&OSSAccessKeyId=id&Signature=very%2Bsecret"
EXPIRED_XML = b"<Error><Code>AccessDenied</Code><Message>Request has expired.</Message><EC>0002-00000069</EC></Error>"
DENIED_XML = b"<Error><Code>AccessDenied</Code><Message>No right.</Message><EC>0003-00000001</EC></Error>"
GONE_XML = b"<Error><Code>NoSuchKey</Code><Message>No such object.</Message></Error>"


def picture(width=512, height=512):
    file = io.BytesIO()
    Image.effect_noise((width, height), 60).convert("RGB").save(file, "PNG")
    return file.getvalue()


PNG = picture()


def address(server, path="/d0/result.png"):
    return f"http://127.0.0.1:{server.port}{path}{QUERY}"


def fetcher(**more):
    return Fetcher(Settings(PACKSHOT_ALLOW_PRIVATE_HOSTS=True), **{"now": lambda: EXPIRES - 3600.0, **more})


def answering(status, body, headers=None, **more):
    def behave(peer):
        while True:  # the connection is kept
            peer.read_request()
            peer.answer(status, body, headers, **more)
            if more:
                return

    return behave


def test_a_picture_comes_whole_with_its_checksum_and_size_and_nothing_of_ours_goes_along():
    with serve(answering(200, PNG, {"Content-Type": "image/png"})) as server:
        got = fetcher().fetch(address(server))
    assert got.data == PNG
    assert got.sha256 == hashlib.sha256(PNG).hexdigest()
    assert (got.width, got.height) == (512, 512)
    (request,) = server.requests
    assert request.line == f"GET /d0/result.png{QUERY} HTTP/1.1"
    assert not {"authorization", "cookie", "x-dashscope-async"} & set(request.headers)


def test_a_connection_serves_again():
    with serve(answering(200, PNG)) as server:
        fetch = fetcher().fetch
        assert fetch(address(server)) == fetch(address(server))
    assert server.connections == 1


def test_a_body_in_chunks_of_unknown_length_is_whole_with_its_last_chunk_only():
    def chunked(*, end):
        def behave(peer):
            peer.read_request()
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(PNG) + PNG + b"\r\n" + end)

        return behave

    with serve(chunked(end=b"0\r\n\r\n")) as server:
        assert fetcher().fetch(address(server)).data == PNG
    with serve(chunked(end=b"")) as server, pytest.raises(ResultUnavailable):
        fetcher().fetch(address(server))


def test_a_body_of_no_stated_length_is_judged_by_the_picture_itself():
    def until_closed(data):
        def behave(peer):
            peer.read_request()
            peer.send(b"HTTP/1.0 200 OK\r\n\r\n" + data)

        return behave

    with serve(until_closed(PNG)) as server:
        assert fetcher().fetch(address(server)).data == PNG
    with serve(until_closed(PNG[:-5])) as server, pytest.raises(ResultUnavailable, match="ends after"):
        fetcher().fetch(address(server))


def test_a_short_body_is_unavailable():
    with serve(answering(200, PNG, cut=100)) as server, pytest.raises(ResultUnavailable, match="in the middle"):
        fetcher().fetch(address(server))


def test_a_damaged_body_is_unavailable():
    damaged = PNG[:5000] + bytes([PNG[5000] ^ 1]) + PNG[5001:]
    with serve(answering(200, damaged)) as server, pytest.raises(ResultUnavailable, match="damaged"):
        fetcher().fetch(address(server))


@pytest.mark.parametrize("status", [200, 502, 504])
def test_a_page_of_a_gateway_is_unavailable(status):
    page = b"<html><body>Bad Gateway</body></html>"
    with serve(answering(status, page)) as server, pytest.raises(ResultUnavailable):
        fetcher().fetch(address(server))


@pytest.mark.parametrize("status", [206, 304, 400, 401, 429, 500, 503])
def test_any_other_answer_is_unavailable_with_its_number(status):
    with serve(answering(status, b"")) as server, pytest.raises(ResultUnavailable, match=f"HTTP {status}"):
        fetcher().fetch(address(server))


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_denial_after_its_time_is_a_loss(status):
    with serve(answering(status, GONE_XML)) as server, pytest.raises(ResultLost, match="has expired"):
        fetcher(now=lambda: EXPIRES + 1.0).fetch(address(server))


@pytest.mark.parametrize("body", [EXPIRED_XML, EXPIRED_XML.replace(b"<EC>0002-00000069</EC>", b"")])
def test_a_denial_that_says_expired_is_a_loss_whatever_the_address_says(body):
    with serve(answering(403, body)) as server, pytest.raises(ResultLost, match="has expired"):
        fetcher().fetch(address(server))


@pytest.mark.parametrize(("status", "body"), [(403, DENIED_XML), (404, GONE_XML), (403, b""), (410, b"")])
def test_a_denial_before_its_time_is_tried_again(status, body):
    with serve(answering(status, body)) as server, pytest.raises(ResultUnavailable, match=f"HTTP {status}"):
        fetcher().fetch(address(server))


def test_a_picture_that_still_comes_after_its_time_is_taken():
    with serve(answering(200, PNG)) as server:
        assert fetcher(now=lambda: EXPIRES + 9.0).fetch(address(server)).data == PNG


def test_what_is_too_large_is_a_loss_before_it_is_read():
    announced = {"Content-Length": str(10**12)}
    with serve(answering(200, b"", announced)) as server, pytest.raises(ResultLost, match="more than"):
        fetcher().fetch(address(server))


def test_what_grows_too_large_is_a_loss_when_it_does():
    def endless(peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.send(bytes(65536))

    with serve(endless) as server, pytest.raises(ResultLost, match="more than 1000000 bytes"):
        fetcher(max_bytes=1_000_000).fetch(address(server))


def test_another_format_is_a_loss_that_names_it():
    file = io.BytesIO()
    Image.new("RGB", (512, 512)).save(file, "JPEG")
    with serve(answering(200, file.getvalue())) as server, pytest.raises(ResultLost, match="JPEG, not a PNG"):
        fetcher().fetch(address(server))


def test_a_dripping_body_ends_with_the_total_time_limit():
    # given a server that sends a byte at a time, and a clock on which each look takes a second
    def drip(peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PNG))
        peer.drip(PNG, 0.001)

    ticks = itertools.count()
    # when, then
    with serve(drip) as server, pytest.raises(ResultUnavailable, match="not here after 20 s"):
        fetcher(clock=lambda: float(next(ticks)), total_timeout_s=20.0).fetch(address(server))
    assert next(ticks) < 30


def test_headers_that_drip_end_with_the_total_time_limit():
    def drip(peer):
        peer.read_request()
        peer.drip(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000, 0.02)

    with serve(drip) as server, pytest.raises(ResultUnavailable, match=r"not here after 0\.2 s"):
        fetcher(total_timeout_s=0.2, read_timeout_s=5.0).fetch(address(server))


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"])
def test_a_silent_server_ends_with_the_read_time_limit(before):
    def silent(peer):
        peer.read_request()
        peer.send(before)
        peer.hang()

    with serve(silent) as server, pytest.raises(ResultUnavailable, match="silent for too long"):
        fetcher(read_timeout_s=0.1).fetch(address(server))


def test_a_refused_and_a_reset_connection_are_unavailable():
    with nobody() as port, pytest.raises(ResultUnavailable, match="no connection"):
        fetcher().fetch(f"http://127.0.0.1:{port}/a.png{QUERY}")

    def slam(peer):
        peer.read_request()
        peer.reset()

    with serve(slam) as server, pytest.raises(ResultUnavailable, match="connection broke"):
        fetcher().fetch(address(server))


def test_a_name_that_does_not_resolve_is_unavailable():
    with pytest.raises(ResultUnavailable, match="no connection"):
        fetcher().fetch(f"http://no-such-host.invalid/a.png{QUERY}")


def test_three_redirects_are_followed_and_a_fourth_is_not():
    def hops(number):
        def behave(peer):
            while True:
                done = len(peer.server.requests)
                peer.read_request()
                if done >= number:
                    peer.answer(200, PNG)
                else:
                    peer.answer(302, b"", {"Location": f"/hop{done}.png{QUERY}"})

        return behave

    with serve(hops(3)) as server:
        assert fetcher().fetch(address(server)).data == PNG
    with serve(hops(4)) as server, pytest.raises(ResultUnavailable, match="more than 3 times"):
        fetcher().fetch(address(server))


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "https://[::1/x"])
def test_a_redirect_to_something_else_than_http_is_not_followed(target):
    redirect = {"Location": target}
    with serve(answering(302, b"", redirect)) as server, pytest.raises(ResultUnavailable, match="not followed"):
        fetcher().fetch(address(server))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_address_of_our_own_network_is_a_loss_that_names_the_setting(scheme):
    with serve(answering(200, PNG)) as server, pytest.raises(ResultBlocked, match="PACKSHOT_ALLOW_PRIVATE_HOSTS"):
        Fetcher(Settings()).fetch(address(server).replace("http", scheme, 1))
    assert server.requests == []


def test_a_redirect_into_our_own_network_is_not_followed_and_the_picture_not_given_up(monkeypatch, tmp_path):
    # given a server with a good certificate that counts as public, and an address that does not
    monkeypatch.setattr(addresses, "is_public", lambda found: found == "127.0.0.1")
    tls, trusting = certificate(tmp_path)
    with socket.create_server(("127.0.0.2", 0)) as inner:
        target = f"https://127.0.0.2:{inner.getsockname()[1]}/latest/meta-data"
        # when the first sends us to the second
        with serve(answering(302, b"", {"Location": target}), tls) as server:
            fetch = Fetcher(Settings(), pool=guarded_pool(allow_private=False, ssl_context=trusting)).fetch
            with pytest.raises(ResultUnavailable, match="no public address"):
                fetch(address(server).replace("http", "https", 1))
    # then only the first was asked
    assert len(server.requests) == 1


def test_a_plain_http_address_is_asked_for_by_https(monkeypatch, tmp_path):
    monkeypatch.setattr(addresses, "is_public", lambda found: True)
    tls, trusting = certificate(tmp_path)
    with serve(answering(200, PNG), tls) as server:
        fetch = Fetcher(Settings(), pool=guarded_pool(allow_private=False, ssl_context=trusting)).fetch
        assert fetch(address(server)).data == PNG


def test_a_certificate_of_nobody_is_unavailable(monkeypatch, tmp_path):
    monkeypatch.setattr(addresses, "is_public", lambda found: True)
    tls, _ = certificate(tmp_path)
    with serve(answering(200, PNG), tls) as server, pytest.raises(ResultUnavailable, match="TLS"):
        Fetcher(Settings()).fetch(address(server))


def test_no_error_and_no_log_shows_the_signature(caplog):
    caplog.set_level(logging.DEBUG)
    said = []
    for behave in (
        answering(403, EXPIRED_XML),
        answering(500, b""),
        answering(200, PNG, cut=7),
        answering(200, b"<html>"),
        answering(302, b"", {"Location": f"ftp://host/x{QUERY}"}),
        answering(302, b"", {"Location": f"http://no-such-host.invalid/x{QUERY}"}),
        answering(302, b"", {"Location": f"http://bad host/x{QUERY}"}),
        lambda peer: peer.reset(),
        lambda peer: peer.send(b"no http at all\r\n\r\n"),
        lambda peer: peer.send(b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\n"),
    ):
        with serve(behave) as server, pytest.raises((ResultLost, ResultUnavailable)) as raised:
            fetcher().fetch(address(server))
        said.append("".join(traceback.format_exception(raised.value)))
        assert urlsplit(str(raised.value).split()[-1]).query == ""
    assert "secret" not in "".join(said)
    assert "secret" not in caplog.text


def certificate(folder):
    """TLS for a server on 127.0.0.1, and for a client that trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "public.pem", folder / "private.pem"
    public.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return context, ssl.create_default_context(cafile=str(public))

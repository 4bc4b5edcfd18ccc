"""Connections that only talk to public addresses, for hosts that somebody else chose: result URLs, upload hosts.

The check is made on the connected socket (`getpeername`), after TCP and before TLS or any byte of ours: a name that
resolves to a public address when looked at and to a private one when used (DNS rebinding) is caught as well.
A redirect opens a new connection, so it is checked again; following it is left to the caller.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from models.errors import PackshotError
from worker.wire import Deadlined, tls_context

# urllib3 writes whole URLs, and with them signatures, at debug level, and at warning level on malformed headers.
logging.getLogger("urllib3.connectionpool").setLevel(logging.WARNING)
logging.getLogger("urllib3.connection").setLevel(logging.ERROR)

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Nobody on the internet has these, whatever some versions of Python say: IPv4-compatible, site-local, a network's own
# NAT64 (RFC 8215).
_NEVER = tuple(ipaddress.ip_network(network) for network in ("::/96", "fec0::/10", "64:ff9b:1::/48"))


class BlockedAddress(PackshotError):
    """A host led to an address that is not public. Nothing was sent."""

    def __init__(self, host: str, address: str) -> None:
        super().__init__(
            f"{host} leads to {address}, which is no public address; set PACKSHOT_ALLOW_PRIVATE_HOSTS=1 if it is meant"
        )
        self.host = host
        self.address = address


def guarded_pool(*, allow_private: bool, **pool_kw: Any) -> urllib3.PoolManager:
    """A pool manager whose connections refuse peers that are not global addresses, unless `allow_private`.

    Inside `worker.wire.until(deadline)` its requests end by the deadline.
    Retries and redirects are off unless `pool_kw` says otherwise; `pool_kw` goes to `urllib3.PoolManager`.
    Its requests raise BlockedAddress, besides what urllib3 raises.
    """
    pool_kw.setdefault("retries", False)
    pool_kw.setdefault("ssl_context", tls_context())
    manager = urllib3.PoolManager(**pool_kw)
    http, https = (_HTTPPool, _HTTPSPool) if allow_private else (_GuardedHTTPPool, _GuardedHTTPSPool)
    manager.pool_classes_by_scheme = {"http": http, "https": https}
    return manager


def is_public(address: str) -> bool:
    """Whether an IP address, as text, is one that anybody on the internet can have. Text that is no address is not.

    Python counts addresses that merely carry an IPv4 address (mapped, 6to4, Teredo, NAT64) as global, in some versions,
    whatever the inner one is; so the inner one is looked at.
    """
    try:
        ip = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return False
    if any(ip in network for network in _NEVER):
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def _refuse_private(sock: socket.socket, host: str) -> socket.socket:
    address = str(sock.getpeername()[0])
    if not is_public(address):
        sock.close()
        raise BlockedAddress(host, address)
    return sock


class _HTTPConnection(Deadlined, HTTPConnection):  # type: ignore[misc]
    pass


class _HTTPSConnection(Deadlined, HTTPSConnection):  # type: ignore[misc]
    pass


class _GuardedHTTPConnection(_HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _refuse_private(super()._new_conn(), self.host)


class _GuardedHTTPSConnection(_HTTPSConnection):
    def _new_conn(self) -> socket.socket:  # called by connect() before the TLS handshake
        return _refuse_private(super()._new_conn(), self.host)


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _GuardedHTTPPool(HTTPConnectionPool):
    ConnectionCls = _GuardedHTTPConnection


class _GuardedHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedHTTPSConnection

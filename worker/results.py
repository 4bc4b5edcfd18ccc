"""Fetch a picture that is paid: from a signed address, whole, verified, within limits.

Nothing of ours goes along: no Authorization, no cookies. Only https to public hosts, re-checked at each of at most
three redirects, unless the setting for private hosts is on (the emulator needs it); without it an `http://` address is
asked for by https, which OSS serves alike and does not sign.

When is a picture lost, and when merely not to be had now?

lost         the server denies it (403, 404, 410) and `Expires` of the address has passed, or its answer says expired;
             the address is none; what came is whole and no picture for us (too large, another format, an
             implausible size)
unavailable  all else: no connection, a short or damaged body, time out, 5xx, HTML from a gateway, a redirect to where
             we do not go, a denial before its time. The executor tries again until 24 h after the answer; `Expires`
             was seen to lie 7 days ahead while results are purged by then (reference, section 4.6).

blocked      it leads to a private address: the same for all results, and a person's setting, so the batch stops

An address's query is its signature, a secret: errors show scheme, host and path only, and hide the library's own
exceptions, whose text may hold the rest.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import SplitResult, parse_qs, urljoin, urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    IncompleteRead,
    LocationValueError,
    NewConnectionError,
    ProtocolError,
    SSLError,
)

from models.errors import ResultBlocked, ResultError, ResultLost, ResultUnavailable
from models.settings import Settings
from worker.addresses import BlockedAddress, guarded_pool
from worker.png import NotAPicture, png_size
from worker.wire import Deadline, until

READ_TIMEOUT_S = 30.0  # for each silence of the server
TOTAL_TIMEOUT_S = 120.0
MAX_BYTES = 64 * 1024 * 1024
MAX_REDIRECTS = 3
CHUNK_BYTES = 256 * 1024

DENIED = (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
REDIRECTS = (301, 302, 303, 307, 308)

# OSS names each cause by an EC number; these two are "the signed address has expired" (V1 and V2, V4 by S3's rules).
_EXPIRED = re.compile(rb"<EC>0002-00000(069|418)</EC>|<Message>\s*Request has expired", re.IGNORECASE)


@dataclass(frozen=True)
class Fetched:
    """A whole PNG. sha256: hex digest of data; width, height: pixels, from its header."""

    data: bytes
    sha256: str
    width: int
    height: int


class Fetcher:
    """Fetches results. One a process, shared by its threads.

    pool:  who connects; by default one that refuses private addresses unless the settings allow them
    clock: seconds that only grow, for the total time limit; now: seconds since 1970, to compare with `Expires`

    The total limit holds for everything: redirects, headers and body, however slowly they drip in.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        pool: urllib3.PoolManager | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        read_timeout_s: float = READ_TIMEOUT_S,
        total_timeout_s: float = TOTAL_TIMEOUT_S,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._private = settings.allow_private_hosts
        self._pool = pool or guarded_pool(allow_private=self._private, num_pools=32, maxsize=32, retries=False)
        self._connect_timeout_s = settings.connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._total_timeout_s = total_timeout_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._now = now

    def fetch(self, url: str) -> Fetched:
        """The picture at a signed address. Raises ResultUnavailable, ResultBlocked or ResultLost, see above."""
        deadline = Deadline.after(self._total_timeout_s, self._clock)
        place = self._place(url)
        with until(deadline):
            response = self._ask(place, deadline)
            for left in reversed(range(1 + MAX_REDIRECTS)):
                with closing(response):
                    if response.status not in REDIRECTS:
                        return self._picture(place, response, deadline)
                if left:
                    place, response = self._follow(place, response.headers.get("Location", ""), deadline)
        raise ResultUnavailable(f"redirected more than {MAX_REDIRECTS} times: {_shown(place)}")

    def _follow(
        self, place: SplitResult, location: str, deadline: Deadline
    ) -> tuple[SplitResult, urllib3.BaseHTTPResponse]:
        """A redirect to where we do not go is some gateway's doing: the address itself may still be good next time."""
        try:
            target = self._place(location, base=place.geturl())
            return target, self._ask(target, deadline)
        except (ResultLost, ResultBlocked) as error:
            raise ResultUnavailable(f"a redirect is not followed: {error}") from None

    def _place(self, url: str, base: str = "") -> SplitResult:
        """The address we go to for a URL, or ResultLost."""
        try:
            place = urlsplit(urljoin(base, url))
            host, port = place.hostname, place.port
        except ValueError:
            raise ResultLost("a result's address cannot be read") from None
        if place.scheme not in ("http", "https") or not host:
            raise ResultLost(f"a result's address must begin with https://, not: {_shown(place)}")
        if place.scheme == "http" and not self._private:
            place = place._replace(
                scheme="https", netloc=place.netloc.removesuffix(":80") if port == 80 else place.netloc
            )
        return place

    def _ask(self, place: SplitResult, deadline: Deadline) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool.request(
                "GET",
                place.geturl(),
                headers={"Accept": "image/png, */*;q=0.1", "Accept-Encoding": "identity", "User-Agent": "packshot"},
                timeout=urllib3.Timeout(
                    connect=min(self._connect_timeout_s, deadline.left_s()), read=self._read_timeout_s
                ),
                preload_content=False,
                redirect=False,
                retries=False,
            )
        except BlockedAddress as blocked:
            raise ResultBlocked(f"{blocked}; then the same command fetches what is paid") from None
        except LocationValueError:
            raise ResultLost(f"a result's address cannot be read: {_shown(place)}") from None
        except (HTTPError, OSError) as error:
            raise self._failed(error, place, deadline) from None

    def _picture(self, place: SplitResult, response: urllib3.BaseHTTPResponse, deadline: Deadline) -> Fetched:
        if response.status != HTTPStatus.OK:
            raise self._denial(place, response)
        body = self._body(place, response, deadline)
        try:
            width, height = png_size(body)
        except NotAPicture as error:
            raise ResultLost(f"{error}: {_shown(place)}") from None
        except ValueError as error:
            raise ResultUnavailable(f"{error}: {_shown(place)}") from None
        return Fetched(body, hashlib.sha256(body).hexdigest(), width, height)

    def _denial(self, place: SplitResult, response: urllib3.BaseHTTPResponse) -> ResultError:
        said = b""
        with suppress(HTTPError, OSError):
            said = response.read1(CHUNK_BYTES, decode_content=False)
        if response.status in DENIED and (self._expired(place) or _EXPIRED.search(said)):
            return ResultLost(f"HTTP {response.status}, the address has expired: {_shown(place)}")
        return ResultUnavailable(f"HTTP {response.status} instead of a picture: {_shown(place)}")

    def _body(self, place: SplitResult, response: urllib3.BaseHTTPResponse, deadline: Deadline) -> bytes:
        """All of it, as announced. A short one raises ResultUnavailable, one above the cap ResultLost."""
        announced = response.headers.get("Content-Length", "")
        expected = int(announced) if announced.isdecimal() else 0
        chunks: list[bytes] = []
        size = 0
        while max(expected, size) <= self._max_bytes:
            try:
                chunk = response.read1(CHUNK_BYTES, decode_content=False)
            except (HTTPError, OSError) as error:
                raise self._failed(error, place, deadline) from None
            if not chunk:
                return b"".join(chunks)
            chunks.append(chunk)
            size += len(chunk)
        raise ResultLost(f"more than {self._max_bytes} bytes, which no picture has: {_shown(place)}")

    def _failed(self, error: Exception, place: SplitResult, deadline: Deadline) -> ResultUnavailable:
        late = f"the picture was not here after {self._total_timeout_s:g} s"
        return ResultUnavailable(f"{late if deadline.passed else _reason(error)}: {_shown(place)}")

    def _expired(self, place: SplitResult) -> bool:
        moment = parse_qs(place.query).get("Expires", [""])[0]
        return moment.isdecimal() and int(moment) <= self._now()


def _shown(place: SplitResult) -> str:
    """Scheme, host and path: the query is a signature, and somebody else chose the letters."""
    text = f"{place.scheme}://{place.hostname or ''}{f':{place.port}' if place.port else ''}{place.path}"
    return "".join(letter if letter.isprintable() else "?" for letter in text[:300])


def _reason(error: Exception) -> str:
    """Our words for the library's exceptions; theirs may hold the address."""
    if isinstance(error, NewConnectionError | ConnectTimeoutError):
        return "no connection could be made"
    if isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
        return "the server was silent for too long"
    if isinstance(error, SSLError):
        return "no safe connection (TLS) could be made"
    if isinstance(error, IncompleteRead) or (isinstance(error, ProtocolError) and "IncompleteRead" in repr(error)):
        return "the connection ended in the middle of the picture"
    if isinstance(error, ProtocolError | OSError):
        return "the connection broke"
    return f"the answer could not be read ({type(error).__name__})"

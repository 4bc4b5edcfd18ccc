"""The pictures that were drawn, under signed addresses that die (API reference, section 4.6).

A result lies in DIR/results and is served as the provider's object store would: the signature of the query covers path
and expiry, a dead address answers 403 with XML, an Authorization header beside it answers 400. The signing secret is
kept in DIR, so addresses survive a restart. Faults of a download live in memory and heal, but for an expired address,
which carries its date.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlencode
from xml.sax.saxutils import escape

from starlette.responses import Response

from emulator.faults import Download, Wanted

KEY_ID = "REHEARSAL"
PAGE = "<html><body><h1>Please sign in to this network</h1></body></html>"
SLOW_S = 5.0
PURGE_EVERY_S = 60.0


@dataclass
class Trouble:
    """What is wrong with one result, and for how many more downloads."""

    download: Download
    times: int
    seconds: float = SLOW_S


class Results:
    """life_s: how long an address lives. clock: Unix seconds."""

    def __init__(self, folder: Path, clock: Callable[[], float], life_s: float) -> None:
        self._folder = folder / "results"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._life_s = life_s
        self._secret = kept_secret(folder / "secret")
        self._troubles: dict[str, Trouble] = {}
        self._purged = clock()

    def keep(self, name: str, png: bytes, wanted: Wanted | None = None) -> str:
        """Stores one picture; returns path and query of its address, for the caller to put scheme and host before.

        name: unique, without folder and suffix. Touches the disk: call it in a thread.
        """
        download = wanted.fault.download if wanted else None
        now = self._clock()
        file = f"{datetime.fromtimestamp(now, UTC):%Y%m%d}/{name}.png"
        path = self._folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png)
        if wanted and download in ("truncated", "http_500", "html", "slow"):
            seconds = SLOW_S if wanted.seconds is None else wanted.seconds
            self._troubles[file] = Trouble(download, wanted.downloads, seconds)
        return self._address(file, int(now) - 1 if download == "expired" else int(now + self._life_s))

    def find(self, file: str, query: dict[str, str], *, authorized: bool) -> Path | Response:
        """The file of an address, or the object store's refusal."""
        if authorized:
            return xml_error(400, "InvalidArgument", "Only one auth mechanism allowed: signed URL or Authorization.")
        expires = query.get("Expires", "")
        if not expires.isdecimal() or query.get("OSSAccessKeyId") != KEY_ID:
            return xml_error(403, "AccessDenied", "You have no right to access this object.")
        if not same(query.get("Signature", ""), self._signature(file, expires)):
            return xml_error(403, "SignatureDoesNotMatch", "The request signature we calculated does not match.")
        if int(expires) <= self._clock():
            return xml_error(403, "AccessDenied", "Request has expired.", Expires=expires)
        path = (self._folder / file).resolve()
        if not path.is_relative_to(self._folder.resolve()) or not path.is_file():
            return xml_error(404, "NoSuchKey", "The specified key does not exist.", Key=file)
        return path

    def trouble(self, file: str) -> Trouble | None:
        """The trouble of this download, used up by one."""
        trouble = self._troubles.get(file)
        if trouble:
            trouble.times -= 1
            if trouble.times <= 0:
                del self._troubles[file]
        return trouble

    def purge(self) -> None:
        """Removes what no address leads to any more; at most once a minute. Touches the disk: call it in a thread."""
        now = self._clock()
        if now - self._purged < PURGE_EVERY_S:
            return
        self._purged = now
        for path in self._folder.glob("*/*.png"):
            if path.stat().st_mtime < now - self._life_s - PURGE_EVERY_S:
                path.unlink(missing_ok=True)

    def _address(self, file: str, expires: int) -> str:
        query = {"Expires": expires, "OSSAccessKeyId": KEY_ID, "Signature": self._signature(file, str(expires))}
        return f"/results/{quote(file)}?{urlencode(query)}"

    def _signature(self, file: str, expires: str) -> str:
        return sign(self._secret, f"GET\n\n\n{expires}\n/{file}")


def sign(secret: bytes, text: str) -> str:
    return base64.b64encode(hmac.digest(secret, text.encode(), hashlib.sha1)).decode()


def same(given: str, right: str) -> bool:
    """As bytes: the comparison takes no text beyond ASCII, and a stranger may send any."""
    return hmac.compare_digest(given.encode(errors="replace"), right.encode())


def kept_secret(path: Path) -> bytes:
    if not path.exists():
        path.write_text(secrets.token_hex(16))
    return path.read_text().encode()


def xml_error(status: int, code: str, message: str, **more: str) -> Response:
    """An error as the object store words it."""
    rows = {"Code": code, "Message": message, "RequestId": secrets.token_hex(12).upper(), **more}
    inside = "".join(f"\n  <{name}>{escape(value)}</{name}>" for name, value in rows.items())
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inside}\n</Error>\n'
    return Response(body, status, {"x-oss-request-id": rows["RequestId"]}, media_type="application/xml")

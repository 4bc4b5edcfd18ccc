"""Opening the input pictures of a call: data URI, `oss://` upload, or an address this machine may fetch from.

Everything here touches bytes a stranger sent, or the network: it runs in a thread, and no picture is decoded before its
claimed dimensions are known to be harmless.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import ipaddress
import re
import socket
import ssl
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from typing import Literal
from urllib.parse import urlsplit

from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from emulator import refusals
from emulator.refusals import invalid
from emulator.uploads import Uploads

Fetch = Literal["none", "loopback", "private", "standin"]
DATA_URI_MAX = 10_485_760  # bytes of the encoded item (API reference, section 3)
FILE_MAX = 10 * 1024 * 1024
PIXELS_MAX = 80_000_000
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
MIME = {
    "image/jpeg": "JPEG",
    "image/jpg": "JPEG",
    "image/png": "PNG",
    "image/bmp": "BMP",
    "image/x-ms-bmp": "BMP",
    "image/tiff": "TIFF",
    "image/webp": "WEBP",
    "image/gif": "GIF",
}
FETCH_SILENCE_S = 5.0
FETCH_TOTAL_S = 30.0
CACHED_PIXELS = 16_000_000  # decoded pictures kept, at 4 bytes each, for the next call that sends the same bytes


@dataclass(frozen=True)
class Input:
    """One decoded picture: RGB or RGBA, upright, first frame. digest: hex sha256 of the bytes as they came."""

    digest: str
    image: Image.Image


class Inputs:
    """fetch: which addresses may be fetched; a public one never is, since a rehearsal stays in the house.

    `loopback` and `private` fetch from there and refuse the rest as a failed download; `standin` fetches from loopback
    and takes a drawn picture for the rest, so that a manifest full of public addresses can be rehearsed.
    """

    def __init__(self, uploads: Uploads, fetch: Fetch = "loopback") -> None:
        self._uploads = uploads
        self._fetch = fetch
        self._cache: OrderedDict[str, Input] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, ref: str, model: str, *, resolve_oss: bool) -> Input:
        """Raises Refusal in the provider's words."""
        if ref.startswith("data:"):
            mime, content = _from_data_uri(ref)
        elif ref.startswith("oss://"):
            if not resolve_oss:
                raise refusals.not_valid_url()
            mime, content = None, self._uploads.open(ref, model)
        elif ref.startswith(("http://", "https://")):
            mime, content = None, self._download(ref)
        else:
            raise refusals.not_valid_url()
        if len(content) > FILE_MAX:
            raise refusals.file_too_large()
        return self._decoded(content, mime)

    def _decoded(self, content: bytes, mime: str | None) -> Input:
        digest = hashlib.sha256(content).hexdigest()
        with self._lock:
            if found := self._cache.get(f"{digest} {mime}"):
                self._cache.move_to_end(f"{digest} {mime}")
                return found
        decoded = Input(digest, decode(content, mime))
        with self._lock:
            self._cache[f"{digest} {mime}"] = decoded
            while len(self._cache) > 1 and sum(_pixels(i.image) for i in self._cache.values()) > CACHED_PIXELS:
                self._cache.popitem(last=False)
        return decoded

    def _download(self, url: str) -> bytes:
        if not url.isascii():
            raise refusals.not_ascii_url()
        if self._fetch == "none":
            raise refusals.not_downloaded()
        address = _house_address(url, self._fetch)
        if address is None:
            if self._fetch == "standin":
                return stand_in(url)
            raise refusals.not_downloaded()
        try:
            content = _get(url, address)
        except (HTTPError, HTTPException, OSError):
            raise refusals.not_downloaded() from None
        if not content:
            raise refusals.not_downloaded()
        return content


def decode(content: bytes, mime: str | None) -> Image.Image:
    """The whole picture, upright, RGB or RGBA. mime: as a data URI claims it. Raises Refusal."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            if mime is not None and MIME.get(mime.lower()) != picture.format:
                raise invalid("image format error")
            if _pixels(picture) > PIXELS_MAX:
                raise refusals.file_too_large()
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            transparent = "A" in upright.getbands() or "transparency" in upright.info
            return upright.convert("RGBA" if transparent else "RGB")
    except UnidentifiedImageError:
        raise invalid("Invalid image format or corrupted file") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise invalid("read image error") from None


def _from_data_uri(ref: str) -> tuple[str, bytes]:
    if len(ref) > DATA_URI_MAX:
        raise refusals.item_too_large()
    match = re.match(r"data:([\w.+/-]+);base64,", ref[:100])
    if not match:
        raise invalid("image format error")
    try:
        return match[1], base64.b64decode(ref[match.end() :], validate=True)
    except binascii.Error:
        raise invalid("Invalid image format or corrupted file") from None


def _get(url: str, address: str) -> bytes:
    """What an address of this house serves, from the very IP address that was looked at; empty where it is no success.

    Raises OSError, HTTPException or HTTPError; TimeoutError after FETCH_TOTAL_S, however slowly the answer drips in.
    """
    parts = urlsplit(url)
    connection: HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = HTTPSConnection(
            address, parts.port, timeout=FETCH_SILENCE_S, ssl_context=context, server_hostname=parts.hostname
        )
    else:
        connection = HTTPConnection(address, parts.port, timeout=FETCH_SILENCE_S)
    connection.connect()
    late, sock = threading.Event(), connection.sock  # the connection forgets it when the answer is the last one

    def hang_up() -> None:
        late.set()
        with suppress(OSError):  # it is gone already
            sock.shutdown(socket.SHUT_RDWR)

    watch = threading.Timer(FETCH_TOTAL_S, hang_up)
    watch.start()
    try:
        host = parts.netloc.rpartition("@")[2]
        connection.request(
            "GET", parts._replace(scheme="", netloc="").geturl() or "/", headers={"Host": host}, preload_content=False
        )
        answer = connection.getresponse()
        content = answer.read(FILE_MAX + 1) if answer.status == 200 else b""
    finally:
        watch.cancel()
        connection.close()
    if late.is_set():  # where no length was announced, a hang-up looks like an end
        raise TimeoutError
    return content


def _house_address(url: str, fetch: Fetch) -> str | None:
    """The IP address behind the name, if all there are are loopback (or, where allowed, private).

    It is the one to be asked: looked up again, the name may lead elsewhere.
    """
    try:
        parts = urlsplit(url)
        if fetch == "standin" and not _is_literal(parts.hostname):
            return None  # no name is looked up: the question itself would leave the house
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return None
    addresses = [ipaddress.ip_address(entry[4][0]) for entry in found]
    if all(a.is_loopback or (fetch == "private" and a.is_private) for a in addresses):
        return str(addresses[0])
    return None


def _is_literal(host: str | None) -> bool:
    try:
        ipaddress.ip_address(host or "")
    except ValueError:
        return host == "localhost"
    return True


def stand_in(url: str) -> bytes:
    """PNG of something on a white ground; each address has its own shape and colour."""
    digest = hashlib.sha256(url.encode()).digest()
    picture = Image.new("RGB", (640, 800), (246, 246, 245))
    colour = (60 + digest[0] // 2, 60 + digest[1] // 2, 60 + digest[2] // 2)
    left, top, radius = 120 + digest[3] // 4, 130 + digest[4] // 2, 10 + digest[5] // 2
    ImageDraw.Draw(picture).rounded_rectangle((left, top, 640 - left, 690), radius, fill=colour)
    ImageDraw.Draw(picture).ellipse((250, top - 50, 390, top + 60), fill=colour)
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _pixels(picture: Image.Image) -> int:
    return picture.width * picture.height

"""Looking at input pictures before any money is spent: are they there, whole, of a kind and size the provider takes.

A local picture is read once, however many rows name it: checksum, format by its bytes, and a full decode, in a few
threads since both let other threads run. Addresses are judged by their spelling alone; nothing is fetched.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import hashlib
import ipaddress
import os
import stat
import threading
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from PIL import Image, UnidentifiedImageError

from models.edit import Picture
from models.pictures import BYTES_MAX, DEEP, HEAD_BYTES, LARGE_PX, MIMES, PIXELS_MAX, kind_of, orientation_of
from scheduler.problems import quoted

NAMED = {mime: kind for kind, mime in MIMES.items()} | {"image/jpg": "JPEG", "image/x-ms-bmp": "BMP"}
SPELL_MAX = 100

# Pillow warns on stderr, one line each: of large pictures, where PIXELS_MAX is stricter and speaks in problems instead,
# and of metadata in disorder, which are not sent.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_one_large = threading.Lock()


@dataclass(frozen=True)
class Seen:
    """What is known of a picture.

    stem:  its name without folder and ending; empty where it has none (`data:`)
    width: as a person sees it (EXIF orientation applied); None for addresses
    wrong: (what is wrong, what to write) or None
    """

    picture: Picture
    stem: str
    width: int | None = None
    height: int | None = None
    wrong: tuple[str, str] | None = None


class Album:
    """Every picture of a manifest, looked at once. Close it, or use it as a context manager."""

    def __init__(self, *, allow_private_hosts: bool = False, threads: int | None = None) -> None:
        self.allow_private_hosts = allow_private_hosts
        self._seen: dict[str, Seen] = {}
        self._found: dict[tuple[str, tuple[Path, ...]], str | None] = {}
        self._pool = ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1), thread_name_prefix="pictures")
        self._listings: dict[Path, dict[str, str]] = {}
        self._spelled = 0

    def __enter__(self) -> Album:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def warm(self, wanted: Iterable[tuple[str, tuple[Path, ...]]]) -> None:
        """Look at many local pictures side by side, so that `see` finds them done."""
        paths = {
            path
            for text, folders in wanted
            if not is_address(text) and (path := self._find(text, folders)) is not None and path not in self._seen
        }
        self._seen.update(zip(paths, self._pool.map(look, paths), strict=True))

    def see(self, text: str, folders: tuple[Path, ...]) -> Seen:
        """One cell: a path looked for in the folders in order, or an address."""
        if text.startswith("data:"):
            return see_data(text)
        if is_address(text):
            return self._see_address(text)
        path = self._find(text, folders)
        if path is None:
            return Seen(Picture(text), PurePosixPath(text).stem, wrong=self._missing(text, folders))
        if path not in self._seen:
            self._seen[path] = look(path)
        return self._seen[path]

    def refs(self) -> Iterable[str]:
        """Absolute paths and addresses of all that was looked at."""
        return self._seen.keys()

    def _find(self, text: str, folders: tuple[Path, ...]) -> str | None:
        key = (text, folders)
        if key not in self._found:
            paths = (os.path.abspath(folder / text) for folder in folders)
            self._found[key] = next((path for path in paths if os.path.lexists(path)), None) if text else None
        return self._found[key]

    def _missing(self, text: str, folders: tuple[Path, ...]) -> tuple[str, str]:
        if "\\" in text:
            return f"{quoted(text)} does not exist", f"write slashes: {text.replace(chr(92), '/')}"
        for folder in folders:
            listing = self._listing((folder / text).parent)
            stem = PurePosixPath(text).stem.casefold()
            close = [stem] if stem in listing else self._close(stem, listing)
            if close:
                near = listing[close[0]]
                return f"{quoted(text)} does not exist", f"did you mean {PurePosixPath(text).with_name(near)}?"
        return f"{quoted(text)} does not exist", "paths start at the folder of the manifest or of the table"

    def _close(self, stem: str, listing: dict[str, str]) -> list[str]:
        """Spelling help costs time: the first few are enough to see what is wrong with all."""
        self._spelled += 1
        if self._spelled > SPELL_MAX or len(listing) > 5000:
            return []
        return difflib.get_close_matches(stem, listing, n=1, cutoff=0.75)

    def _listing(self, folder: Path) -> dict[str, str]:
        """File names by their stem in small letters: finds `Mug.JPG` for `mug.jpg`."""
        if folder not in self._listings:
            try:
                names = sorted(os.listdir(folder))
            except OSError:
                names = []
            self._listings[folder] = {PurePosixPath(name).stem.casefold(): name for name in names}
        return self._listings[folder]

    def _see_address(self, text: str) -> Seen:
        if text not in self._seen:
            wrong = wrong_s3(text) if text.startswith("s3://") else wrong_url(text, self.allow_private_hosts)
            path = PurePosixPath(unquote(text.partition("://")[2].partition("?")[0].partition("#")[0]))
            self._seen[text] = Seen(Picture(text), path.stem if len(path.parts) > 1 else "", wrong=wrong)
        return self._seen[text]


def is_address(text: str) -> bool:
    return "://" in text or text.startswith("data:")


def wrong_s3(text: str) -> tuple[str, str] | None:
    bucket, _, key = text.removeprefix("s3://").partition("/")
    if not bucket or not key or key.endswith("/"):
        return f"{quoted(text)} names no object", "write s3://bucket/key"
    return None


def wrong_url(text: str, allow_private_hosts: bool) -> tuple[str, str] | None:
    """The provider fetches the address itself: it must be reachable from outside and in plain ASCII."""
    if not text.startswith(("https://", "http://")):
        scheme = text.partition("://")[0]
        return f"{scheme}:// is not an address of pictures", "write a path, https://, s3:// or data:"
    if not text.isascii() or any(c.isspace() for c in text):
        return f"{quoted(text)} holds blanks or other than ASCII characters", "percent-encode them (%20)"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return f"{quoted(text)} is not an address", "write https://host/path"
    if not host or not parts.path.strip("/"):
        return f"{quoted(text)} names no picture", "write https://host/path"
    if "@" in parts.netloc:
        return "the address holds a password or a user's name", "remove what stands before the @"
    if not allow_private_hosts and is_private(host):
        return f"{host} is not a public host", "name one the provider can reach, or set PACKSHOT_ALLOW_PRIVATE_HOSTS=1"
    return None


def is_private(host: str) -> bool:
    """True for localhost and literal addresses that are not of the public internet. Names are not resolved."""
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_global
    except ValueError:
        return host.isdigit() or host.startswith("0x")  # spellings of an address that some resolvers still take


def see_data(text: str) -> Seen:
    head, comma, body = text.partition(",")
    mime, _, coding = head.removeprefix("data:").partition(";")
    if not comma or coding != "base64" or mime.lower() not in NAMED:
        return Seen(Picture("data:"), "", wrong=("not a picture as a data: URI", "write data:image/png;base64,..."))
    try:
        content = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return Seen(Picture("data:"), "", wrong=("the data: URI is not whole Base64", "encode the picture again"))
    seen = _judge(content, text, "the data: URI", "")
    kind = kind_of(content[:HEAD_BYTES]) or ""
    if seen.wrong is None and kind != NAMED[mime.lower()]:
        real = kind.lower()
        return Seen(seen.picture, "", wrong=(f"the data: URI says {mime} and holds {real}", f"write image/{real}"))
    return seen


def look(path: str) -> Seen:
    """Read, hash and decode one local file. Raises nothing: what is wrong is said in the result."""
    name = quoted(os.path.basename(path))
    stem = PurePosixPath(path).stem
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):  # a pipe would keep us waiting for ever
            return Seen(Picture(path), stem, wrong=(f"{name} is not a file", "write the path of a picture"))
        if facts.st_size > BYTES_MAX:
            return _too_large(Picture(path), stem, name, facts.st_size)
        content = Path(path).read_bytes()
    except FileNotFoundError:
        wrong = (f"{name} is a link to what does not exist", "mend the link, or write another path")
        return Seen(Picture(path), stem, wrong=wrong)
    except OSError as error:
        said = error.strerror or str(error)
        return Seen(Picture(path), stem, wrong=(f"{name} cannot be read: {said}", "check its permissions"))
    return _judge(content, path, name, stem)


def _judge(content: bytes, ref: str, name: str, stem: str) -> Seen:
    picture = Picture(ref, hashlib.sha256(content).hexdigest(), len(content))
    if len(content) > BYTES_MAX:
        return _too_large(picture, stem, name, len(content))
    if not content:
        return Seen(picture, stem, wrong=(f"{name} is empty", "copy the picture again"))
    kind = kind_of(content[:HEAD_BYTES])
    if kind is None:
        return Seen(picture, stem, wrong=(f"{name} is {_kind(content)}", "save it as JPG or PNG"))
    try:
        with Image.open(BytesIO(content), formats=[kind]) as image:
            width, height = image.size
            if width * height > PIXELS_MAX:
                wrong = (f"{name} unfolds to {width}x{height} px", f"write a picture of at most {PIXELS_MAX:,} px")
                return Seen(picture, stem, width, height, wrong)
            if kind == "JPEG":
                image.draft(None, (max(1, width // 8), max(1, height // 8)))  # reads it all, computes an eighth
            with _room_for(image, width * height):
                image.load()
            if image.mode in DEEP:
                wrong = (f"{name} has 32 bits a sample", "save it with 8 or 16 bits")
                return Seen(picture, stem, width, height, wrong)
            if kind != "TIFF" and orientation_of(image.info.get("exif", b"")) in (5, 6, 7, 8):
                width, height = height, width  # Pillow turns TIFF by itself
    except Image.DecompressionBombError:
        wrong = (f"{name} unfolds to far too many pixels", f"write a picture of at most {PIXELS_MAX:,} px")
        return Seen(picture, stem, wrong=wrong)
    except UnidentifiedImageError:  # its words name an object of ours
        return Seen(picture, stem, wrong=(f"{name} is damaged or not whole", "copy or save the picture again"))
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise nearly anything on damaged bytes
        wrong = (f"{name} is damaged or not whole ({_first_line(error)})", "copy or save the picture again")
        return Seen(picture, stem, wrong=wrong)
    return Seen(picture, stem, width, height)


def _room_for(image: Image.Image, pixels: int) -> AbstractContextManager[Any]:
    """Of what takes much memory, one at a time: a JPEG read at an eighth does not, unless it is progressive."""
    if not image.info.get("progressive"):
        pixels = image.width * image.height
    return _one_large if pixels > LARGE_PX else nullcontext()


def _too_large(picture: Picture, stem: str, name: str, size: int) -> Seen:
    megabytes = size / 1024 / 1024
    return Seen(picture, stem, wrong=(f"{name} has {megabytes:.1f} MB, and 10 MB is the most", "save it smaller"))


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:100]


def _kind(content: bytes) -> str:
    """What a file that is none of the formats seems to be, by its first bytes."""
    head = content[:512].lstrip()
    if content[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        return "a HEIC or AVIF picture, which the provider does not take"
    if head.startswith(b"%PDF"):
        return "a PDF, not a picture"
    if head.startswith((b"<svg", b"<?xml")):
        return "an SVG drawing, which the provider does not take"
    if head[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "a web page, not a picture"
    return "not a picture of a known format"

"""The pictures of an edit, made ready to be sent: whole, unchanged since planning, without metadata, from disk.

A local file is hashed before the call and again while it streams; its last byte is followed by the request's end, so
a file that changes in between breaks the call off before the server can carry it out. What decides the way:

    https, http, oss    goes as it is
    file, s3, data      Base64 inside the request up to 7 MB each and 11 MB together (the provider limits the encoded
                        item to 10 MB and the decoded body to 16 MiB), else the provider's temporary upload
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from models.edit import Edit, Picture
from models.errors import NotSent, PictureError
from models.pictures import BYTES_MAX, HEAD_BYTES, MIMES, kind_of
from models.settings import Settings
from worker import anew, metadata
from worker.disk import reading, temporary, writing
from worker.metadata import Cut
from worker.tiff import SaveAnew
from worker.wire import Deadline, arriving

INLINE_EACH = 7_000_000
INLINE_TOGETHER = 11_000_000
CHUNK = 3 * 64 * 1024  # a multiple of 3, so that every chunk is whole Base64

Upload = Callable[["LocalPicture"], str]


@dataclass
class LocalPicture:
    """An open picture of known content. name: fit to print; sha256: of the file as opened."""

    name: str
    file: BinaryIO
    kind: str
    size: int
    sha256: str
    cuts: list[Cut]

    @property
    def mime(self) -> str:
        return MIMES[self.kind]

    @property
    def sent_bytes(self) -> int:
        return metadata.sent_size(self.size, self.cuts)

    @property
    def base64_bytes(self) -> int:
        return 4 * ((self.sent_bytes + 2) // 3)

    def chunks(self) -> Iterator[bytes]:
        """The bytes to be sent, from disk. Raises PictureError at the end if they are not those that were hashed."""
        digest, at = hashlib.sha256(), 0
        self.file.seek(0)
        for cut in [*self.cuts, Cut(self.size, self.size)]:
            for block in self._blocks(cut.start - at):
                digest.update(block)
                yield block
            if cut.instead:
                yield cut.instead
            for block in self._blocks(cut.end - cut.start):
                digest.update(block)
            at = cut.end
        if digest.hexdigest() != self.sha256:
            raise PictureError("PictureChanged", f"{self.name} changed while it was being sent")

    def base64_chunks(self) -> Iterator[bytes]:
        rest = b""
        for block in self.chunks():
            data = rest + block if rest else block
            whole = len(data) - len(data) % 3
            rest = data[whole:]
            yield binascii.b2a_base64(data[:whole] if rest else data, newline=False)
        yield binascii.b2a_base64(rest, newline=False)

    def _blocks(self, count: int) -> Iterator[bytes]:
        while count > 0:
            with reading(self.name):
                block = self.file.read(min(count, CHUNK))
            if not block:
                raise PictureError("PictureChanged", f"{self.name} became shorter while it was being sent")
            count -= len(block)
            yield block


class Inputs:
    """Shared by all threads. s3: gives the client for `s3://` pictures, asked for when the first one comes."""

    def __init__(self, settings: Settings, s3: Callable[[], Any] | None = None) -> None:
        self._settings = settings
        self._s3 = s3 or (lambda: _shared_client(settings))

    @contextmanager
    def prepare(self, edit: Edit, upload: Upload) -> Iterator[list[str | LocalPicture]]:
        """What goes into the request for each picture: an address, or an open picture to be sent as Base64.

        Raises PictureError, or NotSent where a store or the upload cannot be reached; nothing was bought then.
        """
        deadline = Deadline.after(self._settings.call_timeout_s)
        with ExitStack() as stack:
            ready = [self._ready(picture, stack, deadline) for picture in edit.pictures]
            for index in _too_much([p.sent_bytes if isinstance(p, LocalPicture) else 0 for p in ready]):
                ready[index] = upload(cast(LocalPicture, ready[index]))
            yield ready

    def _ready(self, picture: Picture, stack: ExitStack, deadline: Deadline) -> str | LocalPicture:
        if picture.ref.startswith("data:"):
            data = _decoded(picture.ref)
            if data is None:
                return picture.ref
            return self._opened("a data: picture", stack.enter_context(BytesIO(data)), Picture(""), stack)
        if picture.ref.startswith("s3://"):
            file = stack.enter_context(temporary())
            self._fetch(picture.ref, file, deadline)
            opened = self._opened(picture.ref, file, picture, stack)
            anew.check_whole(opened.name, opened.file, opened.kind)
            return opened
        if not picture.is_local:
            return picture.ref
        with reading(picture.ref):
            file = stack.enter_context(Path(picture.ref).open("rb"))  # noqa: SIM115 - the stack closes it
        return self._opened(picture.ref, file, picture, stack)

    def _opened(self, name: str, file: BinaryIO, planned: Picture, stack: ExitStack) -> LocalPicture:
        size, sha256 = _measure(name, file)
        if planned.size not in (None, size) or planned.sha256 not in (None, sha256):
            raise PictureError("PictureChanged", f"{name} is not the file that was planned; plan the batch anew")
        with reading(name):
            file.seek(0)
            kind = kind_of(file.read(HEAD_BYTES))
        if kind is None:
            raise PictureError("PictureUnreadable", f"{name} is not a JPG, PNG, WEBP, GIF, BMP or TIFF picture")
        picture = LocalPicture(name, file, kind, size, sha256, [])
        return picture if self._settings.keep_metadata else _without_metadata(picture, stack)

    def _fetch(self, ref: str, file: BinaryIO, deadline: Deadline) -> None:
        bucket, _, key = ref.removeprefix("s3://").partition("/")
        try:
            body = self._s3().get_object(Bucket=bucket, Key=key)["Body"]
            try:
                count = 0
                for block in arriving(body, deadline):
                    count += len(block)
                    if count > BYTES_MAX:
                        raise _too_large(ref)
                    with writing():
                        file.write(block)
                with writing():
                    file.flush()
            finally:
                body.close()
        except ClientError as error:
            raise _of_store(ref, error) from error
        except (BotoCoreError, HTTPError, TimeoutError) as error:
            raise NotSent("PictureUnavailable", f"{ref}: {error}") from error


def _without_metadata(picture: LocalPicture, stack: ExitStack) -> LocalPicture:
    """By leaving out byte ranges where that is possible, else by saving it anew: turned, in frames, odd files."""
    try:
        with reading(picture.name):
            picture.cuts = metadata.cuts(picture.file, picture.kind, picture.size)
            if metadata.orientation(picture.file, picture.cuts) == 1:
                return picture
    except SaveAnew:
        pass  # Pillow forgives some junk between blocks; what it cannot read either is refused there
    file = stack.enter_context(temporary())
    kind = anew.save(picture.name, picture.file, picture.kind, file)
    size, sha256 = _measure(picture.name, file)
    return LocalPicture(picture.name, file, kind, size, sha256, [])


def _measure(name: str, file: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with reading(name):
        file.seek(0)
        while block := file.read(CHUNK):
            size += len(block)
            if size > BYTES_MAX:
                raise _too_large(name)
            digest.update(block)
    return size, digest.hexdigest()


def _too_much(sizes: list[int]) -> Iterator[int]:
    """Which pictures do not fit into the request: those too large alone, then the largest until the rest fits."""
    together = sum(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        if sizes[index] > INLINE_EACH or together > INLINE_TOGETHER:
            together -= sizes[index]
            yield index


def _decoded(uri: str) -> bytes | None:
    """The bytes of a Base64 `data:` picture of a kind we know, else None: then it goes as it is."""
    head, _, data = uri.partition(",")
    if not head.endswith(";base64") or len(data) > 4 * BYTES_MAX // 3 + 4:
        return None
    try:
        decoded = base64.b64decode(data, validate=True)
    except ValueError:
        return None
    return decoded if kind_of(decoded[:HEAD_BYTES]) else None


def _too_large(name: str) -> PictureError:
    return PictureError("PictureTooLarge", f"{name} is larger than 10 MB; make it smaller")


def _of_store(ref: str, error: ClientError) -> PictureError | NotSent:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if status == 404:
        return PictureError("PictureMissing", f"{ref} is not there ({code})")
    if status in (400, 401, 403):
        return PictureError("PictureForbidden", f"{ref} may not be read with these AWS settings ({code})")
    return NotSent("PictureUnavailable", f"{ref}: {code or status}")


def _shared_client(settings: Settings) -> Any:
    from worker.bucket import s3_client  # boto3 takes a while to import; most batches read no s3:// pictures

    return s3_client(settings)

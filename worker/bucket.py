"""Pictures in an S3 bucket, on AWS or any server that speaks its API.

`put` is one PUT of a buffered picture: atomic by S3's own promise, and cheaper in CPU than a transfer manager. The
server is told the MD5 of what it should receive. A HEAD afterwards must agree on size, sha256 (in the metadata) and,
where the ETag is an MD5, on that; where it is not, the object is read back. `If-None-Match` is not used: several
servers ignore it.

Metadata travels in headers, so values are percent-encoded to ASCII and decoded by `head`.
botocore repeats a request once, at once, because a kept-alive connection may have died meanwhile; any longer patience
belongs to `worker.retry`. Its time limits hold for connecting and for each silence of the server; reading an object has
a limit for the whole besides, and one for its size: what is larger than any picture is not ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import quote, unquote

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from models.errors import StorageRefused, StorageUnavailable
from models.settings import Settings
from worker.bucket_errors import storage_error
from worker.results import MAX_BYTES  # nothing larger is fetched, so nothing larger is stored
from worker.storage import RESERVED, Found, Stored, checked_key
from worker.wire import Deadline, arriving

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
READ_TOTAL_S = 300.0
PAGE_KEYS = 1000  # of one listing; the most that S3 gives
BLOCK_KEYS = 100_000  # keys looked for at a time: about 20 MB
CLIP_BYTES = 240  # of one metadata value; S3 takes 2 KB for all of them together


@dataclass(frozen=True)
class BucketStorage:
    """place: `s3://bucket/prefix`, without a slash at the end. client: boto3's, shared by the process."""

    place: str
    bucket: str
    prefix: str
    client: Any

    @classmethod
    def open(cls, place: str, settings: Settings) -> BucketStorage:
        bucket, _, prefix = place.removeprefix("s3://").partition("/")
        prefix = prefix.strip("/")
        if not bucket:
            raise StorageRefused(f"{place!r} names no bucket; write s3://bucket/prefix")
        place = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        if prefix:
            checked_key(prefix)
        try:
            with _in_words(place):
                return cls(place, bucket, prefix, s3_client(settings))
        except ValueError as error:  # botocore's word for an endpoint that is no address
            raise StorageRefused(f"{place}: {error}; AWS_ENDPOINT_URL is written https://host:port") from error

    def put(self, key: str, data: bytes, *, sha256: str, metadata: Mapping[str, str]) -> Stored:
        address, place = self.address(checked_key(key)), self._place(key)
        sent = _as_headers({**metadata, "sha256": sha256})
        before = self._head(key)
        if before is not None and before["ContentLength"] == len(data) and before["Metadata"] == sent:
            return Stored(key, len(data), sha256, existed=True)
        md5 = hashlib.md5(data, usedforsecurity=False)
        with _in_words(address):
            self.client.put_object(
                **place, Body=data, ContentType="image/png", ContentMD5=b64encode(md5.digest()).decode(), Metadata=sent
            )
        after = self._head(key)
        if after is None or after["ContentLength"] != len(data) or after["Metadata"].get("sha256") != sha256:
            raise StorageUnavailable(f"{address}: what the server holds is not what was written")
        if not _etag_agrees(after, md5.hexdigest()) and hashlib.sha256(self.read(key)).hexdigest() != sha256:
            raise StorageUnavailable(f"{address}: what was read back is not what was written")
        return Stored(key, len(data), sha256)

    def head(self, key: str) -> Found | None:
        answer = self._head(checked_key(key))
        if answer is None:
            return None
        return Found(key, answer["ContentLength"], {k: unquote(v) for k, v in answer["Metadata"].items()})

    def read(self, key: str) -> bytes:
        address, data = self.address(checked_key(key)), bytearray()
        with _in_words(address), contextlib.closing(self.client.get_object(**self._place(key))["Body"]) as body:
            for piece in arriving(body, Deadline.after(READ_TOTAL_S)):
                data += piece
                if len(data) > MAX_BYTES:
                    raise StorageRefused(f"{address} is larger than any picture of ours; move it away")
        return bytes(data)

    def existing(self, keys: Iterable[str]) -> Iterator[str]:
        """Lists below what the keys have in common, a thousand a request; looks one by one where that would be fewer.

        In the worst case twice the requests of the better way, whichever it is.
        """
        rest = iter(keys)
        while block := {self._full(checked_key(key)): key for key in islice(rest, BLOCK_KEYS)}:
            yield from self._listed(block)

    def address(self, key: str) -> str:
        return f"{self.place}/{key}"

    def check(self) -> None:
        key = f"{RESERVED}/probe-{secrets.token_hex(8)}"
        place, data = self._place(key), secrets.token_bytes(64)
        with _in_words(self.place):
            self.client.put_object(**place, Body=data, Metadata={"sha256": hashlib.sha256(data).hexdigest()})
            try:
                listed = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self._full(key), MaxKeys=1)
                found = self.client.get_object(**place)
                read = found["Body"].read()
            finally:
                self.client.delete_object(**place)
        if read != data or not listed.get("KeyCount"):
            raise StorageUnavailable(f"{self.place}: the server does not show what was just written to it")
        if found["Metadata"].get("sha256") != hashlib.sha256(data).hexdigest():
            raise StorageRefused(
                f"{self.place}: the server drops object metadata; turn it on there (juicefs: --object-meta)"
            )

    def _listed(self, block: dict[str, str]) -> Iterator[str]:
        requests, size = 0, len(block)
        token: dict[str, str] = {}
        common = os.path.commonprefix([min(block), max(block)])  # noqa: RUF071 - letters, not path parts, are meant
        while requests < size:
            with _in_words(self.place):
                page = self.client.list_objects_v2(Bucket=self.bucket, Prefix=common, MaxKeys=PAGE_KEYS, **token)
            requests += 1
            for entry in page.get("Contents", ()):
                if (key := block.pop(entry["Key"], None)) is not None:
                    yield key
            if not page.get("IsTruncated") or not block:
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}
        for key in block.values():
            if self._head(key) is not None:
                yield key

    def _head(self, key: str) -> Any:
        """HEAD's answer, or None for 404. HEAD has no body: a missing bucket looks the same as a missing key."""
        with _in_words(self.address(key)):
            try:
                return self.client.head_object(**self._place(key))
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                    return None
                raise

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._full(key)}


_clients: dict[tuple[object, ...], Any] = {}
_clients_lock = threading.Lock()


def s3_client(settings: Settings) -> Any:
    """One client a process and set of credentials: thread-safe, and dear to make (a Session costs about 0.1 s).

    Settings that are set are handed over; for the rest boto3 looks where it always does (profile, role, instance).
    """
    secret = {
        "aws_access_key_id": settings.aws_access_key_id,
        "aws_secret_access_key": settings.aws_secret_access_key,
        "aws_session_token": settings.aws_session_token,
    }
    known: dict[str, Any] = {name: value.get_secret_value() for name, value in secret.items() if value is not None}
    for one, other in (("aws_access_key_id", "aws_secret_access_key"), ("aws_secret_access_key", "aws_access_key_id")):
        if one in known and other not in known:
            raise StorageRefused(f"{one.upper()} is set and {other.upper()} is not set; set both, or neither")
    endpoint, region = settings.aws_endpoint_url, settings.aws_region
    identity = (os.getpid(), endpoint, region, settings.concurrency, *sorted(known.items()))
    with _clients_lock:
        if identity not in _clients:
            # A server other than AWS needs no region, but botocore does, to sign; us-east-1 is what they all take.
            region = region or ("us-east-1" if endpoint else None)
            session = boto3.session.Session(region_name=region, **known)
            _clients[identity] = session.client("s3", endpoint_url=endpoint, config=_config(settings))
        return _clients[identity]


def _config(settings: Settings) -> Config:
    custom = settings.aws_endpoint_url is not None
    return Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 2},
        max_pool_connections=max(10, settings.concurrency),
        tcp_keepalive=True,
        # Servers other than AWS often lack virtual hosts and the newer checksum trailers.
        s3={"addressing_style": "path" if custom else "auto"},
        request_checksum_calculation="when_required" if custom else "when_supported",
        response_checksum_validation="when_required" if custom else "when_supported",
    )


def _as_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    """Names in lower case, values in ASCII without spaces: what every server gives back unchanged."""
    return {name.lower(): _encoded(value) for name, value in metadata.items()}


def _encoded(value: str) -> str:
    """Percent-encoded, and cut to CLIP_BYTES between two characters."""
    value = value[:CLIP_BYTES]
    while len(encoded := quote(value, safe="/:@,;=+!()*-._~", errors="replace")) > CLIP_BYTES:
        value = value[:-1]
    return encoded


def _etag_agrees(answer: Any, md5: str) -> bool:
    """An object encrypted with a key of KMS or the customer has an ETag that is no MD5; there the server's own check
    of Content-MD5 stands."""
    if str(answer.get("ServerSideEncryption", "")).startswith("aws:kms") or "SSECustomerAlgorithm" in answer:
        return True
    return bool(answer.get("ETag", "").strip('"').lower() == md5)


@contextlib.contextmanager
def _in_words(address: str) -> Iterator[None]:
    try:
        yield
    except (ClientError, BotoCoreError, HTTPError) as error:
        raise storage_error(error, address) from error
    except TimeoutError as error:
        raise StorageUnavailable(f"{address}: {error}") from error

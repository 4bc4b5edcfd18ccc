"""The provider's temporary upload, for pictures too large to go inside the request: a policy, a form, an `oss://` name.

Free, valid 48 h, bound to model and account (API reference, section 3.1). It comes before the paid call, so everything
that fails here is NotSent, or a refusal of the provider's by code. Names are random: overwriting is forbidden, and a
file's own name is nobody's business. The upload host is the provider's choice, so its address is checked; it is sent
no API key, only the policy's signature, which is never printed. The upload has no longer than the call it is for, and
of the store's answer no more than the start of an error is read.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from typing import Any

from urllib3 import Timeout
from urllib3.exceptions import HTTPError

from models.errors import NotSent, PictureError, Throttled
from models.settings import Settings
from worker.addresses import BlockedAddress, guarded_pool
from worker.inputs import LocalPicture
from worker.wire import Deadline, until

FRESH_S = 60.0  # a policy is not used in its last minute: the form must arrive before it ends
STORED = (200, 201, 204)
SAID_BYTES = 4096  # of an error: its code and message stand at the start
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff"}
_FIELDS = {
    "OSSAccessKeyId": "oss_access_key_id",
    "Signature": "signature",
    "policy": "policy",
    "x-oss-object-acl": "x_oss_object_acl",
    "x-oss-forbid-overwrite": "x_oss_forbid_overwrite",
}

Policy = Mapping[str, Any]


class Uploads:
    """Shared by all threads. ask: gives the `data` of `GET uploads?action=getPolicy` for (region, model, deadline)."""

    def __init__(self, settings: Settings, ask: Callable[[str, str, Deadline], Policy]) -> None:
        self._settings = settings
        self._ask = ask
        self._pool = guarded_pool(allow_private=settings.allow_private_hosts, maxsize=8)
        self._policies: dict[tuple[str, str], tuple[Policy, float]] = {}
        self._lock = threading.Lock()

    def put(self, picture: LocalPicture, *, region: str, model: str, deadline: Deadline) -> str:
        """Send the picture and return its `oss://` reference."""
        policy = self._policy(region, model, deadline)
        key = f"{policy['upload_dir']}/{uuid.uuid4().hex}.{SUFFIXES[picture.kind]}"
        form = _Form(policy, key, picture)
        try:
            with until(deadline):
                status, said = self._post(str(policy["upload_host"]), form, deadline)
        except (HTTPError, OSError) as error:
            raise NotSent("UploadFailed", f"{picture.name} could not be uploaded: {type(error).__name__}") from error
        except BlockedAddress as error:
            raise NotSent("UploadFailed", str(error)) from error
        if status not in STORED:
            self._forget(region, model)
            raise _refused(picture, status, said)
        return f"oss://{key}"

    def _post(self, url: str, form: _Form, deadline: Deadline) -> tuple[int, bytes]:
        """Status, and the start of what an error says. A good status is proof enough: nothing more is waited for."""
        left_s = deadline.left_s()
        response = self._pool.request(
            "POST",
            url,
            body=form,
            headers={
                "Content-Type": f"multipart/form-data; boundary={form.boundary}",
                "Content-Length": str(form.length),
            },
            redirect=False,
            preload_content=False,
            timeout=Timeout(connect=min(self._settings.connect_timeout_s, left_s), read=left_s),
        )
        said = b""
        with closing(response), suppress(HTTPError, OSError):  # a refusal cut short is a refusal all the same
            said = b"" if response.status in STORED else response.read(SAID_BYTES)
        return response.status, said

    def close(self) -> None:
        self._pool.clear()

    def _policy(self, region: str, model: str, deadline: Deadline) -> Policy:
        with self._lock:
            policy, until = self._policies.get((region, model), ({}, 0.0))
        if deadline.clock() < until:
            return policy
        try:
            policy = self._ask(region, model, deadline)
        except Throttled as error:  # of the upload: a limit of its own, which says nothing of the model's
            raise NotSent("UploadFailed", f"the upload is asked for too often: {error}") from error
        missing = [name for name in ("upload_dir", "upload_host", *_FIELDS.values()) if not policy.get(name)]
        if missing:
            raise NotSent("UploadFailed", f"the provider's upload policy lacks {', '.join(missing)}")
        lives_s = float(policy.get("expire_in_seconds") or 0)
        with self._lock:
            self._policies[region, model] = (policy, deadline.clock() + lives_s - FRESH_S)
        return policy

    def _forget(self, region: str, model: str) -> None:
        with self._lock:
            self._policies.pop((region, model), None)


class _Form:
    """A multipart form streamed from disk; the file stands last, as the service wants it."""

    def __init__(self, policy: Policy, key: str, picture: LocalPicture) -> None:
        self.boundary = uuid.uuid4().hex
        self._picture = picture
        fields = {name: str(policy[source]) for name, source in _FIELDS.items()}
        fields |= {"key": key, "success_action_status": "200", "x-oss-content-type": picture.mime}
        head = "".join(
            f'--{self.boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        )
        name = key.rpartition("/")[2]
        head += (
            f'--{self.boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            f"Content-Type: {picture.mime}\r\n\r\n"
        )
        self._head = head.encode()
        self._tail = f"\r\n--{self.boundary}--\r\n".encode()
        self.length = len(self._head) + picture.sent_bytes + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        yield from self._picture.chunks()
        yield self._tail


def _refused(picture: LocalPicture, status: int, body: bytes) -> NotSent | PictureError:
    """Only code and message of the store's XML are repeated; the rest of it echoes the signature."""
    text = body.decode("utf-8", "replace")
    code, message = (_element(text, name) for name in ("Code", "Message"))
    if code == "EntityTooLarge" or status == 413:
        return PictureError("PictureTooLarge", f"{picture.name} is too large for the provider's upload")
    return NotSent("UploadFailed", f"{picture.name}: the upload was refused: HTTP {status} {code} {message}".rstrip())


def _element(xml: str, name: str) -> str:
    found = re.search(rf"<{name}>([^<]{{0,200}})</{name}>", xml)
    return found[1] if found else ""

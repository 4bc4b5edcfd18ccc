"""The temporary store behind `oss://`: an upload policy, a form post, and objects bound to a model for 48 hours.

API reference, section 3.1. The policy is signed and carries model, folder, expiry and greatest size, so nothing about
it needs to be remembered. Objects lie in DIR/uploads: the bytes, and beside them a JSON file with key, model and time.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.responses import Response

from emulator import refusals
from emulator.results import KEY_ID, kept_secret, same, sign, xml_error

POLICY_LIFE_S = 300
OBJECT_LIFE_S = 48 * 3600
FILE_MAX_MB = 100


class Uploads:
    """clock: Unix seconds."""

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder = folder / "uploads"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._secret = kept_secret(folder / "secret")

    def policy(self, model: str, host: str) -> dict[str, Any]:
        """The `data` of a policy answer. host: absolute address the form is posted to."""
        now = self._clock()
        folder = f"dashscope-instant/rehearsal/{datetime.fromtimestamp(now, UTC):%Y-%m-%d}/{uuid.uuid4()}"
        terms = {"model": model, "dir": folder, "expires": now + POLICY_LIFE_S, "max_bytes": FILE_MAX_MB * 1024 * 1024}
        policy = base64.b64encode(json.dumps(terms).encode()).decode()
        return {
            "policy": policy,
            "signature": sign(self._secret, policy),
            "upload_dir": folder,
            "upload_host": host,
            "expire_in_seconds": POLICY_LIFE_S,
            "max_file_size_mb": FILE_MAX_MB,
            "capacity_limit_mb": 999999999,
            "oss_access_key_id": KEY_ID,
            "x_oss_object_acl": "private",
            "x_oss_forbid_overwrite": "true",
        }

    def accept(self, form: Mapping[str, str], content: bytes) -> Response:
        """Stores the file of a form post, or answers as the object store would."""
        policy, key = form.get("policy", ""), form.get("key", "")
        signed = same(form.get("Signature", ""), sign(self._secret, policy))
        if not signed or form.get("OSSAccessKeyId") != KEY_ID:
            return xml_error(403, "SignatureDoesNotMatch", "The request signature we calculated does not match.")
        terms = json.loads(base64.b64decode(policy))
        if terms["expires"] <= self._clock():
            return xml_error(403, "AccessDenied", "Invalid according to Policy: Policy expired.")
        name = key.removeprefix(terms["dir"] + "/")
        if name == key or not name or "/" in name:
            return xml_error(403, "AccessDenied", "Invalid according to Policy: Policy Condition failed: key.")
        for field, value in (("x-oss-object-acl", "private"), ("x-oss-forbid-overwrite", "true")):
            if form.get(field) != value:
                return xml_error(403, "AccessDenied", f"Invalid according to Policy: Policy Condition failed: {field}.")
        if len(content) > terms["max_bytes"]:
            return xml_error(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size.")
        path = self._path(key)
        if path.exists():
            message = "The object you specified already exists and can not be overwritten."
            return xml_error(409, "FileAlreadyExists", message)
        path.write_bytes(content)
        facts = {"key": key, "model": terms["model"], "at": self._clock()}
        path.with_suffix(".json").write_text(json.dumps(facts, ensure_ascii=False))
        return Response(status_code=200 if form.get("success_action_status") == "200" else 204)

    def open(self, ref: str, model: str) -> bytes:
        """The bytes behind an `oss://` reference. Raises Refusal: unknown, too old, or uploaded for another model."""
        path = self._path(ref.removeprefix("oss://"))
        try:
            facts = json.loads(path.with_suffix(".json").read_text())
            content = path.read_bytes()
        except FileNotFoundError:
            raise refusals.not_inspected() from None
        if facts["model"] != model or facts["at"] + OBJECT_LIFE_S <= self._clock():
            raise refusals.not_inspected()
        return content

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.bin"

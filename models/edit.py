"""What is bought and what comes back: an Edit goes out, an Answer comes in. Values only; nothing here acts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PICTURES_MAX = 1000  # no call yields as many: a larger count is not a count
SEED_MAX = 2_147_483_647  # reference, section 2.3


@dataclass(frozen=True)
class Picture:
    """One input picture.

    ref:    absolute path of a local file, or an `https://`, `http://`, `s3://` address, or a `data:` URI
    sha256: hex digest of the file's bytes as planned (local files and data URIs; None for addresses not opened)
    size:   bytes as planned, or None
    """

    ref: str
    sha256: str | None = None
    size: int | None = None

    @property
    def is_local(self) -> bool:
        return "://" not in self.ref and not self.ref.startswith("data:")


@dataclass(frozen=True)
class Edit:
    """One distinct edit: everything that decides what the provider will draw, and nothing else.

    parameters: what goes into the request's `parameters`, JSON values, without `seed`
    seed:       0..2147483647; chosen at planning, since the API never returns the one it used
    """

    model: str
    pictures: tuple[Picture, ...]
    prompt: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def n(self) -> int:
        return int(self.parameters.get("n", 1))

    def digest(self, *, with_seed: bool) -> str:
        """Hex sha256 of the content. A file counts by its bytes, not its name: moved pictures are the same edit."""
        content: dict[str, Any] = {
            "model": self.model,
            "pictures": [p.sha256 or p.ref for p in self.pictures],
            "prompt": self.prompt,
            "parameters": dict(self.parameters),
        }
        if with_seed:
            content["seed"] = self.seed
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "pictures": [{"ref": p.ref, "sha256": p.sha256, "size": p.size} for p in self.pictures],
            "prompt": self.prompt,
            "parameters": dict(self.parameters),
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Edit:
        return cls(
            model=value["model"],
            pictures=tuple(Picture(**picture) for picture in value["pictures"]),
            prompt=value["prompt"],
            parameters=value["parameters"],
            seed=value["seed"],
        )


def derive_seed(content_digest: str, round_: int = 0) -> int:
    """A seed that the same content always gets; `round_` moves it for a person's `--new-seed`."""
    mixed = hashlib.sha256(f"{content_digest}:{round_}".encode()).digest()
    return int.from_bytes(mixed[:8], "big") % (SEED_MAX + 1)


@dataclass(frozen=True)
class Answer:
    """The provider's answer to one call that was billed: where the pictures are and what it counted.

    urls:  signed result addresses, secret, alive about 24 h (reference, section 4.6)
    usage: the answer's `usage` as received; two shapes exist (sections 4.2, 4.3), and it may be missing
    """

    request_id: str
    urls: tuple[str, ...]
    usage: Mapping[str, Any]
    http_status: int = 200

    @property
    def pictures(self) -> int:
        """Pictures billed: the provider's own count, but never fewer than it delivered."""
        for name in ("image_count", "output_image_count"):
            count = self.usage.get(name)
            if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= PICTURES_MAX:
                return max(count, len(self.urls))
        return len(self.urls)

    @property
    def area_px(self) -> int | None:
        """Area of one delivered picture as the usage states it, or None."""
        for names in (("width", "height"), ("output_width", "output_height")):
            width, height = (self.usage.get(name) for name in names)
            if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
                return width * height
        return None

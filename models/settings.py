"""Settings: environment first, then `packshot.toml`, read once into one frozen object whose parts fit together.

Every setting has one name, the same in the environment and in `packshot.toml`. `Settings.origins` remembers where
each value came from; `describe()` shows them with secrets masked. Adding a setting is adding one field.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError

from models import catalogue
from models.errors import SettingsError
from models.money import parse_amount

TOML_NAME = "packshot.toml"
LEDGER = Path(".packshot") / "ledger.db"
FOUND_ABOVE = "found above the working folder"
ELSEWHERE = frozenset({"PACKSHOT_YES", "PACKSHOT_CI"})  # known, and no settings


def _limits(text: str) -> str:
    catalogue.parse_limits(text)
    return text


def _prices(text: str) -> str:
    catalogue.parse_prices(text)
    return text


def _region(text: str) -> str:
    if text not in catalogue.REGIONS:
        raise ValueError(f"{text!r} is not a region; write one of {', '.join(catalogue.REGIONS)}")
    return text


def _share(text: str) -> str:
    parse_share(text)
    return text


def parse_limit_share(text: str) -> float:
    """`80%` -> 0.8. Raises ValueError, in words fit to print."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if not match or not 0 < float(match[1]) <= 100:
        raise ValueError(f"{text!r} is not a part of the limits; write 80%, at most 100%")
    return float(match[1]) / 100


def _level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError(f"{text!r} is not a level; write debug, info, warning or error")
    return text.lower()


def _plain_amount(text: str) -> str:
    _, currency = parse_amount(text)
    if currency is not None:
        plain = re.sub(r"[^0-9.]", "", text)
        raise ValueError(f"{text!r} names a currency, and it holds in that of the batch; write {plain}")
    return text


def _http_url(text: str) -> str:
    text = text.strip()
    if not text.startswith(("http://", "https://")) or not text.partition("://")[2].strip("/"):
        raise ValueError(f"{text!r} is not an address; write https://host/api/v1")
    return text.rstrip("/")


def _redis_url(secret: SecretStr) -> SecretStr:
    """As the queue and the limiter both read it. It may hold a password, so no message shows it."""
    text = secret.get_secret_value().strip()
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("redis", "rediss") and parts.port != 0 and re.fullmatch(r"/?|/\d+", parts.path)
    except ValueError:  # what the standard library has against a host or a port
        fits = None
    if not fits:
        raise ValueError("this is not an address of Redis; write redis://host:6379/0, or rediss:// for TLS")
    return SecretStr(text)


def _workspace(text: str) -> str | None:
    """It goes into a host's name and a header."""
    text = text.strip()
    if text and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", text):
        raise ValueError(f"{text!r} is not a workspace's id; copy it from the Model Studio console, as llm-abc123")
    return text or None


def parse_share(text: str) -> tuple[Decimal | None, int | None]:
    """`1%` -> (Decimal("0.01"), None): a share of the quote; `2.50` or `0` -> (None, micros). Raises ValueError."""
    if text.strip().endswith("%"):
        try:
            percent = Decimal(text.strip()[:-1])
            fits = 0 <= percent <= 100
        except InvalidOperation as error:
            raise ValueError(f"{text!r} is not a share; write 1% or an amount") from error
        if not fits:
            raise ValueError(f"{text!r} is not between 0% and 100%")
        return percent / 100, None
    return None, parse_amount(text)[0]


def _checked(text: str, parse: Callable[[str], object]) -> str:
    parse(text)
    return text


def parse_daily_budget(text: str) -> dict[str, int]:
    """`100 CNY,15 USD` -> micros by currency. Raises ValueError, in words fit to print."""
    budgets: dict[str, int] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        micros, currency = parse_amount(part)
        if currency is None:
            raise ValueError(f"{part!r} names no currency; write {part} CNY")
        budgets[currency] = micros
    return budgets


@dataclass(frozen=True)
class Threshold:
    """So many failures of one cause, and such a part of all that ended, and the batch pauses itself."""

    failures: int
    share: float


def parse_breaker(text: str) -> dict[str, Threshold]:
    """`20/50%,DataInspectionFailed=200/90%` -> thresholds by code, `*` for all others; `off` -> none.

    Raises ValueError, in words fit to print.
    """
    thresholds: dict[str, Threshold] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        if part.lower() == "off":
            return {}
        match = re.match(r"^(?:([\w.\-]+)\s*=\s*)?(\d+)\s*/\s*(\d+(?:\.\d+)?)%$", part)
        if not match or int(match[2]) < 1 or float(match[3]) > 100:
            raise ValueError(f"{part!r} is not FAILURES/SHARE%; write 20/50%, CODE=5/10% or off")
        thresholds[match[1] or "*"] = Threshold(int(match[2]), float(match[3]) / 100)
    return thresholds


class Settings(BaseModel):
    """What is in force. Times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    database_url: Annotated[str, Field(alias="PACKSHOT_DATABASE_URL", description="the ledger", repr=False)] = (
        "sqlite:///.packshot/ledger.db"
    )
    redis_url: Annotated[
        SecretStr | None,
        AfterValidator(lambda v: v if v is None else _redis_url(v)),
        Field(alias="PACKSHOT_REDIS_URL", description="queue and limiter of the cluster"),
    ] = None
    region: Annotated[
        str, AfterValidator(_region), Field(alias="PACKSHOT_REGION", description="region of manifests that name none")
    ] = catalogue.BEIJING
    limits: Annotated[
        str,
        AfterValidator(_limits),
        Field(alias="PACKSHOT_LIMITS", description="your account's limits where they differ: MODEL=REQUESTS/SECONDSs"),
    ] = ""
    limit_share: Annotated[
        str,
        AfterValidator(lambda v: _checked(v, parse_limit_share)),
        Field(
            alias="PACKSHOT_LIMIT_SHARE",
            description="part of every limit that packshot uses; the rest is left to others on the account: 80%",
        ),
    ] = "100%"
    prices: Annotated[
        str,
        AfterValidator(_prices),
        Field(alias="PACKSHOT_PRICES", description="your prices where they differ: MODEL@REGION=AMOUNT CURRENCY"),
    ] = ""
    allow_private_hosts: Annotated[
        bool, Field(alias="PACKSHOT_ALLOW_PRIVATE_HOSTS", description="fetch results from private addresses too")
    ] = False
    confirm_over: Annotated[
        str,
        AfterValidator(_plain_amount),
        Field(
            alias="PACKSHOT_CONFIRM_OVER",
            description="run asks before it spends more than this amount, in the currency of the batch",
        ),
    ] = "5"
    exposure_limit: Annotated[
        str,
        AfterValidator(_share),
        Field(
            alias="PACKSHOT_EXPOSURE_LIMIT",
            description="how much may be bought again while unsure whether it was paid: share of the quote or amount",
        ),
    ] = "1%"
    daily_budget: Annotated[
        str,
        AfterValidator(lambda v: _checked(v, parse_daily_budget)),
        Field(
            alias="PACKSHOT_DAILY_BUDGET",
            description="what all batches together may spend in a UTC day, by currency: 100 CNY, or 100 CNY,15 USD",
        ),
    ] = ""
    breaker: Annotated[
        str,
        AfterValidator(lambda v: _checked(v, parse_breaker)),
        Field(
            alias="PACKSHOT_BREAKER",
            description="pauses a batch when so many jobs, and such a share, failed alike: 20/50%,CODE=5/10%, or off",
        ),
    ] = "20/50%"
    user: Annotated[
        str | None, Field(alias="PACKSHOT_USER", description="who decides, for the record; the login name if not set")
    ] = None
    concurrency: Annotated[
        int, Field(alias="PACKSHOT_CONCURRENCY", ge=1, le=2000, description="calls under way at once in one process")
    ] = 64
    max_tries: Annotated[
        int,
        Field(
            alias="PACKSHOT_MAX_TRIES",
            ge=1,
            le=20,
            description="tries of a job before it is failed; what never left the house has more",
        ),
    ] = 5
    max_wait_s: Annotated[
        float, Field(alias="PACKSHOT_MAX_WAIT_S", gt=0, le=3600, description="longest pause before trying again")
    ] = 60.0
    connect_timeout_s: Annotated[
        float, Field(alias="PACKSHOT_CONNECT_TIMEOUT_S", gt=0, le=600, description="to reach the provider")
    ] = 10.0
    call_timeout_s: Annotated[
        float, Field(alias="PACKSHOT_CALL_TIMEOUT_S", gt=0, le=21_600, description="for one whole call of the provider")
    ] = 600.0
    lease_s: Annotated[
        float, Field(alias="PACKSHOT_LEASE_S", gt=0, le=86_400, description="how long a claim of a job holds")
    ] = 900.0
    lookahead_s: Annotated[
        float, Field(alias="PACKSHOT_LOOKAHEAD_S", gt=0, le=60, description="seconds of work handed out in advance")
    ] = 1.0  # what is handed out has its slot already, so this bounds how soon a new priority or budget shows
    keep_metadata: Annotated[
        bool, Field(alias="PACKSHOT_KEEP_METADATA", description="send EXIF and the like instead of stripping it")
    ] = False
    log_level: Annotated[
        str, AfterValidator(_level), Field(alias="PACKSHOT_LOG", description="debug, info, warning or error")
    ] = "warning"

    api_key: Annotated[
        SecretStr | None, Field(alias="DASHSCOPE_API_KEY", description="key of the provider, of one region")
    ] = None
    base_url: Annotated[
        str | None,
        AfterValidator(lambda v: v if v is None else _http_url(v)),
        Field(alias="DASHSCOPE_HTTP_BASE_URL", description="overrides the region's host"),
    ] = None
    workspace_id: Annotated[
        str | None,
        AfterValidator(lambda v: v if v is None else _workspace(v)),
        Field(alias="DASHSCOPE_WORKSPACE_ID", description="uses the workspace's own host"),
    ] = None

    aws_endpoint_url: Annotated[
        str | None, Field(alias="AWS_ENDPOINT_URL", description="an S3 server other than AWS")
    ] = None
    aws_access_key_id: Annotated[SecretStr | None, Field(alias="AWS_ACCESS_KEY_ID", description="S3 key")] = None
    aws_secret_access_key: Annotated[
        SecretStr | None, Field(alias="AWS_SECRET_ACCESS_KEY", description="S3 secret")
    ] = None
    aws_session_token: Annotated[SecretStr | None, Field(alias="AWS_SESSION_TOKEN", description="S3 session")] = None
    aws_region: Annotated[str | None, Field(alias="AWS_DEFAULT_REGION", description="region of the bucket")] = None

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _beside: Path | None = PrivateAttr(default=None)

    @cached_property
    def models(self) -> dict[str, catalogue.Model]:
        """The catalogue with this account's limits and prices."""
        return catalogue.with_overrides(catalogue.parse_limits(self.limits), catalogue.parse_prices(self.prices))

    @property
    def share(self) -> float:
        """The part of every limit that is ours, (0..1]."""
        return parse_limit_share(self.limit_share)

    def provider_url(self, region: str) -> str:
        """`https://host/api/v1` for a batch's region. Raises SettingsError where the region needs a workspace id."""
        url = self.base_url or catalogue.REGIONS[region].base_url(self.workspace_id)
        if url is None:
            raise SettingsError(f"{region} has no shared host: set DASHSCOPE_WORKSPACE_ID to your workspace's id")
        return url if url.endswith("/api/v1") else f"{url}/api/v1"

    def exposure_limit_micros(self, quote_micros: int) -> int:
        share, micros = parse_share(self.exposure_limit)
        return int(quote_micros * share) if share is not None else int(micros or 0)

    def confirm_over_micros(self) -> int:
        return parse_amount(self.confirm_over)[0]

    @property
    def ledger_origin(self) -> str:
        """Where the ledger's address came from: `default`, `environment`, a packshot.toml or FOUND_ABOVE."""
        return self._origins.get("PACKSHOT_DATABASE_URL", "default")

    def ledger_of_manifest(self) -> Path | None:
        """A ledger in the manifest's folder or above it, where nothing says which ledger to use."""
        if self.ledger_origin != "default" or self._beside is None:
            return None
        return ledger_above(self._beside)

    def describe(self) -> list[Origin]:
        """One line a setting: name, value fit to print, where it came from."""
        lines = []
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            alias = str(info.alias)
            if isinstance(value, SecretStr):
                shown = mask(value.get_secret_value())
            elif name == "database_url":
                shown = mask_url(str(value))
            elif name in ("base_url", "aws_endpoint_url") and value is not None:
                shown = mask_user(str(value))
            else:
                shown = "" if value is None else str(value)
            lines.append(Origin(alias, shown, self._origins.get(alias, "default"), info.description or ""))
        return lines


@dataclass(frozen=True)
class Origin:
    name: str
    value: str
    origin: str
    meaning: str


def load(beside: Path | None = None, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
    """Read the environment, then `packshot.toml` beside the manifest, then the one in the working folder.

    Where none of them says which ledger, it is that of the working folder or of the nearest folder above that has one.

    beside: the manifest's folder, where a command has one
    Raises SettingsError naming the setting, where it was set and what to write.
    """
    environ = os.environ if environ is None else environ
    cwd = _working_folder() if cwd is None else cwd
    names = {str(info.alias) for info in Settings.model_fields.values()}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    folders = [cwd] if beside is None or beside.resolve() == cwd.resolve() else [cwd, beside]
    for folder in folders:
        for name, value in _read_toml(folder / TOML_NAME, names).items():
            values[name], origins[name] = value, str(folder / TOML_NAME)
    for name in names:
        if environ.get(name, "") != "":
            values[name], origins[name] = environ[name], "environment"
    if "AWS_DEFAULT_REGION" not in values and environ.get("AWS_REGION"):
        values["AWS_DEFAULT_REGION"], origins["AWS_DEFAULT_REGION"] = environ["AWS_REGION"], "environment (AWS_REGION)"
    if "PACKSHOT_DATABASE_URL" not in values and (found := ledger_above(cwd)) and found != cwd / LEDGER:
        values["PACKSHOT_DATABASE_URL"] = f"sqlite:///{os.path.relpath(found, cwd)}"
        origins["PACKSHOT_DATABASE_URL"] = FOUND_ABOVE
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError(_in_words(error, origins)) from None
    settings._origins.update(origins)
    settings._beside = beside
    _check_relations(settings)
    return settings


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise SettingsError("the working folder is not there any more; cd into one that is") from None


def ledger_above(folder: Path) -> Path | None:
    """The ledger of a folder, or of the nearest one above it; one that another user put there is not taken."""
    folder = folder.absolute()
    for place in (folder, *folder.parents):
        try:
            if (place / LEDGER).stat().st_uid == os.getuid() or place == folder:
                return place / LEDGER
        except OSError:
            continue
    return None


def _read_toml(path: Path, names: set[str]) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    for name in found:
        if name not in names:
            raise SettingsError(f"{path}: {name} is not a setting; {catalogue.did_you_mean(name, sorted(names))}")
    return found


def _in_words(error: ValidationError, origins: Mapping[str, str]) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    said = str(first["msg"])
    if first["type"] == "value_error":
        said = said.removeprefix("Value error, ")
    elif first["type"] == "string_type":
        said = f'write the value in quotes, as {name} = "..."'
    else:  # the library's words do not name the value; a secret is always a string
        said = f"{first['input']!r}: {said[0].lower()}{said[1:]}"
    return f"{name} ({origins.get(name, 'default')}): {said}"


def _check_relations(settings: Settings) -> None:
    if settings.lease_s <= settings.call_timeout_s + settings.connect_timeout_s:
        raise SettingsError(
            f"PACKSHOT_LEASE_S ({settings.lease_s:g}) must be longer than PACKSHOT_CALL_TIMEOUT_S plus "
            f"PACKSHOT_CONNECT_TIMEOUT_S ({settings.call_timeout_s + settings.connect_timeout_s:g}), "
            "or a claim would run out while its call is under way"
        )


def unknown_names(environ: Mapping[str, str] | None = None) -> list[str]:
    """`PACKSHOT_LIMTS is not a setting; did you mean PACKSHOT_LIMITS?` for each such name in the environment."""
    environ = os.environ if environ is None else environ
    names = {str(info.alias) for info in Settings.model_fields.values()}
    return [
        f"{name} is not a setting; {catalogue.did_you_mean(name, sorted(names))}"
        for name in sorted(environ)
        if name.startswith("PACKSHOT_") and name not in names | ELSEWHERE
    ]


def mask(secret: str) -> str:
    """`sk-1234567890` -> `sk-1...90`; short secrets vanish whole."""
    return f"{secret[:4]}...{secret[-2:]}" if len(secret) >= 12 else "***"


def mask_user(url: str) -> str:
    """`https://user:password@host/` -> `https://***@host/`: a user alone may be a token."""
    return re.sub(r"//.*@", "//***@", url)


def mask_url(url: str) -> str:
    """Hide the password inside a database or broker address."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):  # SQLAlchemy's word on a port that is no number is Python's own
        return "***"

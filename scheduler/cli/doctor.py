"""packshot doctor: is everything there and set as it must be? One line a part, with the mend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import typer

from models.errors import PackshotError
from models.settings import Settings, mask_url, mask_user
from scheduler.cli.app import JsonOption, app, load_settings, print_json
from scheduler.cli.show import SETUP


@dataclass(frozen=True)
class Finding:
    part: str
    state: Literal["ok", "wrong", "left out"]
    said: str


@app.command(rich_help_panel=SETUP, epilog="Example: packshot doctor --output s3://my-bucket/packshot")
def doctor(
    output: Annotated[
        str | None, typer.Option("--output", help="try this folder or s3:// place with a small probe")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check database, migrations, Redis, workers, storage and the provider's key, without buying anything."""
    settings = load_settings()
    findings = list(examine(settings, output))
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{finding.state:<9} {finding.part:<11} {finding.said}")
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)


def examine(settings: Settings, output: str | None) -> Iterator[Finding]:
    """Look at one part after the other. A part that is wrong hides only those that cannot be asked without it, so that
    each trouble is one line."""
    yield (database := _try("database", lambda: _database(settings)))
    yield _if_ok(database, "clock", lambda: _clock(settings))
    yield (tables := _if_ok(database, "migrations", lambda: _migrations(settings)))
    if settings.redis_url is None:
        for part in ("redis", "workers", "scheduler"):
            yield Finding(part, "left out", "PACKSHOT_REDIS_URL is not set; packshot run needs none")
    else:
        yield (redis := _try("redis", lambda: _redis(settings)))
        yield _if_ok(redis, "workers", lambda: _workers(settings))
        yield _if_ok(tables, "scheduler", lambda: _scheduler(settings))
    if output is None:
        yield Finding("storage", "left out", "add --output PLACE to try it with a small probe")
    else:
        yield _try("storage", lambda: _storage(settings, output))
    if settings.api_key is None:
        yield Finding("provider", "wrong", "DASHSCOPE_API_KEY is not set; put your key into the environment")
    else:
        yield _try("provider", lambda: _provider(settings))


def _if_ok(needed: Finding, part: str, look: Callable[[], str]) -> Finding:
    if needed.state == "ok":
        return _try(part, look)
    return Finding(part, "left out", f"cannot be asked before {needed.part} is mended")


def _try(part: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(part, "ok", look())
    except PackshotError as error:
        return Finding(part, "wrong", str(error))


class Wrong(PackshotError):
    pass


def _database(settings: Settings) -> str:
    from models.database import Database

    database = Database(settings.database_url)
    try:
        with database.read() as connection:
            connection.exec_driver_sql("SELECT 1")
        return f"{database.dialect} at {mask_url(settings.database_url)}"
    finally:
        database.close()


def _clock(settings: Settings) -> str:
    from models.database import Database
    from models.lease import SKEW_TOLD_S, need_right_clock
    from scheduler.run import utc_now

    database = Database(settings.database_url)
    try:
        need_right_clock(database, utc_now, most_s=SKEW_TOLD_S)
        return f"within {SKEW_TOLD_S:g} s of the database's"
    finally:
        database.close()


def _migrations(settings: Settings) -> str:
    from models.database import Database, newest_revision

    database = Database(settings.database_url)
    try:
        database.ensure_current()
        return f"at version {newest_revision()}"
    finally:
        database.close()


def _redis(settings: Settings) -> str:
    from worker.broker import CeleryBroker

    queue = CeleryBroker(settings)
    try:
        facts = queue.server_facts()
    finally:
        queue.close()
    if not facts.append_only:
        raise Wrong("appendonly is off: a restart would lose the queue; start Redis with --appendonly yes")
    if facts.eviction != "noeviction":
        raise Wrong(
            f"maxmemory-policy is {facts.eviction}: messages may be evicted; "
            "start Redis with --maxmemory-policy noeviction"
        )
    return f"version {facts.version}, appendonly on, noeviction"


def _workers(settings: Settings) -> str:
    from worker.broker import CeleryBroker

    queue = CeleryBroker(settings)
    try:
        found = queue.workers()
    finally:
        queue.close()
    if not found:
        raise Wrong("no worker answers; start one: packshot worker")
    return f"{len(found)} answer: {', '.join(found)}"


def _scheduler(settings: Settings) -> str:
    from models import lease
    from models.database import Database
    from scheduler.run import utc_now
    from scheduler.service import LEASE

    database = Database(settings.database_url)
    try:
        with database.read() as connection:
            holder = lease.holder_of(connection, LEASE, utc_now())
    finally:
        database.close()
    if holder is None:
        raise Wrong("none is active; start one: packshot scheduler")
    return f"{holder} is active"


def _storage(settings: Settings, output: str) -> str:
    from worker.broker import preflight

    preflight(settings, output, "doctor", list)
    return f"{output} takes a write, a read and a delete"


def _provider(settings: Settings) -> str:
    from worker.broker import check_provider

    check_provider(settings, settings.region)
    return f"{mask_user(settings.provider_url(settings.region))} takes the key"

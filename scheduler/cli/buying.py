"""What the commands that buy do: agree on a price, work to the end, say what came of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import typer
from pydantic import SecretStr
from sqlalchemy import Connection

from models import batch
from models.batch import Batch, Decision
from models.database import Database
from models.errors import SettingsError, UsageError
from models.money import show as money
from models.settings import Settings, parse_daily_budget
from scheduler import report
from scheduler.cli.app import open_ledger, print_json, talk
from scheduler.cli.batches import print_status
from scheduler.cli.emulators import rehearsal_emulator
from scheduler.cli.manifests import print_quote
from scheduler.display import open_display
from scheduler.lock import only_engine
from scheduler.plan import Plan
from scheduler.run import check_destinations, unstored_keys, utc_now, work
from scheduler.submit import find_unchanged, submit
from worker.broker import check_provider

REHEARSAL_STATE = Path(".packshot") / "emulator"


def buy(settings: Settings, plan: Plan, *, yes: bool, json: bool) -> None:
    """The whole of `packshot run`."""
    need_key(settings, plan.region)
    with open_ledger(settings, create=True) as database, only_engine(database):
        found = agree(database, plan, settings, rehearsal=False, output=plan.output, yes=yes)
        finish(settings, database, found, json=json)


def rehearse(settings: Settings, plan: Plan, faults: list[str], *, output: Path, json: bool) -> None:
    """The whole of `packshot rehearse`: a run against an emulator of its own, whose pictures go to `output`."""
    with (
        open_ledger(settings, create=True) as database,
        only_engine(database),
        rehearsal_settings(settings, plan.region, faults) as staged,
    ):
        found = agree(database, plan, staged, rehearsal=True, output=str(output.absolute()), yes=True)
        finish(staged, database, found, json=json)


def agree(database: Database, plan: Plan, settings: Settings, *, rehearsal: bool, output: str, yes: bool) -> Batch:
    """Show the quote, ask where it is due, prove that the parts work, and only then write the batch.

    A batch that the ledger has already is gone on with. Raises BatchChanged when it came from another manifest.
    """
    found = find_unchanged(database, plan, rehearsal=rehearsal)
    if found is not None and found.engine == "cluster":
        raise UsageError(f"{found.name} is worked on by the cluster; see packshot watch {found.name}")
    if found is None:
        print_quote(plan, output=output, file=sys.stderr)
        to_spend = plan.quote_micros
    else:
        with database.read() as connection:
            seen = report.progress(connection, found.id, utc_now())
        talk(f"going on with {found.name}: {seen.jobs['succeeded']:,} of {seen.total:,} jobs are done already")
        to_spend = report.unbought_micros(database, found.id)
    if not rehearsal:
        check_daily_budget(settings, plan.currency)
        confirm(to_spend, plan.currency, settings, yes=yes)
    check_provider(settings, plan.region, [quote.model for quote in plan.by_model])
    if found is None:
        keys = lambda: (key for block in plan.blocks() for row in block for key in row.destinations)  # noqa: E731
        check_destinations(settings, output, plan.batch, keys)
        return submit(database, plan, settings, rehearsal=rehearsal, output=output, now=utc_now())
    _reopen(settings, database, found)
    return found


def _reopen(settings: Settings, database: Database, found: Batch) -> None:
    """Go on with a batch that stood still, once its storage works."""
    check_destinations(settings, found.output, found.name, lambda: unstored_keys(database, found))
    with database.write() as tx:
        batch.reopen(tx, found.id, utc_now())


def check_daily_budget(settings: Settings, currency: str) -> None:
    """Raises UsageError where there are budgets for the day, and none in the currency that this batch is billed in."""
    budgets = parse_daily_budget(settings.daily_budget)
    if budgets and currency not in budgets:
        raise UsageError(
            f"PACKSHOT_DAILY_BUDGET ({settings.daily_budget}) names no amount in {currency}, in which this batch is "
            f"billed; add one: {settings.daily_budget},100 {currency}"
        )


def confirm(micros: int, currency: str, settings: Settings, *, yes: bool) -> None:
    """Ask before spending more than the threshold. Raises UsageError where nobody can be asked."""
    if yes or micros <= settings.confirm_over_micros():
        return
    threshold = money(settings.confirm_over_micros(), currency)
    if not sys.stdin.isatty():
        raise UsageError(
            f"this may cost {money(micros, currency)}, more than PACKSHOT_CONFIRM_OVER ({threshold}), "
            "and nobody is there to be asked; add --yes"
        )
    if not typer.confirm(f"spend up to {money(micros, currency)}?", err=True):
        talk("nothing was bought")
        raise typer.Exit(1)


def finish(settings: Settings, database: Database, found: Batch, *, json: bool) -> None:
    """Work to the end, print what was done, and leave with 1 unless every row got its pictures."""
    display = open_display()
    try:
        work(settings, database, found, display)
    finally:
        display.close()
    with database.read() as connection:
        found = batch.get(connection, found.id)
        facts = report.status(connection, found, utc_now())
        troubles = report.troubles(connection, found.id)
    if json:
        print_json(facts)
    else:
        print_status(facts, troubles)
        left = facts["rows"]["planned"]
        if facts["state"] == "out_of_budget":
            talk(f"out of budget: {left:,} rows remain")
        elif left:
            talk(f"{left:,} rows wait; the same command goes on with them")
    done = facts["rows"]["succeeded"] + facts["rows"]["cancelled"]
    if done < sum(facts["rows"].values()):
        raise typer.Exit(1)


def again(
    name: str,
    status: str,
    put_back: Callable[[Connection, int], bool],
    *,
    by: Decision,
    settings: Settings,
    code: str | None,
    sku: str | None,
    yes: bool,
    rehearsal: bool | None,
    json: bool,
) -> None:
    """Put jobs of one status back on a person's word; then work on the batch, or leave it to the cluster."""
    with open_ledger(settings) as database:
        with database.read() as connection:
            found = report.find_batch(connection, name, rehearsal=rehearsal)
            chosen = report.choose_jobs(connection, found, status, code=code, sku=sku)
        if not chosen:
            talk(f"{name}: no {status} job{f' with code {code}' if code else ''}{f' of {sku}' if sku else ''}")
            return
        worst = money(sum(micros for _, micros in chosen), found.currency)
        if not found.rehearsal:
            confirm(sum(micros for _, micros in chosen), found.currency, settings, yes=yes)
        if found.engine == "cluster":
            count = _put_back(database, found, chosen, put_back, by)
            talk(f"{name}: {count:,} {status} jobs go again in the cluster, at most {worst}")
            return
        if not found.rehearsal:
            need_key(settings, found.region)
        staged_or_not = rehearsal_settings(settings, found.region, []) if found.rehearsal else nullcontext(settings)
        with only_engine(database), staged_or_not as staged:
            check_provider(staged, found.region, found.models)
            check_destinations(staged, found.output, found.name, lambda: unstored_keys(database, found))
            count = _put_back(database, found, chosen, put_back, by)
            talk(f"{name}: {count:,} {status} jobs go again, at most {worst}")
            finish(staged, database, found, json=json)


def _put_back(
    database: Database,
    found: Batch,
    chosen: list[tuple[int, int]],
    put_back: Callable[[Connection, int], bool],
    by: Decision,
) -> int:
    """Put jobs back, each with its recorded decision, and let the batch go on. Returns how many were."""
    count = 0
    with database.write(durable=True) as tx:
        for job_id, _ in chosen:
            if put_back(tx, job_id):
                batch.record_decision(tx, found.id, replace(by, job_id=job_id))
                count += 1
        batch.reopen(tx, found.id, by.at)
    return count


def need_key(settings: Settings, region: str) -> None:
    settings.provider_url(region)
    if settings.api_key is None:
        raise SettingsError(
            "DASHSCOPE_API_KEY is not set: put your key of the provider into the environment, "
            "or try without one: packshot rehearse MANIFEST"
        )


@contextmanager
def rehearsal_settings(settings: Settings, region: str, faults: list[str]) -> Iterator[Settings]:
    """Settings whose provider is an emulator that lives as long as the block."""
    with rehearsal_emulator(settings, REHEARSAL_STATE.absolute(), region, faults) as url:
        yield settings.model_copy(
            update={
                "base_url": url,
                "api_key": SecretStr("sk-rehearsal"),
                "workspace_id": None,
                "allow_private_hosts": True,
            }
        )

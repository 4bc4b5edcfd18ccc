"""What the commands that buy do: agree on a price, work to the end, say what came of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import typer
from pydantic import SecretStr
from sqlalchemy import Connection

from models import batch
from models.batch import Batch, Decision
from models.database import Database
from models.errors import LedgerUnavailable, SettingsError, UsageError
from models.money import show as money
from models.settings import Settings, parse_daily_budget
from scheduler import control, report
from scheduler.cli.app import open_ledger, print_json, talk
from scheduler.cli.batches import print_status
from scheduler.cli.copying import paid_first, reopen_copies
from scheduler.cli.emulators import rehearsal_emulator
from scheduler.cli.manifests import print_quote, refuse
from scheduler.cli.show import counted
from scheduler.display import open_display
from scheduler.lock import only_engine
from scheduler.plan import Plan
from scheduler.run import check_destinations, copies_wait, unstored_keys, utc_now, work
from scheduler.submit import find_unchanged, submit
from worker.broker import check_provider

REHEARSAL_STATE = Path(".packshot") / "emulator"


def buy(settings: Settings, plan: Plan, *, yes: bool, json: bool) -> None:
    """The whole of `packshot run`. A refusal comes after what is paid already is copied."""
    with paid_first(settings, plan.batch):
        refuse(plan)
        need_key(settings, plan.region)
    with open_ledger(settings, create=True) as database, only_engine(database):
        with paid_first(settings, plan.batch, database):
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


def go_on(settings: Settings, database: Database, found: Batch, by: Decision, *, yes: bool, json: bool) -> None:
    """The whole of `packshot resume` on one machine: the ledger has every row, so no manifest is needed.

    With nothing left to buy no key is needed either. While a run works on the ledger this only gives the order.
    """
    if found.state == "planning":
        raise UsageError(
            f"{found.name} was never written whole, and nothing was bought; packshot run MANIFEST does both"
        )
    with ExitStack() as stack:
        try:
            stack.enter_context(only_engine(database))
        except LedgerUnavailable as error:
            if found.state not in ("paused", "stopped"):
                raise
            control.resume(database, found, by)
            talk(f"{found.name}: may be bought again; but {error}, then resume it once more if rows still wait")
            return
        to_spend = report.unbought_micros(database, found.id) if found.state != "cancelled" else 0
        settings = stack.enter_context(_staged(settings, found))
        if to_spend:
            with nullcontext() if found.rehearsal else paid_first(settings, found.name, database):
                if not found.rehearsal:
                    need_key(settings, found.region)
                    check_daily_budget(settings, found.currency)
                    confirm(to_spend, found.currency, settings, yes=yes)
                check_provider(settings, found.region, found.models)
                check_destinations(settings, found.output, found.name, lambda: unstored_keys(database, found))
        if found.state != "open" and not (found.state == "cancelled" and copies_wait(database, found.id)):
            control.resume(database, found, by)
        talk(f"{found.name}: goes on")
        finish(settings, database, found, json=json, buys=bool(to_spend))


def agree(database: Database, plan: Plan, settings: Settings, *, rehearsal: bool, output: str, yes: bool) -> Batch:
    """Show the quote, ask where it is due, prove that the parts work, and only then write the batch.

    A batch that the ledger has already is gone on with. Raises BatchChanged when it came from another manifest.
    """
    found = find_unchanged(database, plan, rehearsal=rehearsal)
    if found is not None and found.engine == "cluster":
        raise UsageError(f"{found.name} is worked on by the cluster; see packshot watch {found.name}")
    if found is None:
        print_quote(plan, settings, output=output, file=sys.stderr)
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


def finish(settings: Settings, database: Database, found: Batch, *, json: bool, buys: bool = True) -> None:
    """Work to the end, print what was done, and leave with 1 unless every row is done.

    A row is done with fewer pictures than it asked for, too: the provider gave no more, and billed no more.
    buys: False only copies what is paid
    """
    display = open_display()
    try:
        work(settings, database, found, display, buys=buys)
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
            talk(f"out of budget: {_rows(left, 'remain')}")
        elif left:
            talk(f"{_rows(left, 'wait')}; the same command goes on with them, or packshot resume {found.name}")
    done = facts["rows"]["succeeded"] + facts["rows"]["cancelled"]
    if done < sum(facts["rows"].values()):
        raise typer.Exit(1)


def _rows(count: int, do: str) -> str:
    return f"{counted(count, 'row')} {do}{'s' if count == 1 else ''}"


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
            _nothing_again(settings, database, found, json=json)
            return
        worst = money(sum(micros for _, micros in chosen), found.currency)
        if not found.rehearsal:
            confirm(sum(micros for _, micros in chosen), found.currency, settings, yes=yes)
        if found.engine == "cluster":
            count = _put_back(database, found, chosen, put_back, by)
            talk(f"{name}: {_go(count, status)} again in the cluster, at most {worst}")
            return
        if not found.rehearsal:
            need_key(settings, found.region)
        with only_engine(database), _staged(settings, found) as staged:
            check_provider(staged, found.region, found.models)
            check_destinations(staged, found.output, found.name, lambda: unstored_keys(database, found))
            count = _put_back(database, found, chosen, put_back, by)
            talk(f"{name}: {_go(count, status)} again, at most {worst}")
            finish(staged, database, found, json=json)


def _go(count: int, status: str) -> str:
    return f"{counted(count, f'{status} job')} {'goes' if count == 1 else 'go'}"


def _nothing_again(settings: Settings, database: Database, found: Batch, *, json: bool) -> None:
    """Nothing to put back; but what is paid and waits to be copied is copied all the same."""
    if found.engine == "embedded" and copies_wait(database, found.id):
        talk(f"{found.name}: paid pictures wait to be copied; copying them, and buying nothing")
        with only_engine(database), _staged(settings, found) as staged:
            reopen_copies(database, found)
            finish(staged, database, found, json=json, buys=False)
    elif json:
        with database.read() as connection:
            print_json(report.status(connection, found, utc_now()))


def _staged(settings: Settings, found: Batch) -> AbstractContextManager[Settings]:
    return rehearsal_settings(settings, found.region, []) if found.rehearsal else nullcontext(settings)


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

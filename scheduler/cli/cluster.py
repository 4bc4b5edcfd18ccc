"""Commands of the cluster: scheduler, worker, submit, watch, and what a person orders of a running batch."""

from __future__ import annotations

import os
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from models.errors import LedgerUnavailable, PackshotError, UsageError
from models.money import parse_amount
from models.money import show as money
from scheduler.cli.app import (
    BatchArg,
    JsonOption,
    ManifestArg,
    ReasonOption,
    RehearsalOption,
    SetOption,
    YesOption,
    app,
    decision,
    load_settings,
    open_ledger,
    print_json,
    talk,
)
from scheduler.cli.manifests import planned, print_quote, refuse
from scheduler.cli.show import CLUSTER, ORDERS, counted
from worker.broker import need_cluster

if TYPE_CHECKING:
    from models.batch import Batch
    from models.database import Database
    from scheduler.report import Progress

SEEN_EVERY_S = 0.5
AWAY_S = 5.0


@app.command(rich_help_panel=CLUSTER, epilog="Example: packshot scheduler")
def scheduler() -> None:
    """Hand out the work of submitted batches until told to stop; start a second one as a standby."""
    from models.lease import need_right_clock
    from scheduler.run import utc_now
    from scheduler.service import run_service

    settings = load_settings()
    need_cluster(settings)
    with open_ledger(settings) as database:
        need_right_clock(database, utc_now)
        run_service(settings, database)


@app.command(rich_help_panel=CLUSTER, epilog="Example: packshot worker --concurrency 200")
def worker(
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", "-c", min=1, max=2000, help="calls at once [PACKSHOT_CONCURRENCY]")
    ] = None,
) -> None:
    """Work on what the scheduler hands out; SIGTERM lets calls in flight end, and records them."""
    from worker.broker import work_for_cluster

    need_cluster(load_settings())
    if concurrency is not None:
        os.environ["PACKSHOT_CONCURRENCY"] = str(concurrency)
    work_for_cluster()


@app.command(rich_help_panel=CLUSTER, epilog="Example: packshot submit manifests/hello.yaml --yes")
def submit(manifest: ManifestArg, pairs: SetOption = [], yes: YesOption = False, json: JsonOption = False) -> None:  # noqa: B006
    """Hand a manifest to the cluster and return at once; prints the batch's name."""
    from scheduler.cli.buying import check_daily_budget, confirm
    from scheduler.run import check_destinations, utc_now
    from scheduler.submit import find_unchanged
    from scheduler.submit import submit as write
    from worker.broker import check_provider

    settings = load_settings(manifest)
    need_cluster(settings)
    with planned(manifest, pairs, settings) as plan:
        refuse(plan)
        _need_shared(plan.output)
        with open_ledger(settings) as database:
            found = find_unchanged(database, plan, rehearsal=False)
            if found is not None and found.state == "cancelled":
                raise PackshotError(
                    f"{found.name} was cancelled, and that is for good; give the manifest another name in `batch:`"
                )
            check_daily_budget(settings, plan.currency)
            if settings.api_key is None:
                talk("warning: DASHSCOPE_API_KEY is not set here, so the provider is not asked before the workers do")
            else:
                check_provider(settings, plan.region, [quote.model for quote in plan.by_model])
            if found is None:
                print_quote(plan, settings, file=sys.stderr)
                confirm(plan.quote_micros, plan.currency, settings, yes=yes)
                keys = lambda: (key for block in plan.blocks() for row in block for key in row.destinations)  # noqa: E731
                check_destinations(settings, plan.output, plan.batch, keys)
                found = write(
                    database, plan, settings, rehearsal=False, output=plan.output, now=utc_now(), engine="cluster"
                )
            else:
                talk(f"{found.name} is in the ledger already; the cluster goes on with it")
                _take_over(database, found)
    print_json({"batch": found.name, "id": found.id}) if json else print(found.name)


def _take_over(database: Database, found: Batch) -> None:
    """Let the cluster go on with a batch; one of packshot run only while no run works on it."""
    from models import batch
    from scheduler.lock import only_engine
    from scheduler.run import utc_now

    with only_engine(database) if found.engine == "embedded" else nullcontext(), database.write() as tx:
        batch.hand_over(tx, found.id, "cluster")
        batch.reopen(tx, found.id, utc_now())


def _need_shared(output: str) -> None:
    if not output.startswith("s3://"):
        talk(f"warning: {output} is a folder; every worker must see the same one. With several hosts use s3://")


@app.command(rich_help_panel=CLUSTER, epilog="Example: packshot watch hello")
def watch(name: BatchArg, json: JsonOption = False) -> None:
    """Show a batch that the cluster works on until it ends; leaves with 1 unless every row got its pictures."""
    from scheduler import report
    from scheduler.display import open_display
    from scheduler.run import LEDGER_PATIENCE_S
    from worker.broker import CeleryBroker

    settings = load_settings()
    need_cluster(settings)
    with open_ledger(settings) as database:
        with database.read() as connection:
            found = report.find_batch(connection, name, rehearsal=False)
        queue = CeleryBroker(settings)
        display = open_display()
        seen_at = time.monotonic()
        try:
            while True:
                try:
                    found, seen, ended = _look(database, found)
                except LedgerUnavailable as error:
                    if time.monotonic() - seen_at > LEDGER_PATIENCE_S:
                        raise
                    display.say(f"{error}; trying again")
                    time.sleep(AWAY_S)
                    continue
                seen_at = time.monotonic()
                display.show(found, seen, queue.rate)
                if ended:
                    break
                time.sleep(SEEN_EVERY_S)
        finally:
            display.close()
            queue.close()
        _tell(database, found, json=json)


def _look(database: Database, found: Batch) -> tuple[Batch, Progress, bool]:
    """How far a batch is, and whether it ended."""
    from models import batch
    from scheduler import report
    from scheduler.dispatch import out_of_budget
    from scheduler.run import utc_now

    with database.read() as connection:
        found = batch.get(connection, found.id)
        seen = report.progress(connection, found.id, utc_now())
        state = report.state(found, seen.jobs, out_of_budget=out_of_budget(connection, found, utc_now()))
    ended = seen.waiting == 0 if state == "cancelled" else state not in ("planning", "waiting", "running")
    return found, seen, ended and not seen.in_hand


def _tell(database: Database, found: Batch, *, json: bool) -> None:
    from scheduler import report
    from scheduler.cli.batches import print_status
    from scheduler.run import utc_now

    with database.read() as connection:
        facts = report.status(connection, found, utc_now())
        troubles = report.troubles(connection, found.id)
    print_json(facts) if json else print_status(facts, troubles)
    if facts["rows"]["succeeded"] + facts["rows"]["cancelled"] < sum(facts["rows"].values()):
        raise typer.Exit(1)


@app.command(rich_help_panel=ORDERS, epilog="Example: packshot pause hello")
def pause(name: BatchArg, rehearsal: RehearsalOption = None, reason: ReasonOption = "") -> None:
    """Buy nothing more of a batch until it is resumed; calls in flight end, paid pictures are copied."""
    from scheduler import control

    settings = load_settings()
    with open_ledger(settings) as database:
        control.pause(database, _find(database, name, rehearsal), decision("pause", settings, reason))
    print(f"{name}: paused")


@app.command(rich_help_panel=ORDERS, epilog="Example: packshot resume hello")
def resume(
    name: BatchArg,
    yes: YesOption = False,
    rehearsal: RehearsalOption = None,
    reason: ReasonOption = "",
    json: JsonOption = False,
) -> None:
    """Go on with a batch that was paused, stopped or broken off; without a cluster, work on it here to its end.

    Needs no manifest; and no key where all that is left is to copy what is paid.
    """
    from scheduler import control

    settings = load_settings()
    with open_ledger(settings) as database:
        found, by = _find(database, name, rehearsal), decision("resume", settings, reason)
        if found.engine == "embedded":
            from scheduler.cli import buying

            buying.go_on(settings, database, found, by, yes=yes, json=json)
            return
        control.resume(database, found, by)
        if json:
            from scheduler import report

            with database.read() as connection:
                print_json(report.status(connection, _find(database, name, found.rehearsal), by.at))
    if not json:
        print(f"{name}: goes on")


@app.command(rich_help_panel=ORDERS, epilog="Example: packshot cancel hello --yes")
def cancel(
    name: BatchArg, yes: YesOption = False, rehearsal: RehearsalOption = None, reason: ReasonOption = ""
) -> None:
    """Give up what waits of a batch, for good; what is paid is delivered."""
    from scheduler import control

    settings = load_settings()
    with open_ledger(settings) as database:
        found = _find(database, name, rehearsal)
        _need_something_left(database, found)
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError("cancelling cannot be undone, and nobody is there to be asked; add --yes")
            typer.confirm(f"cancel what waits of {name}, for good?", abort=True, err=True)
        count = control.cancel(database, found, decision("cancel", settings, reason))
    print(f"{name}: cancelled, {counted(count, 'job')} given up")


def _need_something_left(database: Database, found: Batch) -> None:
    """A finished batch stays a finished one."""
    from scheduler import report
    from scheduler.run import utc_now

    with database.read() as connection:
        jobs = report.progress(connection, found.id, utc_now()).jobs
    if found.state != "cancelled" and jobs["succeeded"] + jobs["cancelled"] == sum(jobs.values()):
        raise PackshotError(f"{found.name} is finished: nothing is left to be cancelled")


@app.command(rich_help_panel=ORDERS, epilog="Example: packshot priority hello 90")
def priority(
    name: BatchArg,
    number: Annotated[int, typer.Argument(min=0, max=100, help="higher goes first; 50 unless said otherwise")],
    rehearsal: RehearsalOption = None,
    reason: ReasonOption = "",
) -> None:
    """Put a batch before or behind the others."""
    from scheduler import control

    settings = load_settings()
    with open_ledger(settings) as database:
        control.set_priority(database, _find(database, name, rehearsal), number, decision("priority", settings, reason))
    print(f"{name}: priority {number}")


@app.command(rich_help_panel=ORDERS, epilog="Example: packshot budget hello '25 CNY'")
def budget(
    name: BatchArg,
    amount: Annotated[str, typer.Argument(help="the new budget in the batch's currency, or none")],
    rehearsal: RehearsalOption = None,
    reason: ReasonOption = "",
) -> None:
    """Set a batch's budget; one that had run out of it goes on."""
    from scheduler import control

    settings = load_settings()
    with open_ledger(settings) as database:
        found = _find(database, name, rehearsal)
        micros = None if amount.strip().lower() == "none" else _amount(amount, found.currency)
        control.set_budget(database, found, micros, decision("budget", settings, reason))
    print(f"{name}: budget {'none' if micros is None else money(micros, found.currency)}")
    if found.engine == "embedded":
        talk(f"to go on: packshot resume {name}{' --rehearsal' if found.rehearsal else ''}")


def _amount(text: str, currency: str) -> int:
    try:
        micros, named = parse_amount(text)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if named not in (None, currency):
        raise UsageError(f"the batch is billed in {currency}, not in {named}")
    return micros


@app.command(rich_help_panel=CLUSTER, epilog="Example: packshot health worker")
def health(
    part: Annotated[Literal["scheduler", "worker"], typer.Argument(help="which service of this host is asked")],
) -> None:
    """Say whether this host's scheduler or worker is alive; for health checks of containers."""
    import socket

    from scheduler import health as asked

    settings = load_settings()
    need_cluster(settings)
    ask = asked.schedulers if part == "scheduler" else asked.workers
    found = ask(settings, socket.gethostname())
    if not found:
        print(f"no {part} of this host answers; see its log")
        raise typer.Exit(1)
    print(f"alive: {', '.join(found)}")


@app.command("list", epilog="Example: packshot list --json")
def list_(json: JsonOption = False) -> None:
    """List every batch in one line each."""
    from scheduler.cli.batches import status

    status(name=None, rehearsal=None, json=json)


def _find(database: Database, name: str, rehearsal: bool | None) -> Batch:
    from scheduler import report

    with database.read() as connection:
        return report.find_batch(connection, name, rehearsal=rehearsal)

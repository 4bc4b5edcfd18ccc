"""Commands for what only a person can decide or prove: held, forgive, audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from scheduler.cli.app import (
    BatchArg,
    JsonOption,
    ReasonOption,
    RehearsalOption,
    app,
    decision,
    load_settings,
    open_ledger,
    print_json,
    talk,
)
from scheduler.cli.show import ORDERS, counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.settings import Settings

SkuOption = Annotated[str | None, typer.Option("--sku", help="only jobs of this item")]


@app.command(rich_help_panel=ORDERS, epilog="Example: packshot held hello")
def held(name: BatchArg, rehearsal: RehearsalOption = None, json: JsonOption = False) -> None:
    """List the jobs that may have been paid and wait for a person's word, with all that is known of them."""
    from models.money import show as money
    from scheduler import report
    from scheduler.cli.show import print_table

    with open_ledger(load_settings()) as database, database.read() as connection:
        found = report.find_batch(connection, name, rehearsal=rehearsal)
        waiting = report.held(connection, found.id)
    if json:
        print_json(waiting)
        return
    if not waiting:
        talk(f"{name}: no job is held")
        return
    print_table(
        ("sku", "recipe", "output", "model", "sent at", "at most", "what happened"),
        [
            (
                ", ".join(each["skus"]),
                ", ".join(each["recipes"]),
                each["outputs"][0] + (f" and {len(each['outputs']) - 1:,} more" if len(each["outputs"]) > 1 else ""),
                each["model"],
                each["attempts"][-1]["opened_at"] if each["attempts"] else "-",
                money(each["worst_case_micros"], found.currency),
                each["attempts"][-1]["said"] if each["attempts"] else each["message"],
            )
            for each in waiting
        ],
        right=("at most",),
    )
    talk(
        f"buy them again, at the risk of paying twice: packshot release {name}; or let them go: packshot forgive {name}"
    )


@app.command(rich_help_panel=ORDERS, epilog="Example: packshot forgive hello --sku MUG-01 --reason 'shot by hand'")
def forgive(
    name: BatchArg, sku: SkuOption = None, reason: ReasonOption = "", rehearsal: RehearsalOption = None
) -> None:
    """Close held jobs as not wanted; what they may have cost stays counted as spent."""
    from dataclasses import replace

    from models import batch, job
    from scheduler import report

    settings = load_settings()
    by = decision("forgive", settings, reason)
    with open_ledger(settings) as database:
        with database.read() as connection:
            found = report.find_batch(connection, name, rehearsal=rehearsal)
            chosen = report.choose_jobs(connection, found, "held", sku=sku)
        with database.write(durable=True) as tx:
            count = 0
            for job_id, _ in chosen:
                if job.forgive(tx, job_id, by.at):
                    batch.record_decision(tx, found.id, replace(by, job_id=job_id))
                    count += 1
    print(f"{name}: {counted(count, 'held job')} {'is' if count == 1 else 'are'} let go")


@app.command(epilog="Example: packshot audit hello --deep")
def audit(
    name: Annotated[str | None, typer.Argument(metavar="[BATCH]", help="without: every batch, and the days")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="read every object again and compare checksums")] = False,
    rehearsal: RehearsalOption = None,
    json: JsonOption = False,
) -> None:
    """Prove the ledger: whole chain, right sums, budgets kept, nothing charged twice, every row delivered."""
    from scheduler import audit as auditing
    from scheduler import report

    settings = load_settings()
    read = _reader(settings) if deep else None
    findings: list[dict[str, Any]] = []
    with open_ledger(settings) as database, database.read() as connection:
        if name is None:
            looked_at = auditing.batches_to_audit(connection)
            findings += [{"batch": None, "said": said} for said in auditing.audit_days(connection)]
        else:
            looked_at = [report.find_batch(connection, name, rehearsal=rehearsal)]
        for found in looked_at:
            findings += [{"batch": found.name, "said": said} for said in auditing.audit(connection, found, read=read)]
    if json:
        print_json({"batches": [found.name for found in looked_at], "deep": deep, "findings": findings})
    else:
        for finding in findings:
            print(f"{finding['batch'] or 'days'}: {finding['said']}")
        if not findings:
            print(f"{len(looked_at)} batch{'es' * (len(looked_at) != 1)} audited: everything fits")
    if findings:
        talk(counted(len(findings), "finding"))
        raise typer.Exit(1)


def _reader(settings: Settings) -> Callable[[str, str], bytes]:
    from worker.broker import read_object

    return lambda place, key: read_object(settings, place, key)

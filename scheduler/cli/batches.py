"""Commands that read the ledger: status, rows, cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.errors import UsageError
from models.money import show as money
from scheduler.cli.app import (
    BatchArg,
    JsonOption,
    RehearsalOption,
    app,
    load_settings,
    open_ledger,
    print_json,
    talk,
)
from scheduler.cli.show import counted, print_facts, print_table

if TYPE_CHECKING:
    from scheduler.report import Trouble

UNDELIVERED_SHOWN = 5


@app.command(epilog="Example: packshot status hello --json")
def status(
    name: Annotated[str | None, typer.Argument(metavar="[BATCH]", help="without: every batch in one line")] = None,
    rehearsal: RehearsalOption = None,
    json: JsonOption = False,
) -> None:
    """Say where a batch stands: rows, pictures, calls, money, and what went wrong."""
    from models import batch
    from scheduler import report
    from scheduler.lock import nobody_works
    from scheduler.run import copies_wait, utc_now

    with open_ledger(load_settings()) as database, database.read() as connection:
        if name is None:
            wanted = (each for each in batch.listed(connection) if rehearsal in (None, each.rehearsal))
            found = [report.status(connection, each, utc_now()) for each in wanted]
            print_json(found) if json else _print_list(found)
            return
        one = report.find_batch(connection, name, rehearsal=rehearsal)
        facts = report.status(connection, one, utc_now())
        if json:
            print_json(facts)
            return
        print_status(facts, report.troubles(connection, one.id))
        left = facts["state"] in ("waiting", "running") or copies_wait(database, one.id)
        if one.engine == "embedded" and left and nobody_works(database):
            # by the batch alone: its manifest's name would say neither the folder nor what --set said
            print(f"nobody works on it now; go on: packshot resume {name}{' --rehearsal' if one.rehearsal else ''}")


def print_status(facts: dict[str, Any], troubles: list[Trouble]) -> None:
    """One batch for a person: the counts first, then the money, then what needs a look."""
    name = facts["batch"]
    title = f"{name}: {facts['state'].replace('_', ' ')}"
    lines = [("batch", title + (" (rehearsal)" if facts["rehearsal"] else ""))]
    if facts["reason"]:
        lines.append(("why", f"{facts['reason']['code']}: {facts['reason']['message']}"))
    for kind in ("rows", "jobs"):
        counts = [f"{count:,} {status}" for status, count in facts[kind].items() if count]
        lines.append((kind, ", ".join(counts) or "none"))
    pictures = facts["pictures"]
    said = f"{pictures['billed']:,} billed, {pictures['stored']:,} stored in {facts['output']}"
    if pictures["awaiting_copy"]:
        said += f", {pictures['awaiting_copy']:,} paid and waiting to be copied"
    if pictures["lost"]:
        said += f", {pictures['lost']:,} paid and lost"
    if pictures["not_given"]:
        said += f", {pictures['not_given']:,} asked for but not given, and not billed"
    lines.append(("pictures", said))
    calls = facts["calls"]
    lines.append(
        ("calls", ", ".join(f"{calls[each]:,} {each}" for each in ("answered", "throttled", "failed", "unknown")))
    )
    lines += [("money", _money(account, rehearsal=facts["rehearsal"])) for account in facts["money"]]
    print_facts(lines)
    _print_undelivered(facts["undelivered"])
    for trouble in troubles:
        print(f"{trouble.jobs:,} {trouble.status}: {trouble.code}: {trouble.message} (e.g. {trouble.example})")
    which = f"{name} --rehearsal" if facts["rehearsal"] else name
    if sum(trouble.jobs for trouble in troubles) > 1:
        print(f"each row by itself: packshot rows {which}")
    if any(trouble.status == "failed" for trouble in troubles):
        print(f"run the failed ones again: packshot retry {which}")
    if any(trouble.status == "held" for trouble in troubles):
        print(f"buy the held ones again, at the risk of paying twice: packshot release {which}")


def _print_undelivered(undelivered: list[dict[str, Any]]) -> None:
    """The alarm: what is paid and not stored, the most urgent first."""
    if not undelivered:
        return
    from scheduler.display import duration

    print("paid and not stored:")
    for each in undelivered[:UNDELIVERED_SHOWN]:
        left = "lost" if each["lost"] else f"{duration(each['seconds_left'])} left"
        cost = money(each["micros"], each["currency"])
        print(f"  {each['sku']} picture {each['picture']}, {cost}: {left}; {each['why']}")
    if len(undelivered) > UNDELIVERED_SHOWN:
        print(f"  and more; packshot status --json lists the first {len(undelivered)}")


def _money(account: dict[str, Any], *, rehearsal: bool) -> str:
    currency = account["currency"]
    parts = [
        f"{money(account['charged_micros'], currency)} charged of {money(account['quoted_micros'], currency)} quoted"
    ]
    if account["reserved_micros"]:
        parts.append(f"{money(account['reserved_micros'], currency)} reserved")
    if account["exposure_micros"]:
        parts.append(f"{money(account['exposure_micros'], currency)} perhaps paid (calls without an answer)")
    if account["budget_micros"] is not None:
        parts.append(f"budget {money(account['budget_micros'], currency)}")
    return ", ".join(parts) + ("; a rehearsal: nothing was really spent" if rehearsal else "")


def _print_list(found: list[dict[str, Any]]) -> None:
    if not found:
        talk("no batch in this ledger yet; packshot run MANIFEST makes one")
        return
    titles = ("batch", "state", "succeeded", "failed", "held", "waiting", "charged")
    lines = []
    for facts in found:
        rows = facts["rows"]
        account = facts["money"][0]
        lines.append(
            (
                facts["batch"] + (" (rehearsal)" if facts["rehearsal"] else ""),
                facts["state"].replace("_", " "),
                f"{rows['succeeded']:,}",
                f"{rows['failed']:,}",
                f"{rows['held']:,}",
                f"{rows['planned'] + rows['queued'] + rows['running']:,}",
                money(account["charged_micros"], account["currency"]),
            )
        )
    print_table(titles, lines, right=titles[2:])


@app.command("rows", epilog="Example: packshot rows hello --status failed")
def rows_(
    name: BatchArg,
    status: Annotated[
        str | None, typer.Option("--status", help="planned, queued, running, succeeded, failed, held or cancelled")
    ] = None,
    code: Annotated[str | None, typer.Option("--code", help="only rows whose edit ended with this code")] = None,
    rehearsal: RehearsalOption = None,
    json: JsonOption = False,
) -> None:
    """List a batch's rows: what became of each and why, where its pictures are, what its edit cost."""
    from models import job
    from scheduler import report

    if status is not None and status not in job.STATUSES:
        raise UsageError(f"--status {status!r} is none; write one of {', '.join(job.STATUSES)}")
    with open_ledger(load_settings()) as database, database.read() as connection:
        found = report.find_batch(connection, name, rehearsal=rehearsal)
        if code is not None:
            report.need_code(connection, found, code)
        listed = list(report.listed_rows(connection, found, status=status, code=code))
    if json:
        print_json(listed)
        return
    if not listed:
        talk(f"{name}: no such row")
        return
    titles = ("row", "sku", "recipe", "status", "paid", "output", "why")
    print_table(titles, [_row(each) for each in listed], right=("row", "paid"))


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    why = ": ".join(filter(None, (each["code"], each["message"])))
    paid = money(each["charged_micros"], each["currency"])
    place = each["outputs"][0] + (f" and {len(each['outputs']) - 1} more" if len(each["outputs"]) > 1 else "")
    return (str(each["row"]), each["sku"], each["recipe"], each["status"], paid, place, why)


@app.command(epilog="Example: packshot cost hello --by sku")
def cost(
    name: Annotated[
        str | None, typer.Argument(metavar="[BATCH]", help="without: all real batches, or all rehearsals")
    ] = None,
    by: Annotated[str | None, typer.Option("--by", metavar="model|day|sku|COLUMN", help="group the sums")] = None,
    rehearsal: RehearsalOption = None,
    json: JsonOption = False,
) -> None:
    """Say what was paid, from the ledger: pictures billed and money, per currency."""
    from scheduler import costs, report

    with open_ledger(load_settings()) as database, database.read() as connection:
        found = report.find_batch(connection, name, rehearsal=rehearsal) if name else None
        if by is not None and by not in (columns := costs.known_columns(connection, found)):
            raise UsageError(f"--by {by!r}: no row has such a column; write one of {', '.join(columns)}")
        facts = costs.cost(connection, found, by=by, rehearsals=bool(rehearsal))
    if json:
        print_json(facts)
        return
    if by:
        print_table(
            (by, "pictures", "paid"),
            [(group["key"] or "-", f"{group['pictures']:,}", _charges(group["charges"])) for group in facts["groups"]],
            right=("pictures", "paid"),
        )
    print(f"{counted(facts['pictures'], 'picture')}, {_charges(facts['charges'])}")
    if facts["rehearsal"]:
        talk("a rehearsal: nothing was really spent")


def _charges(charges: list[dict[str, Any]]) -> str:
    return " + ".join(money(charge["micros"], charge["currency"]) for charge in charges) or "nothing paid"

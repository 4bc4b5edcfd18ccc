"""Commands that buy: run, rehearse, retry, release. `scheduler.cli.buying` does what they say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
)
from scheduler.cli.manifests import planned, refuse
from scheduler.cli.show import ORDERS

if TYPE_CHECKING:
    from sqlalchemy import Connection

REHEARSAL_OUT = Path("out") / "rehearsal"


SkuOption = Annotated[str | None, typer.Option("--sku", help="only jobs of this item")]
FaultOption = Annotated[
    list[str],
    typer.Option(
        "--fault", metavar="NAME=SHARE", help="make the emulator misbehave; packshot emulator --help lists how"
    ),
]


@app.command(epilog="Example: packshot run manifests/hello.yaml --yes")
def run(manifest: ManifestArg, pairs: SetOption = [], yes: YesOption = False, json: JsonOption = False) -> None:  # noqa: B006
    """Buy a manifest's edits and store every picture; the same command again goes on where it stopped."""
    from scheduler.cli import buying

    settings = load_settings(manifest)
    with planned(manifest, pairs, settings) as plan:
        buying.buy(settings, plan, yes=yes, json=json)


@app.command(epilog="Example: packshot rehearse manifests/hello.yaml")
def rehearse(
    manifest: ManifestArg,
    pairs: SetOption = [],  # noqa: B006
    fault: FaultOption = [],  # noqa: B006
    json: JsonOption = False,
) -> None:
    """Run a manifest against the emulator on this machine: everything but the provider is real, and nothing is spent.

    Pictures go to out/rehearsal/BATCH, whatever the manifest's output says.
    """
    from scheduler.cli import buying
    from scheduler.cli.emulators import check_faults

    settings = load_settings(manifest)
    check_faults(fault)
    with planned(manifest, pairs, settings) as plan:
        refuse(plan)
        buying.rehearse(settings, plan, fault, output=REHEARSAL_OUT / plan.batch, json=json)


@app.command(rich_help_panel=ORDERS, epilog="Example: packshot retry hello --code DataInspectionFailed --new-seed")
def retry(
    name: BatchArg,
    code: Annotated[str | None, typer.Option("--code", help="only jobs that failed with this code")] = None,
    sku: SkuOption = None,
    new_seed: Annotated[bool, typer.Option("--new-seed", help="buy with another seed")] = False,
    yes: YesOption = False,
    reason: ReasonOption = "",
    rehearsal: RehearsalOption = None,
    json: JsonOption = False,
) -> None:
    """Run a batch's failed jobs again, in the same batch; the history is kept."""
    from models import job
    from scheduler.cli import buying

    def put_back(tx: Connection, job_id: int) -> bool:
        return job.retry(tx, job_id, new_seed=new_seed)

    settings = load_settings()
    buying.again(
        name,
        "failed",
        put_back,
        by=decision("retry", settings, reason),
        settings=settings,
        code=code,
        sku=sku,
        yes=yes,
        rehearsal=rehearsal,
        json=json,
    )


@app.command(rich_help_panel=ORDERS, epilog="Example: packshot release hello --sku MUG-01")
def release(
    name: BatchArg,
    sku: SkuOption = None,
    yes: YesOption = False,
    reason: ReasonOption = "",
    rehearsal: RehearsalOption = None,
    json: JsonOption = False,
) -> None:
    """Buy held jobs again although an earlier call may have been paid: a person's word."""
    from models import job
    from scheduler.cli import buying
    from scheduler.run import utc_now

    def put_back(tx: Connection, job_id: int) -> bool:
        return job.release(tx, job_id, utc_now())

    settings = load_settings()
    buying.again(
        name,
        "held",
        put_back,
        by=decision("release", settings, reason),
        settings=settings,
        code=None,
        sku=sku,
        yes=yes,
        rehearsal=rehearsal,
        json=json,
    )

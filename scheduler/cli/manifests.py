"""Commands that look at manifests and models, and touch nothing: check, plan, schema, models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from models import catalogue
from models.money import show as money
from models.settings import Settings
from scheduler.cli.app import JsonOption, ManifestArg, SetOption, app, load_settings, overrides, print_json, talk
from scheduler.cli.show import SETUP, counted, print_facts, print_table

if TYPE_CHECKING:
    from scheduler.plan import Plan

PROBLEMS_SHOWN = 200


@contextmanager
def planned(manifest: Path, pairs: list[str], settings: Settings) -> Iterator[Plan]:
    """The plan of a manifest, its warnings told; a plan with problems is told and ends the command with 1."""
    from rich.console import Console

    from scheduler.plan import make_plan

    console = Console(stderr=True)
    with console.status("checking ...") as spinner:
        plan = make_plan(
            manifest,
            settings=settings,
            overrides=overrides(pairs),
            today=catalogue.today(),
            progress=lambda rows: spinner.update(f"checking ... {rows:,} rows"),
        )
    with plan:
        for warning in plan.warnings:
            talk(f"warning: {warning}")
        yield plan


def refuse(plan: Plan) -> None:
    """Tell every problem and leave with 1, if there are any."""
    if not plan.problems:
        return
    for problem in plan.problems[:PROBLEMS_SHOWN]:
        talk(str(problem))
    if len(plan.problems) > PROBLEMS_SHOWN:
        talk(f"and {len(plan.problems) - PROBLEMS_SHOWN:,} more; --json lists them all")
    talk(f"{counted(len(plan.problems), 'problem')} found; nothing was written or bought")
    raise typer.Exit(1)


@app.command(epilog="Example: packshot check manifests/hello.yaml")
def check(manifest: ManifestArg, pairs: SetOption = [], json: JsonOption = False) -> None:  # noqa: B006
    """Check every row, picture and value of a manifest; costs and writes nothing."""
    from scheduler.problems import problems_as_json

    with planned(manifest, pairs, load_settings(manifest)) as plan:
        if json:
            print_json(
                {
                    "batch": plan.batch,
                    "rows": plan.rows,
                    "problems": problems_as_json(plan.problems),
                    "warnings": problems_as_json(plan.warnings),
                }
            )
            raise typer.Exit(1 if plan.problems else 0)
        refuse(plan)
        print(f"{manifest}: {counted(plan.rows, 'row')} {'is' if plan.rows == 1 else 'are'} in order")


@app.command(epilog="Example: packshot plan manifests/hello.yaml --json")
def plan(manifest: ManifestArg, pairs: SetOption = [], json: JsonOption = False) -> None:  # noqa: B006
    """Quote a manifest: what would be bought, its price at worst, and how long it takes; costs and writes nothing."""
    settings = load_settings(manifest)
    with planned(manifest, pairs, settings) as made:
        if json:
            exposure = settings.exposure_limit_micros(made.quote_micros)
            print_json({**made.to_json(), "exposure_limit_micros": exposure})
            raise typer.Exit(1 if made.problems else 0)
        refuse(made)
        print_quote(made, settings)


def print_quote(made: Plan, settings: Settings, *, output: str | None = None, file: TextIO | None = None) -> None:
    """The quote as people read it: what, how much, how long, where.

    output: where the pictures go, where not as the manifest says; file: stdout unless given
    """
    from scheduler.display import duration

    shared = made.rows - made.jobs
    exposure = settings.exposure_limit_micros(made.quote_micros)
    facts = [
        ("batch", made.batch),
        ("rows", f"{made.rows:,}" + (f", of which {shared:,} share an edit with another" if shared else "")),
        ("pictures", f"{made.pictures:,} to buy, {made.objects:,} to store"),
    ]
    for quote in made.by_model:
        at_most = money(quote.micros, made.currency)
        said = (
            f"{counted(quote.jobs, 'call')}, {counted(quote.pictures, 'picture')}, {at_most}, {duration(quote.seconds)}"
        )
        facts.append(("model", f"{quote.model}: {said}"))
    facts += [
        ("cost", f"at most {money(made.quote_micros, made.currency)} in {made.region}"),
        ("exposure", f"at most {money(exposure, made.currency)} of calls without an answer are bought again unasked"),
        ("budget", money(made.budget_micros, made.currency) if made.budget_micros is not None else "none set"),
        ("time", f"about {duration(made.seconds)} at the present limits"),
        ("output", output or made.output),
    ]
    if made.budget_micros is not None and made.quote_micros > made.budget_micros:
        facts.append(("note", "the quote is above the budget: the run stops cleanly when the budget is used up"))
    print_facts(facts, file)


@app.command(rich_help_panel=SETUP, epilog="Example: packshot schema > packshot.schema.json")
def schema() -> None:
    """Print the JSON Schema of a manifest, for editors."""
    from scheduler.schema import json_schema

    print_json(json_schema())


@app.command(rich_help_panel=SETUP, epilog="Example: packshot models --region ap-southeast-1")
def models(
    region: Annotated[
        str | None, typer.Option("--region", envvar="PACKSHOT_REGION", help="prices of this region")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List every image model: limits, prices, what it takes, until when."""
    settings = load_settings()
    region = region or settings.region
    if region not in catalogue.REGIONS:
        talk(f"error: {region!r} is not a region; {catalogue.did_you_mean(region, catalogue.REGIONS)}")
        raise typer.Exit(2)
    today = catalogue.today()
    listed = [model for model in settings.models.values() if model.edits]
    if json:
        print_json([_as_json(model, region) for model in listed])
        return
    lines = []
    for model in listed:
        notes = list(model.notes)
        if model.alias_of:
            notes.insert(0, f"= {model.alias_of}")
        if model.retires:
            said = "was announced as retired on" if model.retired_on(today) else "will be retired on"
            notes.insert(0, f"{said} {model.retires}; use {model.replacement}")
        limit = ", ".join(str(each) for each in model.limits)
        takes = f"1-{model.pictures_max}", f"1-{model.n_max}"
        lines.append((model.id, *takes, limit, _prices(model, region), "; ".join(notes)))
    print_table(("model", "pictures in", "n", "limit", f"price in {region}", "notes"), lines)


def _prices(model: catalogue.Model, region: str) -> str:
    if region not in model.regions:
        return "not offered"
    today = catalogue.today()
    shown = []
    for tier in ("1k", "2k") if model.sized_price else (None,):
        price = model.price(region, today, tier)
        if price is not None:
            shown.append(f"{money(price.micros, price.currency)}{f' ({tier})' if tier else ''}")
    return ", ".join(dict.fromkeys(shown)) or "not known; set PACKSHOT_PRICES"


def _as_json(model: catalogue.Model, region: str) -> dict[str, object]:
    return {
        "model": model.id,
        "family": model.family,
        "alias_of": model.alias_of,
        "regions": list(model.regions),
        "pictures_max": model.pictures_max,
        "n_max": model.n_max,
        "parameters": sorted(model.parameters),
        "limits": [{"requests": limit.requests, "window_s": limit.window_s} for limit in model.limits],
        "prices": [
            {
                "region": price.region,
                "currency": price.currency,
                "micros": price.micros,
                "tier": price.tier,
                "input_micros": price.input_micros,
                "since": price.since.isoformat(),
            }
            for price in model.prices
            if price.region == region
        ],
        "retires": model.retires.isoformat() if model.retires else None,
        "replacement": model.replacement,
    }

"""The plan: what a manifest asks to buy, where it goes, what it costs at most and how long it takes. Pure reading.

One pass over the rows. A checked row goes to a temporary file at once; in memory stay only digests of jobs, hashes of
keys and what is known of each picture, so a manifest of a hundred thousand rows plans in the memory of a small one.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from itertools import islice
from pathlib import Path
from typing import IO, Any

from models.catalogue import Model
from models.errors import PackshotError
from models.money import show
from models.settings import Settings
from scheduler.manifest import Manifest, read_manifest
from scheduler.pictures import Album
from scheduler.planned import PlannedRow
from scheduler.problems import SET, ManifestRefused, Problem, Problems, problems_as_json
from scheduler.rows import RowCheck
from scheduler.sources import Row

__all__ = ["ModelQuote", "Plan", "PlannedRow", "make_plan"]

WINDOW = 256  # rows whose pictures are looked at together
ROWS_MAX = 2_000_000


class PlanFailed(PackshotError):
    pass


@dataclass(frozen=True)
class ModelQuote:
    """What one model is asked for. seconds: at its present limits, one call a job"""

    model: str
    jobs: int
    pictures: int
    micros: int
    seconds: float


@dataclass
class Plan:
    """A checked and priced manifest; owns a temporary file, so use it as a context manager or close it.

    checksum:     sha256 over the manifest, its tables and what `--set` said
    output:       absolute folder or `s3://bucket/prefix`, without a slash at the end
    header:       the top level's values as JSON, to tell what changed in a manifest
    lines:        lines of the manifest; rows: edits asked for (a line with two recipes is two)
    pictures:     to be bought, over distinct jobs; objects: copies to be stored, over rows
    quote_micros: worst case: every distinct job delivers all its pictures
    seconds:      models run side by side, so the slowest one's
    problems:     errors; with any, there are no blocks. notes: what was decided for the user
    """

    batch: str
    manifest: Path
    checksum: str
    output: str
    region: str
    currency: str
    budget_micros: int | None
    priority: int
    header: dict[str, Any]
    lines: int = 0
    rows: int = 0
    jobs: int = 0
    pictures: int = 0
    objects: int = 0
    quote_micros: int = 0
    by_model: tuple[ModelQuote, ...] = ()
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _spool: IO[bytes] | None = field(default=None, repr=False)

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def blocks(self, size: int = 1000) -> Iterator[list[PlannedRow]]:
        """The rows in manifest order, `size` at a time; may be called again. Raises ManifestRefused on problems."""
        if self.problems:
            raise ManifestRefused(self.problems)
        if self._spool is None:
            raise ValueError("the plan is closed")
        position = 0
        while True:
            self._spool.seek(position)
            lines = list(islice(self._spool, size))
            if not lines:
                return
            position += sum(map(len, lines))
            yield [PlannedRow.from_json(json.loads(line)) for line in lines]

    def to_json(self) -> dict[str, Any]:
        return {
            "batch": self.batch,
            "manifest": str(self.manifest),
            "checksum": self.checksum,
            "output": self.output,
            "region": self.region,
            "currency": self.currency,
            "budget_micros": self.budget_micros,
            "priority": self.priority,
            "lines": self.lines,
            "rows": self.rows,
            "jobs": self.jobs,
            "pictures": self.pictures,
            "objects": self.objects,
            "quote_micros": self.quote_micros,
            "by_model": [asdict(quote) for quote in self.by_model],
            "seconds": self.seconds,
            "problems": problems_as_json(self.problems),
            "warnings": problems_as_json(self.warnings),
            "notes": self.notes,
        }


def make_plan(
    path: Path,
    *,
    settings: Settings,
    overrides: Mapping[str, str] | None = None,
    today: date,
    cwd: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Plan:
    """Read, check and price a manifest. Writes nothing but a temporary file, fetches nothing, costs nothing.

    overrides: what `--set key=value` said
    today:     whose prices hold
    progress:  called now and then with the number of lines done
    Raises UsageError where there is no such manifest. All that is wrong inside it is in `Plan.problems`.
    """
    cwd = Path(os.path.abspath(cwd)) if cwd is not None else Path.cwd()
    problems = Problems()
    manifest = read_manifest(path, settings=settings, overrides=overrides or {}, cwd=cwd, problems=problems)
    plan = Plan(
        batch=manifest.batch,
        manifest=manifest.path,
        checksum=manifest.checksum,
        output=manifest.output,
        region=manifest.region or settings.region,
        currency="",
        budget_micros=manifest.budget_micros,
        priority=manifest.priority,
        header=manifest.header,
    )
    totals = _Totals(settings.models, plan.region, settings.share)
    with _temporary_room(), Album(allow_private_hosts=settings.allow_private_hosts) as album:
        plan._spool = tempfile.TemporaryFile(prefix="packshot-plan-")  # noqa: SIM115 - the plan owns it
        check = RowCheck(manifest, settings, today, album, problems)
        for window in _windows(manifest.rows(problems)):
            album.warm(wanted for row in window for wanted in check.pictures_of(row))
            for row in window:
                for planned in check.check(row):
                    totals.add(planned)
                    if not problems.raised:
                        line = json.dumps(planned.to_json(), ensure_ascii=False, separators=(",", ":"))
                        plan._spool.write(line.encode() + b"\n")
            plan.lines += len(window)
            if progress is not None:
                progress(plan.lines)
            if check.number > ROWS_MAX:
                problems.error(manifest.place, f"more than {ROWS_MAX:,} rows", "split it into several batches")
                break
        _keep_inputs(manifest, album, check, problems)
        plan._spool.flush()
    if plan.lines == 0 and not problems.raised:
        problems.error(manifest.place, "there is nothing to edit", "write rows into it")
    totals.into(plan, problems, manifest)
    plan.notes = [
        f"no size given for {model}: {size} chosen for {count:,} rows, since its size decides its price"
        for (model, size), count in sorted(check.chosen_sizes.items())
    ]
    order = {name: i for i, name in enumerate((SET, manifest.shown, *(table.shown for table in manifest.tables)))}
    plan.problems = sorted(problems.errors, key=lambda p: (order.get(p.file, len(order)), p.line))
    plan.warnings = sorted(problems.warnings, key=lambda p: (order.get(p.file, len(order)), p.line))
    return plan


@contextmanager
def _temporary_room() -> Iterator[None]:
    """Raises PlanFailed where the rows cannot be put by."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        where = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - only named
        raise PlanFailed(
            f"the plan cannot be put by in {where}: {error.strerror or error}; make room, or set TMPDIR to a folder "
            "that has some"
        ) from None


def _windows(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while window := list(islice(rows, WINDOW)):
        yield window


def _keep_inputs(manifest: Manifest, album: Album, check: RowCheck, problems: Problems) -> None:
    """No result may be written over a picture it was made from."""
    if manifest.output.startswith("s3://"):
        addresses: Iterable[str] = (ref for ref in album.refs() if ref.startswith("s3://"))
    else:
        addresses = (ref for ref in album.refs() if "://" not in ref)
    for ref in addresses:
        key = ref.removeprefix(f"{manifest.output}/")
        if key != ref and key in check.claims:
            problems.error(
                manifest.at("output"),
                f"{key!r} is an input picture, and a result would be written over it",
                "choose another output",
            )


class _Totals:
    """Distinct jobs, counted as rows come by."""

    def __init__(self, models: Mapping[str, Model], region: str, share: float) -> None:
        self.models, self.region, self.share = models, region, share
        self.rows = self.objects = 0
        self.digests: set[bytes] = set()
        self.by_model: dict[str, list[int]] = {}

    def add(self, row: PlannedRow) -> None:
        self.rows += 1
        self.objects += len(row.destinations)
        digest = bytes.fromhex(row.digest)[:16]
        if digest in self.digests:
            return
        self.digests.add(digest)
        sums = self.by_model.setdefault(row.edit.model, [0, 0, 0])
        for index, amount in enumerate((1, row.edit.n, row.worst_case_micros)):
            sums[index] += amount

    def into(self, plan: Plan, problems: Problems, manifest: Manifest) -> None:
        plan.rows, plan.objects, plan.jobs = self.rows, self.objects, len(self.digests)
        plan.by_model = tuple(
            ModelQuote(name, jobs, pictures, micros, _seconds(self.models[name], jobs, self.share))
            for name, (jobs, pictures, micros) in sorted(self.by_model.items())
        )
        plan.pictures = sum(quote.pictures for quote in plan.by_model)
        plan.quote_micros = sum(quote.micros for quote in plan.by_model)
        plan.seconds = max((quote.seconds for quote in plan.by_model), default=0.0)
        used = list(self.by_model) or [name for name in (manifest.model.text,) if name in self.models]
        currencies = sorted({c for name in used if (c := self.models[name].currency(plan.region))})
        if len(currencies) > 1:
            what = f"its models are billed in {' and '.join(currencies)}"
            problems.error(manifest.at("model"), what, "make one batch for each currency")
        plan.currency = currencies[0] if currencies else _currency_of(self.models, plan.region)
        if plan.budget_micros is not None and plan.quote_micros > plan.budget_micros:
            worst, budget = show(plan.quote_micros, plan.currency), show(plan.budget_micros, plan.currency)
            what = f"the worst case, {worst}, is more than the budget of {budget}"
            problems.warn(("budget",), manifest.at("budget"), what, "the rest waits for money")


def _seconds(model: Model, jobs: int, share: float) -> float:
    """Calls at our share of the model's tightest limit; a model without a limit is not waited for."""
    return round(max((jobs / (limit.per_second * share) for limit in model.limits), default=0.0), 1)


def _currency_of(models: Mapping[str, Model], region: str) -> str:
    return next((c for model in models.values() if (c := model.currency(region))), "CNY")

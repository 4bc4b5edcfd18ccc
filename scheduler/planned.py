"""A planned row: what `scheduler/rows.py` makes of a line and a recipe, and its form in the plan's temporary file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.edit import Edit


@dataclass(frozen=True)
class PlannedRow:
    """A row with one of its recipes: what to buy and where it goes.

    edit:                with its seed
    digest:              rows of one digest share one job
    destinations:        keys below the output, for pictures 1..n
    seeded_destinations: the same with `{seed}` left as it is, where the template uses it: for a run with new seeds
    columns:             free columns, sku and recipe
    worst_case_micros:   if this row's job delivers all its pictures
    """

    number: int
    file: str
    line: int
    sku: str
    recipe: str
    edit: Edit
    digest: str
    destinations: tuple[str, ...]
    seeded_destinations: tuple[str, ...] | None
    columns: dict[str, str]
    worst_case_micros: int

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "file": self.file,
            "line": self.line,
            "sku": self.sku,
            "recipe": self.recipe,
            "edit": self.edit.to_json(),
            "digest": self.digest,
            "destinations": self.destinations,
            "seeded_destinations": self.seeded_destinations,
            "columns": self.columns,
            "worst_case_micros": self.worst_case_micros,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PlannedRow:
        seeded = value["seeded_destinations"]
        return cls(
            **{
                **value,
                "edit": Edit.from_json(value["edit"]),
                "destinations": tuple(value["destinations"]),
                "seeded_destinations": None if seeded is None else tuple(seeded),
            }
        )

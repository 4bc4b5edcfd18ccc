"""The registry of the format: one entry for every key of the manifest and every column of a row.

Checking, the JSON Schema and the tables of manifests/README.md are all made from it. A `parse` reads text, the one
form in which YAML, CSV, JSON lines and `--set` deliver values; a `fits` compares the parsed value with the model's
entry in the catalogue. Both raise ValueError with the words `what is wrong; what to write instead`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from models.catalogue import CATALOGUE, DEFAULT_MODEL, REGIONS, Model
from models.edit import SEED_MAX
from models.money import parse_amount
from scheduler import values

PICTURES_MAX = max(model.pictures_max for model in CATALOGUE.values() if model.edits)
PRIORITY_MAX, PRIORITY_DEFAULT = 100, 50

Fits = Callable[[Any, Model], None]
SCALAR = {"type": ["string", "number", "boolean"]}


@dataclass(frozen=True)
class Field:
    """One key or column.

    where:     `manifest` (top level), `row` (column of a row, and of `defaults`), `recipe` (key of a recipe)
    parameter: it is sent in the request's `parameters`, so the model must have it
    """

    name: str
    meaning: str
    example: str
    where: tuple[str, ...]
    parse: Callable[[str], Any]
    schema: Mapping[str, Any] = field(default_factory=lambda: SCALAR)
    fits: Fits | None = None
    parameter: bool = False

    @property
    def typed_example(self) -> Any:
        """The example as YAML or JSON would hold it, for schema and documents."""
        kind = self.schema.get("type")
        if kind == "integer":
            return int(self.example)
        return self.example == "true" if kind == "boolean" else self.example


def _image(number: int) -> Field:
    name = "image" if number == 0 else f"image_{number}"
    meaning = (
        "the picture to edit: a path, `https://`, `s3://` or `data:`"
        if number == 0
        else f"picture {number} of several, in the order in which the prompt counts them; the last sets the ratio"
    )
    example = "photos/mug.jpg" if number < 2 else "https://example.com/coat.png"
    return Field(name, meaning, example, ("row",), str, {"type": "string", "minLength": 1})


def _fields() -> tuple[Field, ...]:
    top, row, both, everywhere = ("manifest",), ("row",), ("row", "recipe"), ("manifest", "row", "recipe")
    truth = {"type": "boolean"}
    text = {"type": "string", "minLength": 1}
    editing = [name for name, model in CATALOGUE.items() if model.edits]
    return (
        Field(
            "batch",
            "name of the batch, unique in the ledger; default: the file's name without its ending",
            "autumn-2026",
            top,
            values.parse_name,
            {"type": ["string", "number"], "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"},
        ),
        Field(
            "output",
            "top level: folder (a relative one starts at the working folder) or `s3://bucket/prefix`, which may go on "
            "with a template; in rows and recipes: the template of the path below it",
            "out/{sku}.png",
            everywhere,
            values.parse_template,
            text,
        ),
        Field(
            "model",
            f"the provider's model; default {DEFAULT_MODEL}",
            "qwen-image-2.0",
            everywhere,
            values.parse_model,
            {"enum": editing},
        ),
        Field(
            "region",
            "region of the account; default: the setting PACKSHOT_REGION",
            "cn-beijing",
            top,
            values.parse_region,
            {"enum": list(REGIONS)},
        ),
        Field(
            "budget",
            "the most that this batch may spend, in the region's currency; default: no limit",
            "20 CNY",
            top,
            parse_amount,
            {"type": ["string", "number"]},
        ),
        Field(
            "priority",
            f"0 to {PRIORITY_MAX}, higher goes first; default {PRIORITY_DEFAULT}",
            "50",
            top,
            values.parse_whole(0, PRIORITY_MAX),
            {"type": "integer", "minimum": 0, "maximum": PRIORITY_MAX},
        ),
        Field(
            "defaults", "values for columns that a row leaves empty", "{n: 2}", top, values.not_text("columns below it")
        ),
        Field(
            "recipes",
            "named instructions: `name: prompt`, or `name:` with `prompt` and parameters below it",
            "{white: Put the {name} on white}",
            top,
            values.not_text("`name: prompt` lines below it"),
        ),
        Field("rows", "the rows themselves", "[{image: mug.jpg}]", top, values.not_text("a list of rows")),
        Field("tables", "CSV or JSON-lines files of rows, relative to the manifest", "[catalog.csv]", top, str),
        Field(
            "sku",
            "the item's number; default: name of the first picture without its ending",
            "MUG-01",
            row,
            values.parse_sku,
        ),
        *(_image(number) for number in range(PICTURES_MAX + 1)),
        Field(
            "prompt",
            "the instruction, a template; a row that has one is one edit, called `edit`",
            "Put the {name} on white",
            both,
            values.parse_template,
            text,
            values.fits_prompt,
        ),
        Field(
            "recipe",
            "one or several of the recipes; a row without prompt and recipe gets all of them",
            "white, scene",
            row,
            values.parse_recipe_names,
            {"anyOf": [text, {"type": "array", "items": text, "minItems": 1}]},
        ),
        Field(
            "n",
            f"pictures to draw, 1 to {values.N_MAX}; default 1",
            "1",
            both,
            values.parse_n,
            {"type": "integer", "minimum": 1, "maximum": values.N_MAX},
            values.fits_n,
            parameter=True,
        ),
        Field(
            "size",
            "WIDTH*HEIGHT of the result; default: as the model chooses, and 1k size where the size decides the price",
            "1024*1024",
            both,
            values.parse_wire_size,
            {"type": "string", "pattern": r"^\d{1,5}\*\d{1,5}$"},
            values.fits_size,
            parameter=True,
        ),
        Field(
            "seed",
            f"0 to {SEED_MAX}; default: derived from the edit's content",
            "7",
            both,
            values.parse_whole(0, SEED_MAX),
            {"type": "integer", "minimum": 0, "maximum": SEED_MAX},
        ),
        Field(
            "negative_prompt",
            "what the result should not show",
            "text, watermark",
            both,
            str,
            text,
            values.fits_negative_prompt,
            parameter=True,
        ),
        Field(
            "prompt_extend",
            "let the provider rewrite the prompt; default: the provider's (true)",
            "false",
            both,
            values.parse_truth,
            truth,
            parameter=True,
        ),
        Field(
            "prompt_extend_mode",
            "how it is rewritten; edits know `direct` alone",
            "direct",
            both,
            values.parse_mode,
            {"enum": ["direct"]},
            parameter=True,
        ),
        Field(
            "enable_thinking",
            "think while rewriting: slower; default: the provider's (true)",
            "false",
            both,
            values.parse_truth,
            truth,
            parameter=True,
        ),
        Field(
            "watermark",
            "the provider's visible mark; default: the provider's (false)",
            "false",
            both,
            values.parse_truth,
            truth,
            parameter=True,
        ),
    )


FIELDS = _fields()
MANIFEST = {f.name: f for f in FIELDS if "manifest" in f.where}
COLUMNS = {f.name: f for f in FIELDS if "row" in f.where}
RECIPE = {f.name: f for f in FIELDS if "recipe" in f.where}
PARAMETERS = tuple(f for f in FIELDS if f.parameter)
IMAGES = tuple(f.name for f in FIELDS if f.name.startswith("image"))  # "image" first, then image_1..image_10


@lru_cache(maxsize=8192)
def parsed(name: str, text: str) -> Any:
    """A column's value. Remembered, because rows repeat themselves. Raises ValueError."""
    return COLUMNS[name].parse(text)


@lru_cache(maxsize=1024)
def nearly(column: str) -> str | None:
    """The column that a free column's name was probably meant to be, or None."""
    import difflib

    plain = column.strip().lower().replace(" ", "_").replace("-", "_")
    if plain in COLUMNS:
        return plain
    close = difflib.get_close_matches(plain, COLUMNS, n=1, cutoff=0.8)
    return close[0] if close else None

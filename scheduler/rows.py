"""One row of the manifest into the edits it asks for, every value checked against the catalogue, or into problems.

A value is looked for in the row, then in its recipe, then in the defaults; the model at last at the top level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from functools import lru_cache
from typing import Any, TypeAlias

from models.catalogue import GRID_PX, Model, SizeRule, did_you_mean, parse_size
from models.edit import Edit, derive_seed
from models.settings import Settings
from scheduler import fields, template, values
from scheduler.destinations import Claims, keys
from scheduler.manifest import OWN_PROMPT, Manifest, Recipe
from scheduler.pictures import Album, Seen
from scheduler.planned import PlannedRow
from scheduler.problems import Cell, Problems, quoted
from scheduler.sources import Row

IMAGES_IN_ORDER = fields.IMAGES[1:]  # image_1..image_10; `image` is another name of image_1
JOB_CHARS = 12  # of the digest, as {job}

UNKNOWN = {"seed": "0", "job": "0" * JOB_CHARS}

Cells: TypeAlias = Mapping[str, Cell]


class RowCheck:
    """Checks row after row; remembers what was said of models and how often a size was chosen."""

    def __init__(self, manifest: Manifest, settings: Settings, today: date, album: Album, problems: Problems) -> None:
        self.manifest, self.settings, self.today = manifest, settings, today
        self.album, self.problems = album, problems
        self.claims = Claims(problems)
        self.chosen_sizes: dict[tuple[str, str], int] = {}
        self.number = 0
        self._known_headers: set[str] = set()
        bucket_and_prefix = manifest.output.removeprefix("s3://") if manifest.output.startswith("s3://") else ""
        self._prefix = bucket_and_prefix.partition("/")[2]

    def pictures_of(self, row: Row) -> list[tuple[str, tuple[Any, ...]]]:
        """What `Album.warm` should look at."""
        return [(cell.text, row.folders) for name, cell in self._cells(row).items() if name in fields.IMAGES]

    def check(self, row: Row) -> list[PlannedRow]:
        """The edits of a row. Where anything is wrong with it they are incomplete, and the problems are told."""
        self._column_names(row)
        pictures = self._pictures(row)
        sku = self._sku(row, pictures)
        planned = []
        for recipe in self._recipes(row):
            self.number += 1
            found = self._edit(row, recipe, pictures, sku)
            if found is not None:
                planned.append(found)
        return planned

    def _cells(self, row: Row, recipe: Recipe | None = None) -> Cells:
        """What is in force: the row's word before the recipe's, the recipe's before the defaults'."""
        if recipe is None:
            return {**self.manifest.defaults, **row.cells}
        return {**self.manifest.defaults, **recipe.cells, **row.cells}

    def _parsed(self, cell: Cell) -> Any:
        """The value, or None and a problem."""
        try:
            return fields.parsed(cell.column, cell.text)
        except ValueError as error:
            self.problems.wrong(cell, error)
            return None

    def _column_names(self, row: Row) -> None:
        """Told once a table, at its header."""
        if row.header and row.file in self._known_headers:
            return
        if row.header:
            self._known_headers.add(row.file)
        for name in row.header or row.cells:
            if name in fields.COLUMNS:
                continue
            at = Cell(name, row.file, row.header_line, name) if row.header else row.at(name)
            if name.startswith("image_") and name[6:].isdigit():
                self.problems.error(
                    at._replace(text=name), "there is no such column", f"write image_1 to image_{fields.PICTURES_MAX}"
                )
            elif name in template.OWN:
                what = f"{{{name}}} in templates is packshot's own, not this column"
                self.problems.warn(("own", at.file, name), at, what, "rename the column to use it")
            elif near := fields.nearly(name):
                self.problems.warn(("nearly", at.file, name), at, "is taken for a free column", f"did you mean {near}?")

    def _pictures(self, row: Row) -> tuple[Seen, ...] | None:
        in_force = self._cells(row)
        first = in_force.get("image")
        cells = [in_force.get(name) for name in IMAGES_IN_ORDER]
        if first is not None and cells[0] is not None:
            self.problems.error(first, "stands beside image_1, which is the same", "write one of them")
            return None
        cells[0] = first or cells[0]
        given = [cell for cell in cells if cell is not None]
        if not given:
            self.problems.error(row.at("image"), "no picture to edit", "write the path of one into image")
            return None
        for number, cell in enumerate(cells[: len(given)], 1):
            if cell is None:
                hint = "leave no gap: the prompt counts pictures in order"
                self.problems.error(row.at(f"image_{number}"), "is empty, and a later picture is not", hint)
                return None
        seen = tuple(self.album.see(cell.text, row.folders) for cell in given)
        for cell, picture in zip(given, seen, strict=True):
            if picture.wrong:
                self.problems.error(cell, *picture.wrong)
        return None if any(picture.wrong for picture in seen) else seen

    def _sku(self, row: Row, pictures: tuple[Seen, ...] | None) -> str | None:
        cell = row.cells.get("sku") or self.manifest.defaults.get("sku")
        if cell is not None:
            sku: str | None = self._parsed(cell)
            return sku
        if pictures is None:
            return None
        if not pictures[0].stem:
            self.problems.error(row.at("sku"), "is empty, and the picture has no name to take", "write a sku")
        return pictures[0].stem or None

    def _recipes(self, row: Row) -> list[Recipe]:
        """Own prompt: one edit. Own recipes: those. Neither: the defaults' prompt or recipes, else every recipe."""
        for cells, place in ((row.cells, row.at), (self.manifest.defaults, self.manifest.defaults.get)):
            prompt, named = cells.get("prompt"), cells.get("recipe")
            if prompt is not None and named is not None:
                self.problems.error(
                    place("recipe") or prompt, "stands beside a prompt", "write one of them: which should be drawn?"
                )
                return []
            if prompt is not None:
                return [Recipe(OWN_PROMPT, {"prompt": prompt})]
            if named is not None:
                return self._named(named)
        if not self.manifest.recipes:
            self.problems.error(
                row.at("prompt"), "nothing to do: neither prompt nor recipe", "write a prompt, or recipes: at the top"
            )
        return list(self.manifest.recipes.values())

    def _named(self, cell: Cell) -> list[Recipe]:
        recipes = []
        for name in self._parsed(cell) or ():
            if name in self.manifest.recipes:
                recipes.append(self.manifest.recipes[name])
            elif self.manifest.recipes:
                hint = did_you_mean(name, self.manifest.recipes)
                self.problems.error(cell, f"{quoted(name)} is not a recipe of this manifest", hint)
            else:
                hint = "write it under recipes: at the top, or use the column prompt"
                self.problems.error(cell, f"{quoted(name)} is not a recipe: the manifest has none", hint)
        return recipes

    def _edit(self, row: Row, recipe: Recipe, pictures: tuple[Seen, ...] | None, sku: str | None) -> PlannedRow | None:
        """Every check that can be made is made, also after one has failed."""
        before = self.problems.raised
        cells = self._cells(row, recipe)
        model = self._model(cells)
        names = self._names(row, recipe, cells, sku)
        prompt = self._prompt(row, recipe, names, model)
        parameters = self._parameters(cells, model)
        seed = self._parsed(cells["seed"]) if "seed" in cells else None
        if model is not None and pictures is not None:
            self._fits_pictures(row, pictures, model)
        if self.problems.raised > before or self.manifest.region is None:
            pictures = None
        if pictures is None or model is None or sku is None or prompt is None:
            if sku is not None:
                self._destinations(row, recipe, cells, {**names, **UNKNOWN}, parameters["n"])
            return None
        self._choose_size(parameters, model, pictures[-1])
        edit = Edit(model.id, tuple(seen.picture for seen in pictures), prompt, parameters)
        edit = replace(edit, seed=derive_seed(edit.digest(with_seed=False)) if seed is None else seed)
        digest = edit.digest(with_seed=True)
        late = {"seed": str(edit.seed), "job": digest[:JOB_CHARS]}
        destinations, seeded = self._destinations(row, recipe, cells, {**names, **late}, edit.n)
        if destinations is None:
            return None
        free = {name: cell.text for name, cell in cells.items() if name not in fields.COLUMNS}
        return PlannedRow(
            self.number,
            row.file,
            row.line,
            sku,
            recipe.name,
            edit,
            digest,
            destinations,
            seeded,
            {**free, "sku": sku, "recipe": recipe.name},
            self._worst_case(edit, model),
        )

    def _model(self, cells: Cells) -> Model | None:
        """The model, also where it does not serve this region today: the other checks go on. None where unknown."""
        cell = cells.get("model") or self.manifest.model
        name = self._parsed(cell)
        if name is None:
            return None
        model, region = self.settings.models[name], self.manifest.region
        tiers = ("1k", "2k") if model.sized_price else (None,)
        if region is not None and region not in model.regions:
            others = ", ".join(model.regions)
            self.problems.error(cell, f"{name} is not offered in {region}", f"it is in {others}")
        elif region is not None and any(model.price(region, self.today, tier) is None for tier in tiers):
            wanted = "AMOUNT CURRENCY + AMOUNT/input" if model.bills_inputs else "AMOUNT CURRENCY"
            hint = f'set PACKSHOT_PRICES="{name}@{region}={wanted}" from your contract'
            self.problems.error(cell, f"no price of {name} in {region} is known", hint)
        if model.retires is not None:
            gone = "was announced to end" if model.retired_on(self.today) else "will end"
            hint = f"{model.replacement} replaces it" if model.replacement else "choose another model"
            what = f"{name} {gone} on {model.retires}: calls may fail"
            self.problems.warn(("retires", name), cell, what, hint)
        return model

    def _names(self, row: Row, recipe: Recipe, cells: Cells, sku: str | None) -> dict[str, str]:
        """What templates may ask for: the row's columns, the defaults', and our own names, which win."""
        names = dict.fromkeys(row.header, "")
        names |= {name: cell.text for name, cell in cells.items()}
        for name in ("prompt", "output", "recipe"):
            names.pop(name, None)
        names["batch"], names["recipe"] = self.manifest.batch, recipe.name
        names["model"] = cells.get("model", self.manifest.model).text
        if sku is not None:
            names["sku"] = sku
        return names

    def _prompt(self, row: Row, recipe: Recipe, names: Mapping[str, str], model: Model | None) -> str | None:
        cell = recipe.cells.get("prompt")
        if cell is None:
            return None  # told when the recipe was read
        try:
            prompt = template.render(cell.text, _without(names, template.LATE), late=template.LATE)
            if model is not None:
                values.fits_prompt(prompt, model)
                self._advise_prompt(cell, prompt, model)
        except template.MissingName as error:
            if error.name == "sku" and "sku" not in names:
                return None  # told with the sku
            self._missing(row, recipe, cell, error)
            return None
        except ValueError as error:
            self.problems.wrong(cell, error)
            return None
        return prompt

    def _advise_prompt(self, cell: Cell, prompt: str, model: Model) -> None:
        most, tokens = model.prompt_advised, values.estimate_tokens(prompt)
        if most is not None and tokens > most:
            what = f"about {tokens:,} tokens, more than the {most:,} that are advised for {model.id}"
            self.problems.warn(("long", model.id), cell, what, "the provider may not heed all of it")

    def _missing(self, row: Row, recipe: Recipe, cell: Cell, error: template.MissingName) -> None:
        """Told at the row, or once at the header where the whole table lacks the column."""
        at = row.at(cell.column)._replace(text=cell.text)
        if error.column and row.header and cell is not row.cells.get(cell.column):
            at = at._replace(line=row.header_line)
        message, _, hint = str(error).rpartition("; ")
        asked = "" if recipe.name == OWN_PROMPT else f"recipe {recipe.name}: "
        self.problems.error(at, asked + message, hint)

    def _parameters(self, cells: Cells, model: Model | None) -> dict[str, Any]:
        parameters: dict[str, Any] = {"n": 1}
        for field in fields.PARAMETERS:
            cell = cells.get(field.name)
            if cell is None:
                continue
            value = self._parsed(cell)
            if value is None or model is None:
                continue
            if field.name not in model.parameters:
                self.problems.error(cell, f"{model.id} has no {field.name}", "leave it out, or choose another model")
                continue
            try:
                if field.fits is not None:
                    field.fits(value, model)
            except ValueError as error:
                self.problems.wrong(cell, error)
                continue
            if field.name == "size":
                self._advise_size(cell, value, model)
            parameters[field.name] = value
        if parameters.get("prompt_extend") is False:
            for name in ("prompt_extend_mode", "enable_thinking"):
                if name in parameters:
                    self.problems.warn(("idle", name), cells[name], "does nothing while prompt_extend is false")
        return parameters

    def _advise_size(self, cell: Cell, size: str, model: Model) -> None:
        width, height = parse_size(size)
        if model.size and model.size.max_px and width * height > model.size.max_px:
            what = f"{size} is more than the documented {model.size.max_px:,} px"
            self.problems.warn(("seen", size), cell, what, "it was seen to work; at most 2048*2048 is safe")
        if width % GRID_PX or height % GRID_PX:
            what = f"sides of {size} are moved to multiples of {GRID_PX} by the provider"
            near = "*".join(str(round(side / GRID_PX) * GRID_PX) for side in (width, height))
            self.problems.warn(("grid", size), cell, what, f"about {near} comes back")

    def _fits_pictures(self, row: Row, pictures: tuple[Seen, ...], model: Model) -> None:
        if len(pictures) > model.pictures_max:
            at = row.at(f"image_{model.pictures_max + 1}")
            self.problems.error(
                at, f"{len(pictures)} pictures, and {model.id} takes {model.pictures_max}", "leave some out"
            )
        if model.sides_advised is None:
            return
        least, most = model.sides_advised
        for number, seen in enumerate(pictures, 1):
            if seen.width is None or seen.height is None:
                continue
            if min(seen.width, seen.height) < least or max(seen.width, seen.height) > most:
                name = "image" if len(pictures) == 1 else f"image_{number}"
                what = f"{seen.width}x{seen.height} px is outside the recommended {least} to {most}"
                kind = "small" if min(seen.width, seen.height) < least else "large"
                at = row.cells.get(name) or row.cells.get("image_1") or row.at(name)
                self.problems.warn((kind, most, row.file), at, what, "results may be worse")

    def _choose_size(self, parameters: dict[str, Any], model: Model, last: Seen) -> None:
        """Where the size decides the price it is always sent: left out, the provider draws and bills the larger."""
        if not model.sized_price or "size" in parameters:
            return
        ratio = last.width / last.height if last.width and last.height else 1.0
        parameters["size"] = size = size_of_1k(ratio, model.size)
        self.chosen_sizes[model.id, size] = self.chosen_sizes.get((model.id, size), 0) + 1

    def _destinations(
        self, row: Row, recipe: Recipe, cells: Cells, names: Mapping[str, str], n: int
    ) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
        """Keys and seeded keys. Looked at also where the edit is wrong, with seed and job as yet UNKNOWN."""
        cell = cells.get("output") or self.manifest.template
        try:
            found = keys(cell.text, names, n, self._prefix)
        except template.MissingName as error:
            self._missing(row, recipe, cell, error)
            return None, None
        except ValueError as error:
            at = row.at("output")._replace(text=cell.text) if cell.line != row.line else cell
            self.problems.wrong(at, error)
            return None, None
        if names["job"] == UNKNOWN["job"] and template.names(cell.text) & UNKNOWN.keys():
            return None, None
        at = cell if (cell.file, cell.line) == (row.file, row.line) else row.at("output")
        for key in found:
            self.claims.claim(key, at)
        if "seed" not in template.names(cell.text):
            return found, None
        return found, tuple(_with_seed_left(cell.text, {**names, "index": str(i)}) for i in range(1, n + 1))

    def _worst_case(self, edit: Edit, model: Model) -> int:
        region = self.manifest.region or self.settings.region  # never the latter: such rows are not planned
        size = edit.parameters.get("size")
        return model.worst_case_micros(region, self.today, n=edit.n, inputs=len(edit.pictures), size=size)


def _with_seed_left(text: str, names: Mapping[str, str]) -> str:
    """The key with `{seed}` still in it. `keys` refuses braces in values, so it can only be the name."""
    key = template.render(text, {**names, "seed": "{seed}"})
    return key if key.lower().endswith(".png") else f"{key}.png"


def _without(names: Mapping[str, str], left_out: frozenset[str]) -> dict[str, str]:
    return {name: value for name, value in names.items() if name not in left_out}


@lru_cache(maxsize=1024)
def size_of_1k(ratio: float, rule: SizeRule | None) -> str:
    """About 1024*1024 pixels of the ratio, sides on the grid, within the rule: `size_of_1k(1.5, ...)` -> `1248*832`."""
    most = rule.ratio_max if rule is not None and rule.ratio_max is not None else 8.0
    ratio = min(max(ratio, 1 / (most * 0.97)), most * 0.97)  # the grid must not push it over the edge
    width = round(1024 * math.sqrt(ratio) / GRID_PX) * GRID_PX
    height = round(1024 / math.sqrt(ratio) / GRID_PX) * GRID_PX
    return f"{width}*{height}"

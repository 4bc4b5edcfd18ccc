"""A manifest: what its top level says, checked, and its rows, one at a time and as yet unchecked.

Promises that nothing in a file raises: every mistake becomes a Problem and reading goes on with a fallback, so that
all mistakes come to light in one go. What a row means for its model is the affair of `scheduler/rows.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.catalogue import DEFAULT_MODEL, did_you_mean
from models.errors import UsageError
from models.money import parse_amount
from models.settings import Settings
from scheduler import fields, template, values
from scheduler.overrides import apply
from scheduler.problems import Cell, ManifestRefused, Problem, Problems, problems_as_json, quoted
from scheduler.sources import TABLE_ENDINGS, Row, TextFile, inspect, show_path, table_rows, why_no_file
from scheduler.tree import YAML_BYTES_MAX, Branch, Tree, read_tree

__all__ = ["Manifest", "ManifestRefused", "Problem", "Recipe", "problems_as_json", "read_manifest"]

YAML_ENDINGS = (".yaml", ".yml")
DEFAULT_TEMPLATE = "{sku}-{recipe}-{index}.png"
OWN_PROMPT = "edit"  # name of the recipe of a row that brings its own prompt


@dataclass(frozen=True)
class Recipe:
    """A named instruction. cells: its prompt and parameters"""

    name: str
    cells: Mapping[str, Cell]


@dataclass
class Manifest:
    """What the top level says.

    output:   absolute folder or `s3://bucket/prefix`, without a slash at the end
    template: of the paths below it
    region:   None where the manifest names one that does not exist; nothing is checked against it then
    cells:    the single values of the top level, for their places
    header:   the values that make the batch what it is, as JSON, to tell what changed
    """

    path: Path
    shown: str
    checksum: str = ""
    batch: str = ""
    output: str = ""
    template: Cell = field(default_factory=lambda: Cell(DEFAULT_TEMPLATE, "", 0, "output"))
    model: Cell = field(default_factory=lambda: Cell(DEFAULT_MODEL, "", 0, "model"))
    region: str | None = None
    budget_micros: int | None = None
    priority: int = fields.PRIORITY_DEFAULT
    defaults: dict[str, Cell] = field(default_factory=dict)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    inline: list[Row] = field(default_factory=list)
    tables: list[TextFile] = field(default_factory=list)
    cells: dict[str, Cell] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> Cell:
        return Cell("", self.shown, 1, "")

    def at(self, key: str) -> Cell:
        """The key's place, or the top of the manifest where it does not stand."""
        return self.cells.get(key) or self.place._replace(column=key)

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Inline rows, then those of the tables in their order; streamed."""
        yield from self.inline
        folder = self.path.parent
        for table in self.tables:
            folders = tuple(dict.fromkeys((table.path.parent, folder)))
            yield from table_rows(table, folders, problems)


def read_manifest(
    path: Path, *, settings: Settings, overrides: Mapping[str, str], cwd: Path, problems: Problems
) -> Manifest:
    """Read the top level. Raises UsageError where the path leads to no manifest at all."""
    path = Path(os.path.abspath(cwd / path))
    shown = show_path(path, cwd)
    ending = path.suffix.lower()
    if ending not in (*YAML_ENDINGS, *TABLE_ENDINGS):
        raise UsageError(f"{shown} is no manifest by its name; write a .yaml, .csv or .jsonl file")
    if (why := why_no_file(path)) is not None:
        raise UsageError(f"{shown} {why}; write the path of a manifest, a .yaml or .csv file")
    manifest = Manifest(path, shown)
    is_yaml = ending in YAML_ENDINGS
    file = inspect(path, shown, manifest.place, problems, bytes_max=YAML_BYTES_MAX if is_yaml else None)
    top: dict[str, Tree] = {}
    if file is not None and is_yaml:
        tree = read_tree(file, problems)
        top = dict(tree.entries) if tree else {}
    elif file is not None:
        manifest.tables.append(file)
    _unknown_keys(top, problems)
    apply(overrides, top, problems)
    _Reader(manifest, top, settings, cwd, problems).read()
    sums = [file.sha256 if file else "", *(t.sha256 for t in manifest.tables), json.dumps(sorted(overrides.items()))]
    manifest.checksum = hashlib.sha256("\n".join(sums).encode(errors="surrogatepass")).hexdigest()
    return manifest


def _unknown_keys(top: Mapping[str, Tree], problems: Problems) -> None:
    for name, node in top.items():
        if name not in fields.MANIFEST:
            hint = did_you_mean(name, fields.MANIFEST)
            if name in fields.COLUMNS:
                hint = "it is a column: write it under defaults"
            place = _place(node)._replace(column=name)
            problems.error(place, "not a key of a manifest", hint)


def _place(node: Tree) -> Cell:
    return node if isinstance(node, Cell) else node.place


class _Reader:
    """From the tree of the top level into the Manifest."""

    def __init__(
        self, manifest: Manifest, top: Mapping[str, Tree], settings: Settings, cwd: Path, problems: Problems
    ) -> None:
        self.manifest, self.top, self.settings, self.cwd, self.problems = manifest, top, settings, cwd, problems

    def read(self) -> None:
        manifest = self.manifest
        manifest.batch = self._value("batch") or self._batch_of_file()
        manifest.region = self._value("region", self.settings.region)
        manifest.priority = self._value("priority", fields.PRIORITY_DEFAULT)
        self._read_output()
        self._read_model()
        self._read_budget()
        manifest.defaults = self._cells("defaults", self.top.get("defaults"), fields.COLUMNS, free=True)
        for name in ("prompt", "recipe"):
            self._parses(manifest.defaults.get(name))
        self._read_recipes()
        self._read_tables()
        self._read_rows()
        manifest.header = self._header()

    def _scalar(self, name: str) -> Cell | None:
        node = self.top.get(name)
        if isinstance(node, Branch):
            self.problems.error(node.place._replace(column=name), "holds a list or a map", "write a single value")
            return None
        if node is None or not node.text:
            return None
        self.manifest.cells[name] = node
        return node

    def _value(self, name: str, fallback: Any = None) -> Any:
        """The parsed value; `fallback` where it is not given, None where it is wrong."""
        cell = self._scalar(name)
        if cell is None:
            return fallback
        try:
            return fields.MANIFEST[name].parse(cell.text)
        except ValueError as error:
            self.problems.wrong(cell, error)
            return None if name == "region" else fallback

    def _batch_of_file(self) -> str:
        stem = self.manifest.path.stem
        try:
            return values.parse_name(stem)
        except ValueError:
            if self._scalar("batch") is None:
                at = self.manifest.place._replace(column="batch", text=stem)
                self.problems.error(at, f"the file's name {quoted(stem)} is no name for a batch", "write batch: NAME")
            return "batch"

    def _read_output(self) -> None:
        manifest = self.manifest
        cell = self._scalar("output") or manifest.place._replace(text=f"out/{manifest.batch}", column="output")
        try:
            template.parts(cell.text)
            manifest.output, below = split_output(cell.text, self.cwd)
        except ValueError as error:
            self.problems.wrong(cell, error)
            manifest.output, below = str(self.cwd / "out" / manifest.batch), None
        manifest.template = cell._replace(text=below or DEFAULT_TEMPLATE)

    def _read_model(self) -> None:
        cell = self._scalar("model")
        self.manifest.model = cell or self.manifest.place._replace(text=DEFAULT_MODEL, column="model")

    def _read_budget(self) -> None:
        cell = self._scalar("budget")
        if cell is None:
            return
        try:
            micros, currency = parse_amount(cell.text)
        except ValueError as error:
            self.problems.wrong(cell, error)
            return
        region = self.manifest.region
        billed = {p.currency for m in self.settings.models.values() for p in m.prices if p.region == region}
        if currency and billed and currency not in billed:
            wanted = " or ".join(sorted(billed))
            amount = cell.text.split()[0].lower().removesuffix(currency.lower())
            self.problems.error(cell, f"{region} is billed in {wanted}, not {currency}", f"write {amount} {wanted}")
        self.manifest.budget_micros = micros

    def _cells(self, where: str, node: Tree | None, known: Mapping[str, Any], *, free: bool) -> dict[str, Cell]:
        """A map of single values; unknown names are wrong, or free columns."""
        if node is None or (isinstance(node, Cell) and not node.text):
            return {}
        if isinstance(node, Cell) or not node.is_map:
            self.problems.error(_place(node)._replace(column=where), "not a map of names", "write `name: value` lines")
            return {}
        cells = {}
        for name, value in node.entries.items():
            cell = self._single(name, value)
            if name not in known and not free:
                hint = did_you_mean(name, known)
                self.problems.error(_place(value)._replace(column=f"{where}.{name}"), "not a key of a recipe", hint)
            elif cell is not None and cell.text:
                cells[name] = cell
        return cells

    def _single(self, name: str, value: Tree) -> Cell | None:
        if isinstance(value, Cell):
            return value if value.column == name else value._replace(column=name)
        place = value.place._replace(column=name)
        if name == "recipe" and not value.is_map and all(isinstance(item, Cell) for item in value.items):
            return place._replace(text=", ".join(item.text for item in value.items if isinstance(item, Cell)))
        hint = "write image_1, image_2 and so on" if name == "image" else "write a single value"
        self.problems.error(place, "holds a list or a map", hint)
        return None

    def _read_recipes(self) -> None:
        node = self.top.get("recipes")
        if node is None or (isinstance(node, Cell) and not node.text):
            return
        if isinstance(node, Cell) or not node.is_map:
            self.problems.error(
                _place(node)._replace(column="recipes"), "not a map of recipes", "write `name: prompt` lines below it"
            )
            return
        for name, value in node.entries.items():
            place = _place(value)._replace(column=f"recipes.{name}")
            try:
                values.parse_recipe_name(name)
            except ValueError as error:
                self.problems.wrong(place, error)
            if isinstance(value, Cell):
                cells = {"prompt": value._replace(column="prompt")} if value.text else {}
            else:
                cells = self._cells(f"recipes.{name}", value, fields.RECIPE, free=False)
            if "prompt" not in cells:
                self.problems.error(place, "a recipe without a prompt", "write `prompt: ...` below it")
            self._parses(cells.get("prompt"))
            self.manifest.recipes[name] = Recipe(name, cells)

    def _parses(self, cell: Cell | None) -> None:
        """Look at a shared value even where no row comes to use it."""
        if cell is not None:
            try:
                fields.COLUMNS[cell.column].parse(cell.text)
            except ValueError as error:
                self.problems.wrong(cell, error)

    def _read_tables(self) -> None:
        node = self.top.get("tables")
        if node is None or (isinstance(node, Cell) and not node.text):
            return
        items = [node] if isinstance(node, Cell) else node.items
        cells = [item for item in items if isinstance(item, Cell)]
        if (isinstance(node, Branch) and node.is_map) or len(cells) < len(items):
            self.problems.error(_place(node)._replace(column="tables"), "not a list of files", "write [catalog.csv]")
            return
        seen = set()
        for cell in cells:
            path = Path(os.path.abspath(self.manifest.path.parent / cell.text))
            shown = show_path(path, self.cwd)
            if path.suffix.lower() not in TABLE_ENDINGS:
                hint = f"name a file that ends in {', '.join(TABLE_ENDINGS)}"
                self.problems.error(cell, f"{quoted(cell.text)} is not a table by its name", hint)
            elif path in seen:
                self.problems.error(cell, f"{quoted(cell.text)} is named twice", "remove one")
            elif file := inspect(path, shown, cell, self.problems):
                self.manifest.tables.append(file)
            seen.add(path)

    def _read_rows(self) -> None:
        node = self.top.get("rows")
        if node is not None and not (isinstance(node, Cell) and not node.text):
            if isinstance(node, Cell) or node.is_map:
                self.problems.error(
                    _place(node)._replace(column="rows"), "not a list of rows", "write `- image: PATH` lines below it"
                )
                return
            folders = (self.manifest.path.parent,)
            for item in node.items:
                if isinstance(item, Cell) or not item.is_map:
                    self.problems.error(
                        _place(item)._replace(column="rows"), "not a map of columns", "write `- image: PATH`"
                    )
                    continue
                before = self.problems.raised
                cells = self._cells("rows", item, fields.COLUMNS, free=True)
                if self.problems.raised == before:
                    self.manifest.inline.append(Row(item.file, item.line, cells, folders))
        elif not self.manifest.tables and not self.problems.raised:
            at = self.manifest.place._replace(column="rows")
            self.problems.error(at, "there is nothing to edit", "write rows below `rows:`, or a file under `tables:`")

    def _header(self) -> dict[str, Any]:
        manifest = self.manifest
        return {
            "batch": manifest.batch,
            "output": manifest.output,
            "template": manifest.template.text,
            "model": manifest.model.text,
            "region": manifest.region or self.settings.region,
            "budget_micros": manifest.budget_micros,
            "priority": manifest.priority,
            "defaults": {name: cell.text for name, cell in manifest.defaults.items()},
            "recipes": {
                name: {key: cell.text for key, cell in recipe.cells.items()}
                for name, recipe in manifest.recipes.items()
            },
            "tables": [os.path.relpath(table.path, manifest.path.parent) for table in manifest.tables],
        }


_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def split_output(text: str, cwd: Path) -> tuple[str, str | None]:
    """`out/{sku}.png` -> (absolute `out`, `{sku}.png`); `s3://bucket/prefix/` -> (`s3://bucket/prefix`, None).

    From the first path segment with a name on it is the template. Raises ValueError, in words fit to print.
    """
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "s3":
        raise ValueError(f"{quoted(text)} is neither a folder nor s3://; write out/NAME or s3://bucket/prefix")
    segments = (rest if separator else text).split("/")
    first = next((i for i, segment in enumerate(segments) if re.search(r"\{(?!\{)", segment)), len(segments))
    fixed = "/".join(segments[:first]).replace("{{", "{").replace("}}", "}")
    below = "/".join(segments[first:]) or None
    if separator:
        bucket, _, prefix = fixed.strip("/").partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise ValueError(f"{quoted(bucket)} is not a bucket's name; write s3://bucket/prefix")
        if any(segment in ("", ".", "..") for segment in prefix.split("/")) and prefix:
            raise ValueError(f"{quoted(text)} has an empty or dotted part; write s3://bucket/prefix")
        return f"s3://{bucket}/{prefix}".rstrip("/"), below
    if below is None and re.search(r"\.(png|jpe?g|webp)$", fixed, re.IGNORECASE):
        raise ValueError(f"{quoted(text)} is one picture for all rows; write a folder, or use {{sku}}")
    if "\\" in fixed:
        raise ValueError(f"{quoted(text)} has a backslash; write slashes")
    return os.path.abspath(cwd / fixed) if fixed or first < len(segments) else str(cwd), below

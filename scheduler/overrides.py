"""What `--set key=value` said, put into the tree of the top level as if the manifest said so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from models.catalogue import did_you_mean
from scheduler import fields
from scheduler.problems import SET, Cell, Problems
from scheduler.sources import clean, usable_name
from scheduler.tree import Branch, Tree


def apply(overrides: Mapping[str, str], top: dict[str, Tree], problems: Problems) -> None:
    """Put `--set key=value` into the tree, as if the manifest said so."""
    for key, raw in overrides.items():
        cell = Cell(raw, SET, 0, key)
        text = clean(raw, cell, problems)
        if text is None:
            continue
        cell = cell._replace(text=text)
        head, _, rest = key.partition(".")
        if key in ("rows", "defaults", "recipes"):
            problems.error(cell, "cannot be set as a whole", f"write {key}.NAME=..." if key != "rows" else "use a file")
        elif key in fields.MANIFEST:
            top[key] = cell
        elif key in fields.COLUMNS:
            _branch(top, "defaults")[key] = cell
        elif head in ("defaults", "recipes") and not usable_name(rest):
            problems.error(cell._replace(column=repr(key)), "names nothing", f"write {head}.NAME=...")
        elif head == "defaults":
            _branch(top, "defaults")[rest] = cell
        elif head == "recipes":
            _set_recipe(_branch(top, "recipes"), rest, cell)
        else:
            known = (*fields.MANIFEST, *fields.COLUMNS, "recipes.NAME", "defaults.NAME")
            problems.error(cell, "not a key or a column", did_you_mean(key, known))


def _branch(entries: dict[str, Tree], name: str) -> dict[str, Tree]:
    found = entries.get(name)
    if isinstance(found, Branch) and found.is_map:
        entries[name] = own = replace(found, entries=dict(found.entries))  # aliases of it keep what they say
        return own.entries
    fresh = Branch(SET, 0, name, is_map=True)
    if not isinstance(found, Branch) and (found is None or not found.text):
        entries[name] = fresh
    return fresh.entries


def _set_recipe(recipes: dict[str, Tree], rest: str, cell: Cell) -> None:
    name, _, parameter = rest.partition(".")
    found = recipes.get(name)
    if not parameter and not isinstance(found, Branch):
        recipes[name] = cell
        return
    if isinstance(found, Cell):
        recipes[name] = Branch(
            found.file, found.line, name, is_map=True, entries={"prompt": found._replace(column="prompt")}
        )
    _branch(recipes, name)[parameter or "prompt"] = cell

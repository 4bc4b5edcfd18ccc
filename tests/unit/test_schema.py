"""The schema for editors, and the page of the format: both say what the registry says."""

from pathlib import Path

import jsonschema
import pytest
import yaml

from scheduler import fields
from scheduler.schema import json_schema

MANIFESTS = Path(__file__).parents[2] / "manifests"
GOOD = sorted(path.name for path in MANIFESTS.glob("*.yaml") if path.name != "broken.yaml")


@pytest.fixture(scope="module")
def validator():
    jsonschema.Draft202012Validator.check_schema(json_schema())
    return jsonschema.Draft202012Validator(json_schema())


@pytest.mark.parametrize("name", GOOD)
def test_a_good_example_fits_the_schema(validator, name):
    found = yaml.safe_load((MANIFESTS / name).read_text(encoding="utf-8"))
    assert [error.message for error in validator.iter_errors(found)] == []


@pytest.mark.parametrize(
    "text",
    [
        "batch: a",
        "bach: a\nrows: [{image: a.jpg, prompt: x}]",
        "size: 1024*1024\nrows: [{image: a.jpg, prompt: x}]",
        "rows: []",
        "rows: {image: a.jpg}",
        "rows: [{image: [a.jpg, b.jpg], prompt: x}]",
        "rows: [{image: a.jpg, prompt: x, recipe: y}]",
        "rows: [{image: a.jpg, prompt: x, n: 7}]",
        "rows: [{image: a.jpg, prompt: x, n: two}]",
        "rows: [{image: a.jpg, prompt: x, size: 900x900}]",
        "rows: [{image: a.jpg, prompt: x, seed: -1}]",
        "rows: [{image: a.jpg, prompt: x, watermark: maybe}]",
        "rows: [{image: a.jpg, prompt: x, model: z-image-turbo}]",
        "region: cn-bejing\nrows: [{image: a.jpg, prompt: x}]",
        "recipes: {a: {n: 2}}\nrows: [{image: a.jpg}]",
        "recipes: {a: {prompt: x, steps: 2}}\nrows: [{image: a.jpg}]",
        "recipes: {a b: x}\nrows: [{image: a.jpg}]",
        "tables: [a.xlsx]",
        "priority: 200\nrows: [{image: a.jpg, prompt: x}]",
    ],
)
def test_a_typical_mistake_does_not_fit_the_schema(validator, text):
    assert not validator.is_valid(yaml.safe_load(text))


def test_every_entry_of_the_registry_stands_in_the_schema_with_its_meaning():
    schema = json_schema()
    for places, properties in (
        (fields.MANIFEST, schema["properties"]),
        (fields.COLUMNS, schema["$defs"]["row"]["properties"]),
        (fields.RECIPE, schema["$defs"]["recipe"]["anyOf"][1]["properties"]),
    ):
        assert {name: field.meaning for name, field in places.items()} == {
            name: part["description"] for name, part in properties.items()
        }


def test_every_entry_of_the_registry_stands_in_the_tables_of_the_page():
    top, row = (MANIFESTS / "README.md").read_text(encoding="utf-8").split("## Columns of a row")
    assert _table(top, "key") == [_line(field) for field in fields.MANIFEST.values()]
    expected = [_line(field) for field in fields.COLUMNS.values() if not field.name.startswith("image_")]
    found = _table(row, "column")
    assert [line for line in found if not line.startswith("| `image_1` to `image_10` |")] == expected
    assert len(found) == len(expected) + 1


def test_every_example_stands_on_the_page():
    page = (MANIFESTS / "README.md").read_text(encoding="utf-8")
    for path in (*MANIFESTS.glob("*.yaml"), MANIFESTS / "catalog.csv"):
        assert f"]({path.name})" in page


def _table(text, head):
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {head} |")) + 2
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    return lines[start:end]


def _line(field):
    return f"| `{field.name}` | {field.meaning} | `{field.example}` |"

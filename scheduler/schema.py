"""The manifest's JSON Schema, for editors: completion and a first look while typing. Made from `scheduler/fields.py`.

It knows the form and not the model's rules: what it accepts, `packshot check` may still refuse.
"""

from __future__ import annotations

from typing import Any

from scheduler import fields

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """A schema of the YAML manifest, draft 2020-12."""
    columns = {name: _of(field) for name, field in fields.COLUMNS.items()}
    row = {
        "type": "object",
        "properties": columns,
        "additionalProperties": fields.SCALAR | {"description": "a free column"},
        "not": {"required": ["prompt", "recipe"]},
    }
    recipe = {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {
                "type": "object",
                "properties": {name: _of(field) for name, field in fields.RECIPE.items()},
                "required": ["prompt"],
                "additionalProperties": False,
            },
        ]
    }
    tables = {"type": "string", "pattern": r"\.(csv|tsv|jsonl|ndjson|CSV|TSV|JSONL|NDJSON)$"}
    structures: dict[str, dict[str, Any]] = {
        "defaults": {"$ref": "#/$defs/row"},
        "recipes": {
            "type": "object",
            "propertyNames": {"pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"},
            "additionalProperties": {"$ref": "#/$defs/recipe"},
        },
        "rows": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/row"}},
        "tables": {"anyOf": [tables, {"type": "array", "minItems": 1, "items": tables}]},
    }
    return {
        "$schema": DIALECT,
        "title": "packshot manifest",
        "description": "What to edit, how, and where the pictures go.",
        "type": "object",
        "properties": {
            name: structures[name] | {"description": field.meaning} if name in structures else _of(field)
            for name, field in fields.MANIFEST.items()
        },
        "anyOf": [{"required": ["rows"]}, {"required": ["tables"]}],
        "additionalProperties": False,
        "$defs": {"row": row, "recipe": recipe},
    }


def _of(field: fields.Field) -> dict[str, Any]:
    return {**field.schema, "description": field.meaning, "examples": [field.typed_example]}

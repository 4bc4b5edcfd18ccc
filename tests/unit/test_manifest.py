"""Reading: YAML, CSV, JSON lines and --set into one manifest, whatever the file looks like."""

import csv
import json
from datetime import date

import pytest
from PIL import Image

from models.errors import UsageError
from models.settings import load
from scheduler.fields import COLUMNS, FIELDS, MANIFEST, parsed
from scheduler.manifest import split_output
from scheduler.plan import make_plan
from scheduler.problems import Problem, problems_as_json

TODAY = date(2026, 11, 23)


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (400, 400), "red").save(tmp_path / "mug.jpg")
    Image.new("RGB", (800, 400), "blue").save(tmp_path / "bag.jpg")
    return tmp_path


def plan(folder, content, name="m.yaml", encoding="utf-8", **overrides):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    overrides = {key.replace("__", "."): value for key, value in overrides.items()}
    return make_plan(path, settings=load(environ={}, cwd=folder), overrides=overrides, today=TODAY, cwd=folder)


def rows(plan):
    assert [str(problem) for problem in plan.problems] == []
    return [row for block in plan.blocks() for row in block]


def told(plan):
    return "\n".join(str(problem) for problem in plan.problems)


def test_a_problem_names_the_place_the_mistake_and_the_way_out():
    problem = Problem("catalog.csv", 14, "size", "'900x900' is not WIDTH*HEIGHT", "write 900*900", "error", "900x900")
    assert str(problem) == "catalog.csv:14 size: '900x900' is not WIDTH*HEIGHT; write 900*900"
    assert problems_as_json([problem])[0]["text"] == str(problem)


@pytest.mark.parametrize("name", [field.name for field in FIELDS])
def test_every_entry_of_the_registry_has_a_meaning_a_place_and_an_example_that_holds(name):
    field = (COLUMNS | MANIFEST)[name]
    assert field.meaning
    assert set(field.where) <= {"manifest", "row", "recipe"}
    if name in ("defaults", "recipes", "rows"):
        with pytest.raises(ValueError, match="; write"):
            field.parse(field.example)
    else:
        field.parse(field.example)


def test_values_stay_as_they_are_written(folder):
    text = """
rows:
  - {image: mug.jpg, sku: 0123, prompt: "{a} {b} {c} {d}", a: no, b: 2026-11-23, c: 1_000, d: 0x1F}
  - {image: mug.jpg, sku: no, prompt: x, a: ~, b: null, c: 1e3}
"""
    first, second = rows(plan(folder, text))
    assert (first.sku, first.edit.prompt) == ("0123", "no 2026-11-23 1_000 0x1F")
    assert second.columns == {"sku": "no", "recipe": "edit", "c": "1e3"}


def test_recipes_times_rows_are_the_edits(folder):
    text = """
recipes:
  white: "{sku} on white"
  green: {prompt: "{sku} in green", n: 2}
rows:
  - {image: mug.jpg}
  - {image: mug.jpg, sku: b, recipe: [green]}
  - {image: mug.jpg, sku: c, recipe: "green, white"}
  - {image: mug.jpg, sku: d, prompt: own}
"""
    found = [(r.sku, r.recipe, r.edit.prompt, r.edit.n) for r in rows(plan(folder, text))]
    assert found == [
        ("mug", "white", "mug on white", 1),
        ("mug", "green", "mug in green", 2),
        ("b", "green", "b in green", 2),
        ("c", "green", "c in green", 2),
        ("c", "white", "c on white", 1),
        ("d", "edit", "own", 1),
    ]


def test_a_value_is_looked_for_in_the_row_then_the_recipe_then_the_defaults(folder):
    text = """
model: qwen-image-2.0
defaults: {n: 2, watermark: true, model: qwen-image-2.0-pro, season: autumn}
recipes:
  a: {prompt: "{season}", n: 3}
rows:
  - {image: mug.jpg, sku: one}
  - {image: mug.jpg, sku: two, n: 4, season: spring}
  - {image: mug.jpg, sku: three, prompt: p}
"""
    found = [(r.edit.model, r.edit.n, r.edit.prompt, r.columns["season"]) for r in rows(plan(folder, text))]
    assert found == [
        ("qwen-image-2.0-pro", 3, "autumn", "autumn"),
        ("qwen-image-2.0-pro", 4, "spring", "spring"),
        ("qwen-image-2.0-pro", 2, "p", "autumn"),
    ]


def test_a_csv_alone_is_a_manifest(folder):
    found = plan(folder, "sku,image\na,mug.jpg\n", "shop.csv", recipes__white="on white", size="512*512", n="2")
    (row,) = rows(found)
    assert (found.batch, found.output) == ("shop", str(folder / "out/shop"))
    assert dict(row.edit.parameters) == {"n": 2, "size": "512*512"}
    assert row.destinations == ("a-white-1.png", "a-white-2.png")


def test_set_goes_before_what_the_manifest_says(folder):
    text = """
batch: a
recipes: {white: on white, green: {prompt: in green, n: 2}}
defaults: {seed: 1}
rows: [{image: mug.jpg}]
"""
    changed = plan(
        folder, text, batch="b", seed="5", recipes__white__n="3", recipes__green="in blue", defaults__season="x"
    )
    found = [(r.edit.prompt, r.edit.n, r.edit.seed, r.columns["season"]) for r in rows(changed)]
    assert changed.batch == "b"
    assert found == [("on white", 3, 5, "x"), ("in blue", 2, 5, "x")]
    assert changed.checksum != plan(folder, text).checksum


def test_what_set_cannot_mean_is_told(folder):
    found = plan(folder, "rows: [{image: mug.jpg, prompt: p}]", promt="x", rows="y", defaults="z", n="many")
    assert told(found).splitlines() == [
        "--set promt: not a key or a column; did you mean prompt?",
        "--set rows: cannot be set as a whole; use a file",
        "--set defaults: cannot be set as a whole; write defaults.NAME=...",
        "--set n: 'many' is not a number of pictures; write 1 to 6",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.yaml"])
def test_encodings_with_and_without_a_mark_are_read(folder, encoding, name):
    content = {
        "m.csv": "sku,image,prompt\r\nTasse-ü,mug.jpg,营业中\r\n",
        "m.jsonl": '{"sku": "Tasse-ü", "image": "mug.jpg", "prompt": "营业中"}\n',
        "m.yaml": "rows: [{sku: Tasse-ü, image: mug.jpg, prompt: 营业中}]\n",
    }[name]
    (row,) = rows(plan(folder, content, name, encoding))
    assert (row.sku, row.edit.prompt) == ("Tasse-ü", "营业中")


def test_another_encoding_is_told_with_its_line(folder):
    found = plan(folder, "sku,image,prompt\na,mug.jpg,x\nb,mug.jpg,caf\xe9\n".encode("latin-1"), "m.csv")
    assert told(found) == (
        "m.csv:3: not UTF-8 text: byte 0xE9 does not belong there (an older Windows or GBK file?); "
        "save the file as UTF-8"
    )


def test_a_nul_byte_is_told_with_its_line(folder):
    assert told(plan(folder, b"sku,image,prompt\na,mug.jpg,x\nb,mug\x00.jpg,y\n", "m.csv")).startswith("m.csv:3: a NUL")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_dialect_is_found_from_the_header_and_quoted_line_breaks_keep_lines_right(folder, delimiter):
    path = folder / "m.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerows(
            [
                ["sku", "image", "prompt", "a,b;c"],
                ["one", "mug.jpg", f"two{delimiter}\nlines", ""],
                ["two", "mug.jpg", "x", ""],
                ["three", "mug.jpg", "x", "z"],
            ]
        )
    found = rows(plan(folder, path.read_bytes(), "m.csv"))
    assert [(r.line, r.sku) for r in found] == [(2, "one"), (4, "two"), (5, "three")]
    assert found[0].edit.prompt == f"two{delimiter}\nlines"


def test_blank_lines_before_the_header_and_between_rows_are_passed_over(folder):
    found = rows(plan(folder, "\n\nsku,image,prompt\n\na,mug.jpg,x\n,,\nb,mug.jpg,y\n", "m.csv"))
    assert [(r.line, r.sku) for r in found] == [(5, "a"), (7, "b")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "m.csv:1: an empty table"),
        ("\n \n", "m.csv:1: an empty table"),
        ("sku,image,prompt\n", "m.csv:1: there is nothing to edit"),
        ("sku,image,sku\na,mug.jpg,b\n", "m.csv:1 sku: two columns of this name"),
        ("sku,,image\na,b,mug.jpg\n", "m.csv:1: column 2 has no name"),
        ("sku,image,prompt\na,mug.jpg\n", "m.csv:2: 2 cells, and the header has 3"),
        ("sku,image,prompt\na,mug.jpg,x,y\n", "m.csv:2: 4 cells, and the header has 3"),
        ('sku,image,prompt\na,mug.jpg,"x\nb,mug.jpg,y\n', "m.csv:2: a quote that is opened here is never closed"),
        ('sku,image,prompt\na,mug.jpg,"x"y\n', "m.csv:2: text after a closing quote"),
        ("sku,image,prompt\na,mug.jpg,x\x07\n", "m.csv:2 prompt: holds the control character '\\x07'"),
        ("sku,image,prompt\na,mug.jpg," + "x" * 70_000 + "\n", "m.csv:2 prompt: is 70,000 characters long"),
    ],
)
def test_a_table_that_cannot_be_read_is_told(folder, content, says):
    assert told(plan(folder, content, "m.csv")).startswith(says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "m.jsonl:1: an empty table"),
        ("{]\n", "m.jsonl:1: not JSON"),
        ("[1]\n", "m.jsonl:1: not a JSON object"),
        ('{"sku": "a", "sku": "b"}\n', "m.jsonl:1 sku: this key stands twice"),
        ('{"image": ["a", "b"]}\n', "m.jsonl:1 image: holds a list"),
        ('{"a\\u0000b": 1}\n', "m.jsonl:1: the key 'a\\x00b' is no name"),
        ('{"n": NaN}\n', "m.jsonl:1: not JSON (NaN is not a value)"),
        ("[" * 100_000 + "\n", "m.jsonl:1: not JSON"),
        ('{"sku": "\\ud800", "image": "mug.jpg", "prompt": "x"}\n', "m.jsonl:1 sku: holds the control character"),
    ],
)
def test_json_lines_that_cannot_be_read_are_told(folder, content, says):
    assert told(plan(folder, content, "m.jsonl")).startswith(says)


def test_json_numbers_stay_as_they_are_written(folder):
    line = json.dumps({"image": "mug.jpg", "prompt": "{p}", "p": 0, "n": 2, "watermark": True, "recipe": None})
    (row,) = rows(plan(folder, line.replace('"p": 0', '"p": 0.10'), "m.jsonl"))
    assert (row.edit.prompt, dict(row.edit.parameters)) == ("0.10", {"n": 2, "watermark": True})


def bomb():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "m.yaml:1: an empty manifest"),
        ("# nothing\n", "m.yaml:1: an empty manifest"),
        ("- a\n- b\n", "m.yaml:1: not a map of keys"),
        ("batch: a\n", "m.yaml:1 rows: there is nothing to edit"),
        ("rows: []\n", "m.yaml:1: there is nothing to edit"),
        ("batch: a\nbatch: b\nrows: [{image: mug.jpg, prompt: x}]\n", "m.yaml:2 batch: this key stands twice"),
        ("batch: a: b\n", "m.yaml:1: not YAML: mapping values"),
        ("batch: [a\n", "m.yaml:2: not YAML"),
        ("rows:\n\t- a\n", "m.yaml:2: not YAML"),
        ("batch: !!python/object/apply:os.system [ls]\n", "m.yaml:1: the tag"),
        ("batch: !!int 3\n", "m.yaml:1: the tag"),
        ("a: &a {<<: *a}\n", "m.yaml:1: merge keys"),
        ("a: &a [*a]\n", "m.yaml:1: *a stands for nothing finished before it"),
        ("a: *b\n", "m.yaml:1: *b stands for nothing"),
        ("? [a]\n: b\n", "m.yaml:1: a list or a map where a key should stand"),
        ("a: 1\n---\nb: 2\n", "m.yaml:2: a second document"),
        ("a: " + "[" * 100 + "]" * 100, "m.yaml:1: nested deeper than"),
        ("a: " + "[" * 50_000, "m.yaml:1: nested deeper than"),
        (bomb(), "m.yaml:6: more than 500,000 values"),
        ('batch: "a\\0b"\nrows: [{image: mug.jpg, prompt: x}]', "m.yaml:1 batch: holds the control character"),
        ("batch: \x07\n", "m.yaml:1: not YAML"),
        ("defaults: x\nrows: [{image: mug.jpg, prompt: x}]", "m.yaml:1 defaults: not a map of names"),
        ("recipes: [a]\nrows: [{image: mug.jpg, prompt: x}]", "m.yaml:1 recipes: not a map of recipes"),
        ("rows: x\n", "m.yaml:1 rows: not a list of rows"),
        ("tables: {a: b}\n", "m.yaml:1 tables: not a list of files"),
        ("batch: [a]\nrows: [{image: mug.jpg, prompt: x}]", "m.yaml:1 batch: holds a list or a map"),
        ("bach: a\nrows: [{image: mug.jpg, prompt: x}]", "m.yaml:1 bach: not a key of a manifest; did you mean batch?"),
        ('"a\\0b": 1\nrows: [{image: mug.jpg, prompt: x}]', "m.yaml:1: a key that is empty or no short plain text"),
        ("size: a\nrows: [{image: mug.jpg, prompt: x}]", "m.yaml:1 size: not a key of a manifest; it is a column"),
    ],
)
def test_yaml_that_cannot_be_read_is_told(folder, content, says):
    assert told(plan(folder, content)).startswith(says)


def test_an_honest_alias_is_read(folder):
    text = """
rows:
  - {image: mug.jpg, sku: a, prompt: &p on white}
  - {image: mug.jpg, sku: b, prompt: *p}
"""
    assert [r.edit.prompt for r in rows(plan(folder, text))] == ["on white", "on white"]


def test_a_yaml_file_that_is_too_large_sends_the_rows_into_a_table(folder):
    found = plan(folder, b"# " + b"x" * (16 * 1024 * 1024) + b"\n")
    assert told(found) == "m.yaml:1: larger than 16 MB; put the rows into a CSV table and name it under tables"


def test_pictures_of_a_table_are_looked_for_beside_it_then_beside_the_manifest(folder):
    (folder / "lists").mkdir()
    Image.new("RGB", (400, 400)).save(folder / "lists" / "shoe.jpg")
    (folder / "lists" / "t.csv").write_text("image,prompt\nshoe.jpg,x\nmug.jpg,y\n")

    found = rows(plan(folder, "tables: [lists/t.csv]"))

    assert [r.edit.pictures[0].ref for r in found] == [str(folder / "lists" / "shoe.jpg"), str(folder / "mug.jpg")]
    assert [r.file for r in found] == ["lists/t.csv", "lists/t.csv"]


def test_a_table_that_is_missing_twice_or_of_another_kind_is_told(folder):
    (folder / "t.csv").write_text("image,prompt\nmug.jpg,x\n")
    found = plan(folder, "tables:\n  - t.csv\n  - ./t.csv\n  - gone.csv\n  - t.xlsx\n")
    assert [str(p).partition(";")[0] for p in found.problems] == [
        "m.yaml:3 tables: './t.csv' is named twice",
        "m.yaml:4 tables: gone.csv does not exist",
        "m.yaml:5 tables: 't.xlsx' is not a table by its name",
    ]


@pytest.mark.parametrize("name", ["gone.yaml", "gone.csv", "photo.jpg", "."])
def test_what_is_no_manifest_at_all_was_used_wrongly(folder, name):
    with pytest.raises(UsageError, match="; write"):
        make_plan(folder / name, settings=load(environ={}, cwd=folder), today=TODAY, cwd=folder)


@pytest.mark.parametrize(
    ("text", "prefix", "below"),
    [
        ("out/a/", "/c/out/a", None),
        ("out/{sku}.png", "/c/out", "{sku}.png"),
        ("{batch}/{sku}", "/c", "{batch}/{sku}"),
        ("/abs/{dept}/x/{sku}", "/abs", "{dept}/x/{sku}"),
        ("../up", "/up", None),
        ("s3://bucket", "s3://bucket", None),
        ("s3://bucket/a/b/", "s3://bucket/a/b", None),
        ("s3://bucket/a/{sku}.png", "s3://bucket/a", "{sku}.png"),
    ],
)
def test_the_output_is_split_where_its_template_begins(text, prefix, below, tmp_path):
    from pathlib import Path

    assert split_output(text, Path("/c")) == (prefix, below)


@pytest.mark.parametrize(
    "text", ["gs://b/a", "https://x/y", "s3://B_/a", "s3://b", "s3://bucket/../a", "out/a.png", "a\\b"]
)
def test_an_output_that_is_no_place_is_refused(text, tmp_path):
    with pytest.raises(ValueError, match="; write"):
        split_output(text, tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("watermark", "Yes", True),
        ("watermark", "off", False),
        ("size", "1024*0768", "1024*768"),
        ("recipe", "a, b,a", ("a", "b")),
        ("seed", "2147483647", 2147483647),
    ],
)
def test_columns_are_read_from_text(name, text, value):
    assert parsed(name, text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("watermark", "maybe"),
        ("size", "0*512"),
        ("size", "1K"),
        ("seed", "-1"),
        ("seed", "1.5"),
        ("seed", "２"),
        ("seed", "2147483648"),
        ("n", "0"),
        ("n", "two"),
        ("recipe", "a b"),
        ("recipe", ","),
        ("sku", "a" * 201),
        ("sku", "a\nb"),
        ("model", "qwen-image-9"),
        ("model", "wan2.7-image"),
        ("prompt_extend_mode", "agent"),
    ],
)
def test_what_a_column_cannot_mean_is_refused_with_the_way_out(name, text):
    with pytest.raises(ValueError, match=r"; (write|did you mean)"):
        parsed(name, text)

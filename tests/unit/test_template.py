import pytest

from scheduler.destinations import Claims, keys
from scheduler.problems import Cell, Problems
from scheduler.template import LATE, MissingName, names, parts, render


def test_names_are_filled_in_and_doubled_braces_stand_for_themselves():
    assert render("a {b} {{c}} {d e}", {"b": "1", "d e": "2"}) == "a 1 {c} 2"
    assert names("{a}{b}{{c}}") == {"a", "b"}
    assert parts("plain") == (("plain", False),)


@pytest.mark.parametrize("text", ["{", "}", "a {b", "a b}", "{}", "{ }", "{{a}"])
def test_a_stray_brace_is_refused_with_the_way_out(text):
    with pytest.raises(ValueError, match="; write"):
        parts(text)


@pytest.mark.parametrize("text", ["{sku.__class__}", "{sku!r}", "{sku:>9}", "{sku[0]}", "{0}"])
def test_no_attribute_index_or_format_is_reached_through_a_name(text):
    with pytest.raises(MissingName, match="is not a column here"):
        render(text, {"sku": "MUG-01"})


def test_a_missing_column_and_an_empty_cell_are_told_apart():
    with pytest.raises(MissingName, match=r"\{colour\} is not a column here; did you mean color\?"):
        render("{colour}", {"color": "red"})
    with pytest.raises(MissingName, match=r"\{color\} is empty in this row; fill the column 'color'"):
        render("{color}", {"color": ""})


def test_a_prompt_cannot_ask_for_what_depends_on_it():
    with pytest.raises(ValueError, match="depends on the prompt"):
        render("number {seed}", {"sku": "a"}, late=LATE)


VALUES = {"sku": "MUG-01", "recipe": "white", "seed": "7", "job": "abc", "dept": "home"}


def test_a_key_is_made_for_every_picture():
    assert keys("{dept}/{sku}-{index}", VALUES, 2, "") == ("home/MUG-01-1.png", "home/MUG-01-2.png")
    assert keys("{sku}.PNG", VALUES, 1, "") == ("MUG-01.PNG",)


def test_an_ending_inside_a_value_is_part_of_a_name():
    assert keys("{sku}", {"sku": "mug.blue"}, 1, "") == ("mug.blue.png",)


@pytest.mark.parametrize(
    ("template", "values", "says"),
    [
        ("/etc/{sku}", {}, "is absolute"),
        ("C:{sku}", {}, "is absolute"),
        ("../{sku}", {}, "dotted part"),
        ("a/./{sku}", {}, "dotted part"),
        ("{sku}", {"sku": ".."}, "dotted part|ends in"),
        ("a//{sku}", {}, "empty part"),
        ("a/ /{sku}", {}, "empty part"),
        ("a /{sku}", {}, "blank"),
        ("a\\{sku}", {}, "backslash"),
        ("{sku}", {"sku": "a\\b"}, "may not make folders"),
        ("{sku}", {"sku": "a/b"}, "may not make folders"),
        ("{sku}", {"sku": "a\nb"}, "line breaks"),
        ("{sku}", {"sku": "{seed}"}, "braces"),
        ("{{sku}}", {}, "braces"),
        ("s3://other/{sku}", {}, "is an address"),
        ("{sku}.jpg", {}, "results are PNG"),
        ("{sku}", {"sku": "a" * 252}, "too long"),
        ("{sku}", {"sku": "ü" * 126}, "too long"),
        ("{sku}/" * 5 + "{sku}", {"sku": "a" * 200}, "too long"),
    ],
)
def test_a_path_that_could_leave_its_folder_or_not_be_written_is_refused(template, values, says):
    with pytest.raises(ValueError, match=says):
        keys(template, {**VALUES, **values}, 1, "")


def test_the_bucket_prefix_counts_into_the_length_of_a_key():
    text = "/".join(["{sku}"] * 4)
    values = {**VALUES, "sku": "a" * 200}
    assert keys(text, values, 1, "")
    with pytest.raises(ValueError, match="too long"):
        keys(text, values, 1, "p" * 400)


def test_several_pictures_need_an_index():
    with pytest.raises(ValueError, match=r"put \{index\} into"):
        keys("{sku}.png", VALUES, 2, "")


def test_two_rows_that_write_one_key_are_told_with_both_places():
    problems = Problems()
    claims = Claims(problems)

    claims.claim("a.png", Cell("", "a.csv", 2, "output"))
    claims.claim("a.png", Cell("", "a.csv", 9, "output"))
    claims.claim("a.png", Cell("", "b.csv", 3, "output"))
    claims.claim("A.png", Cell("", "b.csv", 4, "output"))

    assert [str(p) for p in problems.errors] == [
        "a.csv:9 output: 'a.png' is written by line 2 already; make the paths differ, as with {sku} or {recipe}",
        "b.csv:3 output: 'a.png' is written by a.csv:2 already; make the paths differ, as with {sku} or {recipe}",
    ]
    assert ["only in case" in str(p) for p in problems.warnings] == [True]

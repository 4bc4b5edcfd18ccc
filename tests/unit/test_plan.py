"""From a manifest to what is bought, where it goes and what it costs at most."""

import resource
from datetime import date
from pathlib import Path

import pytest
from PIL import Image

from models.edit import derive_seed
from models.errors import ManifestError
from models.settings import load
from scheduler import destinations
from scheduler.plan import PlanFailed, PlannedRow, make_plan
from scheduler.rows import size_of_1k
from scheduler.values import estimate_tokens
from worker import storage

TODAY = date(2026, 11, 23)


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (400, 400), "red").save(tmp_path / "mug.jpg")
    Image.new("RGB", (800, 400), "blue").save(tmp_path / "bag.jpg")
    return tmp_path


def plan(folder, content, name="m.yaml", environ=None, today=TODAY, **overrides):
    (folder / name).write_text(content, encoding="utf-8")
    settings = load(environ=environ or {}, cwd=folder)
    return make_plan(folder / name, settings=settings, overrides=overrides, today=today, cwd=folder)


def one(folder, columns, *, top="", **options):
    """A manifest of a single row."""
    return plan(folder, f"{top}\nrows:\n  - {{image: mug.jpg, prompt: red, {columns}}}\n", **options)


def rows(plan):
    assert [str(problem) for problem in plan.problems] == []
    return [row for block in plan.blocks() for row in block]


def told(plan):
    return [str(problem) for problem in plan.problems]


def test_rows_that_ask_for_the_same_edit_share_a_job_and_each_has_its_copy(folder):
    (folder / "again.jpg").write_bytes((folder / "mug.jpg").read_bytes())
    text = """
defaults: {prompt: make it red, n: 2}
rows:
  - {sku: a, image: mug.jpg}
  - {sku: b, image: again.jpg}
  - {sku: c, image: mug.jpg, seed: 1}
"""
    found = plan(folder, text)
    first, second, third = rows(found)
    assert first.digest == second.digest != third.digest
    assert (found.lines, found.rows, found.jobs, found.pictures, found.objects) == (3, 3, 2, 4, 6)
    assert found.quote_micros == 2 * 2 * 200_000
    assert second.destinations == ("b-edit-1.png", "b-edit-2.png")


def test_a_seed_is_derived_from_the_content_unless_it_is_given(folder):
    (row,) = rows(one(folder, ""))
    assert row.edit.seed == derive_seed(row.edit.digest(with_seed=False))
    (row,) = rows(one(folder, "seed: 7"))
    assert row.edit.seed == 7
    assert row.digest == row.edit.digest(with_seed=True)


def test_n_is_always_sent_and_nothing_that_was_not_asked_for(folder):
    (row,) = rows(one(folder, ""))
    assert dict(row.edit.parameters) == {"n": 1}
    (row,) = rows(one(folder, "watermark: false, prompt_extend: no, negative_prompt: text"))
    assert dict(row.edit.parameters) == {
        "n": 1,
        "negative_prompt": "text",
        "prompt_extend": False,
        "watermark": False,
    }


def test_a_size_is_chosen_where_it_decides_the_price_and_the_plan_says_so(folder):
    text = """
model: qwen-image-3.0-pro
rows:
  - {sku: a, prompt: x, image: mug.jpg}
  - {sku: b, prompt: x, image_1: mug.jpg, image_2: bag.jpg}
  - {sku: c, prompt: x, image: "https://example.com/a.jpg"}
  - {sku: d, prompt: x, image: mug.jpg, size: 2048*2048}
"""
    found = plan(folder, text)
    assert [r.edit.parameters["size"] for r in rows(found)] == ["1024*1024", "1456*720", "1024*1024", "2048*2048"]
    assert [r.worst_case_micros for r in rows(found)] == [270_000, 290_000, 270_000, 520_000]
    assert len(found.notes) == 2
    assert "1024*1024 chosen for 2 rows" in found.notes[0]


@pytest.mark.parametrize("ratio", [0.01, 0.125, 0.3, 0.75, 1, 1.5, 7.9, 8, 100])
def test_a_chosen_size_lies_on_the_grid_in_the_cheaper_tier_and_within_the_rule(ratio):
    from models.catalogue import AREA_30, GRID_PX, TIER_BORDER_PX

    width, height = map(int, size_of_1k(ratio, AREA_30).split("*"))
    assert width % GRID_PX == height % GRID_PX == 0
    assert 512 * 512 <= width * height <= TIER_BORDER_PX
    assert max(width / height, height / width) <= 8
    if 0.2 < ratio < 5:
        assert width / height == pytest.approx(ratio, rel=0.05)


def test_time_is_told_at_the_limits_with_models_side_by_side(folder):
    text = """
rows:
  - {sku: a, prompt: x, image: mug.jpg}
  - {sku: b, prompt: x, image: bag.jpg}
  - {sku: c, prompt: x, image: mug.jpg, model: qwen-image-2.0-pro}
"""
    found = plan(folder, text)
    assert [(q.model, q.jobs, q.seconds) for q in found.by_model] == [
        ("qwen-image-2.0", 2, 1.0),
        ("qwen-image-2.0-pro", 1, 30.0),
    ]
    assert found.seconds == 30.0
    faster = plan(folder, text, environ={"PACKSHOT_LIMITS": "qwen-image-2.0-pro=10/1s,qwen-image-2.0-pro=60/60s"})
    assert faster.seconds == 1.0
    shared = plan(folder, text, environ={"PACKSHOT_LIMIT_SHARE": "50%"})
    assert shared.seconds == 60.0


def test_paths_come_from_the_row_or_the_output_or_the_default(folder):
    text = """
batch: b
output: out/x/{dept}/{sku}-{recipe}-{index}-{seed}-{job}
defaults: {prompt: red, dept: home, seed: 7, image: mug.jpg, n: 2}
rows:
  - {sku: a}
  - {sku: b, output: "own/{batch}-{model}-{index}.png"}
"""
    found = plan(folder, text)
    a, b = rows(found)
    job = a.digest[:12]
    assert found.output == str(folder / "out/x")
    assert a.destinations == (f"home/a-edit-1-7-{job}.png", f"home/a-edit-2-7-{job}.png")
    assert a.seeded_destinations == (f"home/a-edit-1-{{seed}}-{job}.png", f"home/a-edit-2-{{seed}}-{job}.png")
    assert b.destinations == ("own/b-qwen-image-2.0-1.png", "own/b-qwen-image-2.0-2.png")
    assert b.seeded_destinations is None


def test_a_seed_is_left_open_for_every_picture_however_the_name_is_spaced(folder):
    (row,) = rows(one(folder, "sku: a, n: 2, seed: 7, output: '{sku}-{ index }-{seed}'"))
    assert row.destinations == ("a-1-7.png", "a-2-7.png")
    assert row.seeded_destinations == ("a-1-{seed}.png", "a-2-{seed}.png")


def test_passwords_and_signatures_stay_out_of_messages(folder):
    found = one(folder, "image_1: 'https://me:hush@example.com/a b.jpg?Signature=hush'").to_json()
    found |= plan(folder, "rows: [{prompt: x, image: 'https://me:hush@example.com/a b.jpg?Signature=hush'}]").to_json()
    assert found["problems"]
    assert "hush" not in str(found["problems"])


def test_free_columns_are_kept_with_sku_and_recipe(folder):
    (row,) = rows(one(folder, "sku: a, dept: home, cost centre: 0042"))
    assert row.columns == {"dept": "home", "cost centre": "0042", "sku": "a", "recipe": "edit"}


def test_a_planned_row_survives_its_journey_through_the_file(folder):
    for row in rows(one(folder, "n: 2, sku: Tasse-ü")):
        assert PlannedRow.from_json(row.to_json()) == row


def test_blocks_come_in_order_and_may_be_asked_for_again(folder):
    lines = "".join(f"s{i},mug.jpg,number {i}\n" for i in range(25))
    found = plan(folder, "sku,image,prompt\n" + lines, "m.csv")
    for _ in range(2):
        blocks = list(found.blocks(10))
        assert [len(block) for block in blocks] == [10, 10, 5]
        assert [r.sku for block in blocks for r in block] == [f"s{i}" for i in range(25)]
        assert [r.number for block in blocks for r in block] == list(range(1, 26))
    found.close()


def test_a_plan_with_problems_has_no_blocks(folder):
    found = one(folder, "n: 9")
    with pytest.raises(ManifestError) as caught:
        next(found.blocks())
    assert caught.value.problems == found.problems


def test_all_problems_of_all_rows_come_at_once_in_the_order_of_the_file(folder):
    text = """
defaults: {prompt: red}
rows:
  - {sku: a, image: gone.jpg, n: 0, size: 1K, seed: -1, output: ../x}
  - {sku: b, image: mug.jpg, model: qwen-image-9, watermark: maybe}
"""
    found = [(p.line, p.column) for p in plan(folder, text).problems]
    assert sorted(found) == [
        (4, "image"),
        (4, "n"),
        (4, "output"),
        (4, "seed"),
        (4, "size"),
        (5, "model"),
        (5, "watermark"),
    ]
    assert found == sorted(found, key=lambda p: p[0])


def test_a_mistake_in_a_shared_place_is_told_once(folder):
    lines = "".join(f"s{i},mug.jpg\n" for i in range(300))
    found = plan(folder, "sku,image\n" + lines, "m.csv", n="9", **{"recipes.a": "in {colour}", "model": "qwen-image-2"})
    assert told(found) == [
        "--set model: 'qwen-image-2' is not a model; did you mean qwen-image-2.0?",
        "m.csv:1 prompt: recipe a: {colour} is not a column here; write one of batch, image, model, n, recipe, sku",
    ]


def test_an_empty_cell_that_a_recipe_asks_for_is_a_mistake_of_its_row(folder):
    found = plan(folder, "sku,image,colour\na,mug.jpg,red\nb,mug.jpg,\n", "m.csv", **{"recipes.a": "in {colour}"})
    assert told(found) == ["m.csv:3 prompt: recipe a: {colour} is empty in this row; fill the column 'colour'"]


def test_ten_thousand_small_pictures_give_one_warning(folder):
    Image.new("RGB", (100, 100)).save(folder / "small.png")
    lines = "".join(f"s{i},small.png,x\n" for i in range(500))
    found = plan(folder, "sku,image,prompt,promt\n" + lines.replace(",x\n", ",x,\n"), "m.csv")
    assert [str(w) for w in found.warnings] == [
        "m.csv:1 promt: is taken for a free column; did you mean prompt?",
        "m.csv:2 image: 100x100 px is outside the recommended 384 to 3072 (and 499 more like it); results may be worse",
    ]


@pytest.mark.parametrize("model", ["qwen-image-3.0", "qwen-image-2.0"])
def test_large_pictures_are_judged_by_the_family(folder, model):
    Image.new("RGB", (2400, 1000)).save(folder / "large.jpg")
    found = plan(folder, f"model: {model}\nrows: [{{image: large.jpg, prompt: x}}]")
    assert len(found.warnings) == (1 if model == "qwen-image-3.0" else 0)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("model: qwen-image-edit, n: 2", "2 pictures, and qwen-image-edit draws at most 1 a call; write 1"),
        ("n: 7", "7 pictures, and qwen-image-2.0 draws at most 6 a call; write 1 to 6"),
        ("model: qwen-image-edit, size: 1024*1024", "qwen-image-edit has no size"),
        ("enable_thinking: true", "qwen-image-2.0 has no enable_thinking"),
        ("model: qwen-image-2.1-pro, negative_prompt: x", "qwen-image-2.1-pro has no negative_prompt"),
        ("size: 500*500", "500*500 is less than 262,144 px"),
        ("size: 2100*2048", "is more than 4,194,304 px"),
        ("model: qwen-image-3.0, size: 2561*2561", "is more than 6,553,600 px"),
        ("model: qwen-image-2.1-turbo, size: 2048*248", "is longer than 8:1"),
        ("model: qwen-image-edit-max, size: 500*1024", "has a side of 500"),
        (f"negative_prompt: {'x' * 501}", "501 characters, and qwen-image-2.0 cuts off after 500"),
        ("image_2: mug.jpg, image_3: mug.jpg", None),
        ("image_1: mug.jpg", "stands beside image_1"),
    ],
)
def test_every_value_is_held_against_its_model(folder, columns, says):
    found = one(folder, columns)
    assert told(found) == [] if says is None else says in told(found)[0]


@pytest.mark.parametrize(
    ("model", "most"), [("qwen-image-2.0", 3), ("qwen-image-3.0", 3), ("qwen-image-2.1-turbo", 10)]
)
def test_the_number_of_pictures_is_the_models(folder, model, most):
    def with_pictures(count):
        images = ", ".join(f"image_{i}: mug.jpg" for i in range(1, count + 1))
        return plan(folder, f"model: {model}\nrows:\n  - {{prompt: x, {images}}}\n")

    assert rows(with_pictures(most))
    if most < 10:
        assert told(with_pictures(most + 1)) == [
            f"m.yaml:3 image_{most + 1}: {most + 1} pictures, and {model} takes {most}; leave some out"
        ]


def test_a_prompt_the_provider_would_cut_is_refused(folder):
    words = "picture " * 651
    long = told(plan(folder, f"recipes: {{r: '{words}'}}\nrows: [{{image: mug.jpg}}]"))
    assert "about 1,302 tokens, and qwen-image-2.0 cuts off after 1,300" in long[0]
    assert "about 1,301 tokens" in told(plan(folder, f"recipes: {{r: {'杯' * 1301}}}\nrows: [{{image: mug.jpg}}]"))[0]
    assert told(plan(folder, f"recipes: {{r: {'杯' * 1300}}}\nrows: [{{image: mug.jpg}}]")) == []


def test_a_prompt_longer_than_advised_is_a_warning_since_nobody_says_what_becomes_of_it(folder):
    text = f"model: qwen-image-3.0\nrecipes: {{r: {'杯' * 4501}}}\nrows: [{{image: mug.jpg}}]"

    found = plan(folder, text)

    assert rows(found)
    (said,) = (str(warning) for warning in found.warnings)
    assert "about 4,501 tokens, more than the 4,500 that are advised for qwen-image-3.0" in said


@pytest.mark.parametrize(("model", "advised"), [("qwen-image-2.1-pro", False), ("qwen-image-3.0", True)])
def test_a_size_of_pictures_is_advised_only_where_the_reference_does(folder, model, advised):
    Image.new("RGB", (100, 100)).save(folder / "small.jpg")

    found = plan(folder, f"model: {model}\nrows: [{{image: small.jpg, prompt: x}}]")

    assert any("recommended 384 to 2048" in str(warning) for warning in found.warnings) == advised


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("mug", 1), ("picture", 2), ("营业中", 3), ("a mug, 2024!", 5), ("mug营业", 3)]
)
def test_tokens_are_estimated_from_words_and_characters(text, tokens):
    assert estimate_tokens(text) == tokens
    assert estimate_tokens(text) <= len(text)


def test_a_model_that_is_not_offered_here_or_has_no_price_is_told(folder):
    text = "rows: [{image: mug.jpg, prompt: x}]"
    assert told(plan(folder, text, region="us-east-1")) == [
        "m.yaml:1 model: qwen-image-2.0 is not offered in us-east-1; it is in cn-beijing, ap-southeast-1"
    ]
    unpriced = plan(folder, text, region="cn-hongkong", model="qwen-image-3.0")
    assert told(unpriced) == [
        "--set model: no price of qwen-image-3.0 in cn-hongkong is known; "
        'set PACKSHOT_PRICES="qwen-image-3.0@cn-hongkong=AMOUNT CURRENCY + AMOUNT/input" from your contract'
    ]
    priced = plan(
        folder,
        text,
        environ={"PACKSHOT_PRICES": "qwen-image-3.0@cn-hongkong=0.18 CNY + 0.02/input"},
        region="cn-hongkong",
        model="qwen-image-3.0",
    )
    assert (priced.quote_micros, priced.currency) == (200_000, "CNY")


def test_retirement_is_one_warning_a_model(folder):
    text = "model: qwen-image-edit-plus\nrows: [{image: mug.jpg, prompt: x}, {image: bag.jpg, prompt: x}]"
    (warning,) = plan(folder, text).warnings
    assert "was announced to end on 2026-10-10" in str(warning)
    (warning,) = plan(folder, text, today=date(2026, 10, 1)).warnings
    assert "will end on 2026-10-10" in str(warning)


def test_the_budget_must_be_in_the_regions_currency(folder):
    text = "rows: [{image: mug.jpg, prompt: x}]"
    assert plan(folder, text, budget="20 CNY").budget_micros == 20_000_000
    assert plan(folder, text, budget="20").currency == "CNY"
    dollars = plan(folder, text, budget="3 USD", region="ap-southeast-1")
    assert (dollars.budget_micros, dollars.currency, dollars.quote_micros) == (3_000_000, "USD", 35_000)
    assert told(plan(folder, text, budget="3 USD")) == [
        "--set budget: cn-beijing is billed in CNY, not USD; write 3 CNY"
    ]


def test_a_budget_below_the_worst_case_is_a_warning(folder):
    (warning,) = plan(folder, "batch: a\nbudget: 0.10 CNY\nrows: [{image: mug.jpg, prompt: x}]").warnings
    assert str(warning).startswith("m.yaml:2 budget: ")
    assert "0.20 CNY, is more than the budget of 0.10 CNY" in str(warning)


def test_models_of_two_currencies_do_not_go_into_one_batch(folder):
    text = """
rows:
  - {image: mug.jpg, sku: a, prompt: x}
  - {image: mug.jpg, sku: b, prompt: x, model: qwen-image-2.1-turbo}
"""
    found = plan(folder, text, environ={"PACKSHOT_PRICES": "qwen-image-2.1-turbo@cn-beijing=0.03 USD"})
    assert "CNY and USD" in told(found)[0]


def test_no_result_is_written_over_a_picture_it_was_made_from(folder):
    Image.new("RGB", (400, 400)).save(folder / "shoe.png")
    text = "output: '{sku}.png'\nrows: [{image: shoe.png, prompt: x}]"
    assert "is an input picture" in told(plan(folder, text))[0]
    text = "output: s3://shop/photos/{sku}.png\nrows: [{image: 's3://shop/photos/shoe.png', prompt: x}]"
    assert "is an input picture" in told(plan(folder, text))[0]


def test_a_row_says_what_to_do_once(folder):
    recipes = "recipes: {a: red}\n"
    both = plan(folder, f"{recipes}rows: [{{image: mug.jpg, prompt: x, recipe: a}}]")
    neither = plan(folder, "rows: [{image: mug.jpg}]")
    unknown = plan(folder, f"{recipes}rows: [{{image: mug.jpg, recipe: b}}]")
    assert "stands beside a prompt" in told(both)[0]
    assert "nothing to do" in told(neither)[0]
    assert "'b' is not a recipe of this manifest" in told(unknown)[0]


def test_pictures_leave_no_gap_and_need_a_name(folder):
    assert "image_2: is empty" in told(plan(folder, "rows: [{image_1: mug.jpg, image_3: bag.jpg, prompt: x}]"))[0]
    assert "no picture to edit" in told(plan(folder, "rows: [{sku: a, prompt: x}]"))[0]
    assert "there is no such column" in told(one(folder, "image_11: bag.jpg"))[0]


def test_a_plan_in_json_holds_everything_a_script_wants(folder):
    found = one(folder, "n: 2").to_json()
    assert found["by_model"] == [
        {"model": "qwen-image-2.0", "jobs": 1, "pictures": 2, "micros": 400_000, "seconds": 0.5}
    ]
    assert {"batch", "checksum", "output", "rows", "quote_micros", "problems", "warnings", "notes"} <= found.keys()


def test_the_checksum_follows_manifest_tables_and_set_and_not_the_folder(folder):
    (folder / "t.csv").write_text("image,prompt\nmug.jpg,x\n")
    first = plan(folder, "tables: [t.csv]")
    again = plan(folder, "tables: [t.csv]")
    (folder / "t.csv").write_text("image,prompt\nmug.jpg,y\n")
    assert first.checksum == again.checksum != plan(folder, "tables: [t.csv]").checksum
    assert first.header == again.header


def test_nothing_is_written_but_the_plan(folder):
    before = sorted(folder.iterdir())
    with one(folder, "") as found:
        assert rows(found)
    assert [p for p in sorted(folder.iterdir()) if p.name != "m.yaml"] == before


def test_memory_does_not_grow_with_the_rows(folder):
    lines = "".join(f"s{i},mug.jpg,number {i}\n" for i in range(5000))
    plan(folder, "sku,image,prompt\n" + lines[:2000].rsplit("\n", 1)[0] + "\n", "m.csv")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = []
    (folder / "m.csv").write_text("sku,image,prompt\n" + lines)
    found = make_plan(folder / "m.csv", settings=load(environ={}), today=TODAY, cwd=folder, progress=counts.append)
    assert found.rows == 5000
    assert counts[-1] == 5000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024  # KB; about 0.7 KB a row


@pytest.mark.parametrize("paths", [("x.png", "x.png/y.png"), ("x.png/y/z.png", "x.png")])
def test_a_path_that_is_a_picture_for_one_row_and_a_folder_for_another_is_a_mistake(folder, paths):
    text = "rows:\n" + "".join(
        f"  - {{sku: {sku}, image: mug.jpg, prompt: red, output: {path}}}\n"
        for sku, path in zip("ab", paths, strict=True)
    )

    (problem,) = told(plan(folder, text))

    assert problem.startswith(f"m.yaml:3 output: '{paths[1]}' and the path of line 2: one needs the other as a folder")


def test_a_recipe_set_on_the_command_line_leaves_its_alias_alone(folder):
    text = """
recipes: {a: &x {prompt: make it red, n: 1}, b: *x}
rows:
  - {sku: s, image: mug.jpg, recipe: "a, b"}
"""
    a, b = rows(plan(folder, text, **{"recipes.a.n": "3"}))

    assert (a.edit.n, b.edit.n) == (3, 1)


def test_no_room_for_the_plan_is_told_with_the_way_out(folder, monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Path("/dev/full").open("wb"))  # noqa: SIM115 - the plan closes it

    with pytest.raises(PlanFailed, match="No space left on device; make room, or set TMPDIR"):
        one(folder, "sku: a")


def test_the_storage_s_limits_are_the_plan_s_own():
    assert (destinations.KEY_BYTES_MAX, destinations.SEGMENT_BYTES_MAX, destinations.RESERVED) == (
        storage.KEY_BYTES,
        storage.PART_BYTES,
        storage.RESERVED,
    )


@pytest.mark.parametrize("path", [".packshot/z.png", f"{'a' * 247}.png"])
def test_a_path_that_the_storage_would_refuse_is_a_mistake(folder, path):
    assert len(told(one(folder, f"output: {path}"))) == 1

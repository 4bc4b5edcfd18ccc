"""Every manifest that is shipped is checked, with the pictures it names."""

from datetime import date
from pathlib import Path

import pytest
from PIL import Image

from models.settings import load
from scheduler.plan import make_plan

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
GOOD = sorted([p.name for p in MANIFESTS.glob("*.yaml") if p.name != "broken.yaml"] + ["catalog.csv"])
SUB_TASKS = {
    "multi-image-fusion", "subject-consistency", "sketch", "product-generation", "depth-map", "keypoints",
    "text-editing", "add-delete-replace", "viewpoint", "background", "old-photo",
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_an_example_has_no_problem_no_warning_and_fits_its_budget(name):
    settings = load(environ={}, cwd=MANIFESTS)
    with make_plan(MANIFESTS / name, settings=settings, today=date(2026, 11, 23), cwd=ROOT) as plan:
        assert [str(problem) for problem in (*plan.problems, *plan.warnings)] == []
        assert sum(len(block) for block in plan.blocks()) == plan.rows > 0


def test_there_is_an_example_for_every_sub_task():
    assert {f"{name}.yaml" for name in SUB_TASKS} <= set(GOOD)


def test_hello_buys_at_least_twelve_pictures_of_at_least_six_products_quickly():
    settings = load(environ={}, cwd=MANIFESTS)
    with make_plan(MANIFESTS / "hello.yaml", settings=settings, today=date(2026, 11, 23), cwd=ROOT) as plan:
        refs = {row.edit.pictures[0].ref for block in plan.blocks() for row in block}
        assert plan.pictures >= 12
        assert len(refs) >= 6
        assert plan.seconds <= 10


def test_samples_are_small_pictures_of_a_recommended_size_and_each_is_used():
    text = "".join((MANIFESTS / name).read_text(encoding="utf-8") for name in GOOD)
    samples = sorted((MANIFESTS / "samples").iterdir())
    assert samples
    for sample in samples:
        assert sample.stat().st_size < 40 * 1024
        with Image.open(sample) as image:
            assert (image.format, image.size) == ("JPEG", (768, 768))
        assert f"samples/{sample.name}" in text

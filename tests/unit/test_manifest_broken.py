"""manifests/broken.yaml has one of every mistake; what is said of them is kept beside this test, word for word.

After a change of words: `python tests/unit/test_manifest_broken.py` writes the file anew; read the difference.
"""

from datetime import date
from pathlib import Path

from models.settings import load
from scheduler.plan import make_plan

ROOT = Path(__file__).parents[2]
EXPECTED = Path(__file__).with_name("broken.expected.txt")


def said() -> str:
    settings = load(environ={}, cwd=ROOT / "manifests")
    plan = make_plan(ROOT / "manifests" / "broken.yaml", settings=settings, today=date(2026, 11, 23), cwd=ROOT)
    return "".join(f"{problem.severity}: {problem}\n" for problem in (*plan.problems, *plan.warnings))


def test_every_mistake_of_the_broken_manifest_is_told_with_place_and_way_out():
    assert said().splitlines() == EXPECTED.read_text(encoding="utf-8").splitlines()


def test_every_problem_says_what_to_do():
    for line in EXPECTED.read_text(encoding="utf-8").splitlines():
        assert "; " in line, line


if __name__ == "__main__":
    EXPECTED.write_text(said(), encoding="utf-8")

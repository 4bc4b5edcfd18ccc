from pathlib import Path

from worker import outcomes

ROOT = Path(__file__).parents[2]


def test_the_page_on_outcomes_holds_the_table_as_it_is():
    page = (ROOT / "docs" / "outcomes.md").read_text(encoding="utf-8")
    assert page.endswith(outcomes.markdown().rstrip() + "\n")

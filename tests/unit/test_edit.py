"""An edit is its content: what it is called and where it lies does not matter, everything that is drawn does."""

import json
from dataclasses import replace

import pytest

from models.edit import PICTURES_MAX, SEED_MAX, Answer, Edit, Picture, derive_seed

EDIT = Edit(
    "qwen-image-2.0",
    (Picture("/a.jpg", "aa", 10), Picture("https://host/b.jpg")),
    "on a table",
    {"n": 2, "size": "1024*1024"},
    seed=7,
)


@pytest.mark.parametrize(
    "other",
    [
        replace(EDIT, model="qwen-image-2.0-pro"),
        replace(EDIT, prompt="on a chair"),
        replace(EDIT, parameters={"n": 1, "size": "1024*1024"}),
        replace(EDIT, pictures=EDIT.pictures[::-1]),
        replace(EDIT, pictures=EDIT.pictures[:1]),
        replace(EDIT, pictures=(Picture("/a.jpg", "ab", 10), EDIT.pictures[1])),
        replace(EDIT, pictures=(EDIT.pictures[0], Picture("https://host/c.jpg"))),
    ],
)
def test_whatever_changes_the_drawing_changes_the_digest(other):
    assert other.digest(with_seed=False) != EDIT.digest(with_seed=False)


def test_a_moved_picture_and_another_order_of_parameters_are_the_same_edit():
    moved = replace(
        EDIT,
        pictures=(Picture("/elsewhere/z.jpg", "aa", 10), EDIT.pictures[1]),
        parameters={"size": "1024*1024", "n": 2},
    )

    assert moved.digest(with_seed=True) == EDIT.digest(with_seed=True)


def test_the_seed_counts_only_where_it_is_asked_for():
    other = replace(EDIT, seed=8)

    assert other.digest(with_seed=False) == EDIT.digest(with_seed=False)
    assert other.digest(with_seed=True) != EDIT.digest(with_seed=True)


def test_the_digest_is_written_into_ledgers_and_never_changes():
    assert EDIT.digest(with_seed=True) == "9c80b5d24021498d66f93a6464bab7cb2b12d354db3a7b53f8587061610fc0ac"


def test_an_edit_goes_into_the_ledger_and_comes_back():
    assert Edit.from_json(json.loads(json.dumps(EDIT.to_json()))) == EDIT


@pytest.mark.parametrize(
    ("ref", "is_local"),
    [
        ("/a/b.jpg", True),
        ("C:\\a.jpg", True),
        ("https://host/a.jpg", False),
        ("s3://bucket/a.jpg", False),
        ("data:image/png;base64,AA", False),
    ],
)
def test_a_picture_knows_whether_it_is_a_file(ref, is_local):
    assert Picture(ref).is_local is is_local


def test_one_picture_is_asked_for_unless_more_are():
    assert (EDIT.n, replace(EDIT, parameters={}).n) == (2, 1)


def test_a_seed_is_the_same_for_the_same_content_another_for_each_round_and_always_in_range():
    seeds = [derive_seed("ab", round_) for round_ in range(1000)]

    assert seeds == [derive_seed("ab", round_) for round_ in range(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed <= SEED_MAX for seed in seeds)
    assert max(seeds) > SEED_MAX // 2


@pytest.mark.parametrize(
    ("usage", "pictures"),
    [
        ({"image_count": 1}, 2),
        ({"output_image_count": 3, "input_image_count": 9}, 3),
        ({"image_count": 0}, 2),
        ({}, 2),
        ({"image_count": "1"}, 2),
        ({"image_count": True}, 2),
        ({"image_count": -1}, 2),
        ({"image_count": PICTURES_MAX + 1}, 2),
    ],
)
def test_the_providers_count_is_billed_where_it_is_a_count_and_never_less_than_what_came(usage, pictures):
    assert Answer("r", ("https://a/1.png", "https://a/2.png"), usage).pictures == pictures


@pytest.mark.parametrize(
    ("usage", "area_px"),
    [
        ({"width": 1024, "height": 768}, 1024 * 768),
        ({"output_width": 2048, "output_height": 2048}, 2048 * 2048),
        ({"width": 1024}, None),
        ({"width": "1024", "height": 768}, None),
        ({}, None),
    ],
)
def test_the_area_is_what_the_usage_states(usage, area_px):
    assert Answer("r", (), usage).area_px == area_px

"""The table of outcomes as data; what each line does on the wire is in tests/integration/test_provider.py."""

import errno
import json

import pytest
from urllib3 import exceptions as wire

from models.errors import CallError, NotSent, OutcomeUnknown, PictureError, Refused
from worker.answers import Received, read_answer
from worker.outcomes import TABLE, markdown, of_exception


def answer(document, status=200, **more):
    return Received(status, {}, json.dumps(document).encode(), **more)


ONE = {"output": {"choices": [{"message": {"content": [{"image": "http://a/1.png"}]}}]}, "request_id": "r"}


@pytest.mark.parametrize("line", TABLE, ids=lambda line: line.key)
def test_the_outcome_of_a_line_agrees_with_what_its_error_says_of_cost(line):
    match line.outcome:
        case "not sent":
            assert issubclass(line.error, NotSent | PictureError)
            assert line.error.cost == "no"
        case "unknown":
            assert line.error is OutcomeUnknown
            assert line.error.cost == "maybe"
        case "answered":
            assert line.error is None or (issubclass(line.error, Refused) and line.error.cost == "no")


def test_no_two_lines_share_a_key_and_each_gives_its_reason():
    assert len({line.key for line in TABLE}) == len(TABLE)
    assert all(line.because and line.happened for line in TABLE)


def test_the_table_prints_one_row_a_line():
    assert len(markdown().splitlines()) == len(TABLE) + 2


@pytest.mark.parametrize(
    "error",
    [
        wire.ProtocolError("Connection aborted.", ConnectionResetError(errno.ECONNRESET, "reset")),
        wire.SSLError(OSError("bad record")),
        wire.ReadTimeoutError(None, "/", "timed out"),
        wire.NameResolutionError("h", None, OSError("?")),
        wire.EmptyPoolError(None, "empty"),
        OSError("anything"),
    ],
)
def test_after_the_last_byte_no_error_is_free_and_before_it_every_error_is(error):
    assert isinstance(of_exception(error, handed_over=True), OutcomeUnknown)
    assert isinstance(of_exception(error, handed_over=False), NotSent)
    assert isinstance(of_exception(error, handed_over=False, begun=True), NotSent)


def test_pictures_are_collected_over_all_choices_and_items():
    document = {
        "output": {
            "choices": [
                {
                    "message": {
                        "content": [{"image": "https://a/1"}, {"text": "x"}, {"type": "image", "image": "https://a/2"}]
                    }
                },
                {"message": {"content": [{"image": "https://a/3"}]}},
            ]
        }
    }
    assert read_answer(answer(document)).urls == ("https://a/1", "https://a/2", "https://a/3")


def test_delivered_pictures_count_more_than_a_code_or_a_status():
    assert read_answer(answer(ONE | {"code": "Odd", "message": ""}, 500)).pictures == 1


def test_an_empty_code_is_no_code():
    assert read_answer(answer(ONE | {"code": "", "message": ""})).urls == ("http://a/1.png",)


def test_both_shapes_of_usage_are_kept_as_received():
    split = {"output_image_count": 1, "output_width": 1024, "output_height": 1024, "input_image_count": 2}
    got = read_answer(answer(ONE | {"usage": split}))
    assert (got.pictures, got.area_px, got.usage) == (1, 1024 * 1024, split)


@pytest.mark.parametrize(
    "odd",
    [
        {"output": {"choices": None}},
        {"output": {"choices": [None, 3, {"message": {"content": "text"}}]}},
        {"output": {"choices": [{"message": {"content": [{"image": 5}, {"image": "file:///etc/passwd"}]}}]}},
        {"output": [], "usage": 7, "request_id": {"a": 1}},
        {"code": {"a": 1}, "error": "text"},
        {"code": True},
        {},
    ],
)
def test_odd_answers_end_as_a_call_error_and_never_as_a_bug(odd):
    with pytest.raises(CallError):
        read_answer(answer(odd))


@pytest.mark.parametrize("body", [b"", b"null", b"[" * 100_000, b'"text"', b"\xff\xfe", b"{" * 10])
def test_bodies_that_are_no_object_leave_the_outcome_unknown(body):
    with pytest.raises(OutcomeUnknown):
        read_answer(Received(200, {}, body))


def test_a_page_before_the_request_was_out_means_not_sent():
    with pytest.raises(NotSent):
        read_answer(Received(502, {}, b"<html>"), handed_over=False)

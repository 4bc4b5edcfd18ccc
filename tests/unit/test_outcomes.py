"""The table of outcomes as data; what each line does on the wire is in tests/integration/test_provider.py."""

import errno
import json

import pytest
from urllib3 import exceptions as wire

from models.errors import (
    AccountStopped,
    CallError,
    NotSent,
    OutcomeUnknown,
    PictureError,
    Refused,
    Rejected,
    Throttled,
    Transient,
)
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


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (504, {"code": "GatewayTimeout", "message": "", "request_id": "r"}),
        (503, {"code": "ServiceUnavailable", "message": ""}),
        (504, {"code": 504}),
        (504, {"code": "504"}),
        (502, {"error": {"code": 502, "message": "Bad Gateway"}}),
        (502, {"error": {"type": "server_error"}}),
        (500, {"code": "Brand.New"}),
        (200, {"code": 0}),
        (200, {"code": "Success"}),
        (200, {"output": {"task_status": "FAILED", "code": "Brand.New"}}),
        (400, {"code": 400}),
        (408, {"code": "RequestTimeout"}),
        (499, {"code": "ClientClosedRequest"}),
    ],
)
def test_a_gateway_s_json_is_not_the_provider_s_word_once_the_request_is_out(status, body):
    with pytest.raises(OutcomeUnknown) as caught:
        read_answer(answer(body, status))
    assert caught.value.http_status == status
    if status >= 402:  # before the request's end was out it cannot have been carried out, whoever says so
        with pytest.raises(NotSent):
            read_answer(answer(body, status), handed_over=False)


def test_what_a_gateway_said_is_told():
    with pytest.raises(OutcomeUnknown, match="GatewayTimeout: upstream is slow"):
        read_answer(answer({"code": "GatewayTimeout", "message": "upstream is slow"}, 504))


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (500, {"code": "RequestTimeOut"}, Transient),
        (200, {"code": "InternalError.Algo"}, Transient),
        (503, {"code": "Throttling"}, Throttled),
        (200, {"output": {"task_status": "FAILED", "code": "InternalError"}}, Transient),
        (400, {"code": "Brand.New"}, Rejected),
        (400, {"error": {"type": "invalid_request_error", "code": None}}, Rejected),
        (401, {"code": "Brand.New"}, AccountStopped),
        (429, {"code": "Brand.New"}, Throttled),
    ],
)
def test_a_code_of_the_provider_s_is_final_and_so_is_any_word_that_turned_the_request_away(status, body, expected):
    with pytest.raises(expected):
        read_answer(answer(body, status))


@pytest.mark.parametrize(
    "output",
    [
        {"choices": []},
        {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": []}}]},
        {"task_status": "FAILED", "choices": []},
        {"task_metric": {"TOTAL": 1, "SUCCEEDED": 0, "FAILED": 1}},
    ],
)
def test_nothing_was_drawn_where_the_provider_says_so(output):
    with pytest.raises(Transient) as caught:
        read_answer(answer({"output": output, "request_id": "r"}))
    assert caught.value.code == "NoPictures"


@pytest.mark.parametrize(
    "output",
    [
        {"task_status": "PENDING", "task_id": "t"},
        {"task_status": "PENDING", "choices": []},
        {"task_status": "RUNNING", "task_metrics": {"TOTAL": 1, "SUCCEEDED": 0, "FAILED": 0}},
        {"task_metrics": {"TOTAL": 1, "SUCCEEDED": 0, "FAILED": 0}},
        {"choices": [{"message": {"content": [{"image": {"url": "https://a/1.png"}}]}}]},
        {"choices": [{"message": {"content": [{"image": "//a/1.png"}]}}]},
        {"choices": [{"message": {"content": []}}, {"message": {"content": [{"text": "?"}]}}]},
        {"choices": [{"message": {}}]},
        {"choices": [None]},
        {"choices": None},
        {"results": [{"url": "https://a/1.png"}]},
        {},
    ],
)
def test_a_shape_that_nobody_understands_is_not_taken_for_nothing(output):
    with pytest.raises(OutcomeUnknown):
        read_answer(answer({"output": output, "request_id": "r"}))


@pytest.mark.parametrize("status", [200, 400, 500])
def test_counted_pictures_are_not_free_because_a_code_comes_with_them(status):
    body = {"code": "InternalError.Upload", "message": "Failed to upload result.", "usage": {"image_count": 2}}
    with pytest.raises(OutcomeUnknown) as caught:
        read_answer(answer(body, status))
    assert caught.value.code == "CountedButMissing"


def test_more_pictures_than_counted_are_charged_by_what_was_delivered():
    content = [{"image": "https://a/1"}, {"image": "https://a/2"}]
    body = {"output": {"choices": [{"message": {"content": content}}]}, "usage": {"image_count": 0}}
    assert read_answer(answer(body)).pictures == 2


@pytest.mark.parametrize(("said", "wait_s"), [("17", 17), ("inf", 5), ("nan", 5), ("-3", 5), ("1e300", 300), ("x", 5)])
@pytest.mark.parametrize("body", [b"<html>", b'{"code": "Throttling"}'])
def test_a_retry_after_is_believed_within_reason(said, wait_s, body):
    with pytest.raises(Throttled) as caught:
        read_answer(Received(429, {"retry-after": said}, body))
    assert caught.value.wait_s == wait_s


@pytest.mark.parametrize("usage", [{"width": 0, "height": 0}, {"width": -1500, "height": 1500}, {"width": 1500}])
def test_an_area_that_is_none_is_not_taken_for_a_small_one(usage):
    assert read_answer(answer(ONE | {"usage": usage})).area_px is None


def test_a_number_of_any_length_does_not_cost_the_answer_around_it():
    body = json.dumps(ONE | {"usage": {"image_count": 1, "cost": 0}}).replace('"cost": 0', f'"cost": {"9" * 9000}')
    assert read_answer(Received(200, {}, body.encode())).pictures == 1


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

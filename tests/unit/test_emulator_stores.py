"""Invoice, results and uploads: what is kept in the state directory, with the clock in the test's hand."""

import os
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from starlette.responses import Response

from emulator.faults import parse_wanted
from emulator.invoice import Invoice
from emulator.refusals import Refusal
from emulator.results import Results
from emulator.uploads import OBJECT_LIFE_S, POLICY_LIFE_S, Uploads


class Clock:
    def __init__(self) -> None:
        self.now = 1_795_000_000.0

    def __call__(self) -> float:
        return self.now


def fetched(results: Results, address: str, *, authorized: bool = False, **changed: str) -> Path | Response:
    parts = urlsplit(address)
    query = dict(parse_qsl(parts.query)) | changed
    return results.find(parts.path.removeprefix("/results/"), query, authorized=authorized)


def status(answer: Path | Response) -> int:
    return 200 if isinstance(answer, Path) else answer.status_code


def bill(invoice: Invoice, request_id: str, pictures: int = 1) -> None:
    invoice.bill(0, [{"item": "output", "type": "image_number", "micros": 200_000}] * pictures, request_id=request_id)


def test_an_invoice_goes_on_where_it_was_left(tmp_path):
    first = Invoice(tmp_path, "CNY")
    bill(first, "a", pictures=2)
    first.delivered("a")
    bill(first, "b")

    again = Invoice(tmp_path, "CNY")

    assert again.summary() == {"currency": "CNY", "micros": 600_000, "pictures": 3}
    assert [line["delivered"] for line in again.shown()["lines"]] == [True, True, False]


def test_a_line_cut_off_by_a_kill_does_not_spoil_the_next(tmp_path):
    bill(Invoice(tmp_path, "CNY"), "a")
    with (tmp_path / "invoice.jsonl").open("a") as file:
        file.write('{"at": "2026-')

    again = Invoice(tmp_path, "CNY")
    bill(again, "b")

    assert [line["request_id"] for line in again.shown()["lines"]] == ["a", "b"]


def test_input_lines_cost_but_are_no_pictures(tmp_path):
    invoice = Invoice(tmp_path, "CNY")

    output = {"item": "output", "type": "qima_output_1k", "micros": 250_000}
    invoice.bill(0, [output, {"item": "input", "type": "qima_input_1k", "micros": 20_000}], request_id="a")

    assert invoice.summary() == {"currency": "CNY", "micros": 270_000, "pictures": 1}


def test_an_address_lives_its_time_and_then_answers_403(tmp_path):
    clock = Clock()
    results = Results(tmp_path, clock, life_s=100)
    address = results.keep("one", b"png")

    in_time = fetched(results, address)
    clock.now += 101
    late = fetched(results, address)

    assert (status(in_time), status(late)) == (200, 403)
    assert isinstance(late, Response)
    assert b"Request has expired." in late.body


def test_an_address_survives_a_restart(tmp_path):
    clock = Clock()
    address = Results(tmp_path, clock, life_s=100).keep("one", b"png")

    assert status(fetched(Results(tmp_path, clock, life_s=100), address)) == 200


@pytest.mark.parametrize(
    "changed", [{"Signature": "AAAA"}, {"Signature": "é\udcff"}, {"Expires": "9999999999"}, {"OSSAccessKeyId": "me"}]
)
def test_an_address_that_was_changed_is_refused(tmp_path, changed):
    results = Results(tmp_path, Clock(), life_s=100)
    address = results.keep("one", b"png")

    assert status(fetched(results, address, **changed)) == 403


def test_an_authorization_header_beside_the_signature_is_refused(tmp_path):
    results = Results(tmp_path, Clock(), life_s=100)

    assert status(fetched(results, results.keep("one", b"png"), authorized=True)) == 400


def test_a_download_fails_as_often_as_was_asked_and_then_heals(tmp_path):
    results = Results(tmp_path, Clock(), life_s=100)
    address = results.keep("one", b"png", parse_wanted({"fault": "result_500", "downloads": 2}))
    file = urlsplit(address).path.removeprefix("/results/")

    assert [bool(results.trouble(file)) for _ in range(4)] == [True, True, False, False]


def test_an_expired_address_stays_expired_after_a_restart_and_what_heals_is_healed(tmp_path):
    clock = Clock()
    results = Results(tmp_path, clock, life_s=100)
    expired = results.keep("one", b"png", parse_wanted({"fault": "result_expired"}))
    page = results.keep("two", b"png", parse_wanted({"fault": "result_not_png", "downloads": 9}))

    again = Results(tmp_path, clock, life_s=100)

    assert status(fetched(again, expired)) == 403
    found = fetched(again, page)
    assert isinstance(found, Path)
    assert found.read_bytes() == b"png"
    assert again.trouble(urlsplit(page).path.removeprefix("/results/")) is None


def test_files_nobody_can_reach_any_more_are_removed(tmp_path):
    clock = Clock()
    results = Results(tmp_path, clock, life_s=100)
    results.keep("old", b"png")
    results.keep("young", b"png")
    for path in tmp_path.glob("results/*/*.png"):
        os.utime(path, (clock.now, clock.now + (100 if path.stem == "young" else 0)))

    clock.now += 161
    results.purge()

    assert [path.stem for path in tmp_path.glob("results/*/*.png")] == ["young"]


def form_for(policy: dict[str, object], name: str = "a.png") -> dict[str, str]:
    return {
        "OSSAccessKeyId": str(policy["oss_access_key_id"]),
        "Signature": str(policy["signature"]),
        "policy": str(policy["policy"]),
        "key": f"{policy['upload_dir']}/{name}",
        "x-oss-object-acl": "private",
        "x-oss-forbid-overwrite": "true",
        "success_action_status": "200",
    }


def test_an_uploaded_picture_can_be_opened_for_its_model_alone(tmp_path):
    uploads = Uploads(tmp_path, Clock())
    form = form_for(uploads.policy("qwen-image-2.0", "http://host/upload"))

    assert uploads.accept(form, b"picture").status_code == 200

    assert uploads.open("oss://" + form["key"], "qwen-image-2.0") == b"picture"
    with pytest.raises(Refusal, match=r"InvalidParameter.DataInspection"):
        uploads.open("oss://" + form["key"], "qwen-image-3.0")


def test_an_upload_lives_for_two_days(tmp_path):
    clock = Clock()
    uploads = Uploads(tmp_path, clock)
    form = form_for(uploads.policy("qwen-image-2.0", "http://host/upload"))
    uploads.accept(form, b"picture")

    clock.now += OBJECT_LIFE_S - 1
    assert uploads.open("oss://" + form["key"], "qwen-image-2.0")
    clock.now += 1
    with pytest.raises(Refusal):
        uploads.open("oss://" + form["key"], "qwen-image-2.0")


def test_a_policy_lives_for_five_minutes(tmp_path):
    clock = Clock()
    uploads = Uploads(tmp_path, clock)
    form = form_for(uploads.policy("qwen-image-2.0", "http://host/upload"))

    clock.now += POLICY_LIFE_S
    answer = uploads.accept(form, b"picture")

    assert answer.status_code == 403
    assert b"Invalid according to Policy: Policy expired." in answer.body


def test_a_file_beyond_the_policys_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("emulator.uploads.FILE_MAX_MB", 0)
    uploads = Uploads(tmp_path, Clock())

    answer = uploads.accept(form_for(uploads.policy("qwen-image-2.0", "http://host/upload")), b"picture")

    assert (answer.status_code, b"EntityTooLarge" in answer.body) == (400, True)


def test_two_files_of_one_name_under_one_policy_collide(tmp_path):
    uploads = Uploads(tmp_path, Clock())
    form = form_for(uploads.policy("qwen-image-2.0", "http://host/upload"))

    assert [uploads.accept(form, b"picture").status_code for _ in range(2)] == [200, 409]


@pytest.mark.parametrize(
    "changed",
    [
        {"Signature": "AAAA"},
        {"policy": "e30="},
        {"key": "elsewhere/a.png"},
        {"x-oss-object-acl": "public-read"},
        {"x-oss-forbid-overwrite": "false"},
    ],
)
def test_a_form_that_breaks_its_policy_is_refused(tmp_path, changed):
    uploads = Uploads(tmp_path, Clock())
    form = form_for(uploads.policy("qwen-image-2.0", "http://host/upload"))

    assert uploads.accept(form | changed, b"picture").status_code == 403

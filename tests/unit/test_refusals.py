"""The provider's error page, line by line: what each code and message must become."""

import pytest

from models.errors import AccountStopped, Rejected, Throttled, Transient
from worker.refusals import REFUSALS, explain, is_final

R, T, S, W = Rejected, Transient, AccountStopped, Throttled
PAGE = [
    (400, "InvalidParameter", "Expected format: '<width>*<height>'", R),
    (400, "InvalidParameter", "Model 'x' supports 0~3 image content items. Got 4 image items.", R),
    (400, "InvalidParameter", "num_images_per_prompt must be 1", R),
    (400, "InvalidParameter", "Model not exist.", R),
    (400, "InvalidParameter", "Exceeded limit on max bytes per data-uri item : 10485760", R),
    (400, "InvalidParameter", "Multimodal file size is too large", R),
    (400, "InvalidParameter", "download image failed", T),
    (400, "InvalidParameter", "Failed to download multimodal content", T),
    (400, "InvalidParameter", "Download the media resource timed out during the data inspection process", T),
    (400, "InvalidParameter", "Unable to download the file", T),
    (400, "InvalidParameter.DataInspection", "Unable to download the media resource", T),
    (400, "DataInspectionFailed", "Input data may contain inappropriate content.", R),
    (400, "data_inspection_failed", "Output data may contain inappropriate content.", R),
    (400, "IPInfringementSuspect", "Input data is suspected of being involved in IP infringement.", R),
    (400, "CustomRoleBlocked", "", R),
    (400, "FaqRuleBlocked", "", R),
    (400, "InvalidURL", "bad", R),
    (400, "InvalidURL.ConnectionRefused", "refused", T),
    (400, "InvalidURL.Timeout", "timed out", T),
    (400, "BadRequest.InputDownloadFailed", "", T),
    (400, "BadRequest.EmptyInput", "", R),
    (400, "BadRequest.TooLarge", "", R),
    (400, "InvalidImageFormat", "", R),
    (400, "InvalidImage.FileFormat", "", R),
    (400, "InvalidFile.Size", "", R),
    (400, "Arrearage", "Access denied, please make sure your account is in good standing.", S),
    (401, "InvalidApiKey", "Invalid API-key provided.", S),
    (401, "invalid_api_key", "No API-key provided.", S),
    (401, "NOT AUTHORIZED", "", S),
    (403, "AccessDenied", "Current user api does not support asynchronous calls.", R),
    (403, "AccessDenied", "Current user api does not support synchronous calls.", R),
    (403, "AccessDenied", "Invalid according to Policy: Policy expired.", T),
    (403, "AccessDenied", "Access denied.", R),
    (403, "AccessDenied.Unpurchased", "", S),
    (403, "Model.AccessDenied", "", S),
    (403, "App.AccessDenied", "", S),
    (403, "WorkSpace.AccessDenied", "", S),
    (403, "Endpoint.AccessDenied", "Workspace endpoint access denied.", S),
    (403, "AllocationQuota.FreeTierOnly", "", S),
    (404, "ModelNotFound", "", R),
    (404, "model_not_found", "", R),
    (404, "model_not_supported", "", R),
    (404, "WorkSpaceNotFound", "", R),
    (404, "NotFound", "", R),
    (413, "RequestTooLarge", "", R),
    (429, "Throttling", "Requests throttling triggered.", W),
    (429, "Throttling.RateQuota", "Requests rate limit exceeded, please try again later.", W),
    (429, "limit_requests", "You have exceeded your request limit.", W),
    (429, "LimitRequests", "", W),
    (429, "Throttling.BurstRate", "Request rate increased too quickly.", W),
    (429, "limit_burst_rate", "", W),
    (429, "Throttling.AllocationQuota", "Allocated quota exceeded, please increase your quota limit.", W),
    (429, "Throttling.AllocationQuota", "Free allocated quota exceeded.", S),
    (429, "insufficient_quota", "Free allocated quota exceeded.", S),
    (429, "Throttling.Whatever", "", W),
    (429, "CommodityNotPurchased", "", S),
    (429, "PrepaidBillOverdue", "", S),
    (429, "PostpaidBillOverdue", "", S),
    (500, "InternalError", "", T),
    (500, "InternalError.Algo", "", T),
    (500, "InternalError.Upload", "Failed to upload result.", T),
    (500, "InternalError.Timeout", "", T),
    (500, "SystemError", "", T),
    (500, "ModelServiceFailed", "", T),
    (500, "RewriteFailed", "", T),
    (500, "RequestTimeOut", "Request timed out, please try again later.", T),
    (503, "ModelServingError", "Too many requests. Your requests are being throttled.", T),
    (503, "ModelUnavailable", "", T),
]


@pytest.mark.parametrize(("status", "code", "message", "expected"), PAGE)
@pytest.mark.parametrize("spelled", [str, str.lower, str.upper])
def test_each_line_of_the_error_page_means_what_it_says_in_any_case(status, code, message, expected, spelled):
    if code == "RequestTimeOut":
        spelled = str  # another spelling is some gateway's, see below
    error = explain(spelled(code), message, http_status=status, request_id="r-1")
    assert type(error) is expected
    assert (error.code, error.message, error.http_status, error.request_id) == (spelled(code), message, status, "r-1")


def test_every_entry_is_reached_by_some_line_of_the_page():
    reached = {next(e for e in REFUSALS if e.fits(code, message)) for _, code, message, _ in PAGE if known(code)}
    missed = [entry.code for entry in REFUSALS if entry not in reached]
    assert missed == ["UnsupportedOperation"]  # cancelling a task, which no synchronous call does


def known(code):
    return any(entry.fits(code, message) for entry in REFUSALS for message in ("", "free allocated quota"))


def test_whatever_stops_the_account_says_what_to_do():
    assert all(entry.advice for entry in REFUSALS if issubclass(entry.error, AccountStopped))


def test_whatever_may_be_tried_again_has_a_wait():
    for entry in REFUSALS:
        if entry.error.retryable and "policy" not in entry.pattern:
            assert entry.wait_s >= 5, entry


@pytest.mark.parametrize(
    ("code", "kind"),
    [("Throttling.RateQuota", "rate"), ("Throttling.BurstRate", "burst"), ("Throttling.AllocationQuota", "quota")],
)
def test_throttles_are_told_apart(code, kind):
    assert explain(code, "", http_status=429).kind == kind


@pytest.mark.parametrize(
    ("code", "tries"),
    [("InternalError", 4), ("InternalError.Timeout", 2), ("RequestTimeOut", 3), ("ModelUnavailable", None)],
)
def test_tries_are_what_the_page_is_worth(code, tries):
    assert explain(code, "", http_status=500).tries == tries


@pytest.mark.parametrize(("status", "expected"), [(400, R), (401, S), (404, R), (429, W), (500, T), (503, T), (200, T)])
def test_an_unheard_of_code_is_judged_by_its_status(status, expected):
    error = explain("Brand.New", "", http_status=status)
    assert type(error) is expected
    assert error.advice or expected is not S


@pytest.mark.parametrize(("status", "code", "message", "_"), PAGE)
def test_a_code_of_the_page_is_final_under_any_status(status, code, message, _):
    assert all(is_final(code, message, each) for each in (status, 200, 408, 504))


@pytest.mark.parametrize("status", [200, 302, 408, 499, 500, 502, 503, 504])
@pytest.mark.parametrize("code", ["Brand.New", "RequestTimeout", "GatewayTimeout", "ServiceUnavailable", "504"])
def test_a_code_that_the_page_does_not_know_is_no_word_on_what_was_drawn(status, code):
    assert not is_final(code, "", status)
    assert is_final(code, "", 400)


def test_a_retry_after_lengthens_the_wait_but_is_not_believed_without_end():
    assert explain("Throttling", "", http_status=429, retry_after_s=30).wait_s == 30
    assert explain("Throttling", "", http_status=429, retry_after_s=1).wait_s == 5
    assert explain("Throttling", "", http_status=429, retry_after_s=1e9).wait_s == 300

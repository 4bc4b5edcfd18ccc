import pytest
from botocore import exceptions as boto
from botocore.exceptions import ClientError

from models.errors import StorageRefused, StorageUnavailable
from worker.bucket import CLIP_BYTES, _as_headers
from worker.bucket_errors import WAY_OUT, storage_error


def answered(code, status, message="The server's own words."):
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return storage_error(ClientError(answer, "PutObject"), "s3://bucket/a.png")


@pytest.mark.parametrize("code", sorted(WAY_OUT))
def test_each_known_refusal_names_the_place_the_code_and_the_way_out(code):
    error = answered(code, 400)
    assert isinstance(error, StorageRefused)
    assert str(error) == f"s3://bucket/a.png: {code}: The server's own words; {WAY_OUT[code]}"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("SlowDown", 503),
        ("InternalError", 500),
        ("ServiceUnavailable", 503),
        ("502", 502),
        ("RequestTimeout", 400),
        ("BadDigest", 400),
        ("TooManyRequests", 429),
        ("Whatever", 504),
    ],
)
def test_trouble_of_the_server_is_worth_another_try(code, status):
    assert isinstance(answered(code, status), StorageUnavailable)


@pytest.mark.parametrize(("code", "status"), [("403", 403), ("400", 400), ("301", 301), ("NeverHeardOf", 422)])
def test_any_other_refusal_needs_a_person_and_says_what_to_look_at(code, status):
    error = answered(code, status)
    assert isinstance(error, StorageRefused)
    assert "; " in str(error)


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (boto.NoCredentialsError(), StorageRefused, "AWS_ACCESS_KEY_ID"),
        (boto.PartialCredentialsError(provider="env", cred_var="secret"), StorageRefused, "AWS_SECRET_ACCESS_KEY"),
        (boto.NoRegionError(), StorageRefused, "AWS_DEFAULT_REGION"),
        (boto.ProfileNotFound(profile="x"), StorageRefused, "profile"),
        (boto.ParamValidationError(report="Invalid bucket name"), StorageRefused, "Invalid bucket name"),
        (boto.EndpointConnectionError(endpoint_url="http://h"), StorageUnavailable, "Could not connect"),
        (boto.ConnectTimeoutError(endpoint_url="http://h"), StorageUnavailable, "timeout"),
        (boto.ReadTimeoutError(endpoint_url="http://h"), StorageUnavailable, "timeout"),
        (boto.ConnectionClosedError(endpoint_url="http://h"), StorageUnavailable, "closed"),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), StorageUnavailable, "1 read"),
    ],
)
def test_what_botocore_raises_by_itself_is_told_apart(raised, kind, words):
    error = storage_error(raised, "s3://bucket")
    assert type(error) is kind
    assert words in str(error)
    assert "\n" not in str(error)


def test_a_server_that_is_not_reached_is_told_with_what_to_look_at():
    error = storage_error(boto.EndpointConnectionError(endpoint_url="http://h"), "s3://bucket")
    assert str(error).endswith('"http://h"; see that AWS_ENDPOINT_URL and the network are right')


def test_metadata_travels_as_plain_ascii_and_long_values_are_cut_between_letters():
    sent = _as_headers({"SKU": "茶 100% \n", "batch": "春" * 500})
    assert sent["sku"] == "%E8%8C%B6%20100%25%20%0A"
    assert sent["batch"] == "%E6%98%A5" * (CLIP_BYTES // 9)

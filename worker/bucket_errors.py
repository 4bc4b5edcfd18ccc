"""What an S3 server or botocore says, as one of our two answers: try again, or a person must act.

Told apart by code and status, never by text. The server's own words are kept in the sentence; botocore's never hold a
secret here, because requests are signed in headers and not in the address.
"""

from __future__ import annotations

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    EndpointProviderError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)
from urllib3.exceptions import HTTPError

from models.errors import StorageError, StorageRefused, StorageUnavailable

_KEY = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_REGION = "set AWS_DEFAULT_REGION to the region of the bucket"

# Only a person can mend these.
WAY_OUT = {
    "NoSuchBucket": "make the bucket, or correct its name in the manifest's output",
    "InvalidBucketName": "correct the bucket's name in the manifest's output",
    "NoSuchKey": "the object is not there; was it moved or deleted?",
    "AccessDenied": "allow s3:PutObject, GetObject, DeleteObject and ListBucket under this prefix",
    "AllAccessDisabled": "the bucket is closed; ask its owner",
    "AccountProblem": "the account of the bucket has a problem; ask its owner",
    "InvalidAccessKeyId": _KEY,
    "SignatureDoesNotMatch": _KEY,
    "InvalidToken": "check AWS_SESSION_TOKEN",
    "ExpiredToken": "the session has run out; get a new AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "set this machine's clock",
    "PermanentRedirect": _REGION,
    "TemporaryRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "EntityTooLarge": "the server takes no object that large; raise its limit or ask for smaller pictures",
    "MetadataTooLarge": "shorten the batch name or the SKUs",
    "KeyTooLongError": "shorten the output template",
    "QuotaExceeded": "the bucket's quota is used up; make room",
    "XMinioStorageFull": "the server's disk is full; make room",
    "InvalidObjectState": "the object is archived; restore it",
    "MethodNotAllowed": "AWS_ENDPOINT_URL does not lead to an S3 server, or this one is read-only",
}

# Answers of a 4xx status that pass by themselves.
PASSING = {"SlowDown", "RequestTimeout", "RequestTimeTooLong", "Throttling", "TooManyRequests", "BadDigest",
           "OperationAborted", "IncompleteBody", "XAmzContentSHA256Mismatch"}  # fmt: skip


def storage_error(error: ClientError | BotoCoreError | HTTPError, address: str) -> StorageError:
    """The error to raise for what boto3 raised at an address."""
    if isinstance(error, ClientError):
        return _of_answer(error, address)
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return StorageRefused(f"{address}: {_said(error)}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if isinstance(error, (NoRegionError, InvalidRegionError)):
        return StorageRefused(f"{address}: {_said(error)}; {_REGION}")
    if isinstance(error, (CredentialRetrievalError, TokenRetrievalError, ProfileNotFound)):
        return StorageRefused(f"{address}: {_said(error)}; log in again or check the AWS profile")
    if isinstance(error, (ParamValidationError, EndpointProviderError)):
        return StorageRefused(f"{address}: {_said(error)}; correct the manifest's output or AWS_ENDPOINT_URL")
    # What is left is the network: refused, reset, silent, cut short, a name that does not resolve.
    return StorageUnavailable(
        f"{address}: {_said(error).rstrip('.')}; see that AWS_ENDPOINT_URL and the network are right"
    )


def _of_answer(error: ClientError, address: str) -> StorageError:
    said = error.response.get("Error", {})
    code = str(said.get("Code") or "")
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    words = f"{address}: {code or status}: {str(said.get('Message') or 'no reason given')[:300]}"
    if code in WAY_OUT:
        return StorageRefused(f"{words.rstrip('.')}; {WAY_OUT[code]}")
    if code in PASSING or status >= 500 or status in (0, 200, 408, 409, 429):
        return StorageUnavailable(words)
    # HEAD has no body, so botocore makes the status its code.
    way_out = {
        301: _REGION,
        400: f"{_KEY}, AWS_DEFAULT_REGION and the clock",
        403: f"{WAY_OUT['AccessDenied']}, or {_KEY}",
    }
    return StorageRefused(f"{words.rstrip('.')}; {way_out.get(status, 'ask who runs the server')}")


def _said(error: Exception) -> str:
    """The library's words on one line."""
    return " ".join(str(error).split())[:300]

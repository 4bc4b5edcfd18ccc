"""The provider's refusals: HTTP status, code and message as its error page gives them (API reference, section 5).

A Refusal is raised where the reason is found and becomes a JSON body in one place. None of them is billed.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import HTMLResponse, JSONResponse, Response

HTML_PAGE = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n</body>\r\n</html>\r\n"
)


@dataclass
class Refusal(Exception):
    """code is empty for what the gateway in front of the API answers: a page of HTML, without JSON."""

    status: int
    code: str
    message: str

    def response(self, request_id: str) -> Response:
        headers = {"x-request-id": request_id}
        if not self.code:
            return HTMLResponse(HTML_PAGE.format(f"{self.status} {self.message}"), self.status, headers)
        body = {"request_id": request_id, "code": self.code, "message": self.message}
        return JSONResponse(body, self.status, headers)


def invalid(message: str) -> Refusal:
    return Refusal(400, "InvalidParameter", message)


def no_key() -> Refusal:
    return Refusal(401, "InvalidApiKey", "No API-key provided.")


def wrong_key() -> Refusal:
    return Refusal(401, "InvalidApiKey", "Invalid API-key provided.")


def unknown_model(name: str) -> Refusal:
    return Refusal(
        404, "ModelNotFound", f"Model not exist. The model {name} does not exist or you have no access to it."
    )


def retired() -> Refusal:
    return Refusal(403, "Endpoint.AccessDenied", "Workspace endpoint access denied.")


def no_asynchronous_calls() -> Refusal:
    return Refusal(403, "AccessDenied", "Current user api does not support asynchronous calls.")


def no_synchronous_calls() -> Refusal:
    return Refusal(403, "AccessDenied", "Current user api does not support synchronous calls.")


def rate_quota() -> Refusal:
    return Refusal(429, "Throttling.RateQuota", "Requests rate limit exceeded, please try again later.")


def body_too_large() -> Refusal:
    return Refusal(413, "", "Request Entity Too Large")


def item_too_large() -> Refusal:
    return invalid("Exceeded limit on max bytes per data-uri item : 10485760")


def file_too_large() -> Refusal:
    return invalid("Multimodal file size is too large")


def not_downloaded() -> Refusal:
    return invalid("download image failed")


def not_inspected() -> Refusal:
    return Refusal(
        400,
        "InvalidParameter.DataInspection",
        "Unable to download the media resource during the data inspection process.",
    )


def not_valid_url() -> Refusal:
    return invalid("The provided URL does not appear to be valid. Ensure it is correctly formatted.")


def not_found() -> Refusal:
    return Refusal(404, "NotFound", "url error, please check url!")


def not_ascii_url() -> Refusal:
    return Refusal(400, "InvalidURL", "The request URL is invalid: percent-encode what is not ASCII.")

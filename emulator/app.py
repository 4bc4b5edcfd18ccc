"""The HTTP face: which path leads where. Later paths (tasks, OpenAI mode) get a line here and a module of their own."""

from __future__ import annotations

import uuid

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from emulator import desk, refusals
from emulator.generation import authorise, generate
from emulator.house import House
from emulator.refusals import Refusal
from emulator.results import PAGE, xml_error
from emulator.wire import Cut, Trickle

UPLOAD_PATH = "/uploads-host"
AIGC = "/api/v1/services/aigc"


def create_app(house: House) -> Starlette:
    app = Starlette(
        routes=[
            Route(f"{AIGC}/multimodal-generation/generation", generate, methods=["POST"]),
            Route(f"{AIGC}/image-generation/generation", not_offered, methods=["POST"]),
            Route("/api/v1/uploads", upload_policy, methods=["GET"]),
            Route(UPLOAD_PATH, upload, methods=["POST"]),
            Route("/results/{file:path}", result, methods=["GET"]),
            Route("/emulator/health", desk.health),
            Route("/emulator/invoice", desk.invoice),
            Route("/emulator/calls", desk.calls),
            Route("/emulator/faults", desk.faults, methods=["GET", "POST", "DELETE"]),
            Route("/emulator/limits", desk.limits, methods=["GET", "POST"]),
            Route("/", desk.page),
        ],
        exception_handlers={Refusal: refused, HTTPException: unknown_path},
    )
    app.state.house = house
    return app


async def not_offered(request: Request) -> Response:
    """The asynchronous path: not built yet, so it answers as for a model that has none."""
    authorise(request, request.app.state.house.options.api_key)
    if request.headers.get("x-dashscope-async", "").lower() == "enable":
        raise refusals.no_asynchronous_calls()
    raise refusals.no_synchronous_calls()


async def upload_policy(request: Request) -> Response:
    house: House = request.app.state.house
    authorise(request, house.options.api_key)
    model = request.query_params.get("model", "")
    if request.query_params.get("action") != "getPolicy":
        raise refusals.invalid("Field required: action")
    if model not in house.models or house.options.region not in house.models[model].regions:
        raise refusals.unknown_model(model)
    if not house.limits.admit_policy(model):
        raise refusals.rate_quota()
    request_id = str(uuid.uuid4())
    data = house.uploads.policy(model, f"{base_url(request)}{UPLOAD_PATH}")
    return JSONResponse({"request_id": request_id, "data": data}, headers={"x-request-id": request_id})


async def upload(request: Request) -> Response:
    house: House = request.app.state.house
    fields: dict[str, str] = {}
    content: bytes | None = None
    async with request.form() as form:
        for name, value in form.multi_items():
            if isinstance(value, str):
                fields[name] = value
            elif name == "file":
                content = await value.read()
    if content is None:
        return xml_error(400, "IncorrectNumberOfFilesInPOSTRequest", "POST requires exactly one file upload.")
    return house.uploads.accept(fields, content)


async def result(request: Request) -> Response:
    """A picture as the object store hands it out, with the trouble that was asked for."""
    house: House = request.app.state.house
    file = request.path_params["file"]
    if request.method == "HEAD":
        return xml_error(403, "SignatureDoesNotMatch", "The address is signed for GET.")
    found = house.results.find(file, dict(request.query_params), authorized="authorization" in request.headers)
    if isinstance(found, Response):
        return found
    trouble = house.results.trouble(file)
    if trouble is None:
        return FileResponse(found, media_type="image/png")
    if trouble.download == "html":
        return HTMLResponse(PAGE)
    if trouble.download == "http_500":
        return xml_error(500, "InternalError", "We encountered an internal error. Please try again.")
    content = found.read_bytes()
    if trouble.download == "truncated":
        return Cut(content, 0.6, {}, "image/png")
    return Trickle(content, trouble.seconds, {}, "image/png")


async def refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101  # registered for this class alone
    return error.response(str(uuid.uuid4()))


async def unknown_path(request: Request, error: Exception) -> Response:
    """The provider's words for a path it does not have; OpenAI mode has a form of its own."""
    request_id = str(uuid.uuid4())
    if request.url.path.startswith("/compatible-mode/"):
        problem = {"message": "Not found", "type": "invalid_request_error", "param": None, "code": "not_found"}
        return JSONResponse({"error": problem}, 404, {"x-request-id": request_id})
    return refusals.not_found().response(request_id)


def base_url(request: Request) -> str:
    """Scheme and host as the caller used them, so that addresses work from where the caller is."""
    return f"{request.url.scheme}://{request.headers.get('host', request.url.netloc)}"

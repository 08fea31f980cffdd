"""The one table from error class to HTTP status and wire type, and the one shape every error has on the wire.

The domain raises, this translates; nothing else in the project knows a status code. Called by ``app/http/app.py`` and,
for errors inside a stream, by ``sse`` and ``projects``.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from app.domain.chat import Json
from app.domain.errors import (
    AccessError,
    CallLostError,
    CancelledError,
    CapacityError,
    ConfigurationError,
    ConflictError,
    DeadlineError,
    GatewayError,
    InternalError,
    NoAnswerError,
    NotFoundError,
    QuotaError,
    RequestError,
    RunTakenError,
    TokenBudgetError,
    UpstreamError,
    UpstreamKind,
)

logger = logging.getLogger("tutti.http")

RUN_ID_HEADER = "x-tutti-run-id"
_RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WireKind:
    """How one class of errors looks from outside."""

    status: int
    type: str
    remedy: str
    """Said where the error itself names no remedy."""


TABLE: Mapping[type[GatewayError], WireKind] = {
    RequestError: WireKind(status=400, type="invalid_request_error", remedy="Change the request; /docs describes it."),
    ConfigurationError: WireKind(
        status=422, type="configuration_error", remedy="Correct the configuration; `tutti check` names every mistake."
    ),
    NotFoundError: WireKind(
        status=404, type="not_found_error", remedy="Check the id; GET /v1/projects lists the runs there are."
    ),
    ConflictError: WireKind(
        status=409, type="conflict_error", remedy="Look at the present state with GET /v1/projects/{id}."
    ),
    RunTakenError: WireKind(
        status=409, type="conflict_error", remedy="Nothing: the run is looked after by its conductor of now."
    ),
    TokenBudgetError: WireKind(
        status=400, type="token_budget_error", remedy="Raise `max_tokens_total`, or leave it out."
    ),
    AccessError: WireKind(status=401, type="authentication_error", remedy="Send a key that this server knows."),
    QuotaError: WireKind(
        status=429, type="rate_limit_error", remedy="Come back when `retry-after` says, or ask for a larger limit."
    ),
    UpstreamError: WireKind(
        status=502, type="upstream_error", remedy="Try again; `tutti accounts` shows the state of every account."
    ),
    CallLostError: WireKind(
        status=502, type="call_lost_error", remedy="Try again; what was lost with the account's actor is not repeated."
    ),
    NoAnswerError: WireKind(
        status=502, type="no_answer_error", remedy="Try again; the provider took the call and has no answer to it."
    ),
    InternalError: WireKind(
        status=503, type="unavailable_error", remedy="Try again in a few seconds; /readyz says which part is not ready."
    ),
    CapacityError: WireKind(
        status=503,
        type="capacity_error",
        remedy="Try again later, or add accounts; `tutti accounts` shows what is full.",
    ),
    DeadlineError: WireKind(status=504, type="deadline_error", remedy="Give more time with `timeout_s`."),
    CancelledError: WireKind(status=409, type="cancelled_error", remedy="Start it again if it is still wanted."),
    GatewayError: WireKind(status=500, type="internal_error", remedy="Look into the server's log."),
}
"""An error takes the row of the nearest class in its ancestry."""

_STATUS_OF_KIND = {
    UpstreamKind.TIMEOUT: 504,
    UpstreamKind.MINUTE_LIMIT: 503,
    UpstreamKind.DAY_LIMIT: 503,
    UpstreamKind.OVERLOADED: 503,
    UpstreamKind.INVALID_REQUEST: 400,
    UpstreamKind.TOO_LONG: 400,
    UpstreamKind.REFUSED: 400,
}

_TYPE_OF_STATUS = {
    400: "invalid_request_error",
    403: "permission_error",
    404: "not_found_error",
    405: "method_not_allowed_error",
    413: "too_large_error",
    415: "unsupported_media_type_error",
    422: "invalid_request_error",
}


class HttpProblem(Exception):
    """A request that fails before it means anything to the domain: its size, its encoding, its media type.

    Args:
        status: HTTP status.
        message: What is wrong with it.
        param: The header or field at fault.
        remedy: What to send instead.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.remedy = remedy


def error_body(kind: str, message: str, *, param: str | None, remedy: str | None) -> dict[str, Json]:
    """Return the wire shape of an error."""
    return {"error": {"type": kind, "message": message, "param": param, "remedy": remedy}}


def wire_kind(error: GatewayError) -> WireKind:
    """Return the table's row for ``error``, with the status that an upstream failure's kind asks for."""
    row = next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)
    if isinstance(error, UpstreamError) and error.kind in _STATUS_OF_KIND:
        return WireKind(status=_STATUS_OF_KIND[error.kind], type=row.type, remedy=row.remedy)
    return row


def body_of(error: GatewayError) -> dict[str, Json]:
    """Return the wire shape of a domain error."""
    row = wire_kind(error)
    return error_body(row.type, error.message, param=error.param, remedy=error.remedy or row.remedy)


def unexpected_body() -> dict[str, Json]:
    """Return what a caller learns of a bug of ours: nothing but that it is ours."""
    message = "Tutti failed unexpectedly; this is a bug, and the server's log has the details."
    return error_body("internal_error", message, param=None, remedy="Report it with the time and the run id.")


def install(app: FastAPI) -> None:
    """Register the handlers, so that every response of ``app`` that is not a success has the one shape."""
    app.add_exception_handler(GatewayError, _on_gateway_error)
    app.add_exception_handler(HttpProblem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(StarletteHTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected)


def _headers(request: Request, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    # What a client wrote into the path need not be an id, nor fit into a header.
    run_id = getattr(request.state, "run_id", None) or ""
    return {**(extra or {}), **({RUN_ID_HEADER: run_id} if _RUN_ID.fullmatch(run_id) else {})}


async def _on_gateway_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GatewayError)
    row = wire_kind(error)
    retry_after_s = getattr(error, "retry_after_s", None)
    extra: dict[str, str] = {}
    if row.status == 503:
        extra["retry-after"] = str(max(1, math.ceil(retry_after_s if retry_after_s is not None else 5)))
    if row.status >= 500:
        logger.warning("%s %s failed: %s", request.method, request.url.path, error.message)
    return JSONResponse(body_of(error), status_code=row.status, headers=_headers(request, extra))


async def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HttpProblem)
    body = error_body(
        _TYPE_OF_STATUS.get(error.status, "invalid_request_error"),
        error.message,
        param=error.param,
        remedy=error.remedy or "See /docs.",
    )
    # After refusing a body unread, the connection cannot be used again.
    extra = {"connection": "close"} if error.status == 413 else None
    return JSONResponse(body, status_code=error.status, headers=_headers(request, extra))


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = [_problem_line(item) for item in error.errors()]
    param = problems[0][0] or None
    message = "; ".join(f"{name}: {text}" if name else text for name, text in problems[:8])
    body = error_body(
        "invalid_request_error",
        message,
        param=param,
        remedy=f"Correct {param!r}; /docs describes every field." if param else "Send what /docs describes.",
    )
    return JSONResponse(body, status_code=422, headers=_headers(request))


def _problem_line(item: Mapping[str, object]) -> tuple[str, str]:
    location = item.get("loc")
    parts = [str(part) for part in location] if isinstance(location, tuple | list) else []
    name = ".".join(parts[1:])  # without "body", "query", "header"
    if item.get("type") == "extra_forbidden":
        return name, "no such field"
    if item.get("type") == "missing":
        return name or (parts[0] if parts else ""), "required, but missing"
    text = str(item.get("msg", "invalid")).removeprefix("Value error, ")
    return name, text


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    path = request.url.path
    if error.status_code == 404:
        message, remedy = f"There is nothing at {path!r}.", "GET /docs lists every path."
    elif error.status_code == 405:
        message = f"{request.method} is not offered at {path!r}."
        remedy = f"Use {error.headers['Allow']}." if error.headers and "Allow" in error.headers else "See /docs."
    else:
        message, remedy = str(error.detail), "See /docs."
    kind = _TYPE_OF_STATUS.get(error.status_code, "invalid_request_error")
    body = error_body(kind, message, param=None, remedy=remedy)
    return JSONResponse(body, status_code=error.status_code, headers=_headers(request, error.headers))


async def _on_unexpected(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed unexpectedly", request.method, request.url.path, exc_info=error)
    return JSONResponse(unexpected_body(), status_code=500, headers=_headers(request))

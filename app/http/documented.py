"""What OpenAPI says of refusals: one sentence a status, the same on every route."""

from __future__ import annotations

from typing import Any

from app.http.schemas import ErrorBody

_SAID = {
    400: "Not UTF-8, not JSON, or refused as it stands; `param` names the field.",
    401: "No key, or an unknown one.",
    403: "The key sees its own use only.",
    404: "No such run.",
    409: "Not in a state that allows this, or the idempotency key belongs to another request.",
    413: "The body or the request text is too large.",
    415: "The body is not declared as UTF-8 JSON.",
    422: "Fields are missing, unknown or out of range; `param` names the first.",
    500: "A bug of ours; the server's log has the details.",
    502: "A provider failed.",
    503: "A part does not answer, or every account is full; `retry-after` says when to come back.",
    504: "The time given was over.",
}

BODY = (400, 413, 415, 422)
"""Statuses of every route that takes a body."""

ALWAYS = (500, 503)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of a route that may answer these statuses, besides those any route may."""
    return {status: {"model": ErrorBody, "description": _SAID[status]} for status in (*statuses, *ALWAYS)}

"""What the gateway's clients see of an error: the status that their SDKs act on, and the headers that go with it.

The status differs from the project API's where SDKs expect it: a full pool is 429 with ``retry-after``, so that they
come back by themselves.
"""

from __future__ import annotations

import math

from app.domain.errors import (
    AccessError,
    CallLostError,
    CapacityError,
    GatewayError,
    QuotaError,
    UpstreamError,
    UpstreamKind,
)
from app.http.errors import HttpProblem, wire_kind

_BUSY = frozenset({UpstreamKind.MINUTE_LIMIT, UpstreamKind.DAY_LIMIT})
RETRY_AFTER_MIN_S = 1
RETRY_AFTER_UNKNOWN_S = 5
"""Told where nobody knows when it gets better."""


def status_of(error: GatewayError) -> tuple[int, str]:
    """Return (HTTP status, type) of an error for a client of the gateway."""
    if isinstance(error, AccessError):
        return (403, "permission_error") if error.known else (401, "authentication_error")
    if isinstance(error, QuotaError):
        # Clients that are told no time to come back must not try again: a budget, or a call larger than a limit.
        return 429, "rate_limit_error" if error.retry_after_s is not None else "insufficient_quota"
    if isinstance(error, CapacityError):
        return (429, "rate_limit_error") if error.retry_after_s is not None else (503, "capacity_error")
    if isinstance(error, UpstreamError) and not isinstance(error, CallLostError) and error.kind in _BUSY:
        return 429, "rate_limit_error"
    row = wire_kind(error)
    return row.status, row.type


def headers_of(error: GatewayError, status: int) -> list[tuple[bytes, bytes]]:
    """Return the headers of an error: when to come back, and whether coming back is worth anything."""
    retry_after_s = getattr(error, "retry_after_s", None)
    if isinstance(error, QuotaError) and retry_after_s is None:
        return [(b"x-should-retry", b"false")]
    if status not in (429, 503):
        return []
    seconds = max(RETRY_AFTER_MIN_S, math.ceil(retry_after_s if retry_after_s is not None else RETRY_AFTER_UNKNOWN_S))
    return [(b"retry-after", str(seconds).encode())]


def message_of(error: GatewayError) -> str:
    """Return what is said to the client: what happened, and what to do about it."""
    remedy = error.remedy or ""
    return f"{error.message}; {remedy}" if remedy else error.message


def problem_type(problem: HttpProblem) -> str:
    """Return the type of a request that failed before it meant anything."""
    return {413: "too_large_error", 401: "authentication_error"}.get(problem.status, "invalid_request_error")

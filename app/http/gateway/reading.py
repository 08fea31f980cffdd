"""Reads what a gateway request says: whose key, which wishes, how long; and its body, within a bound."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.types import Receive

from app.domain.callers import CallerIndex, find_caller
from app.domain.chat import Json
from app.domain.errors import AccessError, RequestError
from app.domain.gateway import ANONYMOUS, NO_WISH, Caller, RoutingWish
from app.http.errors import HttpProblem

BODY_BYTES_MAX = 32 * 1024 * 1024
"""Images travel in bodies; providers take about as much."""
DEADLINE_MAX_S = 3_600.0
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class ClientGoneError(Exception):
    """The client closed the connection."""


def headers_by_name(scope: Mapping[str, Any]) -> dict[bytes, bytes]:
    """Return the request's headers, names in lower case as ASGI gives them; of repeated ones the last."""
    return dict(scope["headers"])


async def read_body(receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
    """Return the body.

    Raises:
        HttpProblem: 413, too large.
        ClientGoneError: it broke off.
    """
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > BODY_BYTES_MAX:
        raise _too_large(int(declared))
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    if not message.get("more_body"):
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > BODY_BYTES_MAX:
            raise _too_large(size)
        parts.append(part)
    return b"".join(parts)


def parse_object(body: bytes) -> dict[str, Json]:
    """Return the JSON object of a body; raises HttpProblem (400) saying what is wrong with it."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        what = f"is not JSON in UTF-8: {error.msg} at {where}" if body else "is empty"
        raise HttpProblem(400, f"The body {what}.", param="body", remedy="Send a JSON object.") from None
    if not isinstance(value, dict):
        raise HttpProblem(400, "The body must be a JSON object.", param="body", remedy="Send a JSON object.")
    return value


def find_key(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the presented key: ``Authorization: Bearer``, or ``x-api-key`` as Anthropic's SDK sends it."""
    authorization = headers.get(b"authorization", b"").decode("latin-1")
    scheme, _space, value = authorization.partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    own = headers.get(b"x-api-key", b"").decode("latin-1").strip()
    return own or None


def identify(headers: Mapping[bytes, bytes], callers: CallerIndex) -> Caller:
    """Return who calls; without configured keys everybody is ``ANONYMOUS``.

    Raises:
        AccessError: a key is needed, and none or a wrong one came.
    """
    if not callers:
        return ANONYMOUS
    key = find_key(headers)
    if key is None:
        raise AccessError("an API key is needed", known=False, remedy="send `Authorization: Bearer KEY`")
    caller = find_caller(callers, key)
    if caller is None:
        raise AccessError("this API key is not known", known=False, remedy="ask whoever runs this server for a key")
    return caller


def find_request_id(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the request's name, as Ray Serve or the client chose it; None where there is none that can be repeated."""
    name = headers.get(b"x-request-id", b"")
    return name.decode() if _REQUEST_ID.fullmatch(name) else None


def read_user(headers: Mapping[bytes, bytes], named: str | None) -> str | None:
    """Return for which user the call is: as its body names it, or ``x-tutti-user``.

    Raises:
        RequestError: both are there and differ.
    """
    header = headers.get(b"x-tutti-user", b"").decode("utf-8", "replace").strip()
    if header and named and header != named:
        raise RequestError(
            f"x-tutti-user is {header[:200]!r}, but the body names {named[:200]!r}",
            param="x-tutti-user",
            remedy="send one of them",
        )
    return named or header or None


def read_wish(headers: Mapping[bytes, bytes]) -> RoutingWish:
    """Return the routing wishes of ``x-tutti-*`` headers."""
    providers = headers.get(b"x-tutti-providers")
    order = headers.get(b"x-tutti-order")
    cost = headers.get(b"x-tutti-max-cost")
    if providers is None and order is None and cost is None:
        return NO_WISH
    return RoutingWish(
        providers=_names(providers), order=_names(order), cost_usd_max=cost.decode("latin-1").strip() if cost else None
    )


def read_deadline_s(headers: Mapping[bytes, bytes], default_s: float) -> float:
    """Return ``x-tutti-timeout`` in seconds; raises RequestError for what is no such number."""
    text = headers.get(b"x-tutti-timeout")
    if text is None:
        return default_s
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= DEADLINE_MAX_S:
        raise RequestError(
            f"x-tutti-timeout is {text.decode('latin-1')!r}, not seconds from 0 to {DEADLINE_MAX_S:.0f}",
            param="x-tutti-timeout",
        )
    return seconds


def may_cache(headers: Mapping[bytes, bytes]) -> bool:
    """Tell whether the client allows a kept answer (RFC 9111: ``no-store``, ``no-cache``)."""
    control = headers.get(b"cache-control")
    if control is None:
        return True
    directives = control.lower()  # their case means nothing
    return b"no-store" not in directives and b"no-cache" not in directives


def read_idempotency_key(headers: Mapping[bytes, bytes]) -> str | None:
    """Return ``Idempotency-Key``, if one came."""
    value = headers.get(b"idempotency-key")
    return value.decode("latin-1") if value else None


def _names(value: bytes | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(name for part in value.decode("latin-1").split(",") if (name := part.strip()))


def _too_large(size_bytes: int) -> HttpProblem:
    return HttpProblem(
        413,
        f"The body has at least {size_bytes} bytes; at most {BODY_BYTES_MAX} are accepted.",
        param="body",
        remedy="Send less, or images by address.",
    )

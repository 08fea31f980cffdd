"""Reads a JSON body within its bound and says precisely what is wrong with one that is not JSON.

Stands before FastAPI's own parsing, which reads bodies of any size and answers every mistake with the same words.
Called as the route class of ``projects``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from app.http.errors import HttpProblem
from app.http.limits import HttpLimits


class JsonRoute(APIRoute):
    """A route whose body, if it takes one, is bounded and certainly UTF-8 JSON before anything else looks at it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler behind our check."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def checked(request: Request) -> Response:
            limits: HttpLimits = request.app.state.limits
            body = await read_bounded(request, limits.body_bytes_max, text_bytes_max=limits.text_bytes_max)
            check_json(request.headers.get("content-type", ""), body)
            return await handle(Request(request.scope, _replay(body, request.receive)))

        return checked


async def read_bounded(request: Request, size_bytes_max: int, *, text_bytes_max: int) -> bytes:
    """Return the body; stop reading as soon as it is too large.

    Raises:
        HttpProblem: 413, larger than ``size_bytes_max``.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > size_bytes_max:
        raise _too_large(int(declared), size_bytes_max, text_bytes_max)
    parts: list[bytes] = []
    size_bytes = 0
    async for part in request.stream():
        size_bytes += len(part)
        if size_bytes > size_bytes_max:
            raise _too_large(size_bytes, size_bytes_max, text_bytes_max)
        parts.append(part)
    return b"".join(parts)


def check_json(content_type: str, body: bytes) -> None:
    """Make sure that ``body`` is what it says: JSON in UTF-8.

    Raises:
        HttpProblem: 415 for another media type or charset, 400 for bytes that are not UTF-8 or not JSON.
    """
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        found = repr(media_type) if media_type else "none"
        raise HttpProblem(
            415,
            f"The body must be JSON; the content type is {found}.",
            param="content-type",
            remedy="Send the header 'content-type: application/json'.",
        )
    charset = parameters.lower().partition("charset=")[2].split(";")[0].strip(" \"'")
    if charset not in ("", "utf-8", "utf8"):
        raise HttpProblem(
            415,
            f"JSON is exchanged in UTF-8; the charset is {charset!r}.",
            param="content-type",
            remedy="Encode the body as UTF-8.",
        )
    try:
        json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise HttpProblem(
            400,
            f"The body is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}.",
            param="body",
            remedy="Encode the body as UTF-8.",
        ) from None
    except json.JSONDecodeError as error:
        raise HttpProblem(
            400,
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.",
            param="body",
            remedy='Send an object such as {"request_text": "..."}.',
        ) from None
    except ValueError as error:  # a number of thousands of digits
        raise HttpProblem(
            400, f"The body cannot be read: {error}.", param="body", remedy="Send plain values."
        ) from None
    except RecursionError:
        raise HttpProblem(400, "The body is nested too deeply.", param="body", remedy="Send a flat object.") from None


def _too_large(size_bytes: int, size_bytes_max: int, text_bytes_max: int) -> HttpProblem:
    return HttpProblem(
        413,
        f"The body has at least {size_bytes} bytes; at most {size_bytes_max} are accepted.",
        param="body",
        remedy=f"Send a request text of at most {text_bytes_max // 1024} KiB.",
    )


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives ``body`` once and then what the server says (a disconnect, in time)."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed

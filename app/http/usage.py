"""Routes of the books: what was used and spent, live or summed, and what is left of budgets.

Decodes, asks the books, encodes. Where keys are configured, a key sees its own use, and one with `admin: true`
everybody's.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any, cast

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from app.domain.books.budgets import OwnerKind
from app.domain.books.entries import Correction
from app.domain.books.usage import Dimension, UsageQuery
from app.domain.errors import GatewayError
from app.domain.gateway import ANONYMOUS, Caller
from app.domain.live_usage import Booked
from app.domain.ports import UsageBooks
from app.http.documented import refusals
from app.http.errors import HttpProblem, body_of, unexpected_body
from app.http.limits import HttpLimits
from app.http.sse import KEEP_ALIVE, RECONNECT
from app.http.usage_parameters import GROUPS, UsageParameters, read_query
from app.http.usage_schemas import BudgetListOut, CostsOut, StatsOut
from app.http.usage_wire import View, budgets_json, correction_json, entry_json, usage_csv, usage_json

logger = logging.getLogger("tutti.http")

router = APIRouter(prefix="/api/v1", tags=["usage"])

CSV_TYPE = "text/csv"
_CURSOR = re.compile(r"[0-9a-f]{1,32}-[0-9]{1,18}")
_CSV_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {CSV_TYPE: {"schema": {"type": "string"}}}, "description": "JSON, or CSV if asked."}
}
_TIME = "ISO 8601 (a day begins in `time_zone`), or seconds since 1970."


def _filter(dimension: Dimension) -> object:
    return Query(alias=dimension.value, description=f"Only this {dimension.value}; may be repeated. Empty: none.")


def asked(  # noqa: PLR0913  one parameter a filter
    since: Annotated[
        str | None, Query(alias="from", description=f"First instant; default: a week ago. {_TIME}")
    ] = None,
    until: Annotated[str | None, Query(alias="to", description=f"First instant outside; default: now. {_TIME}")] = None,
    time_zone: Annotated[str, Query(description="IANA name; days and hours are its.")] = "UTC",
    group_by: Annotated[
        list[str] | None, Query(description=f"By what sums are split, with commas or repeated: {', '.join(GROUPS)}.")
    ] = None,
    tenant: Annotated[list[str] | None, _filter(Dimension.TENANT)] = None,
    team: Annotated[list[str] | None, _filter(Dimension.TEAM)] = None,
    user: Annotated[list[str] | None, _filter(Dimension.USER)] = None,
    key: Annotated[list[str] | None, _filter(Dimension.KEY)] = None,
    model: Annotated[list[str] | None, _filter(Dimension.MODEL)] = None,
    account: Annotated[list[str] | None, _filter(Dimension.ACCOUNT)] = None,
    provider: Annotated[list[str] | None, _filter(Dimension.PROVIDER)] = None,
    task_type: Annotated[list[str] | None, _filter(Dimension.TASK_TYPE)] = None,
    ending: Annotated[list[str] | None, _filter(Dimension.ENDING)] = None,
    run: Annotated[list[str] | None, _filter(Dimension.RUN)] = None,
) -> UsageQuery:
    """Return what the query string asks of usage."""
    given = {
        Dimension.TENANT: tenant,
        Dimension.TEAM: team,
        Dimension.USER: user,
        Dimension.KEY: key,
        Dimension.MODEL: model,
        Dimension.ACCOUNT: account,
        Dimension.PROVIDER: provider,
        Dimension.TASK_TYPE: task_type,
        Dimension.ENDING: ending,
        Dimension.RUN: run,
    }
    parameters = UsageParameters(
        since=since,
        until=until,
        time_zone=time_zone,
        group_by=group_by or (),
        filters={dimension: values for dimension, values in given.items() if values},
    )
    return read_query(parameters, time.time())


Asked = Annotated[UsageQuery, Depends(asked)]
Format = Annotated[
    str | None,
    Query(
        alias="format", description="`json` or `csv`; without it the header `Accept` decides.", pattern="^(json|csv)$"
    ),
]


@router.get(
    "/usage/stats",
    summary="What was used",
    response_model=StatsOut,
    responses={**_CSV_ANSWER, **refusals(400, 401, 403, 422)},
)
async def get_stats(request: Request, query: Asked, form: Format = None) -> Response:
    """Sum calls, tokens, time and money over a range, by whatever is asked. Up to the last second or so."""
    return await _answer(request, query, form, "stats")


@router.get(
    "/usage/costs",
    summary="What was spent",
    response_model=CostsOut,
    responses={**_CSV_ANSWER, **refusals(400, 401, 403, 422)},
)
async def get_costs(request: Request, query: Asked, form: Format = None) -> Response:
    """Sum money over a range: decimal dollars, null where nothing is known, calls without a price counted apart."""
    return await _answer(request, query, form, "costs")


@router.get(
    "/usage/live",
    summary="Watch calls being booked",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events: `usage` with an entry as JSON, `correction` with a corrected one and "
            "its `difference`, `gap` where some were missed.",
            "content": {"text/event-stream": {}},
        },
        **refusals(400, 401),
    },
)
async def watch_usage(
    request: Request,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", description="Go on after this event.")] = None,
) -> Response:
    """Stream entries and corrections as they are booked, from now on or from the one after `Last-Event-ID`.

    What entries say and what corrections say under `difference` add up to the stored sums.
    The newest few thousand are kept for those who come back; who was away for longer, or over a restart of the store,
    gets an event `gap` first: the sums say what was missed.
    """
    limits: HttpLimits = request.app.state.limits
    cursor = (last_event_id or "").strip() or None
    if cursor is not None and not _CURSOR.fullmatch(cursor):
        raise HttpProblem(
            400,
            f"Last-Event-ID must be the id of an event; it is {cursor[:40]!r}.",
            param="last-event-id",
            remedy="Send the id of the last event you have, or leave the header out to begin now.",
        )
    chunks = _live(_books(request), _own_key(request), cursor, limits.keepalive_s)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)


@router.get("/budgets", summary="What is left of budgets", response_model=BudgetListOut, responses=refusals(401))
async def list_budgets(request: Request) -> Response:
    """Return every budget in its open window: limit, spent, held, unknown, left, and where it is going."""
    figures = await _books(request).budget_figures()
    own = _own_key(request)
    if own is not None:
        figures = [one for one in figures if one.owner_kind is OwnerKind.KEY and one.owner_name == own]
    return _json(budgets_json(figures))


def _books(request: Request) -> UsageBooks:
    return cast("UsageBooks", request.app.state.books())


def _own_key(request: Request) -> str | None:
    """Return the one key that the caller may see the use of; None: everybody's."""
    caller: Caller = getattr(request.state, "caller", ANONYMOUS)
    return None if caller.admin or caller == ANONYMOUS else caller.name


async def _answer(request: Request, query: UsageQuery, form: str | None, view: View) -> Response:
    rows = await _books(request).usage(_restricted(query, _own_key(request)))
    # A hundred thousand rows take a second to write, which other requests must not wait for.
    document = await asyncio.to_thread(usage_json, query, rows, view)
    as_csv = CSV_TYPE in request.headers.get("accept", "") if form is None else form == "csv"
    headers = {"cache-control": "no-store", "vary": "accept"}
    if as_csv:
        text = await asyncio.to_thread(usage_csv, document)
        return Response(text, media_type=f"{CSV_TYPE}; charset=utf-8", headers=headers)
    return _json(document, headers)


def _restricted(query: UsageQuery, own: str | None) -> UsageQuery:
    if own is None:
        return query
    wanted = dict(query.filters).get(Dimension.KEY, (own,))
    if wanted != (own,):
        raise HttpProblem(
            403,
            f"This key sees its own use only, which is that of {own!r}.",
            param=Dimension.KEY.value,
            remedy="Leave `key` out, or use a key with `admin: true`.",
        )
    others = tuple(pair for pair in query.filters if pair[0] is not Dimension.KEY)
    return replace(query, filters=(*others, (Dimension.KEY, wanted)))


def _json(document: object, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), media_type="application/json", headers=headers)


async def _live(books: UsageBooks, own: str | None, cursor: str | None, keepalive_s: float) -> AsyncIterator[bytes]:
    """Yield entries as messages, with a comment wherever it would be silent for too long.

    A failure on the way becomes the last message, of event ``error`` and without an id: a client resumes where it was.
    """
    yield RECONNECT
    said_s = time.monotonic()
    try:
        if cursor is None:
            cursor = (await books.entries_after(None, wait_s=0.0)).cursor
            yield b"id: %s\nevent: ready\ndata: {}\n\n" % cursor.encode()
        while True:
            found = await books.entries_after(cursor, wait_s=keepalive_s)
            chunks = []
            if found.lost:
                place = f"{found.life}-{found.seq - len(found.entries)}"
                chunks.append(b"id: %s\nevent: gap\ndata: {}\n\n" % place.encode())
            chunks += [
                _message(f"{found.life}-{seq}", booked)
                for seq, booked in found.entries
                if own is None or _key_of(booked) == own
            ]
            cursor = found.cursor
            if chunks:
                yield b"".join(chunks)
            elif found.entries and time.monotonic() - said_s < keepalive_s:
                continue  # other keys' entries
            else:
                yield KEEP_ALIVE
            said_s = time.monotonic()
    except GatewayError as error:
        yield b"event: error\ndata: %s\n\n" % orjson.dumps(body_of(error))
    except Exception:
        # The outermost edge of a stream: a status cannot be sent any more.
        logger.exception("the live stream of usage failed")
        yield b"event: error\ndata: %s\n\n" % orjson.dumps(unexpected_body())


def _key_of(booked: Booked) -> str:
    return (booked.entry if isinstance(booked, Correction) else booked).owners.key


def _message(place: str, booked: Booked) -> bytes:
    if isinstance(booked, Correction):
        kind, document = b"correction", correction_json(booked)
    else:
        kind, document = b"usage", entry_json(booked)
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (place.encode(), kind, orjson.dumps(document))

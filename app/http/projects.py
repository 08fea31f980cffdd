"""Routes of projects: start one and wait or not, look at it, follow it, answer it, cancel it.

Decodes, asks the desk, encodes. A run belongs to the cluster from the moment it is accepted: a client that goes away
takes nothing with it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Annotated, cast

import orjson
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from app.domain.books.budgets import Owners
from app.domain.errors import GatewayError
from app.domain.gateway import ANONYMOUS, Caller
from app.domain.ports import Desk
from app.domain.run import RunRecord, RunRequest, RunStatus
from app.domain.trace_context import current
from app.http.body import JsonRoute
from app.http.documented import BODY, refusals
from app.http.errors import RUN_ID_HEADER, HttpProblem, body_of, unexpected_body
from app.http.follow import document_of, follow
from app.http.limits import HttpLimits
from app.http.schemas import (
    AnswersRequest,
    ForkRequest,
    ProjectListOut,
    ProjectOut,
    ProjectRequest,
    ResultDocumentOut,
    RetryRequest,
)
from app.http.sse import parse_last_event_id, stream
from app.http.wire import project_json, summary_json

logger = logging.getLogger("tutti.http")

router = APIRouter(route_class=JsonRoute, tags=["projects"])

IDEMPOTENCY_KEY_CHARS_MAX = 255
USER_HEADER = "x-tutti-user"
"""For which user of its key a request is."""

_RUN_ID_DOC = {RUN_ID_HEADER: {"description": "Id of the run.", "schema": {"type": "string"}}}

IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", description="Repeat a request with the same key and it is the same run."),
]


def desk_of(request: Request) -> Desk:
    """Return the desk of this app."""
    return cast("Desk", request.app.state.desk())


@router.post(
    "/process_project",
    summary="Do a project and wait for it",
    response_model=ResultDocumentOut,
    responses={
        200: {"description": "The result document; its `status` says how it went.", "headers": _RUN_ID_DOC},
        **refusals(*BODY, 409, 502, 504),
    },
)
async def process_project(request: Request, body: ProjectRequest, key: IdempotencyKey = None) -> Response:
    """Start a run and answer with its result document.

    The header `x-tutti-run-id` is sent as soon as the run is accepted, and blank lines follow while it works, so that
    neither you nor a proxy waits in silence; the document comes last. A client that disconnects loses nothing: the run
    goes on, and `GET /v1/projects/{id}` has its document. A run that needs answers returns at once with
    `status: needs_answers` and its `questions`. Should the cluster fail after the run was accepted, the body is an
    error object instead of the document.
    """
    desk = desk_of(request)
    record = await _start(request, body, key)
    if record.status.ended or record.status is RunStatus.NEEDS_ANSWERS:
        return JSONResponse(document_of(record), headers={RUN_ID_HEADER: record.run_id})
    limits: HttpLimits = request.app.state.limits
    chunks = _document_when_done(desk, record.run_id, limits.keepalive_s)
    return StreamingResponse(chunks, media_type="application/json", headers={RUN_ID_HEADER: record.run_id})


@router.post(
    "/v1/projects",
    summary="Start a project",
    status_code=202,
    response_model=ProjectOut,
    responses={
        202: {
            "description": "Accepted; `Location` says where to look.",
            "headers": {**_RUN_ID_DOC, "Location": {"schema": {"type": "string"}}},
        },
        **refusals(*BODY, 409),
    },
)
async def start_project(request: Request, body: ProjectRequest, key: IdempotencyKey = None) -> Response:
    """Start a run and return at once. With a known `Idempotency-Key` this is the run that has it."""
    record = await _start(request, body, key)
    headers = {"location": f"/v1/projects/{record.run_id}", RUN_ID_HEADER: record.run_id}
    return JSONResponse(project_json(record), status_code=202, headers=headers)


@router.get(
    "/v1/projects", summary="List projects, newest first", response_model=ProjectListOut, responses=refusals(422)
)
async def list_projects(
    request: Request,
    limit: Annotated[int, Query(ge=1, description="Rows at most.")] = 20,
    before_s: Annotated[float | None, Query(description="Only runs created before; epoch seconds.")] = None,
) -> Response:
    """List runs, newest first, a page at a time."""
    rows_max = cast("HttpLimits", request.app.state.limits).list_rows_max
    rows = min(limit, rows_max)
    records = await desk_of(request).list_runs(limit=rows, before_s=before_s)
    following = records[-1].created_s if len(records) == rows else None
    return JSONResponse({"data": [summary_json(record) for record in records], "next_before_s": following})


@router.get(
    "/v1/projects/{run_id}", summary="Look at a project", response_model=ProjectOut, responses=refusals(404, 422)
)
async def get_project(request: Request, run_id: str) -> Response:
    """Return the run as it stands; `document` is there once the run rests."""
    return _project(request, await desk_of(request).get(run_id))


@router.get(
    "/v1/projects/{run_id}/events",
    summary="Follow a project",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events: `id` is the event's `seq`, `event` its kind, `data` the event as JSON.",
            "content": {"text/event-stream": {}},
        },
        204: {"description": "The run is over and you have had every event: do not reconnect."},
        **refusals(400, 404, 422),
    },
)
async def follow_project(
    request: Request,
    run_id: str,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", description="Go on after this event.")] = None,
) -> Response:
    """Stream the run's events from the first one, or from the one after `Last-Event-ID`, until `run.finished`."""
    request.state.run_id = run_id
    desk = desk_of(request)
    after_seq = parse_last_event_id(last_event_id)
    record = await desk.get(run_id)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no", RUN_ID_HEADER: run_id}
    if after_seq and record.status.ended and not await desk.events(run_id, after_seq, wait_s=0.0):
        # An EventSource reconnects after every end of a stream, except after this status.
        return Response(status_code=204, headers=headers)
    limits: HttpLimits = request.app.state.limits
    chunks = stream(desk, run_id, after_seq=after_seq, keepalive_s=limits.keepalive_s)
    return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)


@router.post(
    "/v1/projects/{run_id}/answers",
    summary="Answer a project's questions",
    response_model=ProjectOut,
    responses=refusals(*BODY, 404, 409),
)
async def answer_project(request: Request, run_id: str, body: AnswersRequest) -> Response:
    """Give answers by question id; the run goes on once all are given, or with `assume_rest`."""
    request.state.run_id = run_id
    record = await desk_of(request).answer(run_id, body.answers, assume_rest=body.assume_rest)
    return _project(request, record)


@router.post(
    "/v1/projects/{run_id}/cancel",
    summary="Cancel a project",
    response_model=ProjectOut,
    responses=refusals(404, 422),
)
async def cancel_project(request: Request, run_id: str) -> Response:
    """Stop the run and its model calls; nothing happens to a run that is over."""
    request.state.run_id = run_id
    return _project(request, await desk_of(request).cancel(run_id))


@router.post(
    "/v1/projects/{run_id}/retry",
    summary="Do a task of a project again",
    response_model=ProjectOut,
    responses=refusals(*BODY, 404, 409),
)
async def retry_task(request: Request, run_id: str, body: RetryRequest) -> Response:
    """Do one task of a project that is over again, and what depends on it; all other results are kept."""
    request.state.run_id = run_id
    return _project(request, await desk_of(request).retry(run_id, body.task_id))


@router.post(
    "/v1/projects/{run_id}/fork",
    summary="Go on from a project's results",
    status_code=202,
    response_model=ProjectOut,
    responses={
        202: {
            "description": "Accepted; `Location` says where to look.",
            "headers": {**_RUN_ID_DOC, "Location": {"schema": {"type": "string"}}},
        },
        **refusals(*BODY, 404, 409),
    },
)
async def fork_project(request: Request, run_id: str, body: ForkRequest) -> Response:
    """Start a new project with the plan of this one and every result that does not depend on a task of it.

    The project itself stays as it is; what is taken over is not bought again.
    """
    request.state.run_id = run_id
    record = await desk_of(request).fork(run_id, body.from_task, more=body.input, buyers=_buyers(request))
    headers = {"location": f"/v1/projects/{record.run_id}", RUN_ID_HEADER: record.run_id}
    return JSONResponse(project_json(record), status_code=202, headers=headers)


@router.get(
    "/v1/projects/{run_id}/export",
    summary="Take everything about a project away",
    response_class=Response,
    responses={
        200: {
            "description": "A zip: the run, its plans, tasks, calls, events, entries of the books, and the "
            "configuration without secrets.",
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        },
        **refusals(404, 422),
    },
)
async def export_project(request: Request, run_id: str) -> Response:
    """Return everything that is known of the project as one file."""
    request.state.run_id = run_id
    data = await desk_of(request).export(run_id)
    headers = {
        RUN_ID_HEADER: run_id,
        "cache-control": "no-store",
        "content-disposition": 'attachment; filename="project.zip"',
    }
    return Response(data, media_type="application/zip", headers=headers)


def _project(request: Request, record: RunRecord) -> Response:
    return JSONResponse(project_json(record), headers={RUN_ID_HEADER: record.run_id})


async def _start(request: Request, body: ProjectRequest, key: str | None) -> RunRecord:
    limits: HttpLimits = request.app.state.limits
    size_bytes = len(body.request_text.encode())
    if size_bytes > limits.text_bytes_max:
        raise HttpProblem(
            413,
            f"The request text has {size_bytes} bytes; at most {limits.text_bytes_max} are accepted.",
            param="request_text",
            remedy="Shorten it, or split it into several projects.",
        )
    if key is not None and not (0 < len(key) <= IDEMPOTENCY_KEY_CHARS_MAX and key.isascii() and key.isprintable()):
        raise HttpProblem(
            400,
            f"Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable ASCII characters.",
            param="idempotency-key",
            remedy="Send a UUID.",
        )
    record = await desk_of(request).start(
        RunRequest(
            text=body.request_text,
            assume_defaults=body.assume_defaults,
            timeout_s=body.timeout_s,
            tokens_max=body.max_tokens_total,
            plan_only=body.plan_only,
            idempotency_key=key,
            budget_usd=None if body.budget_usd is None else format(body.budget_usd.normalize(), "f"),
            buyers=_buyers(request),
            trace=current(),
        )
    )
    request.state.run_id = record.run_id
    return record


def _buyers(request: Request) -> Owners:
    """Return on whose behalf the request is: the key's, its team's, and the user that it names."""
    caller: Caller = getattr(request.state, "caller", ANONYMOUS)
    # UTF-8, as the gateway reads it; the framework takes headers for Latin-1.
    user = request.headers.get(USER_HEADER, "").encode("latin-1").decode("utf-8", "replace").strip()
    return Owners(team=caller.team, user=user, key=caller.name)


async def _document_when_done(desk: Desk, run_id: str, keepalive_s: float) -> AsyncIterator[bytes]:
    """Yield blank lines while the run works and its document when it rests; JSON allows white space in front."""
    yield b"\n"
    try:
        async for _ in follow(desk, run_id, after_seq=0, wait_s=keepalive_s, stop_at_questions=True):
            yield b"\n"
        yield orjson.dumps(document_of(await desk.get(run_id)))
    except GatewayError as error:
        yield orjson.dumps(body_of(error))
    except Exception:
        # The outermost edge of a stream: a status cannot be sent any more.
        logger.exception("waiting for run %s failed", run_id)
        yield orjson.dumps(unexpected_body())

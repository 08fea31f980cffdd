"""The gateway's quieter routes: which models there are, what routing would choose, how long a prompt is."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.responses import JSONResponse

from app.domain.chat import Json, Usage
from app.domain.errors import GatewayError, NotFoundError
from app.domain.estimate import estimate_tokens
from app.domain.gateway import AUTO, Caller
from app.domain.model_list import describe_models
from app.http.errors import HttpProblem
from app.http.formats.anthropic_messages import count_tokens
from app.http.formats.base import ClientFormat
from app.http.formats.openai_chat import OpenAIChat
from app.http.formats.openai_embeddings import OpenAIEmbeddings
from app.http.gateway import reading
from app.http.gateway.answer_headers import answer_headers, limit_headers
from app.http.gateway.door import Keys
from app.http.gateway.telling import RequestTold
from app.http.gateway.wire_errors import headers_of, message_of, problem_type, status_of
from app.services.gateway.gateway import DEADLINE_S, EmbeddingCall, Gateway, needs_of
from app.services.telemetry.instruments import OVERHEAD

_OPENAI = OpenAIChat()
_EMBEDDINGS = OpenAIEmbeddings()


async def asked_by(request: Request) -> tuple[Gateway, Caller]:
    """Return the replica's gateway and who calls; raises AccessError."""
    gateway: Gateway = await request.app.state.gateway()
    keys: Keys = request.app.state.keys
    return gateway, keys.identify(reading.headers_by_name(request.scope), gateway)


async def body_of(request: Request) -> dict[str, Json]:
    """Return the body's JSON object; raises HttpProblem."""
    headers = reading.headers_by_name(request.scope)
    return reading.parse_object(await reading.read_body(request.receive, headers))


def refused(error: GatewayError | HttpProblem, request_id: str, form: ClientFormat = _OPENAI) -> Response:
    """Return an error in a client format's own shape."""
    if isinstance(error, HttpProblem):
        status, headers = error.status, []
        body = form.error(status, problem_type(error), error.message, param=error.param, request_id=request_id)
    else:
        status, kind = status_of(error)
        headers = headers_of(error, status)
        body = form.error(status, kind, message_of(error), param=error.param, request_id=request_id)
    return JSONResponse(body, status_code=status, headers={key.decode(): value.decode() for key, value in headers})


Handler = Callable[[Request], Coroutine[Any, Any, Mapping[str, Json] | Response]]


def answering(handle: Handler, form: ClientFormat = _OPENAI) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """Return an endpoint that answers with what ``handle`` returns, and with errors in ``form``."""

    async def endpoint(request: Request) -> Response:
        try:
            answer = await handle(request)
            return answer if isinstance(answer, Response) else JSONResponse(answer)
        except (GatewayError, HttpProblem) as error:
            return refused(error, request.headers.get("x-request-id", ""), form)

    endpoint.__name__, endpoint.__doc__ = handle.__name__, handle.__doc__
    return endpoint


async def list_models(request: Request) -> dict[str, Json]:
    """List the models that the caller may use: capabilities, strengths, context, prices, health."""
    gateway, caller = await asked_by(request)
    return {"object": "list", "data": list(describe_models(gateway.orchestra(), gateway.load(), caller))}


async def get_model(request: Request) -> dict[str, Json]:
    """Return one model, by its name or an alias."""
    gateway, caller = await asked_by(request)
    wanted = str(request.path_params["model"])
    name = gateway.table().find(wanted) or wanted
    for row in describe_models(gateway.orchestra(), gateway.load(), caller):
        if row["id"] == name:
            return row
    raise NotFoundError(f"there is no model {wanted!r}", param="model", remedy="GET /v1/models lists those there are")


async def explain_route(request: Request) -> dict[str, Json]:
    """Say which models and accounts would be asked for a chat request, in which order, and why the others would not."""
    gateway, caller = await asked_by(request)
    document = await body_of(request)
    document.setdefault("model", AUTO)
    document.setdefault("messages", [{"role": "user", "content": ""}])
    asked = _OPENAI.parse(document)
    wish = replace(reading.read_wish(reading.headers_by_name(request.scope)), task_type=asked.task_type)
    needs = needs_of(asked.chat, estimate_tokens(asked.chat))
    return gateway.explain(asked.chat.model, wish, caller=caller, needs=needs)


async def count_message_tokens(request: Request) -> dict[str, Json]:
    """Estimate the input tokens of an Anthropic message; nothing is sent."""
    await asked_by(request)
    return count_tokens(await body_of(request))


async def embed(request: Request) -> Response:
    """Turn texts into vectors, by any model of kind `embedding`."""
    headers = reading.headers_by_name(request.scope)
    told = RequestTold("/v1/embeddings", reading.find_request_id(headers) or "", "embeddings")
    try:
        return await _embedded(request, headers, told)
    except GatewayError as error:
        told.failed(error, status_of(error)[0])
        raise
    except HttpProblem as problem:
        told.refused(problem.status, "bad request")
        raise
    finally:
        told.tell()


async def _embedded(request: Request, headers: Mapping[bytes, bytes], told: RequestTold) -> Response:
    told.events = (await request.app.state.gateway()).events
    gateway, told.caller = await asked_by(request)
    caller = told.caller
    asked = _EMBEDDINGS.parse(await body_of(request))
    call = EmbeddingCall(
        request_id=reading.find_request_id(headers) or "",
        caller=caller,
        request=asked.request,
        user=reading.read_user(headers, asked.request.user),
        wish=reading.read_wish(headers),
        deadline_s=reading.read_deadline_s(headers, DEADLINE_S),
        idempotency_key=reading.read_idempotency_key(headers),
    )
    told.user, told.model = call.user, call.request.model
    result, facts = await gateway.embed(call)
    content = orjson.dumps(_EMBEDDINGS.render(result, asked, facts.served))
    answer = Response(content, media_type="application/json")
    ours_s = time.perf_counter() - told.began_s - facts.upstream_s
    told.answered(facts, ours_s, Usage(input_tokens=result.input_tokens, output_tokens=0, source=result.source))
    OVERHEAD.observe(max(0.0, ours_s))
    answer.raw_headers += [*answer_headers(facts, ours_s), *limit_headers(gateway.limits(caller, call.user))]
    return answer

"""The port ``Desk`` against a running server: the command line talks to it as it would to its own cluster.

Follows a run's events over one server-sent event stream per run and takes it up again where it broke off, so that a
lost connection loses no line.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus
from typing import cast
from urllib.parse import quote

import httpx

from app import settings
from app.domain.books.budgets import Owners
from app.domain.chat import Json
from app.domain.errors import (
    ConfigurationError,
    ConflictError,
    GatewayError,
    InternalError,
    NotFoundError,
    RequestError,
)
from app.domain.run import RunEvent, RunRecord, RunRequest
from app.domain.views import AccountView, LiveCheck, ReloadReport
from app.http.wire import accounts_of, checks_of, event_of, project_of, reload_of, summary_of

QUEUE_EVENTS_MAX = 10_000
LIVE_CHECK_TIMEOUT_S = 300.0
EXPORT_TIMEOUT_S = 150.0

_ERROR_OF_TYPE: Mapping[str, type[GatewayError]] = {
    "not_found_error": NotFoundError,
    "conflict_error": ConflictError,
    "configuration_error": ConfigurationError,
}


class HttpDesk:
    """A desk behind a server's HTTP doors; sends the key of ``TUTTI_API_KEY`` where there is one.

    Args:
        url: The server's address, for instance ``http://127.0.0.1:8000``.
        transport: Where requests go instead of the network; tests pass the app itself.

    Belongs to one event loop; close it with ``aclose``.
    """

    def __init__(self, url: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        key = settings.find_client_key()
        self._client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {key}"} if key else None,
            base_url=self.url,
            transport=transport,
            # Proxies of the environment are for providers, not for our own server.
            trust_env=False,
            timeout=httpx.Timeout(30.0, connect=5.0),
        )
        self._streams: dict[str, _EventStream] = {}

    async def aclose(self) -> None:
        """Close every connection."""
        for stream in self._streams.values():
            await stream.aclose()
        await self._client.aclose()

    async def start(self, request: RunRequest) -> RunRecord:
        """See ``Desk.start``."""
        body: dict[str, Json] = {
            "request_text": request.text,
            "assume_defaults": request.assume_defaults,
            "timeout_s": request.timeout_s,
            "max_tokens_total": request.tokens_max,
            "budget_usd": request.budget_usd,
            "plan_only": request.plan_only,
        }
        headers = {"idempotency-key": request.idempotency_key} if request.idempotency_key else {}
        return project_of(await self._call("POST", "/v1/projects", body=body, headers=headers))

    async def get(self, run_id: str) -> RunRecord:
        """See ``Desk.get``."""
        return project_of(await self._call("GET", f"/v1/projects/{_part(run_id)}"))

    async def list_runs(self, *, limit: int, before_s: float | None = None) -> Sequence[RunRecord]:
        """See ``Desk.list_runs``; the rows carry only what the server's list says."""
        query = f"?limit={limit}" + (f"&before_s={before_s!r}" if before_s is not None else "")
        body = await self._call("GET", f"/v1/projects{query}")
        return [summary_of(cast("dict[str, Json]", row)) for row in cast("list[Json]", body["data"])]

    async def events(self, run_id: str, after_seq: int, *, wait_s: float) -> Sequence[RunEvent]:
        """See ``Desk.events``."""
        stream = self._streams.get(run_id)
        if stream is None or stream.position != after_seq or stream.spent:
            if stream is not None:
                await stream.aclose()
            stream = _EventStream(self._client, run_id, after_seq)
            self._streams[run_id] = stream
        return await stream.take(wait_s)

    async def answer(self, run_id: str, answers: Mapping[str, str], *, assume_rest: bool) -> RunRecord:
        """See ``Desk.answer``."""
        body: dict[str, Json] = {"answers": dict(answers), "assume_rest": assume_rest}
        return project_of(await self._call("POST", f"/v1/projects/{_part(run_id)}/answers", body=body))

    async def cancel(self, run_id: str) -> RunRecord:
        """See ``Desk.cancel``."""
        return project_of(await self._call("POST", f"/v1/projects/{_part(run_id)}/cancel"))

    async def retry(self, run_id: str, task_id: str) -> RunRecord:
        """See ``Desk.retry``."""
        body: dict[str, Json] = {"task_id": task_id}
        record = project_of(await self._call("POST", f"/v1/projects/{_part(run_id)}/retry", body=body))
        # Its stream has ended with the run; there is more to come now.
        stream = self._streams.pop(run_id, None)
        if stream is not None:
            await stream.aclose()
        return record

    async def fork(
        self, run_id: str, task_id: str, *, more: str | None = None, buyers: Owners | None = None
    ) -> RunRecord:
        """See ``Desk.fork``; the server knows on whose behalf it is asked."""
        body: dict[str, Json] = {"from_task": task_id, "input": more}
        return project_of(await self._call("POST", f"/v1/projects/{_part(run_id)}/fork", body=body))

    async def export(self, run_id: str) -> bytes:
        """See ``Desk.export``."""
        response = await self._send("GET", f"/v1/projects/{_part(run_id)}/export", None, {}, EXPORT_TIMEOUT_S)
        if response.is_error:
            raise _error_of(response.status_code, _object(response))
        return response.content

    async def accounts(self) -> Sequence[AccountView]:
        """See ``Desk.accounts``."""
        return accounts_of((await self._call("GET", "/v1/accounts"))["data"])

    async def check_live(self) -> Sequence[LiveCheck]:
        """See ``Desk.check_live``."""
        body = await self._call("POST", "/v1/accounts/check", timeout_s=LIVE_CHECK_TIMEOUT_S)
        return checks_of(body["data"])

    async def reload(self) -> ReloadReport:
        """See ``Desk.reload``."""
        return reload_of(await self._call("POST", "/v1/reload"))

    async def ready(self) -> Mapping[str, str]:
        """See ``Desk.ready``."""
        response = await self._send("GET", "/readyz", None, {}, None)
        body = _object(response)
        if "parts" not in body:
            raise _error_of(response.status_code, body)
        return cast("dict[str, str]", body["parts"])

    async def get_document(self, path: str) -> dict[str, Json]:
        """Return the JSON object at ``path``, for what is shown as the server says it; its refusals are raised."""
        return await self._call("GET", path)

    async def post_document(self, path: str, body: Mapping[str, Json]) -> dict[str, Json]:
        """Send a JSON object and return the one that answers it; refusals are raised."""
        return await self._call("POST", path, body=dict(body))

    async def alive(self) -> str:
        """Return the server's version; raises InternalError where no Tutti answers at this address."""
        body = await self._call("GET", "/healthz", timeout_s=3.0)
        return str(body.get("version", ""))

    async def date(self) -> str:
        """Return the server's time as its ``Date`` header says it; empty where it says none."""
        response = await self._send("GET", "/healthz", None, {}, 3.0)
        return str(response.headers.get("date", ""))

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Json = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Json]:
        response = await self._send(method, path, body, headers or {}, timeout_s)
        found = _object(response)
        if response.is_error:
            raise _error_of(response.status_code, found)
        return found

    async def _send(
        self, method: str, path: str, body: Json, headers: Mapping[str, str], timeout_s: float | None
    ) -> httpx.Response:
        timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else httpx.Timeout(timeout_s, connect=5.0)
        try:
            return await self._client.request(method, path, json=body, headers=headers, timeout=timeout)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unreachable(self.url, error) from None


class _EventStream:
    """One open event stream of a run, read by a task of its own into a bounded queue."""

    def __init__(self, client: httpx.AsyncClient, run_id: str, after_seq: int) -> None:
        self.position = after_seq
        """Sequence number of the last event handed out."""
        self.spent = False
        """True once it has ended or failed; the next wait opens another one."""
        self._client = client
        self._run_id = run_id
        self._queue: asyncio.Queue[RunEvent | GatewayError | None] = asyncio.Queue(QUEUE_EVENTS_MAX)
        self._task = asyncio.create_task(self._read(after_seq))

    async def aclose(self) -> None:
        """Close the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def take(self, wait_s: float) -> Sequence[RunEvent]:
        """Return what has come, waiting up to ``wait_s`` for the first event; raises the stream's error."""
        try:
            async with asyncio.timeout(max(wait_s, 0.05)):
                item = await self._queue.get()
        except TimeoutError:
            return ()
        events: list[RunEvent] = []
        while isinstance(item, RunEvent):
            events.append(item)
            if self._queue.empty():
                break
            item = self._queue.get_nowait()
        if events:
            self.position = events[-1].seq
        if not isinstance(item, RunEvent):
            self.spent = True
            if isinstance(item, GatewayError) and not events:
                raise item
        return events

    async def _read(self, after_seq: int) -> None:
        """Read the stream to its end; the last item is None, or the error that ended it."""
        last: GatewayError | None = None
        headers = {"last-event-id": str(after_seq)} if after_seq else {}
        timeout = httpx.Timeout(60.0, connect=5.0)
        path = f"/v1/projects/{_part(self._run_id)}/events"
        try:
            async with self._client.stream("GET", path, headers=headers, timeout=timeout) as response:
                if response.is_error:
                    await response.aread()
                    raise _error_of(response.status_code, _object(response))
                async for name, data in _messages(response):
                    body = cast("dict[str, Json]", json.loads(data))
                    if name == "error":
                        raise _error_of(503, body)
                    await self._queue.put(event_of(body))
        except GatewayError as error:
            last = error
        except (httpx.HTTPError, ValueError) as error:
            last = _unreachable(str(self._client.base_url), error)
        await self._queue.put(last)


async def _messages(response: httpx.Response) -> AsyncIterator[tuple[str, str]]:
    """Yield (event name, data) of each server-sent message; comments and retry hints are passed over."""
    name, data = "message", list[str]()
    async for line in response.aiter_lines():
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)


def _object(response: httpx.Response) -> dict[str, Json]:
    try:
        body = response.json()
    except ValueError:
        body = None
    if isinstance(body, dict):
        return body
    raise InternalError(
        f"The server at {response.url.host}:{response.url.port} answered with status {response.status_code} and "
        "something that is not Tutti's.",
        remedy="Check the address given by --server or TUTTI_SERVER.",
    )


def _error_of(status: int, body: Mapping[str, Json]) -> GatewayError:
    """Return the domain error that the server's error body stands for."""
    detail = cast("dict[str, Json]", body.get("error")) if isinstance(body.get("error"), dict) else {}
    kind = _ERROR_OF_TYPE.get(str(detail.get("type")), RequestError if status < 500 else InternalError)
    param, remedy = detail.get("param"), detail.get("remedy")
    if status == HTTPStatus.UNAUTHORIZED:
        # A client is told which header to send; here it is we who send it.
        remedy = f"Set {settings.KEY_VARIABLE} to one of the server's keys (auth.keys)."
    return kind(
        str(detail.get("message") or f"The server answered with status {status}."),
        param=param if isinstance(param, str) else None,
        remedy=remedy if isinstance(remedy, str) else None,
    )


def _unreachable(url: str, error: Exception) -> InternalError:
    said = str(error) or type(error).__name__
    return InternalError(
        f"The server at {url} does not answer: {said}.",
        remedy="Start one with `tutti serve`, or name another with --server.",
    )


def _part(run_id: str) -> str:
    """Return ``run_id`` as one path segment."""
    return quote(run_id, safe="")

"""The HTTP adapter of an account whose calls of runs are bought in the provider's batches, at its rate for them.

Implements ``base.BackgroundAdapter``: a call is begun by joining the batch that is gathered for its model, under a name
that is written down before the batch leaves. Whoever comes after a crash finds the batch among all by that name; one
that is not listed when the account's lag is over certainly never was, and its calls are begun anew. So no line is
bought twice, at whatever moment we die. Calls outside runs stay ordinary ones.

Not thread-safe: the event loop is the lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TypeAlias

from app.domain.accounts import AccountSpec
from app.domain.chat import ChatRequest, ChatResult, Json
from app.domain.errors import NoAnswerError, UpstreamError, UpstreamKind
from app.providers.base import LOOK_AGAIN
from app.providers.classify import classify_response, garbage
from app.providers.embeddings import EmbeddingWire
from app.providers.http_adapter import HttpAdapter
from app.providers.http_client import HttpReply, WireCall
from app.providers.openai_batches import (
    BatchLine,
    BatchState,
    OpenAIBatches,
    line_of,
    read_lines,
    read_list,
    read_state,
)
from app.providers.payload import as_object, dump_json, find_text
from app.providers.wire import ModelTable, Wire, check_request, wire_key

LINES_MAX, LINES_BYTES_MAX = 500, 16 * 1024 * 1024
"""Of one batch: far below the providers' bounds, so that its answers fit into one reply of ours."""
LOOK_FIRST_S, LOOK_MAX_S = 0.25, 30.0
"""Pauses between two looks at a batch: they grow by half each time."""
REQUEST_TIMEOUT_S = 60.0
ABANDON_TIMEOUT_S = 5.0
PAGES_MAX = 20
"""Of the list of batches, looked through for one of ours."""
CLOCKS_S = 600.0
"""By so much the provider's clock may be behind ours."""

Answers: TypeAlias = "dict[str, BatchLine] | None"
"""By ``custom_id``; None: the provider certainly never got the batch."""


@dataclass(slots=True, eq=False)
class _Line:
    text: bytes
    noted: asyncio.Future[bool]
    """Whether its name is on disk; what is not is left out."""


@dataclass(slots=True, eq=False)
class _Batch:
    """One batch in this process: gathered here, or found again."""

    name: str
    lines: dict[str, _Line] = field(default_factory=dict)
    size_bytes: int = 0
    open: set[str] = field(default_factory=set)
    """Lines whose answers somebody here wants."""
    batch_id: str | None = None
    """The provider's, once it is known."""
    work: asyncio.Task[Answers] | None = None

    def has_room(self, custom_id: str, size_bytes: int) -> bool:
        """Tell whether one more line fits."""
        fits = len(self.lines) < LINES_MAX and self.size_bytes + size_bytes <= LINES_BYTES_MAX
        return fits and custom_id not in self.lines


class BatchHttpAdapter(HttpAdapter):
    """Serves one account; implements ``base.BackgroundAdapter`` as well.

    Args:
        account: Whose calls these are; says how long a batch is gathered, and the list's lag.
        models: The models it serves.
        wire: How the provider speaks of single calls.
        batches: How it speaks of batches.
    """

    def __init__(
        self,
        account: AccountSpec,
        models: ModelTable,
        wire: Wire,
        batches: OpenAIBatches,
        embeddings: EmbeddingWire | None = None,
    ) -> None:
        super().__init__(account, models, wire, embeddings)
        self._batches = batches
        self._gathered: dict[str, _Batch] = {}
        """By model, for the providers want one model a batch: what has not left yet."""
        self._known: dict[str, _Batch] = {}
        """By name, as long as somebody here wants an answer of it."""

    async def begin(self, request: ChatRequest, *, note: Callable[[str], Awaitable[None]], timeout_s: float) -> str:
        """See ``base.BackgroundAdapter``: join the batch that leaves next."""
        check_request(request)
        custom_id = wire_key(request, stream=False)
        assert custom_id is not None, "only calls with a key are begun"
        text = line_of(custom_id, self._wire.encode(request, stream=False).body)
        batch = next((one for one in self._known.values() if custom_id in one.lines), None)
        if batch is not None and await batch.lines[custom_id].noted:
            # Its run's conductor died and began it again before it had heard of the name: its row has none, perhaps.
            await note(f"{batch.name}/{custom_id}")
            batch.open.add(custom_id)
            return f"{batch.name}/{custom_id}"
        batch = self._next_batch(request.model, custom_id, len(text))
        line = batch.lines[custom_id] = _Line(text, asyncio.get_running_loop().create_future())
        batch.size_bytes += len(text)
        batch.open.add(custom_id)
        name = f"{batch.name}/{custom_id}"
        try:
            await note(name)
        except BaseException:
            line.noted.set_result(False)
            self._release(batch, custom_id)
            raise
        line.noted.set_result(True)
        return name

    async def attend(self, request: ChatRequest, name: str, *, timeout_s: float) -> ChatResult | None:
        """See ``base.BackgroundAdapter``."""
        batch_name, _, custom_id = name.rpartition("/")
        batch = self._known.get(batch_name)
        if batch is None:
            batch = self._known[batch_name] = _Batch(batch_name)
            self._work(batch, self._find_again(batch, request.lost_at_s or time.time()))
        assert batch.work is not None, "a batch that is known is worked at"
        batch.open.add(custom_id)
        self._depart()
        try:
            async with asyncio.timeout(timeout_s):
                # Others attend the same batch; who leaves must not take it from them.
                answers = await asyncio.shield(batch.work)
        except TimeoutError:
            what = f"{self._wire.provider} gave no answer within {timeout_s:g} s"
            raise UpstreamError(what, kind=UpstreamKind.TIMEOUT, billed=None) from None
        except UpstreamError:
            self._release(batch, custom_id)
            raise
        finally:
            self._arrive()
        self._release(batch, custom_id)
        return None if answers is None else self._answer(answers.get(custom_id), request)

    async def abandon(self, name: str) -> None:
        """See ``base.BackgroundAdapter``: a batch is stopped once nobody here wants any answer of it."""
        batch_name, _, custom_id = name.rpartition("/")
        batch = self._known.get(batch_name)
        if batch is None:
            return
        self._release(batch, custom_id)
        if not batch.open and batch.batch_id is not None:
            await self._stop(batch.batch_id)

    async def aclose(self) -> None:
        """See ``base.ProviderAdapter``."""
        await super().aclose()
        for batch in self._known.values():
            if batch.work is not None:
                batch.work.cancel()

    def _next_batch(self, model: str, custom_id: str, size_bytes: int) -> _Batch:
        batch = self._gathered.get(model)
        if batch is None or not batch.has_room(custom_id, size_bytes):
            # Its age stands in its name: that bounds the search for it.
            batch = _Batch(f"{int(time.time())}-{uuid.uuid4().hex}")
            self._gathered[model] = self._known[batch.name] = batch
            self._work(batch, self._gather(batch, model))
        return batch

    def _work(self, batch: _Batch, work: Coroutine[None, None, Answers]) -> None:
        batch.work = asyncio.create_task(work)
        # Its failure is everybody's who attends; where nobody does it is nobody's.
        batch.work.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _release(self, batch: _Batch, custom_id: str) -> None:
        """Forget a line that nobody wants any more, and with the last one the batch."""
        batch.open.discard(custom_id)
        if not batch.open:
            self._known.pop(batch.name, None)
            for model, gathered in list(self._gathered.items()):
                if gathered is batch:
                    del self._gathered[model]
            if batch.work is not None and batch.batch_id is not None:
                batch.work.cancel()

    async def _gather(self, batch: _Batch, model: str) -> Answers:
        """Wait for others to join, buy the batch, and return its answers."""
        await asyncio.sleep(self._account.batch_window_s)
        if self._gathered.get(model) is batch:
            del self._gathered[model]
        noted = [(custom_id, line.text) for custom_id, line in batch.lines.items() if await line.noted]
        texts = [text for custom_id, text in noted if custom_id in batch.open]
        if not texts:
            return {}
        batch.batch_id = await self._buy(batch.name, texts)
        if not batch.open:
            await self._stop(batch.batch_id)
            return {}
        return await self._answers(batch.batch_id)

    async def _buy(self, name: str, texts: list[bytes]) -> str:
        try:
            file_id = find_text(as_object(await self._asked(self._batches.upload(texts))).get("id"))
        except UpstreamError as error:
            error.billed = False  # a file costs nothing
            raise
        if file_id is None:
            raise garbage(self._wire.provider, "took a file without naming it", billed=False)
        try:
            state = read_state(await self._asked(self._batches.create(file_id, name)))
            if state is None:
                raise garbage(self._wire.provider, "began a batch without naming it", billed=None)
        except UpstreamError as error:
            if error.billed is False:
                raise
            # It may have begun; it is listed, if it has.
            state = await self._search(name, time.time())
            if state is None:
                error.billed = False
                raise
        return state.batch_id

    async def _find_again(self, batch: _Batch, lost_at_s: float) -> Answers:
        """Return the answers of a batch that an earlier life made up."""
        state = await self._search(batch.name, lost_at_s)
        if state is None:
            return None
        batch.batch_id = state.batch_id
        return await self._answers(state.batch_id)

    async def _search(self, name: str, lost_at_s: float) -> BatchState | None:
        """Return the batch of that name as soon as it is listed; None where it certainly never will be."""
        pause_s = LOOK_FIRST_S
        while True:
            # Looked at before the list is: what comes to be listed meanwhile is found the next time.
            overdue = time.time() - lost_at_s >= self._account.lookup_lag_s
            try:
                found = await self._listed(name)
            except UpstreamError as error:
                if error.kind not in LOOK_AGAIN:
                    error.billed = None
                    raise
                found, overdue = None, False
            if found is not None or overdue:
                return found
            await asyncio.sleep(pause_s)
            pause_s = min(LOOK_MAX_S, pause_s * 1.5)

    async def _listed(self, name: str) -> BatchState | None:
        oldest_s = float(name.partition("-")[0]) - CLOCKS_S
        after: str | None = None
        for _page in range(PAGES_MAX):
            states, more = read_list(await self._asked(self._batches.list_from(after)))
            for state in states:
                if state.name == name:
                    return state
            if not more or states[-1].created_s < oldest_s:
                return None
            after = states[-1].batch_id
        what = f"{self._wire.provider} lists more than {PAGES_MAX} pages of batches since"
        raise UpstreamError(what, kind=UpstreamKind.INVALID_REQUEST, billed=None)

    async def _answers(self, batch_id: str) -> Answers:
        """Return what became of each line, once the batch has ended."""
        pause_s = LOOK_FIRST_S
        while True:
            try:
                state = read_state(await self._asked(self._batches.look(batch_id)))
                if state is not None and state.has_ended:
                    found: dict[str, BatchLine] = {}
                    for file_id in state.files:
                        found |= read_lines((await self._fetched(self._batches.content(file_id))).body)
                    break
            except UpstreamError as error:
                if error.kind not in LOOK_AGAIN:
                    error.billed = None
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(LOOK_MAX_S, pause_s * 1.5)
        if state.status == "failed":
            what = f"{self._wire.provider} refused the whole batch"
            raise UpstreamError(what, kind=UpstreamKind.OVERLOADED, billed=False)
        return found

    def _answer(self, line: BatchLine | None, request: ChatRequest) -> ChatResult:
        provider = self._wire.provider
        if line is None:
            what = f"{provider} ended the batch without an answer to the call"
            raise NoAnswerError(what, kind=UpstreamKind.OVERLOADED, billed=None)
        if line.status != 200:
            body = dump_json(line.body).encode()
            raise classify_response(line.status, {}, body, provider=provider, now_s=time.time())
        return self._wire.decode(line.body, request)

    async def _stop(self, batch_id: str) -> None:
        with contextlib.suppress(UpstreamError):
            await self._exchange.fetch(self._batches.stop(batch_id), timeout_s=ABANDON_TIMEOUT_S)

    async def _asked(self, call: WireCall) -> Json:
        # A batch's object tells of errors of its own: only the status says whether the request was refused.
        return self._success(await self._fetched(call))

    async def _fetched(self, call: WireCall) -> HttpReply:
        reply = await self._exchange.fetch(call, timeout_s=REQUEST_TIMEOUT_S)
        if not 200 <= reply.status < 300:
            self._success(reply)
        return reply

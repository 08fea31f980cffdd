"""The embedded model: translates to the in-process engine and keeps it off the event loop.

JSON is enforced by the engine's grammar, and the prompt says its gist as well, because a grammar is invisible to the
model. What a model of this size cannot do (tools, images, thinking) is refused. Source: measurements of the embedded
model, 2026-11.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from app.domain.accounts import AccountSpec, ModelInfo, StructuredOutput
from app.domain.chat import ChatDelta, ChatRequest, ChatResult, FinishReason, Json, Role, Usage
from app.domain.errors import ConfigurationError, UpstreamError, UpstreamKind
from app.domain.gateway import EmbeddingRequest, EmbeddingResult
from app.providers.base import HealthReport
from app.providers.embeddings import no_embeddings
from app.providers.local_engine import LocalCompletion, LocalEngine, find_embedded_model
from app.providers.payload import as_list, as_object, find_text, parse_json
from app.providers.think_tags import ThinkSplitter
from app.providers.wire import ModelTable, check_request, refuse, refuse_blank, with_extra

CONTEXT_TOKENS = 4_096
PARALLEL = 2
GIST_CHARS_MAX = 400
_GIST_DEPTH_MAX = 5
_ENUM_CHARS_MAX = 60

# Sampling where the request does not say: without a penalty free text loops, with one JSON is misspelt.
_JSON_SAMPLING: dict[str, Json] = {"temperature": 0.2}
_TEXT_SAMPLING: dict[str, Json] = {"temperature": 0.3, "repeat_penalty": 1.1, "repeat_last_n": 64}


_EXTRA = frozenset(
    (
        "cache_prompt",
        "dry_allowed_length",
        "dry_base",
        "dry_multiplier",
        "dry_penalty_last_n",
        "dry_sequence_breakers",
        "dynatemp_exponent",
        "dynatemp_range",
        "frequency_penalty",
        "ignore_eos",
        "logit_bias",
        "min_keep",
        "min_p",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "presence_penalty",
        "repeat_last_n",
        "repeat_penalty",
        "samplers",
        "top_k",
        "top_n_sigma",
        "typical_p",
        "xtc_probability",
        "xtc_threshold",
    )
)
"""llama.cpp's own sampling fields; it ignores in silence what it does not know, so we refuse it."""


class Engine(Protocol):
    """What this adapter needs of ``LocalEngine``; its methods block."""

    def complete(
        self, request: dict[str, Json], on_delta: Callable[[str], None] | None, cancelled: threading.Event
    ) -> LocalCompletion: ...

    def close(self) -> None: ...


def create(account: AccountSpec, models: Sequence[ModelInfo]) -> LocalAdapter:
    """Return an adapter of the embedded model, or of the GGUF file in the option ``model_path``.

    Options: ``model_path``, ``context_tokens`` (of one call), ``parallel`` (calls at once), ``threads`` (default: all
    cores but one: with all of them generation collapses as soon as anything else runs).

    Raises:
        ConfigurationError: the embedded model is not installed, or an option is no positive number.
    """
    options = dict(account.options)
    path = Path(options["model_path"]).expanduser() if "model_path" in options else find_embedded_model()
    parallel = _number(account, "parallel", PARALLEL)
    engine = LocalEngine(
        path,
        context_tokens=_number(account, "context_tokens", CONTEXT_TOKENS),
        parallel=parallel,
        threads=_number(account, "threads", max(1, (os.cpu_count() or 2) - 1)),
    )
    return LocalAdapter(account, models, engine, parallel=parallel, path=path)


class LocalAdapter:
    """Serves one account from one engine; implements ``base.ProviderAdapter``.

    Args:
        account: Whose calls these are.
        models: The models it serves.
        engine: Generates; its ``complete`` runs in threads of this adapter.
        parallel: Calls that the engine generates at once; further ones wait here, where they can be withdrawn.
        path: The model file, for the health check.
    """

    def __init__(
        self, account: AccountSpec, models: Sequence[ModelInfo], engine: Engine, *, parallel: int, path: Path
    ) -> None:
        self._account = account
        self._models = ModelTable(account, models, StructuredOutput.SCHEMA)
        self._engine = engine
        self._path = path
        self._slots = asyncio.Semaphore(parallel)
        self._threads = ThreadPoolExecutor(max_workers=parallel, thread_name_prefix="local-engine")
        self._flights = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<LocalAdapter {self._account.name!r} {self._path.name!r}>"

    async def chat_completion(self, request: ChatRequest, *, timeout_s: float) -> ChatResult:
        """See ``base.ProviderAdapter``."""
        body = self._encode(request)
        async with self._flight():
            completion = await self._complete(body, None, timeout_s)
        splitter = ThinkSplitter()
        thought, text = splitter.feed(completion.text)
        late_thought, late_text = splitter.end()
        result = ChatResult(
            text=text + late_text,
            reasoning=thought + late_thought or None,
            finish_reason=_finish(completion),
            usage=_usage(completion),
            model=request.model,
        )
        return refuse_blank(result, request, self._account.provider.value)

    async def chat_completion_stream(
        self, request: ChatRequest, *, timeout_s: float, idle_timeout_s: float
    ) -> AsyncGenerator[ChatDelta, None]:
        """See ``base.ProviderAdapter``. Idle time counts from the first piece: reading a long prompt is no stall."""
        body = self._encode(request)
        loop = asyncio.get_running_loop()
        # Bounded by the answer's own length.
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        splitter, said = ThinkSplitter(), ChatResult(text="")
        async with self._flight():
            put = pieces.put_nowait
            work = loop.create_task(self._complete(body, lambda piece: _threadsafe(loop, put, piece), timeout_s))
            work.add_done_callback(lambda _work: put(None))
            try:
                wait_s: float | None = None
                while (piece := await self._next(pieces, wait_s)) is not None:
                    wait_s = idle_timeout_s
                    thought, text = splitter.feed(piece)
                    said = replace(said, text=said.text + text, reasoning=(said.reasoning or "") + thought)
                    if thought or text:
                        yield ChatDelta(text=text, reasoning=thought)
                completion = await work
            finally:
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError, UpstreamError, ConfigurationError):
                    await work
            thought, text = splitter.end()
            if thought or text:
                yield ChatDelta(text=text, reasoning=thought)
            whole = replace(said, text=said.text + text, finish_reason=_finish(completion))
            refuse_blank(whole, request, self._account.provider.value)
            yield ChatDelta(finish_reason=_finish(completion), usage=_usage(completion), model=request.model)

    async def embed(self, request: EmbeddingRequest, *, timeout_s: float) -> EmbeddingResult:
        """See ``base.ProviderAdapter``. The embedded model only chats."""
        raise no_embeddings(request.model, self._account.provider.value)

    def calculate_tokens(self, request: ChatRequest) -> int:
        """See ``base.ProviderAdapter``."""
        return self._models.tokens(request)

    def get_model_info(self, model: str) -> ModelInfo:
        """See ``base.ProviderAdapter``."""
        return self._models.get(model)

    async def health_check(self) -> HealthReport:
        """Look whether the model file and the library are there; loads nothing."""
        if importlib.util.find_spec("xllamacpp") is None:
            return HealthReport(ok=False, message="the package 'xllamacpp' is missing: install the 'embedded' extra")
        if not await asyncio.to_thread(self._path.is_file):
            return HealthReport(ok=False, message=f"there is no model file {str(self._path)!r}")
        return HealthReport(ok=True, message=f"serves {self._path.name}", models=(self._path.stem,))

    async def aclose(self) -> None:
        """See ``base.ProviderAdapter``."""
        self._closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._account.timeout_s):
                await self._idle.wait()
        # Cancelled callers are gone before their threads are.
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self._engine.close)

    def _encode(self, request: ChatRequest) -> dict[str, Json]:
        check_request(request)
        _refuse(request, self._account.provider.value)
        messages: list[Json] = [{"role": m.role.value, "content": m.text} for m in request.messages]
        free = request.output is None
        body: dict[str, Json] = {
            "messages": messages,
            "max_tokens": request.output_tokens_max or self._models.assume(request.model).output_tokens_max,
            # Reasoning stays in the text, whose tags we split: the engine reports text only.
            "reasoning_format": "none",
        }
        if isinstance(request.output, str):
            body["response_format"] = {"type": "json_object"}
        elif request.output is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"schema": request.output.schema}}
            if not _shows_example(request):
                _say(messages, f"Answer in JSON: {schema_gist(request.output.schema)}")
        optional: dict[str, Json] = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "stop": list(request.stop) or None,
        }
        body |= {name: value for name, value in optional.items() if value is not None}
        provider = self._account.provider.value
        body = as_object(parse_json(with_extra(body, request, known=_EXTRA, provider=provider)))
        return {**(_TEXT_SAMPLING if free else _JSON_SAMPLING), **body}

    async def _complete(
        self, body: dict[str, Json], on_delta: Callable[[str], None] | None, timeout_s: float
    ) -> LocalCompletion:
        cancelled = threading.Event()
        try:
            async with asyncio.timeout(timeout_s):
                await self._slots.acquire()
                loop = asyncio.get_running_loop()
                work = loop.run_in_executor(self._threads, self._engine.complete, body, on_delta, cancelled)
                # The slot is free when its thread is, which is a little after a cancelled caller has left.
                work.add_done_callback(self._release)
                return await asyncio.shield(work)
        except TimeoutError:
            raise UpstreamError(
                f"the embedded model gave no complete answer within {timeout_s:g} s", kind=UpstreamKind.TIMEOUT
            ) from None
        finally:
            cancelled.set()

    def _release(self, work: asyncio.Future[LocalCompletion]) -> None:
        self._slots.release()
        if not work.cancelled():
            # Nobody may be left to look at it.
            work.exception()

    async def _next(self, pieces: asyncio.Queue[str | None], wait_s: float | None) -> str | None:
        try:
            async with asyncio.timeout(wait_s):
                return await pieces.get()
        except TimeoutError:
            raise UpstreamError("the embedded model sent nothing for too long", kind=UpstreamKind.TIMEOUT) from None

    @asynccontextmanager
    async def _flight(self) -> AsyncIterator[None]:
        if self._closed:
            raise UpstreamError(f"the adapter of {self._account.name!r} is closed", kind=UpstreamKind.CONNECTION)
        self._flights += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._flights -= 1
            if self._flights == 0:
                self._idle.set()


def schema_gist(schema: Json, depth: int = 0) -> str:
    """Return the shape of ``schema`` in a few words: names, nesting and short choices, no values to copy."""
    fields = as_object(schema)
    properties, choices = as_object(fields.get("properties")), as_list(fields.get("enum"))
    shape = ""
    if properties and depth < _GIST_DEPTH_MAX:
        inner = ((name, schema_gist(item, depth + 1)) for name, item in properties.items())
        shape = "{" + ", ".join(f'"{name}": {part}' if part else f'"{name}"' for name, part in inner) + "}"
    elif "items" in fields or "prefixItems" in fields:
        first = (as_list(fields.get("prefixItems")) or [fields.get("items")])[0]
        shape = f"[{schema_gist(first, depth + 1)}]"
    elif choices:
        listed = "|".join(str(choice) for choice in choices)
        shape = listed if len(listed) <= _ENUM_CHARS_MAX else ""
    return shape if depth or len(shape) <= GIST_CHARS_MAX else "{" + ", ".join(f'"{name}"' for name in properties) + "}"


def _refuse(request: ChatRequest, provider: str) -> None:
    messages = list(enumerate(request.messages))
    refuse(
        {
            "tools": bool(request.tools),
            "n": request.choices > 1,
            "reasoning_effort": request.reasoning_effort not in (None, "none"),
            **{f"messages[{index}].images": bool(message.images) for index, message in messages},
            **{f"messages[{index}].tool_calls": bool(message.tool_calls) for index, message in messages},
            **{f"messages[{index}].role": message.role is Role.TOOL for index, message in messages},
            **{f"messages[{index}].name": message.name is not None for index, message in messages},
        },
        provider,
    )


def _shows_example(request: ChatRequest) -> bool:
    """Tell whether an earlier assistant turn is JSON: a worked example shows more than a gist, at the same price."""
    for message in request.messages:
        if message.role is Role.ASSISTANT:
            with contextlib.suppress(ValueError):
                if isinstance(parse_json(message.text), dict | list):
                    return True
    return False


def _say(messages: list[Json], line: str) -> None:
    """Append to the last message: the shared prefix before it stays in the engine's memory."""
    last = as_object(messages[-1])
    text = find_text(last.get("content"))
    last["content"] = f"{text}\n{line}" if text else line


def _finish(completion: LocalCompletion) -> FinishReason:
    return FinishReason.LENGTH if completion.finish_reason == "length" else FinishReason.STOP


def _usage(completion: LocalCompletion) -> Usage:
    return Usage(
        input_tokens=completion.input_tokens,
        output_tokens=completion.output_tokens,
        cache_read_tokens=completion.cached_tokens,
    )


def _threadsafe(loop: asyncio.AbstractEventLoop, put: Callable[[str], None], piece: str) -> None:
    loop.call_soon_threadsafe(put, piece)


def _number(account: AccountSpec, option: str, default: int) -> int:
    text = dict(account.options).get(option)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ConfigurationError(
            f"option {option} of account {account.name!r} is {text!r}",
            param=f"options.{option}",
            remedy="use a positive whole number",
        )
    return int(text)

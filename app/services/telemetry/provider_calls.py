"""What is told of one call at a provider: a span, and the metrics of how it ended. For replicas and account actors."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType

from app.domain.chat import NO_USAGE, Usage
from app.domain.events.fields import PROVIDERS
from app.domain.metric_names import Attribute
from app.domain.trace_context import TraceContext, current, enter
from app.services.telemetry import instruments
from app.services.telemetry.tracing import Span, span

CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class CallEnd:
    """How a call ended, as far as it is measured."""

    usage: Usage = NO_USAGE
    ttft_s: float | None = None
    error: str = ""
    """Its kind; empty where it was answered."""


class ProviderCall:
    """A call under way: enter it while it is sent, so that what is sent belongs under it, and end it once.

    Args:
        operation: As the convention calls it: `chat` or `embeddings`.
        provider: Who serves it.
        account: Which account of theirs.
        model: The public name.

    Not thread-safe; it may end in another task than it began in.
    """

    __slots__ = ("_account", "_before", "_began_s", "_model", "_operation", "_provider", "_told")

    def __init__(self, operation: str, provider: str, account: str, model: str) -> None:
        self._operation, self._account, self._model = operation, account, model
        self._provider = PROVIDERS.get(provider, provider)
        self._before: TraceContext | None = None
        self._began_s = time.perf_counter()
        told = span(operation, "client")
        self._told = told if isinstance(told, Span) else None
        if self._told is not None:
            self._told.rename(f"{operation} {model}")
            self._told.set(Attribute.OPERATION, operation)
            self._told.set(Attribute.PROVIDER, self._provider)
            self._told.set(Attribute.REQUEST_MODEL, model)
            self._told.set(Attribute.ACCOUNT, account)
            self._told.start()

    def __enter__(self) -> ProviderCall:
        if self._told is not None:
            self._before = current()
            enter(self._told.context)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        if self._told is not None:
            enter(self._before)

    def end(self, how: CallEnd) -> None:
        """Count the call, and end its span."""
        provider, model, account, usage = self._provider, self._model, self._account, how.usage
        duration_s = time.perf_counter() - self._began_s
        instruments.OPERATION_DURATION.observe(duration_s, self._operation, provider, model, account, how.error)
        if how.error and how.error != CANCELLED:
            instruments.REFUSALS.add(1, provider, account, how.error)
        known = bool(usage.input_tokens or usage.output_tokens)
        if known:
            for kind, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
                instruments.TOKEN_USAGE.observe(tokens, provider, model, kind)
                instruments.TOKENS_USED.add(tokens, provider, model, account, kind)
        if how.ttft_s is not None:
            instruments.FIRST_CHUNK.observe(how.ttft_s, provider, model)
        if self._told is not None:
            if known:
                self._told.set(Attribute.INPUT_TOKENS, usage.input_tokens)
                self._told.set(Attribute.OUTPUT_TOKENS, usage.output_tokens)
            self._told.set(Attribute.FIRST_CHUNK, how.ttft_s)
            self._told.end(how.error)

"""What we ask a model and what it answers, in one shape for every provider.

Adapters translate to and from this at the edge. Deliberately knows no wire format. Everything here crosses actor
borders: frozen, plain data, picklable, equal after.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias

from app.domain.values import Value

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""A JSON value."""


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class FinishReason(StrEnum):
    """Why generation ended, over all providers."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePart:
    """An image in a message: an https address, or base64 data with its media type."""

    url: str | None = None
    data_base64: str | None = None
    media_type: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A function call that a model made."""

    id: str
    name: str
    arguments: str
    """JSON text exactly as the model wrote it; may be invalid JSON."""
    signature: str | None = None
    """Gemini's thoughtSignature, to be passed back in later turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    text: str = ""
    images: tuple[ImagePart, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    """On a tool message: the call it answers."""
    name: str | None = None
    reasoning: str | None = None
    """Reasoning content of an earlier turn, preserved verbatim where the provider wants it back."""
    reasoning_signature: str | None = None
    parts: tuple[str | ImagePart, ...] = ()
    """Texts and images in the writer's order, where one text before the images would not show it; ``text`` and
    ``images`` then hold the same again, for whoever only counts or searches."""
    is_error: bool = False
    """On a tool message: the call failed, and the text says how."""
    cache_marks: tuple[tuple[int, str], ...] = ()
    """Ends of prompt prefixes worth caching, as (block, lifetime ``5m`` or ``1h``); blocks count ``pieces()``, then the
    tool calls, from 0. A hint: providers that cache by themselves ignore it."""

    def pieces(self) -> tuple[str | ImagePart, ...]:
        """Return texts and images in order."""
        return self.parts or ((self.text, *self.images) if self.text else self.images)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A function that the model may call; ``parameters`` is a JSON schema."""

    name: str
    description: str = ""
    parameters: dict[str, Json] | None = None
    strict: bool | None = None
    anthropic_fields: dict[str, Json] | None = None
    """Hints that only Anthropic's API knows, such as ``cache_control``, verbatim; other adapters ignore them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSchema:
    """The JSON schema that the answer must satisfy."""

    name: str
    schema: dict[str, Json]
    strict: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One call of a model, independent of who serves it.

    ``model`` is the upstream's own name by the time an adapter sees it.
    """

    model: str
    messages: tuple[Message, ...]
    output_tokens_max: int | None = None
    """Ceiling of the answer, reasoning included; None leaves it to the provider."""
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str | None = None
    """``auto``, ``none``, ``required``, or the name of one tool."""
    parallel_tool_calls: bool | None = None
    output: OutputSchema | Literal["json_object"] | None = None
    reasoning_effort: str | None = None
    """``none`` switches thinking off where the provider allows it; else low, medium, high."""
    stream: bool = False
    user: str | None = None
    choices: int = 1
    """The OpenAI field ``n``."""
    extra: tuple[tuple[str, str], ...] = ()
    """Provider-specific body fields as (name, JSON text), passed through where the provider takes them."""
    anthropic_fields: dict[str, Json] | None = None
    """Body fields in Anthropic's own words, verbatim: hints, and what ``reasoning_effort`` says in everyone's. Its
    adapter sends them in place of that; other adapters ignore them."""
    call_key: str | None = field(default=None, repr=False)
    """Our own name of the call, for providers that bill the same key once or find calls by it. Not what is asked:
    ``repr`` tells requests apart by that."""
    lost_at_s: float | None = field(default=None, repr=False)
    """When this very call, sent before under the same key, was lost; seconds since 1970. None: it was never sent."""
    begun_as: str | None = field(default=None, repr=False)
    """The provider's own name of this very call, which it makes without us: its answer is fetched and nothing is sent.
    None: it is not known to have begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Value):
    """What one call consumed, in tokens, under one definition for all providers.

    Adapters convert: Anthropic's ``input_tokens`` excludes cache, Gemini's ``candidatesTokenCount`` excludes thoughts.
    """

    input_tokens: int
    """Everything the provider read, cached parts included."""
    output_tokens: int
    """Everything the provider generated and bills as output, reasoning included."""
    cache_read_tokens: int = 0
    """Included in ``input_tokens``."""
    cache_write_tokens: int = 0
    """Included in ``input_tokens``."""
    cache_write_1h_tokens: int = 0
    """Included in ``cache_write_tokens``: those kept for an hour, where the provider tells them apart."""
    reasoning_tokens: int = 0
    """Included in ``output_tokens``."""
    source: Literal["provider", "estimated"] = "provider"

    def plus(self, other: Usage) -> Usage:
        """Add two usages; estimated if either is."""
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            cache_write_1h_tokens=self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            source="provider" if self.source == other.source == "provider" else "estimated",
        )


NO_USAGE = Usage(input_tokens=0, output_tokens=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitObservation(Value):
    """What a provider's headers said about one limit of this key.

    ``scope`` is requests, tokens, input_tokens or output_tokens; ``reset_s`` is seconds until the bucket is full again.
    """

    scope: Literal["requests", "tokens", "input_tokens", "output_tokens"]
    limit: int | None = None
    remaining: int | None = None
    reset_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatResult:
    """A complete answer."""

    text: str
    reasoning: str | None = None
    """Kept apart from ``text``; never shown as the answer."""
    reasoning_signature: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason = FinishReason.STOP
    usage: Usage = NO_USAGE
    model: str = ""
    """The model as the provider names it in its reply."""
    provider_id: str | None = None
    """The provider's own id of this reply."""
    refusal: str | None = None
    stop_sequence: str | None = None
    """Which of the request's ``stop`` ended the answer, where the provider says."""
    observations: tuple[LimitObservation, ...] = ()
    other_choices: tuple[ChatResult, ...] = ()
    """Choices 1.. when ``n`` > 1; their usage is zero, the first carries all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatDelta:
    """One event of a streamed answer. The last one carries ``finish_reason`` and ``usage``."""

    text: str = ""
    reasoning: str = ""
    reasoning_signature: str | None = None
    """Signs all reasoning so far: a later one replaces an earlier one."""
    tool_index: int | None = None
    """With this set, the tool fields below extend the call of that index."""
    tool_id: str | None = None
    tool_name: str | None = None
    tool_arguments: str = ""
    tool_signature: str | None = None
    choice: int = 0
    finish_reason: FinishReason | None = None
    stop_sequence: str | None = None
    """As in ``ChatResult``, with the finish reason."""
    usage: Usage | None = None
    model: str | None = None
    provider_id: str | None = None
    observations: tuple[LimitObservation, ...] = ()

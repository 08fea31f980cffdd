"""What passes between the wire formats and the engine: requests, plans, pieces of a stream, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import orjson

from app.simulator.config import Format, Profile
from app.simulator.json_reading import JsonObject
from app.simulator.limits import Gauge, LimitKind
from app.simulator.tokens import CHARS_PER_TOKEN, count_tokens

RefusalKind = LimitKind | Literal["auth", "no_balance", "invalid", "context", "not_found", "fault"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request as it came in."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    query: dict[str, str]
    raw: bytes
    """The body."""
    path_model: str | None = None
    """What the path says after its fixed part: Gemini's model and verb."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """A complete answer."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function the request offers."""

    name: str
    schema: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A chat request, whatever its format."""

    format: Format
    model: str
    text: str
    """The text of all messages, system included, joined by line breaks: what rules match and tokens are counted of."""
    last_text: str
    body: bytes = b""
    """The request as it came, for rules that look for what is no text: an image, a hint."""
    answers_tool: bool = False
    """The last message is a tool's result."""
    stream: bool = False
    max_tokens: int | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    """``auto``, ``none``, ``required`` or a tool's name."""
    schema: JsonObject | None = None
    schema_name: str | None = None
    json_object: bool = False
    n: int = 1
    include_usage: bool = False
    obfuscation: bool = True
    reasoning_off: bool = False
    hide_thoughts: bool = False
    as_array: bool = False
    """Gemini's stream without ``alt=sse``: a JSON array."""
    store: bool = False
    """OpenAI's: keep the completion, to be listed by ``metadata``."""
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt, at least one."""
        return max(1, count_tokens(self.text))

    @property
    def forced_tool(self) -> Tool | None:
        """The tool the request insists on."""
        if self.tool_choice in ("auto", "none") or not self.tools:
            return None
        return next((tool for tool in self.tools if tool.name == self.tool_choice), self.tools[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call in an answer."""

    name: str
    arguments: str
    """JSON, unless it was cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One alternative of an answer."""

    reasoning: str = ""
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish: str = "stop"
    """``stop``, ``length``, ``tool_calls``, ``content_filter``, or a provider's own word, passed on as it is."""

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the reasoning."""
        return count_tokens(self.reasoning)

    @property
    def output_tokens(self) -> int:
        """Tokens of everything, reasoning included."""
        calls = sum(count_tokens(call.arguments) for call in self.tool_calls)
        return self.reasoning_tokens + count_tokens(self.text) + calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An answer decided before its first byte."""

    request: ChatRequest
    choices: tuple[Choice, ...]
    profile: Profile
    latency_s: float
    number: int
    """Which request of this simulator it is; ids are made from it."""
    created_s: int

    @property
    def output_tokens(self) -> int:
        """Output of all choices, reasoning included."""
        return sum(choice.output_tokens for choice in self.choices)

    @property
    def reasoning_tokens(self) -> int:
        """Reasoning of all choices."""
        return sum(choice.reasoning_tokens for choice in self.choices)

    @property
    def cached_tokens(self) -> int:
        """The part of the prompt that was read from the cache."""
        return min(self.profile.cached_tokens, self.request.input_tokens)


@dataclass(frozen=True, slots=True)
class Piece:
    """One step of a stream."""

    kind: Literal["reasoning", "text", "tool_start", "tool", "finish"]
    choice: int
    text: str = ""
    tool: int = 0

    @property
    def tokens(self) -> int:
        """Output tokens that this piece carries."""
        return 0 if self.kind in ("tool_start", "finish") else count_tokens(self.text)


def pieces(plan: Plan) -> Iterator[Piece]:
    """Yield an answer in stream order: per choice its reasoning, text, tool calls, and its end."""
    size = plan.profile.chunk_tokens * CHARS_PER_TOKEN
    for index, choice in enumerate(plan.choices):
        for part in _slices(choice.reasoning, size):
            yield Piece("reasoning", index, part)
        for part in _slices(choice.text, size):
            yield Piece("text", index, part)
        for number, call in enumerate(choice.tool_calls):
            yield Piece("tool_start", index, "", number)
            for part in _slices(call.arguments, size):
                yield Piece("tool", index, part, number)
        yield Piece("finish", index)


def _slices(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


class Refusal(Exception):
    """A request that gets an error instead of an answer.

    Args:
        kind: Why.
        message: The provider's words.
        status: HTTP status, where the kind does not decide it.
    """

    def __init__(self, kind: RefusalKind, message: str, *, status: int | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status
        self.param = param
        self.retry_after: str | None = None
        """As a header says it; seconds where it is a number."""
        self.quota_id: str | None = None
        self.limit: int | None = None
        self.headers_shown = True


def json_body(raw: bytes) -> JsonObject:
    """Return a request's body.

    Raises:
        Refusal: it is no JSON object.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Refusal("invalid", f"We could not parse the JSON body of your request: {error}.") from None
    if not isinstance(body, dict):
        raise Refusal("invalid", "The body of your request must be a JSON object.")
    return body


Gauges = dict[LimitKind, Gauge]


class StreamEncoder(Protocol):
    """Writes one answer as a stream."""

    media_type: str

    def open(self) -> bytes:
        """Return what comes before the first piece."""

    def piece(self, piece: Piece) -> bytes:
        """Return one piece; empty where the format sends nothing for it."""

    def close(self) -> bytes:
        """Return what comes after the last piece."""

    def error(self) -> bytes:
        """Return an error in the middle of a stream."""

    def garbage(self) -> bytes:
        """Return something in the middle of a stream that does not parse."""

    def keep_alive(self) -> bytes:
        """Return what is sent while the answer is queued."""


class Wire(Protocol):
    """One provider's format."""

    format: Format

    def key_of(self, http: HttpRequest) -> str | None:
        """Return the API key."""

    def parse(self, http: HttpRequest) -> ChatRequest:
        """Return the request, or raise a Refusal."""

    def success_headers(self, gauges: Gauges, *, number: int) -> dict[str, str]:
        """Return the headers of an answer: its id and the limits."""

    def body(self, plan: Plan) -> bytes:
        """Return a whole answer."""

    def stream(self, plan: Plan) -> StreamEncoder:
        """Return the writer of a streamed answer."""

    def error(self, refusal: Refusal, *, model: str | None, number: int, as_array: bool) -> HttpAnswer:
        """Return an error as the provider words it."""

"""What a provider's wire format must say, free of I/O, so that one adapter can speak all of them.

Also holds the checks and estimates that every format shares. Implemented in ``openai_compat``, ``anthropic`` and
``gemini``; driven by ``http_adapter``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from app.domain.accounts import AccountSpec, ModelInfo, StructuredOutput
from app.domain.chat import ChatDelta, ChatRequest, ChatResult, FinishReason, Json, Role, ToolCall, Usage
from app.domain.errors import ConfigurationError, NotFoundError, RequestError, UpstreamError, UpstreamKind
from app.domain.estimate import estimate_tokens, text_tokens
from app.providers.classify import garbage
from app.providers.http_client import WireCall
from app.providers.payload import dump_json, parse_json
from app.providers.sse import SseEvent

_KEY = re.compile(r"[!-~]+")
_NEUTRAL = {"frequency_penalty": ("0", "0.0"), "presence_penalty": ("0", "0.0"), "logit_bias": ("{}",)}
"""Extra fields that ask for what every provider does anyway; many clients always send them."""
_PLAIN_CHARS_PER_TOKEN = 4.0
"""The ratio that ``app/domain/estimate`` is made for."""


class StreamDecoder(Protocol):
    """Turns the events of one streamed answer into deltas.

    ``feed`` and ``end`` raise UpstreamError for error events and garbage; a ValueError from ``feed`` means JSON that
    does not parse.
    """

    @property
    def began(self) -> bool:
        """Something of the answer has come."""

    @property
    def complete(self) -> bool:
        """The answer's finish reason has come; what may follow is bookkeeping."""

    @property
    def finished(self) -> bool:
        """The stream's last word has come; nothing follows."""

    def feed(self, event: SseEvent) -> Sequence[ChatDelta]: ...

    def end(self) -> ChatDelta:
        """Return the last delta, once the answer is complete; raises GARBAGE for a blank answer."""


class Wire(Protocol):
    """One provider's wire format for one account."""

    provider: str

    def encode(self, request: ChatRequest, *, stream: bool) -> WireCall:
        """Return the HTTP request; raises RequestError naming the field that cannot be translated."""

    def decode(self, body: Json, request: ChatRequest) -> ChatResult:
        """Return the answer in a success body; raises UpstreamError."""

    def decoder(self, request: ChatRequest) -> StreamDecoder:
        """Return a decoder of one stream."""

    def list_models(self) -> WireCall:
        """Return the request that lists models and costs nothing."""

    def decode_models(self, body: Json) -> tuple[tuple[str, ...], bool]:
        """Return the models' upstream names and whether the list is complete."""


@runtime_checkable
class Finder(Protocol):
    """A wire whose provider finds calls by a key that we sent with them."""

    def find(self, request: ChatRequest) -> WireCall:
        """Return the request that lists what was answered under the key of ``request``."""

    def decode_found(self, body: Json) -> Json:
        """Return the answer among what was listed, as ``Wire.decode`` takes it; None where there is none (yet)."""


class BackgroundWire(Wire, Protocol):
    """A wire whose provider makes calls without us and keeps their answers, under the ``id`` that it gives at once."""

    def begin(self, request: ChatRequest) -> WireCall:
        """Return the request that begins a call; raises RequestError naming the field that cannot be translated."""

    def look(self, name: str) -> WireCall:
        """Return the request that says how far a call is."""

    def stop(self, name: str) -> WireCall:
        """Return the request that stops a call."""

    def has_ended(self, body: Json) -> bool:
        """Tell from the answer to ``look`` whether there is nothing more to come."""

    def decode_ended(self, body: Json) -> Json:
        """Return the answer in it as ``Wire.decode`` takes it; None where it ended without one."""


def wire_key(request: ChatRequest, *, stream: bool) -> str | None:
    """Return our name of a call as providers get it: short, of plain letters, and telling them nothing.

    Model and streaming are part of it: asked otherwise, the same call is another request, which a provider would refuse
    under the same key.
    """
    if request.call_key is None:
        return None
    name = f"{request.call_key} {request.model} {'stream' if stream else 'whole'}"
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


class ModelTable:
    """The models of one account, found by public or upstream name.

    Args:
        account: Whose models they are.
        models: What is known of them.
        structured: What to assume of a model that is not among ``models``.
    """

    def __init__(self, account: AccountSpec, models: Sequence[ModelInfo], structured: StructuredOutput) -> None:
        known = {model.name: model for model in models}
        self._account = account.name
        self._structured = structured
        self._by_name = dict(known)
        for public, upstream in account.models:
            if public in known:
                self._by_name.setdefault(upstream, known[public])

    def get(self, name: str) -> ModelInfo:
        """Return the model; raises NotFoundError."""
        found = self._by_name.get(name)
        if found is None:
            raise NotFoundError(f"account {self._account!r} does not serve model {name!r}", param="model")
        return found

    def assume(self, name: str) -> ModelInfo:
        """Return the model, or cautious assumptions about an unknown one."""
        found = self._by_name.get(name)
        return found or ModelInfo(name=name, family="unknown", structured=self._structured)

    def tokens(self, request: ChatRequest) -> int:
        """Return the estimated input tokens of ``request`` for its model."""
        return round(estimate_tokens(request) * _PLAIN_CHARS_PER_TOKEN / self.assume(request.model).chars_per_token)


def check_request(request: ChatRequest) -> None:
    """Refuse what no provider can translate.

    Raises:
        RequestError: names the field.
    """
    if not request.messages:
        raise RequestError("there is no message", param="messages", remedy="send at least one")
    if request.choices < 1:
        raise RequestError(f"choices is {request.choices!r}", param="n", remedy="use 1 or more")
    if request.output_tokens_max is not None and request.output_tokens_max < 1:
        raise RequestError(f"max_tokens is {request.output_tokens_max!r}", param="max_tokens", remedy="use 1 or more")
    choice = request.tool_choice
    if choice not in (None, "auto", "none") and not request.tools:
        raise RequestError(f"tool_choice is {choice!r} but there are no tools", param="tool_choice")
    if choice not in (None, "auto", "none", "required") and choice not in {tool.name for tool in request.tools}:
        raise RequestError(f"tool_choice names {choice!r}, which is not among the tools", param="tool_choice")
    for index, message in enumerate(request.messages):
        where = f"messages[{index}]"
        if message.role is Role.TOOL and not message.tool_call_id:
            raise RequestError("a tool message answers no call", param=f"{where}.tool_call_id")
        if message.tool_calls and message.role is not Role.ASSISTANT:
            raise RequestError("only an assistant message may hold tool calls", param=f"{where}.tool_calls")
        for image in message.images:
            if (image.url is None) == (image.data_base64 is None) or (image.data_base64 and not image.media_type):
                raise RequestError(
                    "an image needs either an address, or data with its media type", param=f"{where}.images"
                )


def refuse(unsupported: Mapping[str, bool], provider: str) -> None:
    """Raise RequestError for the first field that is set and that ``provider`` has no word for."""
    for param, is_set in unsupported.items():
        if is_set:
            raise RequestError(
                f"{param} cannot be translated for {provider}", param=param, remedy="leave it out, or use another model"
            )


def tool_arguments(call: ToolCall, where: str) -> dict[str, Json]:
    """Return a call's arguments as an object, for formats that carry no text; raises RequestError."""
    try:
        value = parse_json(call.arguments or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise RequestError(f"the arguments of {call.name!r} are no JSON object", param=f"{where}.arguments")
    return value


def with_extra(
    body: dict[str, Json],
    request: ChatRequest,
    *,
    reserved: frozenset[str] = frozenset(),
    known: frozenset[str] | None = None,
    provider: str = "",
) -> bytes:
    """Return the body as bytes, provider-specific fields added; objects merge one level deep.

    Args:
        body: What the request means to the provider so far.
        request: Whose extra fields are added.
        reserved: Names that may not be added because the request has its own field for them.
        known: Names that the provider takes; others are refused. None takes all: compatible servers differ.
        provider: For refusals.

    Raises:
        RequestError: a field is no JSON, already means something in the request, or means nothing to the provider.
    """
    for name, text in request.extra:
        if known is not None and name not in known:
            refuse({name: text not in _NEUTRAL.get(name, ())}, provider)
            continue
        try:
            value = parse_json(text)
        except ValueError:
            raise RequestError(f"extra field {name!r} is not JSON", param=name) from None
        old = body.get(name)
        clash = name in reserved or (name in body and not (isinstance(old, dict) and isinstance(value, dict)))
        if clash or (isinstance(old, dict) and isinstance(value, dict) and old.keys() & value.keys()):
            raise RequestError(f"extra field {name!r} contradicts the request", param=name)
        body[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    try:
        return dump_json(body).encode()
    except TypeError:
        # The serialiser ends at 254 levels; the reader of the client's body allows more.
        raise RequestError("the request is nested too deeply", param="messages", remedy="use fewer levels") from None


def schema_instruction(request: ChatRequest) -> str | None:
    """Return the sentence that asks for JSON in words, for endpoints that cannot enforce a schema."""
    if request.output is None:
        return None
    if isinstance(request.output, str):
        return "Answer with one JSON object and nothing else."
    schema = dump_json(request.output.schema)
    return f"Answer with one json value and nothing else. It must satisfy this JSON schema:\n{schema}"


def estimated_usage(request: ChatRequest, *answer: str) -> Usage:
    """Return what a call consumed by our own estimate, where the provider did not say."""
    return Usage(
        input_tokens=estimate_tokens(request),
        output_tokens=sum(text_tokens(part) for part in answer),
        source="estimated",
    )


def refuse_blank(result: ChatResult, request: ChatRequest, provider: str) -> ChatResult:
    """Return ``result`` unless it holds no answer although the provider calls it finished; raises GARBAGE.

    An answer cut by its length limit or refused is not blank. Nor is reasoning that holds the JSON that was asked for:
    some servers put it there, and the repair ladder reads it.
    """
    answers = (result, *result.other_choices)
    if all(_is_blank(answer, request) for answer in answers):
        raise garbage(provider, "gave a blank answer", billed=True)
    return result


def check_key(account: AccountSpec, *, required: bool = True) -> None:
    """Raise ConfigurationError for a key that is missing or cannot stand in a header; it is never shown."""
    if not account.api_key and not required:
        return
    if not _KEY.fullmatch(account.api_key):
        what = "holds blanks or characters outside ASCII" if account.api_key else "is missing"
        raise ConfigurationError(
            f"the api_key of account {account.name!r} {what}", param="api_key", remedy="copy the key again"
        )


def base_url(account: AccountSpec, default: str | None) -> str:
    """Return the account's base address without a trailing slash; raises ConfigurationError."""
    url = (account.base_url or default or "").rstrip("/")
    if not url:
        raise ConfigurationError(
            f"account {account.name!r} has no base_url",
            param="base_url",
            remedy="name the server, for instance http://127.0.0.1:8080/v1",
        )
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigurationError(
            f"the base_url of account {account.name!r} is no plain http or https address",
            param="base_url",
            remedy="write scheme, host, port and path only; the key belongs into api_key",
        )
    return url


def versioned(url: str, version: str) -> str:
    """Return ``url`` ending with the API's version, which users sometimes include."""
    return url if url.endswith(f"/{version}") else f"{url}/{version}"


def broken_off(provider: str, *, began: bool) -> UpstreamError:
    """Return the error for a stream that ended before the answer did."""
    return UpstreamError(
        f"{provider}'s stream ended before its answer did", kind=UpstreamKind.CUT, billed=True if began else None
    )


def _is_blank(result: ChatResult, request: ChatRequest) -> bool:
    if result.finish_reason in (FinishReason.LENGTH, FinishReason.CONTENT_FILTER) or result.refusal:
        return False
    if result.text.strip("\ufeff\u200b \t\r\n") or result.tool_calls:
        return False
    return request.output is None or "{" not in (result.reasoning or "")

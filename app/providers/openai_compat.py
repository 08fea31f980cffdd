"""The OpenAI chat-completions format, as OpenAI, DeepSeek, Qwen and OpenAI-compatible servers speak it.

One translation; where the servers differ, a ``Dialect`` says how. Reading answers is in ``openai_reply``. Reasoning of
earlier turns is sent back only where the dialect wants it: elsewhere it is refused or ignored, so it is left out by
design. Source: the providers' API references and openai-python's types, as of 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import quote, urlencode

from app.domain.accounts import AccountSpec, EndpointClass, ModelInfo, StructuredOutput
from app.domain.chat import ChatRequest, ChatResult, ImagePart, Json, Message, Role, ToolSpec
from app.providers import openai_reply, openai_responses
from app.providers.embeddings import OpenAIEmbeddings
from app.providers.http_adapter import HttpAdapter
from app.providers.http_background import BackgroundHttpAdapter
from app.providers.http_batches import BatchHttpAdapter
from app.providers.http_client import WireCall
from app.providers.openai_batches import OpenAIBatches
from app.providers.payload import as_list, as_object, dump_json, find_text, parse_json
from app.providers.wire import ModelTable, base_url, check_key, refuse, schema_instruction, wire_key, with_extra

KEY_NAME = "tutti_call"
"""Among a stored completion's metadata: our key."""
_FAILED = "The tool failed:"
_RESERVED = frozenset(("n", "functions", "function_call"))


class ReasoningBack(StrEnum):
    """Whether reasoning of earlier turns goes back to the provider."""

    NEVER = "never"
    TOOL_TURNS = "tool_turns"
    """With turns that call tools, where there is any."""
    TOOL_TURNS_ALWAYS = "tool_turns_always"
    """With every turn that calls tools, if only as an empty string."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one server's chat completions differ from OpenAI's."""

    base_url: str | None
    """Default address; None means that the account must give one."""
    max_tokens: str = "max_tokens"
    """Name of the field that bounds the answer."""
    efforts: Mapping[str, dict[str, Json]] = field(default_factory=dict)
    """Body fields for a reasoning effort; one that is not here is sent as ``reasoning_effort``."""
    reasoning_back: ReasoningBack = ReasoningBack.NEVER
    user: str = "user"
    """Name of the field for the end user's id."""
    images: bool = True
    text_parts: bool = False
    """Several texts in a message stay apart; other servers may take one text only, and get lines."""
    structured: StructuredOutput = StructuredOutput.NONE
    """What to assume of a model that the model table does not know."""
    refused: frozenset[str] = frozenset()
    """Request fields that the server ignores in silence: we refuse them instead."""
    stream_options: dict[str, Json] = field(default_factory=lambda: {"include_usage": True})
    key_required: bool = True
    embeddings: bool = True
    strict_tools_path: str | None = None
    """Strict tools work only at base addresses that end with this."""


OPENAI = Dialect(
    base_url="https://api.openai.com/v1",
    max_tokens="max_completion_tokens",
    user="safety_identifier",
    text_parts=True,
    structured=StructuredOutput.SCHEMA,
    stream_options={"include_usage": True, "include_obfuscation": False},
)
DEEPSEEK = Dialect(
    base_url="https://api.deepseek.com",
    efforts={
        "none": {"thinking": {"type": "disabled"}},
        "minimal": {"reasoning_effort": "low"},
        "low": {"reasoning_effort": "low"},
        "medium": {"reasoning_effort": "high"},
        "high": {"reasoning_effort": "high"},
        "xhigh": {"reasoning_effort": "max"},
    },
    reasoning_back=ReasoningBack.TOOL_TURNS_ALWAYS,
    user="user_id",
    images=False,
    embeddings=False,
    structured=StructuredOutput.JSON_OBJECT,
    refused=frozenset(("n", "seed", "parallel_tool_calls")),
    strict_tools_path="/beta",
)
QWEN = Dialect(
    # Keys are bound to a region; this is the international one, others are named in the account's base_url.
    base_url="https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
    efforts={
        "none": {"enable_thinking": False},
        "low": {"enable_thinking": True, "thinking_budget": 2_048},
        "medium": {"enable_thinking": True, "thinking_budget": 8_192},
        # Without a budget the model's own maximum holds.
        "high": {"enable_thinking": True},
    },
    structured=StructuredOutput.JSON_OBJECT,
)
CUSTOM = Dialect(base_url=None, reasoning_back=ReasoningBack.TOOL_TURNS, key_required=False)


class OpenAIWire:
    """Speaks chat completions for one account; implements ``wire.Wire``.

    Args:
        account: Key and address.
        models: What its models can enforce.
        dialect: How its server differs.

    Raises:
        ConfigurationError: key or address cannot be used.
    """

    def __init__(self, account: AccountSpec, models: ModelTable, dialect: Dialect) -> None:
        check_key(account, required=dialect.key_required)
        self.provider = str(account.provider)
        self._models = models
        self._dialect = dialect
        self._url = base_url(account, dialect.base_url)
        self._lookup = account.endpoint is EndpointClass.LOOKUP
        self._headers = {"content-type": "application/json"}
        if account.api_key:
            self._headers["authorization"] = f"Bearer {account.api_key}"
        for option in ("organization", "project"):
            value = dict(account.options).get(option)
            if value:
                self._headers[f"openai-{option}"] = value

    def embeddings(self) -> OpenAIEmbeddings:
        """Return the wire of the same account's embeddings."""
        return OpenAIEmbeddings(provider=self.provider, url=self._url, headers=self._headers)

    def batches(self) -> OpenAIBatches:
        """Return how the same account's batches are spoken of."""
        return OpenAIBatches(self._url, self._headers)

    def encode(self, request: ChatRequest, *, stream: bool) -> WireCall:
        """See ``wire.Wire``."""
        dialect, model = self._dialect, self._models.assume(request.model)
        self._refuse(request)
        body: dict[str, Json] = {
            "model": request.model,
            "messages": self._messages(request, model),
            "stream": stream,
        }
        if stream:
            body["stream_options"] = dict(dialect.stream_options)
        optional: dict[str, Json] = {
            dialect.max_tokens: request.output_tokens_max,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop": list(request.stop) or None,
            "seed": request.seed,
            "parallel_tool_calls": request.parallel_tool_calls,
            dialect.user: request.user,
            "n": request.choices if request.choices > 1 else None,
            "tools": [_tool(tool) for tool in request.tools] or None,
            "tool_choice": _tool_choice(request.tool_choice),
            "response_format": _response_format(request, model),
        }
        if "parallel_tool_calls" in dialect.refused:
            # Calls in parallel are this server's own way; only their absence cannot be asked for.
            del optional["parallel_tool_calls"]
        body |= {name: value for name, value in optional.items() if value is not None}
        if request.reasoning_effort is not None:
            body |= dialect.efforts.get(request.reasoning_effort, {"reasoning_effort": request.reasoning_effort})
        key = wire_key(request, stream=stream) if self._lookup else None
        if key is not None and not any(name == "store" for name, _text in request.extra):
            body |= {"store": True, "metadata": {KEY_NAME: key}}
        return WireCall(
            url=f"{self._url}/chat/completions",
            headers=self._headers,
            body=with_extra(body, request, reserved=_RESERVED),
        )

    def decode(self, body: Json, request: ChatRequest) -> ChatResult:
        """See ``wire.Wire``."""
        return openai_reply.decode(body, request, self.provider)

    def decoder(self, request: ChatRequest) -> openai_reply.OpenAIStream:
        """See ``wire.Wire``."""
        return openai_reply.OpenAIStream(request, self.provider)

    def find(self, request: ChatRequest) -> WireCall:
        """See ``wire.Finder``: the list of stored completions, by our key among their metadata."""
        query = urlencode({f"metadata[{KEY_NAME}]": wire_key(request, stream=False), "limit": 1})
        return WireCall(method="GET", url=f"{self._url}/chat/completions?{query}", headers=self._headers)

    def decode_found(self, body: Json) -> Json:
        """See ``wire.Finder``."""
        listed = as_list(as_object(body).get("data"))
        return listed[0] if listed else None

    def begin(self, request: ChatRequest) -> WireCall:
        """See ``wire.BackgroundWire``: a response in the background, which knows every field but a few."""
        chat = as_object(parse_json(self.encode(request, stream=False).body))
        refuse({name: name in chat for name in openai_responses.UNSAYABLE}, self.provider)
        key = wire_key(request, stream=False)
        if key is not None:
            chat["metadata"] = {KEY_NAME: key, **as_object(chat.get("metadata"))}
        body = dump_json(openai_responses.background_body(chat)).encode()
        return WireCall(url=f"{self._url}/responses", headers=self._headers, body=body)

    def look(self, name: str) -> WireCall:
        """See ``wire.BackgroundWire``."""
        return WireCall(method="GET", url=f"{self._url}/responses/{quote(name, safe='')}", headers=self._headers)

    def stop(self, name: str) -> WireCall:
        """See ``wire.BackgroundWire``."""
        return WireCall(url=f"{self._url}/responses/{quote(name, safe='')}/cancel", headers=self._headers)

    def has_ended(self, body: Json) -> bool:
        """See ``wire.BackgroundWire``."""
        return as_object(body).get("status") not in openai_responses.UNDER_WAY

    def decode_ended(self, body: Json) -> Json:
        """See ``wire.BackgroundWire``."""
        answered = as_object(body).get("status") in ("completed", "incomplete")
        return openai_responses.completion_of(body) if answered else None

    def list_models(self) -> WireCall:
        """See ``wire.Wire``."""
        return WireCall(method="GET", url=f"{self._url}/models", headers=self._headers)

    def decode_models(self, body: Json) -> tuple[tuple[str, ...], bool]:
        """See ``wire.Wire``."""
        rows = as_list(as_object(body).get("data"))
        names = tuple(name for row in rows if (name := find_text(as_object(row).get("id"))))
        return names, not as_object(body).get("has_more")

    def _refuse(self, request: ChatRequest) -> None:
        dialect = self._dialect
        strict_path = dialect.strict_tools_path
        refuse(
            {
                "n": "n" in dialect.refused and request.choices > 1,
                "seed": "seed" in dialect.refused and request.seed is not None,
                "parallel_tool_calls": "parallel_tool_calls" in dialect.refused
                and request.parallel_tool_calls is False,
                **{
                    f"tools[{index}].strict": strict_path is not None
                    and bool(tool.strict)
                    and not self._url.endswith(strict_path)
                    for index, tool in enumerate(request.tools)
                },
                **{
                    f"messages[{index}].images": bool(message.images)
                    and (not dialect.images or message.role is not Role.USER)
                    for index, message in enumerate(request.messages)
                },
            },
            self.provider,
        )

    def _messages(self, request: ChatRequest, model: ModelInfo) -> list[Json]:
        thinking = request.reasoning_effort != "none"
        messages: list[Json] = [self._message(message, model, thinking) for message in request.messages]
        instruction = _instruction(request, model)
        if instruction is not None:
            _add_instruction(messages, instruction)
        return messages

    def _message(self, message: Message, model: ModelInfo, thinking: bool) -> dict[str, Json]:
        wire: dict[str, Json] = {"role": message.role.value, "content": message.text}
        if message.images or (message.parts and self._dialect.text_parts):
            wire["content"] = [
                {"type": "text", "text": piece} if isinstance(piece, str) else _image(piece)
                for piece in message.pieces()
            ]
        if message.is_error:
            # This format has no field for it; without the word, a failure may read like a result.
            old = wire["content"]
            told: Json = {"type": "text", "text": _FAILED}
            wire["content"] = [told, *old] if isinstance(old, list) else f"{_FAILED}\n{message.text}"
        if message.name is not None and message.role is not Role.TOOL:
            wire["name"] = message.name
        if message.tool_call_id is not None:
            wire["tool_call_id"] = message.tool_call_id
        if message.tool_calls:
            wire["content"] = wire["content"] or None
            wire["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in message.tool_calls
            ]
            back = self._dialect.reasoning_back
            if back is not ReasoningBack.NEVER and thinking and not model.strip_reasoning:
                # DeepSeek refuses a tool turn without the field, even where there was no reasoning.
                empty = "" if back is ReasoningBack.TOOL_TURNS_ALWAYS else None
                reasoning = message.reasoning if message.reasoning is not None else empty
                if reasoning is not None:
                    wire["reasoning_content"] = reasoning
        return wire


def _adapter(account: AccountSpec, models: Sequence[ModelInfo], dialect: Dialect) -> HttpAdapter:
    table = ModelTable(account, models, dialect.structured)
    wire = OpenAIWire(account, table, dialect)
    embeddings = wire.embeddings() if dialect.embeddings else None
    if account.endpoint is EndpointClass.REATTACH:
        return BackgroundHttpAdapter(account, table, wire, embeddings)
    if account.endpoint is EndpointClass.BATCH:
        return BatchHttpAdapter(account, table, wire, wire.batches(), embeddings)
    return HttpAdapter(account, table, wire, embeddings)


def create_openai(account: AccountSpec, models: Sequence[ModelInfo]) -> HttpAdapter:
    """Return an adapter of api.openai.com."""
    return _adapter(account, models, OPENAI)


def create_deepseek(account: AccountSpec, models: Sequence[ModelInfo]) -> HttpAdapter:
    """Return an adapter of api.deepseek.com."""
    return _adapter(account, models, DEEPSEEK)


def create_qwen(account: AccountSpec, models: Sequence[ModelInfo]) -> HttpAdapter:
    """Return an adapter of DashScope's OpenAI mode."""
    return _adapter(account, models, QWEN)


def create_custom(account: AccountSpec, models: Sequence[ModelInfo]) -> HttpAdapter:
    """Return an adapter of any OpenAI-compatible server."""
    return _adapter(account, models, CUSTOM)


def _tool(tool: ToolSpec) -> dict[str, Json]:
    function: dict[str, Json] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(choice: str | None) -> Json:
    if choice in (None, "auto", "none", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}


def _image(image: ImagePart) -> dict[str, Json]:
    address: dict[str, Json] = {"url": image.url or f"data:{image.media_type};base64,{image.data_base64}"}
    if image.detail is not None:
        address["detail"] = image.detail
    return {"type": "image_url", "image_url": address}


def _response_format(request: ChatRequest, model: ModelInfo) -> Json:
    if request.output is None or model.structured is StructuredOutput.NONE:
        return None
    if isinstance(request.output, str) or model.structured is StructuredOutput.JSON_OBJECT:
        return {"type": "json_object"}
    output = request.output
    return {
        "type": "json_schema",
        "json_schema": {"name": output.name, "schema": output.schema, "strict": output.strict},
    }


def _instruction(request: ChatRequest, model: ModelInfo) -> str | None:
    """Return what the prompt must say about JSON: the schema where it is not enforced, else at least the word.

    OpenAI and DeepSeek refuse ``json_object`` unless a message says "json".
    """
    if isinstance(request.output, str) and model.structured is not StructuredOutput.NONE:
        said = any("json" in message.text.lower() for message in request.messages)
        return None if said else schema_instruction(request)
    if model.structured is StructuredOutput.SCHEMA:
        return None
    return schema_instruction(request)


def _add_instruction(messages: list[Json], instruction: str) -> None:
    """Append to the last leading system message, which keeps the prompt's shared prefix; else lead with it."""
    leading = -1
    for index, message in enumerate(messages):
        if as_object(message).get("role") != Role.SYSTEM.value:
            break
        leading = index
    if leading < 0:
        messages.insert(0, {"role": Role.SYSTEM.value, "content": instruction})
        return
    system = as_object(messages[leading])
    parts = as_list(system.get("content"))
    if parts:
        system["content"] = [*parts, {"type": "text", "text": instruction}]
        return
    text = find_text(system.get("content"))
    system["content"] = f"{text}\n\n{instruction}" if text else instruction

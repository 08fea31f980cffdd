"""The Anthropic Messages format. Reading answers is in ``anthropic_reply``.

System messages move to the top, whatever their place; turns of one role in a row are merged, as the API wants it.
Thinking goes back with its signature and never without one. Source: the API reference and
anthropic-sdk-python's types, as of 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from app.domain.accounts import AccountSpec, ModelInfo, StructuredOutput
from app.domain.chat import ChatRequest, ChatResult, ImagePart, Json, Message, Role, ToolCall, ToolSpec
from app.domain.errors import RequestError
from app.domain.thinking import thinking_blocks
from app.providers.anthropic_reply import AnthropicStream, decode
from app.providers.http_adapter import HttpAdapter
from app.providers.http_client import WireCall
from app.providers.payload import as_list, as_object, find_text
from app.providers.wire import (
    ModelTable,
    StreamDecoder,
    base_url,
    check_key,
    refuse,
    schema_instruction,
    tool_arguments,
    versioned,
    with_extra,
)

VERSION = "2023-06-01"
_URL = "https://api.anthropic.com"
_RESERVED = frozenset(("max_tokens", "system"))
_EXTRA = frozenset(
    (
        "cache_control",
        "container",
        "inference_geo",
        "output_config",
        "service_tier",
        "speed",
        "thinking",
        "top_k",
    )
)
"""Fields beyond our own that Messages takes without a beta header; it refuses all others."""

_BUDGET_MODELS = re.compile(r"claude-3|claude-(opus|sonnet|haiku)-4(-[015])?(-\d{8})?$")
"""Models of before adaptive thinking: they take a budget in tokens instead of an effort."""
_THINKING_BUDGETS = {"minimal": 1_024, "low": 1_024, "medium": 4_096, "high": 16_384}
_THINKING_BUDGET_MIN = 1_024
_EFFORTS = {"minimal": "low"}

# What the grammar compiler refuses; the words go into the description, as Anthropic's own SDK does it.
_UNENFORCED = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "maxItems",
    "uniqueItems",
)
_TOOL_ID = re.compile(r"[^a-zA-Z0-9_-]")


def create(account: AccountSpec, models: Sequence[ModelInfo]) -> HttpAdapter:
    """Return an adapter of api.anthropic.com, or of whoever speaks its format at the account's ``base_url``."""
    table = ModelTable(account, models, StructuredOutput.SCHEMA)
    return HttpAdapter(account, table, AnthropicWire(account, table))


class AnthropicWire:
    """Speaks Messages for one account; implements ``wire.Wire``.

    Raises:
        ConfigurationError: key or address cannot be used.
    """

    def __init__(self, account: AccountSpec, models: ModelTable) -> None:
        check_key(account)
        self.provider = str(account.provider)
        self._models = models
        self._url = versioned(base_url(account, _URL), "v1")
        self._headers = {
            "content-type": "application/json",
            "x-api-key": account.api_key,
            "anthropic-version": VERSION,
        }

    def encode(self, request: ChatRequest, *, stream: bool) -> WireCall:
        """See ``wire.Wire``."""
        model = self._models.assume(request.model)
        _refuse(request, self.provider)
        body: dict[str, Json] = {
            "model": request.model,
            # Required here; without a wish it is all that the model can give.
            "max_tokens": request.output_tokens_max or model.output_tokens_max,
            "messages": _turns(request, strip_reasoning=model.strip_reasoning),
            "stream": stream,
        }
        optional: dict[str, Json] = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop_sequences": list(request.stop) or None,
            "metadata": {"user_id": request.user} if request.user else None,
            "tools": [_tool(tool) for tool in request.tools] or None,
            "tool_choice": _tool_choice(request),
        }
        body |= {name: value for name, value in optional.items() if value is not None}
        own = request.anthropic_fields or {}
        body |= own
        if "thinking" not in own and "output_config" not in own:
            _add_reasoning(body, request)
        instruction = _add_output(body, request, model)
        system = _system(request, instruction)
        if system is not None:
            body["system"] = system
        return WireCall(
            url=f"{self._url}/messages",
            headers=self._headers,
            body=with_extra(body, request, reserved=_RESERVED, known=_EXTRA, provider=self.provider),
        )

    def decode(self, body: Json, request: ChatRequest) -> ChatResult:
        """See ``wire.Wire``."""
        return decode(body, request, self.provider, answer_tool=self._answer_tool(request))

    def decoder(self, request: ChatRequest) -> StreamDecoder:
        """See ``wire.Wire``."""
        return AnthropicStream(request, self.provider, answer_tool=self._answer_tool(request))

    def list_models(self) -> WireCall:
        """See ``wire.Wire``."""
        return WireCall(method="GET", url=f"{self._url}/models?limit=1000", headers=self._headers)

    def decode_models(self, body: Json) -> tuple[tuple[str, ...], bool]:
        """See ``wire.Wire``."""
        # Aliases are accepted in calls and not listed, so a missing name proves nothing.
        rows = as_list(as_object(body).get("data"))
        return tuple(name for row in rows if (name := find_text(as_object(row).get("id")))), False

    def _answer_tool(self, request: ChatRequest) -> str | None:
        return _forced_tool(request, self._models.assume(request.model))


def _refuse(request: ChatRequest, provider: str) -> None:
    refuse(
        {
            "n": request.choices > 1,
            "seed": request.seed is not None,
            "temperature": request.temperature is not None and not 0 <= request.temperature <= 1,
            **{
                f"messages[{index}].name": message.name is not None and message.role is not Role.TOOL
                for index, message in enumerate(request.messages)
            },
            **{
                f"messages[{index}].images": bool(message.images) and message.role not in (Role.USER, Role.TOOL)
                for index, message in enumerate(request.messages)
            },
            **{
                f"messages[{index}].images.detail": any(image.detail not in (None, "auto") for image in message.images)
                for index, message in enumerate(request.messages)
            },
        },
        provider,
    )


def _system(request: ChatRequest, instruction: str | None) -> Json:
    """Return the system prompt: one text, or blocks where one of them ends a cached prefix; None where it is empty."""
    messages = [message for message in request.messages if message.role is Role.SYSTEM]
    if any(message.cache_marks for message in messages):
        said: list[Json] = [] if instruction is None else [{"type": "text", "text": instruction}]
        return [block for message in messages for block in _pieces(message)] + said or None
    return "\n\n".join(text for text in (*(message.text for message in messages), instruction) if text) or None


def _tool(tool: ToolSpec) -> dict[str, Json]:
    return {
        "name": tool.name,
        **({"description": tool.description} if tool.description else {}),
        "input_schema": tool.parameters or {"type": "object", "properties": {}},
        **({"strict": tool.strict} if tool.strict is not None else {}),
        **(tool.anthropic_fields or {}),
    }


def _turns(request: ChatRequest, *, strip_reasoning: bool) -> list[Json]:
    """Return the conversation with turns of one role merged."""
    merged: list[tuple[str, list[Json]]] = []
    for index, message in enumerate(request.messages):
        if message.role is Role.SYSTEM:
            continue
        role = "assistant" if message.role is Role.ASSISTANT else "user"
        blocks = _blocks(message, f"messages[{index}]", strip_reasoning)
        if merged and merged[-1][0] == role:
            merged[-1][1].extend(blocks)
        else:
            merged.append((role, blocks))
    if not merged:
        raise RequestError("there are only system messages", param="messages", remedy="add a user message")
    return [{"role": role, "content": list(blocks)} for role, blocks in merged]


def _blocks(message: Message, where: str, strip_reasoning: bool) -> list[Json]:
    if message.role is Role.TOOL:
        return [_tool_result(message)]
    blocks: list[Json] = []
    if message.role is Role.ASSISTANT and not strip_reasoning:
        blocks += thinking_blocks(message.reasoning, message.reasoning_signature)
    blocks += _pieces(message)
    offset = len(message.pieces())
    for position, call in enumerate(message.tool_calls):
        block = _tool_use(call, f"{where}.tool_calls[{position}]")
        blocks.append(_marked(block, message, offset + position))
    if not blocks:
        raise RequestError("the message is empty", param=f"{where}.content", remedy="leave it out")
    return blocks


def _pieces(message: Message) -> list[Json]:
    """Return texts and images in order; the API refuses texts of nothing but blanks."""
    return [
        _marked({"type": "text", "text": piece} if isinstance(piece, str) else _image(piece), message, index)
        for index, piece in enumerate(message.pieces())
        if not isinstance(piece, str) or piece.strip()
    ]


def _marked(block: dict[str, Json], message: Message, index: int) -> dict[str, Json]:
    """Return ``block`` with the cache mark that the message sets at ``index``, if it does."""
    for place, ttl in message.cache_marks:
        if place == index:
            # Without a lifetime it is five minutes; saying so is younger than the field.
            block["cache_control"] = {"type": "ephemeral"} if ttl == "5m" else {"type": "ephemeral", "ttl": ttl}
    return block


def _tool_use(call: ToolCall, where: str) -> dict[str, Json]:
    return {"type": "tool_use", "id": _tool_id(call.id), "name": call.name, "input": tool_arguments(call, where)}


def _tool_result(message: Message) -> dict[str, Json]:
    several = message.images or message.parts
    # The mark of a tool message is on the result, not on what it holds.
    content: Json = _pieces(replace(message, cache_marks=())) if several else message.text
    result: dict[str, Json] = {
        "type": "tool_result",
        "tool_use_id": _tool_id(message.tool_call_id or ""),
        "content": content,
    }
    if message.is_error:
        result["is_error"] = True
    return _marked(result, message, 0)


def _tool_id(call_id: str) -> str:
    """Return ``call_id`` in the alphabet that the API allows; other providers' ids hold more."""
    return _TOOL_ID.sub("_", call_id)


def _image(image: ImagePart) -> dict[str, Json]:
    if image.url is not None:
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": image.media_type, "data": image.data_base64},
    }


def _tool_choice(request: ChatRequest) -> dict[str, Json] | None:
    choice: dict[str, Json]
    match request.tool_choice:
        case None if request.parallel_tool_calls is not False or not request.tools:
            return None
        case None | "auto":
            choice = {"type": "auto"}
        case "none":
            return {"type": "none"} if request.tools else None
        case "required":
            choice = {"type": "any"}
        case name:
            choice = {"type": "tool", "name": name}
    if not request.tools:
        return None
    if request.parallel_tool_calls is not None:
        choice["disable_parallel_tool_use"] = not request.parallel_tool_calls
    return choice


def _add_reasoning(body: dict[str, Json], request: ChatRequest) -> None:
    effort = request.reasoning_effort
    if effort is None:
        return
    if effort == "none":
        body["thinking"] = {"type": "disabled"}
        return
    if not _BUDGET_MODELS.search(request.model):
        body["thinking"] = {"type": "adaptive"}
        body["output_config"] = {"effort": _EFFORTS.get(effort, effort)}
        return
    budget = _THINKING_BUDGETS.get(effort)
    if budget is None:
        raise RequestError(
            f"reasoning_effort {effort!r} cannot be translated for {request.model}",
            param="reasoning_effort",
            remedy=f"use none, {', '.join(_THINKING_BUDGETS)}",
        )
    room = body["max_tokens"]
    assert isinstance(room, int), "we set it"
    if room <= _THINKING_BUDGET_MIN:
        raise RequestError(
            f"max_tokens {room!r} leaves no room for thinking",
            param="max_tokens",
            remedy=f"allow more than {_THINKING_BUDGET_MIN}, or set reasoning_effort to none",
        )
    body["thinking"] = {"type": "enabled", "budget_tokens": min(budget, room - 1)}


def _forced_tool(request: ChatRequest, model: ModelInfo) -> str | None:
    """Return the name of the tool that carries the JSON answer of models without enforced schemas; None elsewhere."""
    if request.output is None or isinstance(request.output, str) or request.tools:
        return None
    return request.output.name if model.structured is StructuredOutput.JSON_OBJECT else None


def _add_output(body: dict[str, Json], request: ChatRequest, model: ModelInfo) -> str | None:
    """Ask for JSON in the strongest way the model has; return what must be said in words."""
    if request.output is None:
        return None
    if isinstance(request.output, str):
        return schema_instruction(request)
    if model.structured is StructuredOutput.SCHEMA:
        config = as_object(body.get("output_config"))
        schema = enforceable(request.output.schema) if request.output.strict else request.output.schema
        body["output_config"] = {**config, "format": {"type": "json_schema", "schema": schema}}
        return None
    name = _forced_tool(request, model)
    if name is None:
        return schema_instruction(request)
    body["tools"] = [
        {"name": name, "description": "Gives the answer.", "input_schema": request.output.schema},
    ]
    body["tool_choice"] = {"type": "tool", "name": name}
    return None


def enforceable(schema: Json) -> Json:
    """Return ``schema`` with what the grammar cannot enforce moved into descriptions, and objects closed."""
    if isinstance(schema, list):
        return [enforceable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Json] = {}
    said: list[str] = []
    for name, value in schema.items():
        if name in _UNENFORCED or (name == "minItems" and value not in (0, 1)):
            said.append(f"{name}: {value}")
        elif name in ("properties", "$defs") and isinstance(value, dict):
            kept[name] = {key: enforceable(item) for key, item in value.items()}
        elif name in ("enum", "const", "required", "default", "examples"):
            kept[name] = value
        else:
            kept[name] = enforceable(value)
    if schema.get("type") == "object" or "properties" in schema:
        kept["additionalProperties"] = False
    if said:
        description = find_text(schema.get("description"))
        kept["description"] = f"{description}\n\n" * bool(description) + "{" + ", ".join(said) + "}"
    return kept

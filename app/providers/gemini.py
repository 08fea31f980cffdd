"""The Gemini generateContent format. Reading answers is in ``gemini_reply``.

System messages become the system instruction; turns of one role in a row are merged; thought signatures go back to
where they came from. The key travels in a header, never in the address. Source: the API reference and
python-genai's types, as of 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from app.domain.accounts import AccountSpec, ModelInfo, StructuredOutput
from app.domain.chat import ChatRequest, ChatResult, Json, Message, Role, ToolCall
from app.domain.errors import RequestError
from app.providers.embeddings import GeminiEmbeddings
from app.providers.gemini_reply import SIGNATURE_PREFIX, GeminiStream, decode
from app.providers.http_adapter import HttpAdapter
from app.providers.http_client import WireCall
from app.providers.payload import as_list, as_object, find_text, parse_json
from app.providers.wire import (
    ModelTable,
    StreamDecoder,
    base_url,
    check_key,
    refuse,
    schema_instruction,
    tool_arguments,
    with_extra,
)

_URL = "https://generativelanguage.googleapis.com"
_RESERVED = frozenset(("contents", "systemInstruction", "model"))
_EXTRA = frozenset(("cachedContent", "generationConfig", "safetySettings", "serviceTier", "toolConfig"))
"""Fields beyond our own that generateContent takes; it refuses all others."""
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}

_BUDGET_MODELS = re.compile(r"gemini-2\.5")
"""Models that take a thinking budget in tokens; later ones take a level."""
_BUDGETS = {"none": 0, "minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576}
"""As Gemini's own OpenAI mode maps them."""
_BUDGET_MIN_PRO = 128
_LEVELS = {"none": "minimal", "minimal": "minimal", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh"}


def create(account: AccountSpec, models: Sequence[ModelInfo]) -> HttpAdapter:
    """Return an adapter of the Gemini API."""
    table = ModelTable(account, models, StructuredOutput.SCHEMA)
    wire = GeminiWire(account, table)
    return HttpAdapter(account, table, wire, wire.embeddings())


class GeminiWire:
    """Speaks generateContent for one account; implements ``wire.Wire``.

    Raises:
        ConfigurationError: key or address cannot be used.
    """

    def __init__(self, account: AccountSpec, models: ModelTable) -> None:
        check_key(account)
        self.provider = str(account.provider)
        self._models = models
        url = base_url(account, _URL)
        self._url = url if url.endswith(("/v1beta", "/v1")) else f"{url}/v1beta"
        self._headers = {"content-type": "application/json", "x-goog-api-key": account.api_key}

    def embeddings(self) -> GeminiEmbeddings:
        """Return the wire of the same account's embeddings."""
        return GeminiEmbeddings(provider=self.provider, url=self._url, headers=self._headers)

    def encode(self, request: ChatRequest, *, stream: bool) -> WireCall:
        """See ``wire.Wire``."""
        _refuse(request, self.provider)
        model = self._models.assume(request.model)
        system: list[Json] = [{"text": m.text} for m in request.messages if m.role is Role.SYSTEM and m.text]
        config: dict[str, Json] = {
            "temperature": request.temperature,
            "topP": request.top_p,
            "maxOutputTokens": request.output_tokens_max,
            "stopSequences": list(request.stop) or None,
            "seed": request.seed,
            "candidateCount": request.choices if request.choices > 1 else None,
            "thinkingConfig": _thinking(request),
        }
        if request.output is not None:
            if model.structured is not StructuredOutput.NONE:
                config["responseMimeType"] = "application/json"
            if not isinstance(request.output, str) and model.structured is StructuredOutput.SCHEMA:
                config["responseJsonSchema"] = request.output.schema
            elif (instruction := schema_instruction(request)) is not None:
                system.append({"text": instruction})
        config = {name: value for name, value in config.items() if value is not None}
        body: dict[str, Json] = {"contents": _contents(request)}
        if system:
            body["systemInstruction"] = {"parts": system}
        if config:
            body["generationConfig"] = config
        if request.tools:
            body["tools"] = [{"functionDeclarations": _declarations(request)}]
            if request.tool_choice is not None:
                body["toolConfig"] = {"functionCallingConfig": _calling(request.tool_choice)}
        return WireCall(
            url=f"{self._url}/{_path(request.model)}:"
            + ("streamGenerateContent?alt=sse" if stream else "generateContent"),
            headers=self._headers,
            body=with_extra(body, request, reserved=_RESERVED, known=_EXTRA, provider=self.provider),
        )

    def decode(self, body: Json, request: ChatRequest) -> ChatResult:
        """See ``wire.Wire``."""
        return decode(body, request, self.provider)

    def decoder(self, request: ChatRequest) -> StreamDecoder:
        """See ``wire.Wire``."""
        return GeminiStream(request, self.provider)

    def list_models(self) -> WireCall:
        """See ``wire.Wire``."""
        return WireCall(method="GET", url=f"{self._url}/models?pageSize=1000", headers=self._headers)

    def decode_models(self, body: Json) -> tuple[tuple[str, ...], bool]:
        """See ``wire.Wire``."""
        rows = as_list(as_object(body).get("models"))
        names = (find_text(as_object(row).get("name")) for row in rows)
        return tuple(name.removeprefix("models/") for name in names if name), not as_object(body).get("nextPageToken")


def _refuse(request: ChatRequest, provider: str) -> None:
    refuse(
        {
            "parallel_tool_calls": request.parallel_tool_calls is False,
            **{f"tools[{index}].strict": bool(tool.strict) for index, tool in enumerate(request.tools)},
            **{
                f"messages[{index}].name": message.name is not None and message.role is not Role.TOOL
                for index, message in enumerate(request.messages)
            },
            **{
                f"messages[{index}].images": bool(message.images) and message.role is not Role.USER
                for index, message in enumerate(request.messages)
            },
            # Only Google's own file addresses would do; fetching for the caller is not an adapter's business.
            **{
                f"messages[{index}].images.url": any(image.url is not None for image in message.images)
                for index, message in enumerate(request.messages)
            },
            **{
                f"messages[{index}].images.detail": any(image.detail not in (None, "auto") for image in message.images)
                for index, message in enumerate(request.messages)
            },
        },
        provider,
    )


def _path(model: str) -> str:
    """Return the resource path of a model; tuned models bring their own prefix."""
    folder, _slash, name = model.rpartition("/")
    return f"{quote(folder or 'models', safe='')}/{quote(name, safe='')}"


def _contents(request: ChatRequest) -> list[Json]:
    names = {call.id: call.name for message in request.messages for call in message.tool_calls}
    merged: list[tuple[str, list[Json]]] = []
    for index, message in enumerate(request.messages):
        if message.role is Role.SYSTEM:
            continue
        role = "model" if message.role is Role.ASSISTANT else "user"
        where = f"messages[{index}]"
        parts = _parts(message, where)
        if message.role is Role.TOOL:
            parts = [_response(message, names, where)]
        if merged and merged[-1][0] == role:
            merged[-1][1].extend(parts)
        else:
            merged.append((role, parts))
    if not merged:
        raise RequestError("there are only system messages", param="messages", remedy="add a user message")
    return [{"role": role, "parts": list(parts)} for role, parts in merged]


def _parts(message: Message, where: str) -> list[Json]:
    parts: list[Json] = []
    signed: dict[str, Json] | None = None
    for piece in message.pieces() or (() if message.tool_calls else ("",)):
        part: dict[str, Json]
        if isinstance(piece, str):
            part = signed = {"text": piece}
        else:
            part = {"inlineData": {"mimeType": piece.media_type, "data": piece.data_base64}}
        parts.append(part)
    signature = message.reasoning_signature or ""
    if signed is not None and signature.startswith(SIGNATURE_PREFIX):
        # Where the model's own parts were joined, its signature stood on the last.
        signed["thoughtSignature"] = signature.removeprefix(SIGNATURE_PREFIX)
    for position, call in enumerate(message.tool_calls):
        parts.append(_call(call, f"{where}.tool_calls[{position}]"))
    return parts


def _call(call: ToolCall, where: str) -> dict[str, Json]:
    function: dict[str, Json] = {"id": call.id, "name": call.name, "args": tool_arguments(call, where)}
    part: dict[str, Json] = {"functionCall": function}
    if call.signature is not None:
        part["thoughtSignature"] = call.signature
    return part


def _response(message: Message, names: dict[str, str], where: str) -> dict[str, Json]:
    name = names.get(message.tool_call_id or "") or message.name
    if name is None:
        raise RequestError(
            "the tool message answers a call that is not in the conversation",
            param=f"{where}.tool_call_id",
            remedy="send the assistant message that made the call, or give the message the function's name",
        )
    try:
        value = parse_json(message.text)
    except ValueError:
        value = message.text
    response: Json = value if isinstance(value, dict) else {"result": value}
    if message.is_error:
        response = {"error": value}
    return {"functionResponse": {"id": message.tool_call_id, "name": name, "response": response}}


def _declarations(request: ChatRequest) -> list[Json]:
    return [
        {
            "name": tool.name,
            **({"description": tool.description} if tool.description else {}),
            **({"parametersJsonSchema": tool.parameters} if tool.parameters else {}),
        }
        for tool in request.tools
    ]


def _calling(choice: str) -> dict[str, Json]:
    mode = _MODES.get(choice)
    return {"mode": mode} if mode else {"mode": "ANY", "allowedFunctionNames": [choice]}


def _thinking(request: ChatRequest) -> dict[str, Json] | None:
    effort, model = request.reasoning_effort, request.model
    if effort is None:
        return None
    table = _BUDGETS if _BUDGET_MODELS.search(model) else _LEVELS
    if effort not in table:
        raise RequestError(
            f"reasoning_effort {effort!r} cannot be translated for {model}",
            param="reasoning_effort",
            remedy=f"use one of {', '.join(table)}",
        )
    shown: dict[str, Json] = {"includeThoughts": effort != "none"}
    if _BUDGET_MODELS.search(model):
        # The pro models cannot do without; this is their least.
        return {**shown, "thinkingBudget": max(_BUDGETS[effort], _BUDGET_MIN_PRO if "pro" in model else 0)}
    level = _LEVELS[effort]
    return {**shown, "thinkingLevel": "low" if level == "minimal" and "flash" not in model else level}

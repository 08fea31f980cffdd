"""OpenAI's chat completions as a client format: the request's fields, and the one class that joins both directions.

A field is read into ``Asked``, passed on in ``ChatRequest.extra``, or refused by name; null counts as not set. Messages
are read in ``openai_chat_messages``, answers written in ``openai_chat_reply``. Fields whose effect an answer of ours
could not show (log probabilities, sound) are refused rather than passed on.

Source: openai-python's ``completion_create_params``, as of 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from app.domain.chat import ChatRequest, ChatResult, Json, OutputSchema, ToolSpec
from app.domain.gateway import Asked, Served
from app.http.formats import openai_chat_reply
from app.http.formats.openai_chat_fields import (
    as_name,
    as_object,
    as_text,
    as_tools,
    find_bool,
    find_count,
    find_name,
    find_number,
    json_text,
    only,
    refuse,
    schema_of,
    wrong_type,
)
from app.http.formats.openai_chat_messages import read_messages

STOPS_MAX = 64
CHOICES_MAX = 128
TOKENS_MAX = 2**31 - 1
_SEED_MAX = 2**63 - 1

_KNOWN = frozenset(
    (
        "model",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "stop",
        "seed",
        "n",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "stream",
        "stream_options",
        "user",
        "safety_identifier",
        "task_type",
    )
)
_REFUSED = {
    "functions": ("functions is no longer understood", "send tools"),
    "function_call": ("function_call is no longer understood", "send tool_choice"),
    "audio": ("no model can answer in sound through this gateway", "leave it out and read the text"),
    "logprobs": ("log probabilities cannot be handed back", "leave it out"),
    "top_logprobs": ("log probabilities cannot be handed back", "leave it out"),
    "modalities": ("only text can be handed back", 'leave it out, or send ["text"]'),
    "web_search_options": ("sources of a web search cannot be handed back", "leave it out"),
}
_DEFAULTS: Mapping[str, Json] = {"logprobs": False, "modalities": ["text"]}
"""Refused fields' values that ask for what is done anyway."""
_CHOICES = ("auto", "none", "required")
_TOOL_FIELDS = frozenset(("type", "function"))
_FUNCTION_FIELDS = frozenset(("name", "description", "parameters", "strict"))
_SCHEMA_FIELDS = frozenset(("name", "description", "schema", "strict"))
_STREAM_FIELDS = frozenset(("include_usage", "include_obfuscation"))


class OpenAIChat:
    """Speaks ``POST /v1/chat/completions``; implements ``base.ClientFormat``. Holds no state of a call.

    Args:
        compat_fields: Answers also carry top-level ``content`` and ``provider``, as under ``/api/v1``.
    """

    def __init__(self, *, compat_fields: bool = False) -> None:
        self._compat_fields = compat_fields

    def parse(self, body: Mapping[str, Json]) -> Asked:
        """See ``base.ClientFormat``. A missing model is left empty: the route decides whether it may."""
        extra = _extra(body)
        stream = find_bool(body, "stream") or False
        tools = as_tools(body.get("tools"), _tool)
        chat = ChatRequest(
            model=find_name(body, "model") or "",
            messages=read_messages(body.get("messages")),
            output_tokens_max=_tokens_max(body),
            temperature=find_number(body, "temperature", most=2),
            top_p=find_number(body, "top_p", most=1),
            stop=_stop(body.get("stop")),
            seed=find_count(body, "seed", least=-_SEED_MAX - 1, most=_SEED_MAX),
            tools=tools,
            tool_choice=_tool_choice(body.get("tool_choice"), tools),
            parallel_tool_calls=find_bool(body, "parallel_tool_calls"),
            output=_output(body.get("response_format")),
            reasoning_effort=find_name(body, "reasoning_effort"),
            stream=stream,
            user=_user(body),
            choices=find_count(body, "n", least=1, most=CHOICES_MAX) or 1,
            extra=extra,
        )
        usage = _include_usage(body.get("stream_options"), stream=stream)
        return Asked(chat=chat, task_type=find_name(body, "task_type"), include_usage=usage)

    def render(self, result: ChatResult, asked: Asked, served: Served) -> dict[str, Json]:
        """See ``base.ClientFormat``."""
        body = openai_chat_reply.completion(result, served)
        if self._compat_fields:
            body["content"] = result.text or (None if result.tool_calls else result.refusal or "")
            body["provider"] = served.provider
        return body

    def stream(self, asked: Asked, served: Served) -> openai_chat_reply.ChunkStream:
        """See ``base.ClientFormat``."""
        provider = served.provider if self._compat_fields else None
        return openai_chat_reply.ChunkStream(served, include_usage=asked.include_usage, provider=provider)

    def error(self, status: int, kind: str, message: str, *, param: str | None, request_id: str) -> dict[str, Json]:
        """See ``base.ClientFormat``. The request's id travels in its header, as OpenAI's does."""
        return openai_chat_reply.error_body(status, kind, message, param)


def _extra(body: Mapping[str, Json]) -> tuple[tuple[str, str], ...]:
    extra: list[tuple[str, str]] = []
    for name, value in body.items():
        if name in _KNOWN or value is None:
            continue
        if name not in _REFUSED:
            extra.append((name, json_text(value, name)))
        elif name not in _DEFAULTS or value != _DEFAULTS[name]:
            refuse(name, *_REFUSED[name])
    return tuple(extra)


def _tokens_max(body: Mapping[str, Json]) -> int | None:
    old = find_count(body, "max_tokens", least=1, most=TOKENS_MAX)
    new = find_count(body, "max_completion_tokens", least=1, most=TOKENS_MAX)
    if old is not None and new is not None and old != new:
        refuse("max_tokens", "max_tokens contradicts max_completion_tokens", "send one of them")
    return old if new is None else new


def _user(body: Mapping[str, Json]) -> str | None:
    old, new = find_name(body, "user"), find_name(body, "safety_identifier")
    if old is not None and new is not None and old != new:
        refuse("user", "user contradicts safety_identifier", "send one of them")
    return old if new is None else new


def _stop(value: Json) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (as_name(value, "stop"),)
    if not isinstance(value, list):
        wrong_type("stop", value, "a string or a list of strings")
    if len(value) > STOPS_MAX:
        refuse("stop", f"stop has {len(value)} entries", f"send at most {STOPS_MAX}")
    return tuple([as_name(item, f"stop[{index}]") for index, item in enumerate(value)])


def _tool(value: Json, where: str) -> ToolSpec:
    tool = as_object(value, where)
    kind = tool.get("type")
    if kind != "function":
        refuse(f"{where}.type", "only functions can be offered to every model", "send type 'function'")
    only(tool, _TOOL_FIELDS, tool, f"{where}.")
    where = f"{where}.function"
    function = as_object(tool.get("function"), where)
    only(function, _FUNCTION_FIELDS, function, f"{where}.")
    description, parameters = function.get("description"), function.get("parameters")
    return ToolSpec(
        name=as_name(function.get("name"), f"{where}.name"),
        description="" if description is None else as_text(description, f"{where}.description"),
        parameters=None if parameters is None else schema_of(parameters, f"{where}.parameters"),
        strict=find_bool(function, "strict", f"{where}."),
    )


def _tool_choice(value: Json, tools: tuple[ToolSpec, ...]) -> str | None:
    if value is None or value in _CHOICES:
        choice = value if isinstance(value, str) else None
        if choice == "required" and not tools:
            refuse("tool_choice", "a call is required but there are no tools", "send tools")
        return choice
    if isinstance(value, str):
        refuse("tool_choice", f"there is no tool_choice {value[:40]!r}", f"use one of {', '.join(_CHOICES)}")
    if not isinstance(value, dict):
        wrong_type("tool_choice", value, "a string or an object")
    if value.get("type") != "function":
        refuse("tool_choice.type", "only functions can be chosen with every model", "send type 'function'")
    only(value, _TOOL_FIELDS, value, "tool_choice.")
    function = as_object(value.get("function"), "tool_choice.function")
    only(function, frozenset(("name",)), function, "tool_choice.function.")
    name = as_name(function.get("name"), "tool_choice.function.name")
    if all(tool.name != name for tool in tools):
        refuse("tool_choice.function.name", f"{name!r} is not among the tools", "name one of the tools")
    if name in _CHOICES:
        # Inside, a choice is one word, and these words are taken.
        refuse("tool_choice.function.name", f"a tool named {name!r} cannot be chosen", "give the tool another name")
    return name


def _output(value: Json) -> OutputSchema | Literal["json_object"] | None:
    if value is None:
        return None
    wanted = as_object(value, "response_format")
    kind = wanted.get("type")
    if kind in ("text", "json_object"):
        only(wanted, frozenset(("type",)), wanted, "response_format.")
        return "json_object" if kind == "json_object" else None
    if kind != "json_schema":
        refuse("response_format.type", "there is no such format", "use one of text, json_object, json_schema")
    only(wanted, frozenset(("type", "json_schema")), wanted, "response_format.")
    where = "response_format.json_schema"
    spec = as_object(wanted.get("json_schema"), where)
    only(spec, _SCHEMA_FIELDS, spec, f"{where}.")
    schema = schema_of(spec.get("schema"), f"{where}.schema")
    description = spec.get("description")
    if description is not None:
        schema = _described(schema, as_text(description, f"{where}.description"))
    return OutputSchema(
        name=as_name(spec.get("name"), f"{where}.name"),
        schema=schema,
        strict=find_bool(spec, "strict", f"{where}.") or False,
    )


def _described(schema: dict[str, Json], description: str) -> dict[str, Json]:
    """Return ``schema`` with the format's description in its own, the one place that every provider's model sees."""
    own = schema.get("description")
    if not description or own == description:
        return schema
    return {**schema, "description": f"{description}\n\n{own}" if own else description}


def _include_usage(value: Json, *, stream: bool) -> bool:
    if value is None:
        return not stream
    options = as_object(value, "stream_options")
    if not stream:
        refuse("stream_options", "stream_options is for streams only", "send stream: true, or leave it out")
    only(options, _STREAM_FIELDS, options, "stream_options.")
    if find_bool(options, "include_obfuscation", "stream_options."):
        refuse("stream_options.include_obfuscation", "streams are not padded here", "leave it out, or send false")
    return find_bool(options, "include_usage", "stream_options.") or False

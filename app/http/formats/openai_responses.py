"""OpenAI's Responses API as a client format: the request's fields, and the one class that joins both directions.

Nothing is kept between calls: fields that refer to kept state (``previous_response_id``, ``conversation``, ``prompt``,
``background``, ``store: true``) are refused, and an absent ``store`` means false. Only functions can be tools. Every
other field is read, passed on in ``ChatRequest.extra`` under the name it has in chat completions, or refused by name;
null counts as not set. Items are read in ``openai_responses_input``, answers written in ``openai_responses_reply``.

Source: openai-python's ``response_create_params``, as of 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from app.domain.chat import ChatRequest, ChatResult, Json, Message, OutputSchema, Role, ToolSpec
from app.domain.gateway import Asked, Served
from app.http.formats import openai_chat_reply, openai_responses_reply
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
from app.http.formats.openai_responses_input import read_input
from app.http.formats.openai_responses_reply import AskedResponse
from app.http.formats.openai_responses_stream import ResponseStream

TOKENS_MAX = 2**31 - 1
METADATA_PAIRS_MAX = 16
METADATA_KEY_CHARS_MAX = 64
METADATA_VALUE_CHARS_MAX = 512

_KNOWN = frozenset(
    (
        "model",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "temperature",
        "top_p",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "reasoning",
        "stream",
        "stream_options",
        "user",
        "safety_identifier",
        "metadata",
        "store",
        "background",
        "truncation",
        "include",
        "top_logprobs",
        "task_type",
    )
)
_PASSED_ON = frozenset(("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "service_tier"))
"""Mean the same in chat completions."""
_STATELESS = "no response is kept here that could be referred to"
_WHOLE = "send the whole conversation as input"
_REFUSED = {
    "previous_response_id": (_STATELESS, _WHOLE),
    "conversation": ("no conversation is kept here", _WHOLE),
    "prompt": ("no prompt template is kept here", "send instructions and input"),
    "context_management": ("conversations are not compacted here", "send a shorter input"),
    "moderation": ("moderation results cannot be handed back", "leave it out"),
}
_CHOICES = ("auto", "none", "required")
_TOOL_FIELDS = frozenset(("type", "name", "description", "parameters", "strict"))
_SCHEMA_FIELDS = frozenset(("type", "name", "description", "schema", "strict"))
_INCLUDED = "reasoning.encrypted_content"
"""What stands in every answer anyway."""


class OpenAIResponses:
    """Speaks ``POST /v1/responses``; implements ``base.ClientFormat``. Holds no state of a call."""

    def parse(self, body: Mapping[str, Json]) -> AskedResponse:
        """See ``base.ClientFormat``. A missing model is left empty: the route decides whether it may."""
        _check_kept(body)
        _check_answered(body)
        tools = as_tools(body.get("tools"), _tool)
        output, verbosity = _text(body.get("text"))
        effort, summary = _reasoning(body.get("reasoning"))
        stream = find_bool(body, "stream") or False
        _check_stream_options(body.get("stream_options"), stream=stream)
        chat = ChatRequest(
            model=find_name(body, "model") or "",
            messages=_messages(body),
            output_tokens_max=find_count(body, "max_output_tokens", least=1, most=TOKENS_MAX),
            temperature=find_number(body, "temperature", most=2),
            top_p=find_number(body, "top_p", most=1),
            tools=tools,
            tool_choice=_tool_choice(body.get("tool_choice"), tools),
            parallel_tool_calls=find_bool(body, "parallel_tool_calls"),
            output=output,
            reasoning_effort=effort,
            stream=stream,
            user=_user(body),
            extra=_extra(body, verbosity),
        )
        return AskedResponse(
            chat=chat, task_type=find_name(body, "task_type"), echo=_echo(body), reasoning_as_summary=summary
        )

    def render(self, result: ChatResult, asked: Asked, served: Served) -> dict[str, Json]:
        """See ``base.ClientFormat``. ``asked`` comes from ``parse``."""
        assert isinstance(asked, AskedResponse)
        return openai_responses_reply.response(result, asked, served)

    def stream(self, asked: Asked, served: Served) -> ResponseStream:
        """See ``base.ClientFormat``. ``asked`` comes from ``parse``."""
        assert isinstance(asked, AskedResponse)
        return ResponseStream(asked, served)

    def error(self, status: int, kind: str, message: str, *, param: str | None, request_id: str) -> dict[str, Json]:
        """See ``base.ClientFormat``: OpenAI has one shape of errors for all its doors."""
        return openai_chat_reply.error_body(status, kind, message, param)


def _check_kept(body: Mapping[str, Json]) -> None:
    """Refuse what needs an answer that is kept."""
    if find_bool(body, "store"):
        refuse("store", "no response is kept here", "send store: false, or leave it out")
    if find_bool(body, "background"):
        refuse(
            "background", "no response is kept here to be fetched later", "leave it out, and stream if it takes long"
        )


def _check_answered(body: Mapping[str, Json]) -> None:
    """Refuse what an answer of ours could not show."""
    if body.get("truncation") not in (None, "disabled"):
        refuse("truncation", "no input is shortened here", "send 'disabled', or leave it out")
    if body.get("top_logprobs") not in (None, 0):
        refuse("top_logprobs", "log probabilities cannot be handed back", "leave it out")
    # Bounds calls of built-in tools only, and there are none.
    find_count(body, "max_tool_calls", least=1, most=TOKENS_MAX)
    include = body.get("include")
    if include is None:
        return
    if not isinstance(include, list):
        wrong_type("include", include, "a list of strings")
    for index, item in enumerate(include):
        if item != _INCLUDED:
            refuse(f"include[{index}]", "this cannot be included in an answer", f"only {_INCLUDED} can")


def _check_stream_options(value: Json, *, stream: bool) -> None:
    if value is None:
        return
    options = as_object(value, "stream_options")
    if not stream:
        refuse("stream_options", "stream_options is for streams only", "send stream: true, or leave it out")
    only(options, frozenset(("include_obfuscation",)), options, "stream_options.")
    if find_bool(options, "include_obfuscation", "stream_options."):
        refuse("stream_options.include_obfuscation", "streams are not padded here", "leave it out, or send false")


def _messages(body: Mapping[str, Json]) -> tuple[Message, ...]:
    instructions = body.get("instructions")
    messages = read_input(body.get("input"))
    if instructions is None:
        return messages
    return (Message(role=Role.SYSTEM, text=as_text(instructions, "instructions")), *messages)


def _user(body: Mapping[str, Json]) -> str | None:
    old, new = find_name(body, "user"), find_name(body, "safety_identifier")
    if old is not None and new is not None and old != new:
        refuse("user", "user contradicts safety_identifier", "send one of them")
    return old if new is None else new


def _extra(body: Mapping[str, Json], verbosity: str | None) -> tuple[tuple[str, str], ...]:
    extra: list[tuple[str, str]] = []
    for name, value in body.items():
        if name in _KNOWN or value is None:
            continue
        if name in _PASSED_ON:
            extra.append((name, json_text(value, name)))
        elif name in _REFUSED:
            refuse(name, *_REFUSED[name])
        else:
            refuse(name, f"{name} is not known here and would be lost", "leave it out")
    if verbosity is not None:
        extra.append(("verbosity", json_text(verbosity, "text.verbosity")))
    return tuple(extra)


def _tool(value: Json, where: str) -> ToolSpec:
    tool = as_object(value, where)
    kind = as_name(tool.get("type"), f"{where}.type")
    if kind != "function":
        refuse(f"{where}.type", f"the tool {kind[:40]!r} is not offered: only functions are", "send type 'function'")
    only(tool, _TOOL_FIELDS, tool, f"{where}.")
    description, parameters = tool.get("description"), tool.get("parameters")
    return ToolSpec(
        name=as_name(tool.get("name"), f"{where}.name"),
        description="" if description is None else as_text(description, f"{where}.description"),
        parameters=None if parameters is None else schema_of(parameters, f"{where}.parameters"),
        # OpenAI takes an absent value as "strict where the schema allows it"; no other provider knows that.
        strict=find_bool(tool, "strict", f"{where}."),
    )


def _tool_choice(value: Json, tools: tuple[ToolSpec, ...]) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        if value not in _CHOICES:
            refuse("tool_choice", f"there is no tool_choice {value[:40]!r}", f"use one of {', '.join(_CHOICES)}")
        if value == "required" and not tools:
            refuse("tool_choice", "a call is required but there are no tools", "send tools")
        return value
    choice = as_object(value, "tool_choice")
    kind = as_name(choice.get("type"), "tool_choice.type")
    if kind != "function":
        refuse("tool_choice.type", f"{kind[:40]!r} cannot be chosen: only functions can", "send type 'function'")
    only(choice, frozenset(("type", "name")), choice, "tool_choice.")
    name = as_name(choice.get("name"), "tool_choice.name")
    if all(tool.name != name for tool in tools):
        refuse("tool_choice.name", f"{name!r} is not among the tools", "name one of the tools")
    if name in _CHOICES:
        # Inside, a choice is one word, and these words are taken.
        refuse("tool_choice.name", f"a tool named {name!r} cannot be chosen", "give the tool another name")
    return name


def _text(value: Json) -> tuple[OutputSchema | Literal["json_object"] | None, str | None]:
    """Return the output format and the verbosity."""
    if value is None:
        return None, None
    text = as_object(value, "text")
    only(text, frozenset(("format", "verbosity")), text, "text.")
    wanted = text.get("format")
    return None if wanted is None else _format(as_object(wanted, "text.format")), find_name(text, "verbosity", "text.")


def _format(wanted: dict[str, Json]) -> OutputSchema | Literal["json_object"] | None:
    kind = wanted.get("type")
    if kind in ("text", "json_object"):
        only(wanted, frozenset(("type",)), wanted, "text.format.")
        return "json_object" if kind == "json_object" else None
    if kind != "json_schema":
        refuse("text.format.type", "there is no such format", "use one of text, json_object, json_schema")
    only(wanted, _SCHEMA_FIELDS, wanted, "text.format.")
    schema = schema_of(wanted.get("schema"), "text.format.schema")
    described = wanted.get("description")
    if described is not None:
        # The one place that every provider's model sees.
        own, said = schema.get("description"), as_text(described, "text.format.description")
        if said and own != said:
            schema = {**schema, "description": f"{said}\n\n{own}" if own else said}
    return OutputSchema(
        name=as_name(wanted.get("name"), "text.format.name"),
        schema=schema,
        strict=find_bool(wanted, "strict", "text.format.") or False,
    )


def _reasoning(value: Json) -> tuple[str | None, bool]:
    """Return the effort, and whether the reasoning is to be written as a summary."""
    if value is None:
        return None, False
    reasoning = as_object(value, "reasoning")
    only(reasoning, frozenset(("effort", "summary", "generate_summary", "context", "mode")), reasoning, "reasoning.")
    for name, usual in (("summary", "auto"), ("generate_summary", "auto"), ("context", "auto"), ("mode", "standard")):
        if reasoning.get(name) not in (None, usual):
            refuse(f"reasoning.{name}", "this cannot be asked of every model", f"send {usual!r}, or leave it out")
    summary = reasoning.get("summary") or reasoning.get("generate_summary")
    return find_name(reasoning, "effort", "reasoning."), summary is not None


def _echo(body: Mapping[str, Json]) -> dict[str, Json]:
    """Return what an answer repeats of its request; the client's own values, defaults filled in."""
    tools, text = body.get("tools"), body.get("text")
    parallel = body.get("parallel_tool_calls")
    return {
        "background": False,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": body.get("max_tool_calls"),
        "metadata": _metadata(body.get("metadata")),
        "parallel_tool_calls": True if parallel is None else parallel,
        "previous_response_id": None,
        "reasoning": _object_or(body.get("reasoning"), {"effort": None, "summary": None}),
        "safety_identifier": body.get("safety_identifier"),
        "store": False,
        "temperature": body.get("temperature"),
        "text": {"format": {"type": "text"}, **_object_or(text, {})},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [] if tools is None else tools,
        "top_p": body.get("top_p"),
        "truncation": "disabled",
        "user": body.get("user"),
    }


def _object_or(value: Json, default: dict[str, Json]) -> dict[str, Json]:
    return {name: item for name, item in value.items() if item is not None} if isinstance(value, dict) else default


def _metadata(value: Json) -> dict[str, Json]:
    if value is None:
        return {}
    metadata = as_object(value, "metadata")
    if len(metadata) > METADATA_PAIRS_MAX:
        refuse("metadata", f"metadata has {len(metadata)} pairs", f"send at most {METADATA_PAIRS_MAX}")
    for name, text in metadata.items():
        if len(name) > METADATA_KEY_CHARS_MAX:
            refuse("metadata", f"a key has {len(name)} characters", f"use at most {METADATA_KEY_CHARS_MAX}")
        if len(as_text(text, f"metadata.{name}")) > METADATA_VALUE_CHARS_MAX:
            refuse(f"metadata.{name}", "the value is too long", f"use at most {METADATA_VALUE_CHARS_MAX} characters")
    return metadata

"""Anthropic's Messages as a client format: the request's fields, and the one class that joins both directions.

A field is read into ``Asked``, passed on in ``ChatRequest.extra``, or refused by name; null counts as not set. What
Anthropic's API says in its own words and others cannot (thinking budgets, cache marks) is kept verbatim beside its
nearest common meaning. Messages are read in ``anthropic_messages_content``, answers written in
``anthropic_messages_reply``. What an answer of ours could not show (server tools, containers) is refused.

Source: anthropic-sdk-python's ``message_create_params``, as of 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.chat import ChatRequest, ChatResult, Json, OutputSchema, ToolSpec
from app.domain.estimate import estimate_tokens
from app.domain.gateway import Asked, Served
from app.http.formats import anthropic_messages_reply
from app.http.formats.anthropic_messages_content import cache_ttl, read_messages, read_system
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

STOPS_MAX = 64
TOKENS_MAX = 2**31 - 1
_TEMPERATURE_MAX = 2
"""Anthropic's own models end at 1, and their adapter says so; others go further."""

_KNOWN = frozenset(
    (
        "model",
        "messages",
        "system",
        "max_tokens",
        "temperature",
        "top_p",
        "stop_sequences",
        "stream",
        "tools",
        "tool_choice",
        "metadata",
        "thinking",
        "output_config",
        "output_format",
        "cache_control",
    )
)
_REFUSED = {
    "mcp_servers": ("results of server tools cannot be handed back", "run the tools yourself and offer them in tools"),
    "container": ("containers of server tools cannot be handed back", "leave it out"),
    "diagnostics": ("diagnostics cannot be handed back", "leave it out"),
    "prefill": ("prefill is not understood", "end the messages with a turn of assistant"),
}
_TOOL_FIELDS = frozenset(
    (
        "type",
        "name",
        "description",
        "input_schema",
        "strict",
        "cache_control",
        "allowed_callers",
        "defer_loading",
        "eager_input_streaming",
        "input_examples",
    )
)
_TOOL_HINTS = ("cache_control", "eager_input_streaming", "input_examples")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_THINKING_FIELDS = {
    "enabled": frozenset(("type", "budget_tokens", "display")),
    "adaptive": frozenset(("type", "display")),
    "disabled": frozenset(("type",)),
    "between_tools": frozenset(("type",)),
}
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
"""Effort in Anthropic's words, and the nearest that every provider's adapter knows."""
_BUDGET_TOKENS_MIN = 1_024
_BUDGET_MEDIUM = 4_096
_BUDGET_HIGH = 16_384


class AnthropicMessages:
    """Speaks ``POST /v1/messages``; implements ``base.ClientFormat``. Holds no state of a call."""

    def parse(self, body: Mapping[str, Json]) -> Asked:
        """See ``base.ClientFormat``. A missing model is left empty: the route decides whether it may."""
        if body.get("max_tokens") is None:
            refuse("max_tokens", "max_tokens is missing", "say how long the answer may become, for instance 4096")
        return _parse(body)

    def render(self, result: ChatResult, asked: Asked, served: Served) -> dict[str, Json]:
        """See ``base.ClientFormat``."""
        return anthropic_messages_reply.message(result, served)

    def stream(self, asked: Asked, served: Served) -> anthropic_messages_reply.EventStream:
        """See ``base.ClientFormat``."""
        return anthropic_messages_reply.EventStream(served)

    def error(self, status: int, kind: str, message: str, *, param: str | None, request_id: str) -> dict[str, Json]:
        """See ``base.ClientFormat``. Anthropic's errors have no place for the field: the message begins with it."""
        return anthropic_messages_reply.error_body(status, message, param=param, request_id=request_id)


def count_tokens(body: Mapping[str, Json]) -> dict[str, Json]:
    """Answer ``POST /v1/messages/count_tokens``: our own estimate, which errs on the high side.

    Args:
        body: A request as for ``/v1/messages``; ``max_tokens`` may be missing.

    Raises:
        RequestError: as for ``/v1/messages``.
    """
    return {"input_tokens": estimate_tokens(_parse(body).chat)}


def _parse(body: Mapping[str, Json]) -> Asked:
    extra = _extra(body)
    tools = as_tools(body.get("tools"), _tool)
    choice, parallel = _tool_choice(body.get("tool_choice"), tools)
    native: dict[str, Json] = {}
    effort = _reasoning(body, native)
    if body.get("cache_control") is not None:
        cache_ttl(body["cache_control"], "cache_control")
        native["cache_control"] = body["cache_control"]
    chat = ChatRequest(
        model=find_name(body, "model") or "",
        messages=(*read_system(body.get("system")), *read_messages(body.get("messages"))),
        output_tokens_max=find_count(body, "max_tokens", least=1, most=TOKENS_MAX),
        temperature=find_number(body, "temperature", most=_TEMPERATURE_MAX),
        top_p=find_number(body, "top_p", most=1),
        stop=_stop(body.get("stop_sequences")),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=parallel,
        output=_output(body),
        reasoning_effort=effort,
        stream=find_bool(body, "stream") or False,
        user=_user(body.get("metadata")),
        extra=extra,
        anthropic_fields=native or None,
    )
    return Asked(chat=chat)


def _extra(body: Mapping[str, Json]) -> tuple[tuple[str, str], ...]:
    extra: list[tuple[str, str]] = []
    for name, value in body.items():
        if name in _KNOWN or value is None:
            continue
        if name not in _REFUSED:
            extra.append((name, json_text(value, name)))
        elif value != []:
            refuse(name, *_REFUSED[name])
    return tuple(extra)


def _user(value: Json) -> str | None:
    if value is None:
        return None
    metadata = as_object(value, "metadata")
    only(metadata, frozenset(("user_id",)), metadata, "metadata.")
    user = metadata.get("user_id")
    return None if user is None else as_text(user, "metadata.user_id") or None


def _stop(value: Json) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        wrong_type("stop_sequences", value, "a list of strings")
    if len(value) > STOPS_MAX:
        refuse("stop_sequences", f"stop_sequences has {len(value)} entries", f"send at most {STOPS_MAX}")
    return tuple([as_name(item, f"stop_sequences[{index}]") for index, item in enumerate(value)])


def _tool(value: Json, where: str) -> ToolSpec:
    tool = as_object(value, where)
    kind = tool.get("type")
    if kind is not None and kind != "custom":
        shown = kind[:60] if isinstance(kind, str) else ""
        refuse(
            f"{where}.type",
            f"the tool {shown!r} is Anthropic's own: it cannot be offered to every model, nor its results handed back",
            "offer a custom tool with an input_schema and run it yourself",
        )
    only(tool, _TOOL_FIELDS, tool, f"{where}.")
    cache_ttl(tool.get("cache_control"), f"{where}.cache_control")
    if find_bool(tool, "defer_loading", f"{where}."):
        refuse(f"{where}.defer_loading", "tools cannot be searched for here", "leave it out")
    if tool.get("allowed_callers") not in (None, [], ["direct"]):
        refuse(f"{where}.allowed_callers", "only the model itself can call tools here", 'send ["direct"]')
    find_bool(tool, "eager_input_streaming", f"{where}.")
    if tool.get("input_examples") is not None:
        json_text(tool["input_examples"], f"{where}.input_examples")
    description = tool.get("description")
    return ToolSpec(
        name=as_name(tool.get("name"), f"{where}.name"),
        description="" if description is None else as_text(description, f"{where}.description"),
        parameters=schema_of(tool.get("input_schema"), f"{where}.input_schema"),
        strict=find_bool(tool, "strict", f"{where}."),
        anthropic_fields={name: tool[name] for name in _TOOL_HINTS if tool.get(name) is not None} or None,
    )


def _tool_choice(value: Json, tools: tuple[ToolSpec, ...]) -> tuple[str | None, bool | None]:
    """Return the choice, and whether calls in parallel are allowed."""
    if value is None:
        return None, None
    wanted = as_object(value, "tool_choice")
    only(wanted, frozenset(("type", "name", "disable_parallel_tool_use")), wanted, "tool_choice.")
    single = find_bool(wanted, "disable_parallel_tool_use", "tool_choice.")
    parallel = None if single is None else not single
    kind = wanted.get("type")
    if kind == "tool":
        return _chosen(as_name(wanted.get("name"), "tool_choice.name"), tools), parallel
    choice = _CHOICES.get(kind) if isinstance(kind, str) else None
    if choice is None:
        refuse("tool_choice.type", "there is no such choice", "use one of auto, any, tool, none")
    if wanted.get("name") is not None:
        refuse("tool_choice.name", f"a name contradicts the type {kind!r}", "send type 'tool'")
    if choice == "required" and not tools:
        refuse("tool_choice", "a call is required but there are no tools", "send tools")
    return choice, parallel


def _chosen(name: str, tools: tuple[ToolSpec, ...]) -> str:
    if all(tool.name != name for tool in tools):
        refuse("tool_choice.name", f"{name!r} is not among the tools", "name one of the tools")
    if name in ("auto", "none", "required"):
        # Inside, a choice is one word, and these words are taken.
        refuse("tool_choice.name", f"a tool named {name!r} cannot be chosen", "give the tool another name")
    return name


def _reasoning(body: Mapping[str, Json], native: dict[str, Json]) -> str | None:
    """Return the effort in everyone's words, and put Anthropic's own into ``native``."""
    effort: str | None = None
    if body.get("thinking") is not None:
        native["thinking"] = body["thinking"]
        effort = _thinking_effort(as_object(body["thinking"], "thinking"))
    if body.get("output_config") is not None:
        config = as_object(body["output_config"], "output_config")
        only(config, frozenset(("effort", "format")), config, "output_config.")
        wanted = config.get("effort")
        if wanted is not None:
            if not isinstance(wanted, str) or wanted not in _EFFORTS:
                refuse("output_config.effort", "there is no such effort", f"use one of {', '.join(_EFFORTS)}")
            native["output_config"] = {"effort": wanted}
            # Without thinking, Anthropic's effort is about the answer's length; nobody else has that.
            effort = effort if effort == "none" else _EFFORTS[wanted]
    return effort


def _thinking_effort(thinking: dict[str, Json]) -> str | None:
    kind = thinking.get("type")
    known = _THINKING_FIELDS.get(kind) if isinstance(kind, str) else None
    if known is None:
        refuse("thinking.type", "there is no such way of thinking", f"use one of {', '.join(_THINKING_FIELDS)}")
    only(thinking, known, thinking, "thinking.")
    if thinking.get("display") not in (None, "summarized", "omitted"):
        refuse("thinking.display", "there is no such display", "use summarized or omitted")
    if kind == "disabled":
        return "none"
    if kind != "enabled":
        # The model decides how much, which is everybody's default.
        return None
    budget = thinking.get("budget_tokens")
    if isinstance(budget, bool) or not isinstance(budget, int):
        wrong_type("thinking.budget_tokens", budget, "a whole number")
    if budget < _BUDGET_TOKENS_MIN:
        refuse("thinking.budget_tokens", f"thinking.budget_tokens is {budget!r}", f"use {_BUDGET_TOKENS_MIN} or more")
    if budget < _BUDGET_MEDIUM:
        return "low"
    return "medium" if budget < _BUDGET_HIGH else "high"


def _output(body: Mapping[str, Json]) -> OutputSchema | None:
    """Return the schema of the answer, from today's field or the one before it."""
    config = body.get("output_config")
    new = config.get("format") if isinstance(config, dict) else None
    old = body.get("output_format")
    if new is not None and old is not None and new != old:
        refuse("output_format", "output_format contradicts output_config.format", "send one of them")
    where = "output_config.format" if new is not None else "output_format"
    value = new if new is not None else old
    if value is None:
        return None
    wanted = as_object(value, where)
    only(wanted, frozenset(("type", "schema")), wanted, f"{where}.")
    if wanted.get("type") != "json_schema":
        refuse(f"{where}.type", "there is no such format", "send type 'json_schema'")
    schema = schema_of(wanted.get("schema"), f"{where}.schema")
    # OpenAI's strict mode wants every property required, which Anthropic's does not.
    return OutputSchema(name="answer", schema=schema, strict=_all_required(schema))


def _all_required(schema: Json) -> bool:
    """Whether every object in ``schema`` is closed and requires all of its properties."""
    if isinstance(schema, list):
        return all(map(_all_required, schema))
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if isinstance(properties, dict):
        required = schema.get("required")
        if schema.get("additionalProperties") is not False or not isinstance(required, list):
            return False
        if any(name not in required for name in properties):
            return False
        if not all(map(_all_required, properties.values())):
            return False
    return all(_all_required(value) for name, value in schema.items() if name not in ("properties", "enum", "const"))

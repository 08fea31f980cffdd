"""What the Anthropic Messages format reads, and that it reaches every provider."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.domain.accounts import AccountSpec, Provider, StructuredOutput
from app.domain.chat import ChatRequest, ImagePart, Role
from app.domain.errors import RequestError
from app.http.formats.anthropic_messages import AnthropicMessages, count_tokens
from app.providers.anthropic import AnthropicWire
from app.providers.openai_compat import OPENAI, OpenAIWire
from app.providers.wire import ModelTable

FORMAT = AnthropicMessages()
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
TOOL = {"name": "find", "description": "Finds.", "input_schema": SCHEMA}
HISTORY: dict[str, Any] = {
    "model": "m",
    "max_tokens": 8000,
    "system": [
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "text", "text": "Be kind."},
    ],
    "tools": [TOOL | {"cache_control": {"type": "ephemeral"}, "strict": True}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "temperature": 0.5,
    "top_p": 0.9,
    "stop_sequences": ["END"],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aQ=="}},
                {"type": "text", "text": "And this?", "cache_control": {"type": "ephemeral"}},
                {"type": "image", "source": {"type": "url", "url": "https://example.test/a.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Look it up.", "signature": "s1"},
                {"type": "redacted_thinking", "data": "xyz"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "find", "input": {"a": "1"}},
                {
                    "type": "tool_use",
                    "id": "t2",
                    "name": "find",
                    "input": {"a": "2"},
                    "cache_control": {"type": "ephemeral"},
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "one"},
                {"type": "tool_result", "tool_use_id": "t2", "content": "no such thing", "is_error": True},
                {"type": "text", "text": "Go on.", "cache_control": {"type": "ephemeral"}},
            ],
        },
    ],
}


def account(provider: Provider) -> AccountSpec:
    return AccountSpec(name="a", provider=provider, api_key="key", models=(("m", "m"),))


def to_anthropic(chat: ChatRequest) -> dict[str, Any]:
    spec = account(Provider.ANTHROPIC)
    call = AnthropicWire(spec, ModelTable(spec, (), StructuredOutput.SCHEMA)).encode(chat, stream=False)
    body: dict[str, Any] = json.loads(call.body)
    return body


def to_openai(chat: ChatRequest) -> dict[str, Any]:
    spec = account(Provider.OPENAI)
    call = OpenAIWire(spec, ModelTable(spec, (), OPENAI.structured), OPENAI).encode(chat, stream=False)
    body: dict[str, Any] = json.loads(call.body)
    return body


def asked(**fields: Any) -> ChatRequest:
    base: dict[str, Any] = {"model": "m", "max_tokens": 9_000, "messages": [{"role": "user", "content": "hi"}]}
    return FORMAT.parse({**base, **fields}).chat


def turn(*blocks: dict[str, Any], role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": list(blocks)}]


def test_conversation_reaches_anthropic_as_it_was_written() -> None:
    """Between the same two formats, nothing is lost and nothing is moved: caching and signatures depend on it."""
    assert to_anthropic(FORMAT.parse(HISTORY).chat) == HISTORY | {"stream": False}


def test_conversation_reaches_openai_with_everything_it_has_a_word_for() -> None:
    """Texts, images, calls, results and settings arrive; only thinking and cache hints are Anthropic's own."""
    sent = to_openai(FORMAT.parse(HISTORY).chat)

    assert sent["messages"] == [
        {
            "role": "system",
            "content": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aQ=="}},
                {"type": "text", "text": "And this?"},
                {"type": "image_url", "image_url": {"url": "https://example.test/a.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "find", "arguments": '{"a":"1"}'}},
                {"id": "t2", "type": "function", "function": {"name": "find", "arguments": '{"a":"2"}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "one"},
        {"role": "tool", "tool_call_id": "t2", "content": "The tool failed:\nno such thing"},
        {"role": "user", "content": "Go on."},
    ]
    function = {"name": "find", "description": "Finds.", "parameters": SCHEMA, "strict": True}
    assert sent["tools"] == [{"type": "function", "function": function}]
    assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("auto", False)
    assert (sent["max_completion_tokens"], sent["temperature"], sent["top_p"], sent["stop"]) == (
        8000,
        0.5,
        0.9,
        ["END"],
    )


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 4096, "display": "omitted"}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 20_000}}, "high"),
        ({"thinking": {"type": "disabled"}}, "none"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, "high"),
        ({"output_config": {"effort": "low"}}, "low"),
    ],
)
def test_thinking_is_verbatim_for_anthropic_and_an_effort_for_others(
    fields: dict[str, Any], effort: str | None
) -> None:
    """A budget is exact where it means something, and near where only an effort does."""
    chat = asked(**fields)
    own = to_anthropic(chat)

    assert {name: own.get(name) for name in ("thinking", "output_config") if name in own} == fields
    assert to_openai(chat).get("reasoning_effort") == effort


@pytest.mark.parametrize("field", ["output_config", "output_format"])
def test_schema_reaches_both_providers(field: str) -> None:
    """Today's field and the one before it mean the same."""
    wanted = {"type": "json_schema", "schema": SCHEMA}
    chat = asked(**{field: {"format": wanted} if field == "output_config" else wanted})

    assert to_anthropic(chat)["output_config"] == {"format": wanted}
    assert to_openai(chat)["response_format"]["json_schema"] == {"name": "answer", "schema": SCHEMA, "strict": True}


def test_schema_with_optional_properties_is_not_strict_for_openai() -> None:
    """OpenAI refuses a strict schema that does not require everything."""
    schema = {**SCHEMA, "required": []}
    chat = asked(output_config={"effort": "high", "format": {"type": "json_schema", "schema": schema}})

    assert to_openai(chat)["response_format"]["json_schema"]["strict"] is False
    assert to_anthropic(chat)["output_config"] == {
        "effort": "high",
        "format": {"type": "json_schema", "schema": schema},
    }


@pytest.mark.parametrize(
    ("choice", "anthropic", "openai"),
    [
        ({"type": "any"}, {"type": "any"}, "required"),
        ({"type": "none"}, {"type": "none"}, "none"),
        (
            {"type": "tool", "name": "find"},
            {"type": "tool", "name": "find"},
            {"type": "function", "function": {"name": "find"}},
        ),
    ],
)
def test_tool_choice_reaches_both_providers(choice: dict[str, Any], anthropic: Any, openai: Any) -> None:
    """The words differ, the choice does not."""
    chat = asked(tools=[TOOL], tool_choice=choice)

    assert to_anthropic(chat)["tool_choice"] == anthropic
    assert to_openai(chat)["tool_choice"] == openai


def test_fields_of_anthropic_alone_are_passed_on() -> None:
    """Hints and settings that only its own adapter understands arrive there in the client's words."""
    tool = TOOL | {"type": "custom", "eager_input_streaming": True, "input_examples": [{"a": "x"}]}
    sent = to_anthropic(
        asked(
            top_k=5,
            service_tier="auto",
            metadata={"user_id": "u"},
            cache_control={"type": "ephemeral"},
            tools=[tool],
        )
    )

    assert (sent["top_k"], sent["service_tier"], sent["metadata"]) == (5, "auto", {"user_id": "u"})
    assert sent["cache_control"] == {"type": "ephemeral"}
    assert sent["tools"] == [{name: value for name, value in tool.items() if name != "type"}]


def test_tool_result_of_blocks_keeps_texts_and_images() -> None:
    """A tool may answer with pictures; a mark inside it is a mark on it."""
    blocks: list[Any] = [
        {"type": "text", "text": "see"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aQ=="}},
    ]
    result = {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [*blocks[:1], blocks[1] | {"cache_control": {"type": "ephemeral"}}],
    }
    (message,) = asked(messages=turn(result)).messages

    assert (message.role, message.tool_call_id, message.text) == (Role.TOOL, "t", "see")
    assert message.images == (ImagePart(data_base64="aQ==", media_type="image/png"),)
    sent = to_anthropic(asked(messages=turn(result)))["messages"][0]["content"]
    assert sent == [
        {"type": "tool_result", "tool_use_id": "t", "content": blocks, "cache_control": {"type": "ephemeral"}}
    ]


def test_thinking_after_text_stays_with_what_it_led_to() -> None:
    """The API wants every thought back where it stood."""
    content: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "a", "signature": "s"},
        {"type": "text", "text": "first"},
        {"type": "thinking", "thinking": "b", "signature": "t"},
        {"type": "tool_use", "id": "t1", "name": "find", "input": {}},
    ]
    chat = asked(messages=[{"role": "user", "content": "hi"}, *turn(*content, role="assistant")])

    assert [message.reasoning for message in chat.messages[1:]] == ["a", "b"]
    assert to_anthropic(chat)["messages"][1]["content"] == content


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x", "name": "n"}]}, "messages[0].name"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": turn({"type": "document", "source": {}})}, "messages[0].content[0].type"),
        ({"messages": turn({"type": "thinking", "thinking": "x", "signature": ""})}, "messages[0].content[0].type"),
        ({"messages": turn({"type": "text", "text": 1})}, "messages[0].content[0].text"),
        ({"messages": turn({"type": "text", "text": "x", "citations": [{}]})}, "messages[0].content[0].citations"),
        (
            {"messages": turn({"type": "text", "text": "x"}, {"type": "tool_result", "tool_use_id": "t"})},
            "messages[0].content[1].type",
        ),
        ({"messages": turn({"type": "tool_result", "content": "x"})}, "messages[0].content[0].tool_use_id"),
        (
            {"messages": turn({"type": "image", "source": {"type": "file", "file_id": "f"}})},
            "messages[0].content[0].source.type",
        ),
        (
            {"messages": turn({"type": "image", "source": {"type": "base64", "data": "aQ=="}})},
            "messages[0].content[0].source.media_type",
        ),
        (
            {"messages": turn({"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "2h"}})},
            "messages[0].content[0].cache_control.ttl",
        ),
        (
            {"messages": turn({"type": "tool_use", "id": "t", "name": "n", "input": "x"}, role="assistant")},
            "messages[0].content[0].input",
        ),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [TOOL | {"unheard": 1}]}, "tools[0].unheard"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "deep"}}, "thinking.type"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"task_budget": 1}}, "output_config.task_budget"),
        ({"output_format": {"type": "regex"}}, "output_format.type"),
        ({"metadata": {"team": "x"}}, "metadata.team"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"mcp_servers": [{"url": "https://example.test"}]}, "mcp_servers"),
        ({"temperature": "hot"}, "temperature"),
        ({"stream": 1}, "stream"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """A client must learn which of its fields is at fault, as it wrote it."""
    with pytest.raises(RequestError) as caught:
        asked(**fields)

    assert caught.value.param == param


def test_unknown_field_is_passed_on_by_name() -> None:
    """The adapter knows whether its provider takes it; Anthropic's refuses what its API would."""
    chat = asked(unheard=5)

    assert chat.extra == (("unheard", "5"),)
    with pytest.raises(RequestError) as caught:
        to_anthropic(chat)
    assert caught.value.param == "unheard"


def test_tokens_are_counted_without_max_tokens() -> None:
    """Counting asks for no answer; more text counts more."""
    body = {name: value for name, value in HISTORY.items() if name != "max_tokens"}
    few = count_tokens({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    many = count_tokens(body)

    assert set(few) == {"input_tokens"}
    assert isinstance(few["input_tokens"], int)
    assert isinstance(many["input_tokens"], int)
    assert many["input_tokens"] > few["input_tokens"] + 2_000

"""Reading OpenAI chat bodies: every field arrives, is passed on, or is refused by name."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.chat import ChatRequest, ImagePart, Message, OutputSchema, Role, ToolCall, ToolSpec
from app.domain.errors import RequestError
from app.http.formats.openai_chat import OpenAIChat
from app.http.formats.openai_chat_fields import TOOLS_MAX
from app.http.formats.openai_chat_messages import MESSAGES_MAX
from tests.effort import examples

FORMAT = OpenAIChat()
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "Looks outside.", "parameters": SCHEMA, "strict": True},
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def chat(**fields: Any) -> ChatRequest:
    """Return what the format reads of a body with one message and ``fields``."""
    return FORMAT.parse({"model": "m", "messages": HELLO, **fields}).chat


def message(**fields: Any) -> Message:
    """Return what the format reads of one message."""
    return chat(messages=[fields]).messages[0]


def refused(body: dict[str, Any]) -> RequestError:
    """Return the refusal of ``body``."""
    with pytest.raises(RequestError) as caught:
        FORMAT.parse(body)
    return caught.value


def outcome(body: dict[str, Any]) -> ChatRequest | RequestError:
    """Return what came of ``body``: the request or the refusal."""
    try:
        return FORMAT.parse(body).chat
    except RequestError as error:
        return error


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"max_tokens": 7}, "output_tokens_max", 7),
        ({"max_completion_tokens": 8}, "output_tokens_max", 8),
        ({"max_tokens": 9, "max_completion_tokens": 9}, "output_tokens_max", 9),
        ({"temperature": 0}, "temperature", 0),
        ({"temperature": 1.5}, "temperature", 1.5),
        ({"top_p": 0.1}, "top_p", 0.1),
        ({"stop": "END"}, "stop", ("END",)),
        ({"stop": ["a", "\n"]}, "stop", ("a", "\n")),
        ({"stop": []}, "stop", ()),
        ({"seed": -5}, "seed", -5),
        ({"n": 3}, "choices", 3),
        (
            {"tools": [TOOL]},
            "tools",
            (ToolSpec(name="weather", description="Looks outside.", parameters=SCHEMA, strict=True),),
        ),
        ({"tools": [{"type": "function", "function": {"name": "now"}}]}, "tools", (ToolSpec(name="now"),)),
        ({"tool_choice": "auto", "tools": [TOOL]}, "tool_choice", "auto"),
        ({"tool_choice": "none"}, "tool_choice", "none"),
        ({"tool_choice": "required", "tools": [TOOL]}, "tool_choice", "required"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}, "tools": [TOOL]},
            "tool_choice",
            "weather",
        ),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", False),
        ({"response_format": {"type": "text"}}, "output", None),
        ({"response_format": {"type": "json_object"}}, "output", "json_object"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": SCHEMA, "strict": True},
                }
            },
            "output",
            OutputSchema(name="a", schema=SCHEMA, strict=True),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
            "output",
            OutputSchema(name="a", schema=SCHEMA, strict=False),
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"description": "own"}, "description": "An answer."},
                }
            },
            "output",
            OutputSchema(name="a", schema={"description": "An answer.\n\nown"}, strict=False),
        ),
        ({"reasoning_effort": "xhigh"}, "reasoning_effort", "xhigh"),
        ({"stream": True}, "stream", True),
        ({"user": "u1"}, "user", "u1"),
        ({"safety_identifier": "u2"}, "user", "u2"),
        ({"logit_bias": {"50256": -100}}, "extra", (("logit_bias", '{"50256":-100}'),)),
        ({"enable_thinking": True, "top_k": 4}, "extra", (("enable_thinking", "true"), ("top_k", "4"))),
        ({"logprobs": False, "modalities": ["text"]}, "extra", ()),
    ],
)
def test_field_arrives_as_its_meaning(fields: dict[str, Any], name: str, value: object) -> None:
    """Each field of the format has one place inside."""
    read = chat(**fields)

    assert getattr(read, name) == value
    others = [other for other in ChatRequest.__dataclass_fields__ if other not in (name, "tools")]
    assert [getattr(read, other) for other in others] == [getattr(chat(), other) for other in others]


def test_fields_that_are_null_or_missing_read_as_not_set() -> None:
    """SDKs send null for what their user left out."""
    names = ("max_tokens", "temperature", "stop", "tools", "tool_choice", "response_format", "n", "user", "functions")

    assert chat(**dict.fromkeys(names), audio=None, anything=None) == chat()
    assert FORMAT.parse({"messages": HELLO}).chat.model == ""


def test_task_type_and_usage_wish_stand_beside_the_chat() -> None:
    """The usage is in a stream only where the client asked for it, and always in a whole answer."""
    ask: dict[str, Any] = {"model": "m", "messages": HELLO}

    assert FORMAT.parse({**ask, "task_type": "translation"}).task_type == "translation"
    assert FORMAT.parse(ask).include_usage
    assert not FORMAT.parse({**ask, "stream": True}).include_usage
    assert not FORMAT.parse({**ask, "stream": True, "stream_options": {"include_obfuscation": False}}).include_usage
    assert FORMAT.parse({**ask, "stream": True, "stream_options": {"include_usage": True}}).include_usage


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"role": "system", "content": "Be brief."}, Message(role=Role.SYSTEM, text="Be brief.")),
        ({"role": "developer", "content": "Be brief."}, Message(role=Role.SYSTEM, text="Be brief.")),
        ({"role": "user", "content": "Hi", "name": "Ann"}, Message(role=Role.USER, text="Hi", name="Ann")),
        ({"role": "user", "content": [{"type": "text", "text": "Hi"}]}, Message(role=Role.USER, text="Hi")),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            Message(role=Role.USER, text="a\nb", parts=("a", "b")),
        ),
        (
            {"role": "tool", "tool_call_id": "c1", "content": "21 degrees", "name": "weather"},
            Message(role=Role.TOOL, text="21 degrees", tool_call_id="c1", name="weather"),
        ),
        (
            {"role": "assistant", "content": "Hi", "reasoning_content": "Greet."},
            Message(role=Role.ASSISTANT, text="Hi", reasoning="Greet."),
        ),
        (
            {"role": "assistant", "content": "Hi", "reasoning": "Greet.", "reasoning_signature": "s"},
            Message(role=Role.ASSISTANT, text="Hi", reasoning="Greet.", reasoning_signature="s"),
        ),
        (
            {"role": "assistant", "content": None, "refusal": "I will not."},
            Message(role=Role.ASSISTANT, text="I will not."),
        ),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "I will not."}]},
            Message(role=Role.ASSISTANT, text="I will not."),
        ),
        (
            {"role": "assistant", "content": "Well.", "refusal": "No."},
            Message(role=Role.ASSISTANT, text="Well.\nNo.", parts=("Well.", "No.")),
        ),
        ({"role": "assistant", "content": "Hi", "tool_calls": []}, Message(role=Role.ASSISTANT, text="Hi")),
    ],
)
def test_message_arrives_whole(fields: dict[str, Any], expected: Message) -> None:
    """Every role and every field of an earlier turn is kept."""
    assert message(**fields) == expected


def test_tool_calls_of_an_earlier_turn_are_kept_with_their_signature() -> None:
    """Gemini wants its signature back; arguments stay the model's own text, even broken JSON."""
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city":'},
        "extra_content": {"google": {"thought_signature": "sig"}},
    }
    bare = {"id": "c2", "function": {"name": "now", "arguments": ""}, "index": 1}

    read = message(role="assistant", content=None, tool_calls=[call, bare])

    assert read.text == ""
    assert read.tool_calls == (
        ToolCall(id="c1", name="weather", arguments='{"city":', signature="sig"),
        ToolCall(id="c2", name="now", arguments=""),
    )


def test_what_the_sdk_sends_back_of_its_own_message_is_understood() -> None:
    """A client appends ``message.model_dump()`` to its conversation: null and empty fields come with it."""
    echo = {
        "content": None,
        "refusal": None,
        "role": "assistant",
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": [{"id": "c1", "function": {"arguments": "{}", "name": "now"}, "type": "function"}],
    }

    assert message(**echo).tool_calls == (ToolCall(id="c1", name="now", arguments="{}"),)


def test_images_keep_their_form_and_place() -> None:
    """Addresses stay addresses, data stays data; interleaved texts keep their order in ``parts``."""
    near = {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}
    far = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    first, second = {"type": "text", "text": "Before"}, {"type": "text", "text": "After"}
    data = ImagePart(data_base64="iVBORw0KGgo=", media_type="image/png", detail="low")
    link = ImagePart(url="https://example.org/a.png")

    assert message(role="user", content=[first, near, far]) == Message(
        role=Role.USER, text="Before", images=(data, link)
    )
    assert message(role="user", content=[near]) == Message(role=Role.USER, images=(data,))
    mixed = message(role="user", content=[near, first, far, second])
    assert mixed.parts == mixed.pieces() == (data, "Before", link, "After")
    assert (mixed.text, mixed.images) == ("Before\nAfter", (data, link))


def part(**fields: Any) -> list[Any]:
    return [{"role": "user", "content": [fields]}]


def said(**fields: Any) -> list[Any]:
    return [{"role": "assistant", "content": "x", **fields}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": HELLO * (MESSAGES_MAX + 1)}, "messages"),
        ({"messages": ["Hello"]}, "messages[0]"),
        ({"messages": [*HELLO, {"content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "x", "cache_control": {}}]}, "messages[0].cache_control"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": part(type="text")}, "messages[0].content[0].text"),
        ({"messages": part(type="text", text="x", cache_control={})}, "messages[0].content[0].cache_control"),
        ({"messages": part(type="refusal", refusal="x")}, "messages[0].content[0].type"),
        ({"messages": part(type="input_audio", input_audio={})}, "messages[0].content[0].type"),
        ({"messages": part(type="file", file={})}, "messages[0].content[0].type"),
        ({"messages": part(type=None)}, "messages[0].content[0].type"),
        ({"messages": part(type="image_url", image_url=PIXEL)}, "messages[0].content[0].image_url"),
        ({"messages": part(type="image_url", image_url={"url": "gs://b/a"})}, "messages[0].content[0].image_url.url"),
        (
            {"messages": part(type="image_url", image_url={"url": "data:image/png,x"})},
            "messages[0].content[0].image_url.url",
        ),
        (
            {"messages": part(type="image_url", image_url={"url": PIXEL, "detail": "vast"})},
            "messages[0].content[0].image_url.detail",
        ),
        ({"messages": said(function_call={"name": "f"})}, "messages[0].function_call"),
        ({"messages": said(audio={"id": "a"})}, "messages[0].audio"),
        ({"messages": said(annotations=[{"type": "url_citation"}])}, "messages[0].annotations"),
        ({"messages": said(reasoning="a", reasoning_content="b")}, "messages[0].reasoning"),
        ({"messages": said(tool_calls={})}, "messages[0].tool_calls"),
        ({"messages": said(tool_calls=[{"type": "custom", "id": "c"}])}, "messages[0].tool_calls[0].type"),
        (
            {"messages": said(tool_calls=[{"id": "", "function": {"name": "f", "arguments": ""}}])},
            "messages[0].tool_calls[0].id",
        ),
        (
            {"messages": said(tool_calls=[{"id": "c", "function": {"name": "f", "arguments": {}}}])},
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            {"messages": said(tool_calls=[{"id": "c", "index": 3, "function": {"name": "f", "arguments": ""}}])},
            "messages[0].tool_calls[0].index",
        ),
        ({"model": 5}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"seed": "1"}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"tools": {}}, "tools"),
        ({"tools": [TOOL] * (TOOLS_MAX + 1)}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": [{"type": "function", "function": {"name": "f", "cache": 1}}]}, "tools[0].function.cache"),
        ({"tool_choice": "weather"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice.function.name"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
        ),
        ({"reasoning_effort": 3}, "reasoning_effort"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"stream": True, "stream_options": {"more": 1}}, "stream_options.more"),
        ({"user": 5}, "user"),
        ({"user": "a", "safety_identifier": "b"}, "user"),
        ({"task_type": ["a"]}, "task_type"),
        ({"functions": []}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
    ],
)
def test_field_that_is_wrong_or_has_no_place_is_refused_by_its_own_name(fields: dict[str, Any], param: str) -> None:
    """The client reads its own spelling of the field, and nothing is dropped in silence."""
    assert refused({"model": "m", "messages": HELLO, **fields}).param == param


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("functions", "send tools"), ("function_call", "send tool_choice")],
)
def test_legacy_functions_are_refused_with_what_to_send_instead(name: str, remedy: str) -> None:
    """A refusal without a way on is half an answer."""
    assert refused({"messages": HELLO, name: ["x"]}).remedy == remedy


@pytest.mark.parametrize("name", ["anything", "tools", "response_format"])
def test_value_nested_too_deeply_to_be_sent_on_is_refused(name: str) -> None:
    """The serialiser ends at 254 levels; a body of a thousand must not become a failure of ours."""
    deep: Any = 1
    for _level in range(250):
        deep = {"a": deep}
    wrap = {
        "anything": deep,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": deep}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": deep}},
    }

    assert (refused({"messages": HELLO, name: wrap[name]}).param or "").startswith(name)


def test_tool_whose_name_is_a_word_of_tool_choice_cannot_be_chosen() -> None:
    """Inside, a choice is one word: choosing the tool "none" would switch tools off."""
    tool = {"type": "function", "function": {"name": "none"}}
    wish = {"type": "function", "function": {"name": "none"}}

    error = refused({"messages": HELLO, "tools": [tool], "tool_choice": wish})

    assert error.param == "tool_choice.function.name"


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_VALID: dict[str, tuple[Any, str]] = {
    "model": ("m", "model"),
    "max_tokens": (5, "output_tokens_max"),
    "temperature": (0.5, "temperature"),
    "top_p": (0.5, "top_p"),
    "stop": ("x", "stop"),
    "seed": (5, "seed"),
    "n": (2, "choices"),
    "tools": ([TOOL], "tools"),
    "tool_choice": ("none", "tool_choice"),
    "parallel_tool_calls": (True, "parallel_tool_calls"),
    "response_format": ({"type": "json_object"}, "output"),
    "reasoning_effort": ("low", "reasoning_effort"),
    "stream": (True, "stream"),
    "user": ("u", "user"),
}
_DEFAULT = ChatRequest(model="", messages=(Message(role=Role.USER, text="Hello"),))


@settings(max_examples=examples(150), deadline=None)
@given(
    known=st.sets(st.sampled_from(sorted(_VALID))),
    strange=st.dictionaries(
        st.text(min_size=1, max_size=12) | st.sampled_from(["logprobs", "functions", "store", "metadata", "audio"]),
        _JSON,
        max_size=4,
    ),
)
def test_no_top_level_field_is_ever_lost(known: set[str], strange: dict[str, Any]) -> None:
    """Every field that is set changes the request, stands in ``extra``, or is refused by its name."""
    strange = {name: value for name, value in strange.items() if name not in {*_VALID, "messages", "task_type"}}
    body = {"messages": HELLO, **{name: _VALID[name][0] for name in known}, **strange}

    read = outcome(body)

    if isinstance(read, RequestError):
        assert read.param in strange
        return
    for name in known:
        place = _VALID[name][1]
        assert getattr(read, place) != getattr(_DEFAULT, place), name
    extra = {name: orjson.loads(text) for name, text in read.extra}
    silent = {"logprobs": False, "modalities": ["text"]}
    assert extra == {
        name: value
        for name, value in strange.items()
        if value is not None and not (name in silent and silent[name] == value)
    }


@settings(max_examples=examples(200), deadline=None)
@given(body=st.dictionaries(st.sampled_from(sorted([*_VALID, "messages", "stream_options"])), _JSON))
def test_any_json_is_read_or_refused_and_never_fails(body: dict[str, Any]) -> None:
    """No body, however wrong, is a failure of ours."""
    read = outcome(json.loads(json.dumps(body)))

    assert isinstance(read, ChatRequest) or read.param

"""Reading Responses bodies: every field arrives, is passed on, or is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.chat import ChatRequest, ImagePart, Message, OutputSchema, Role, ToolCall, ToolSpec
from app.domain.errors import RequestError
from app.http.formats.openai_chat_fields import TOOLS_MAX
from app.http.formats.openai_responses import METADATA_PAIRS_MAX, OpenAIResponses
from app.http.formats.openai_responses_input import ITEMS_MAX
from tests.effort import examples

FORMAT = OpenAIResponses()
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "Looks outside.",
    "parameters": SCHEMA,
    "strict": True,
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
CALL: dict[str, Any] = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Hue"}'}


def chat(**fields: Any) -> ChatRequest:
    """Return what the format reads of a body with a short input and ``fields``."""
    return FORMAT.parse({"model": "m", "input": "Hello", **fields}).chat


def messages(*items: Any) -> tuple[Message, ...]:
    """Return what the format reads of ``items``."""
    return chat(input=list(items)).messages


def refused(**fields: Any) -> RequestError:
    """Return the refusal of a body with ``fields``."""
    with pytest.raises(RequestError) as caught:
        chat(**fields)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"max_output_tokens": 7}, "output_tokens_max", 7),
        ({"temperature": 0}, "temperature", 0),
        ({"top_p": 0.1}, "top_p", 0.1),
        (
            {"tools": [TOOL]},
            "tools",
            (ToolSpec(name="weather", description="Looks outside.", parameters=SCHEMA, strict=True),),
        ),
        ({"tools": [{"type": "function", "name": "f"}]}, "tools", (ToolSpec(name="f"),)),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice", "required"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}}, "tool_choice", "weather"),
        ({"tool_choice": "none"}, "tool_choice", "none"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", False),
        (
            {"text": {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}}},
            "output",
            OutputSchema(name="place", schema=SCHEMA, strict=True),
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "p", "schema": SCHEMA, "description": "Where."}}},
            "output",
            OutputSchema(name="p", schema={**SCHEMA, "description": "Where."}, strict=False),
        ),
        ({"text": {"format": {"type": "json_object"}}}, "output", "json_object"),
        ({"text": {"format": {"type": "text"}}}, "output", None),
        ({"text": {"verbosity": "low"}}, "extra", (("verbosity", '"low"'),)),
        ({"reasoning": {"effort": "high", "summary": "auto"}}, "reasoning_effort", "high"),
        ({"stream": True, "stream_options": {"include_obfuscation": False}}, "stream", True),
        ({"user": "u"}, "user", "u"),
        ({"safety_identifier": "s"}, "user", "s"),
        ({"prompt_cache_key": "k"}, "extra", (("prompt_cache_key", '"k"'),)),
        ({"service_tier": "flex"}, "extra", (("service_tier", '"flex"'),)),
        ({"store": False}, "extra", ()),
        ({"background": False}, "extra", ()),
        ({"previous_response_id": None}, "extra", ()),
        ({"include": ["reasoning.encrypted_content"]}, "extra", ()),
        ({"truncation": "disabled"}, "extra", ()),
        ({"metadata": {"a": "b"}}, "extra", ()),
        ({"max_tool_calls": 3}, "extra", ()),
    ],
)
def test_field_arrives(fields: dict[str, Any], name: str, value: Any) -> None:
    """What the client sets is what is asked."""
    assert getattr(chat(**fields), name) == value


def test_text_input_and_instructions_are_two_messages() -> None:
    """Instructions lead."""
    read = chat(input="Hi", instructions="Be brief.").messages

    assert read == (Message(role=Role.SYSTEM, text="Be brief."), Message(role=Role.USER, text="Hi"))


def test_parts_keep_their_order_where_text_first_would_not_show_it() -> None:
    """A text after an image stays after it."""
    image = ImagePart(data_base64="iVBORw0KGgo=", media_type="image/png", detail="low")
    part = {"type": "input_image", "image_url": PIXEL, "detail": "low"}
    text = {"type": "input_text", "text": "What is this?"}

    assert messages({"role": "user", "content": [text, part]}) == (
        Message(role=Role.USER, text="What is this?", images=(image,)),
    )
    assert messages({"type": "message", "role": "user", "content": [part, text]}) == (
        Message(role=Role.USER, text="What is this?", images=(image,), parts=(image, "What is this?")),
    )
    linked = messages({"role": "user", "content": [{"type": "input_image", "image_url": "https://a/b.png"}]})
    assert linked[0].images == (ImagePart(url="https://a/b.png"),)


def test_items_of_one_model_turn_become_one_message() -> None:
    """Reasoning, text and calls belong together; providers refuse a turn that is torn apart."""
    said = [{"type": "output_text", "text": "Let me ", "annotations": []}, {"type": "output_text", "text": "look."}]
    signed = {**CALL, "call_id": "c2", "extra_content": {"google": {"thought_signature": "sig"}}}
    read = messages(
        {"role": "user", "content": "Weather?"},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
            "encrypted_content": "tutti:SIG",
        },
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": said},
        {**CALL, "id": "fc_1", "status": "completed"},
        signed,
        {"type": "function_call_output", "call_id": "c1", "output": "Sunny."},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "Rain."}]},
        {"role": "developer", "content": "Be brief."},
    )

    assert read == (
        Message(role=Role.USER, text="Weather?"),
        Message(
            role=Role.ASSISTANT,
            text="Let me look.",
            reasoning="Hm.",
            reasoning_signature="SIG",
            tool_calls=(
                ToolCall(id="c1", name="weather", arguments='{"city":"Hue"}'),
                ToolCall(id="c2", name="weather", arguments='{"city":"Hue"}', signature="sig"),
            ),
        ),
        Message(role=Role.TOOL, text="Sunny.", tool_call_id="c1"),
        Message(role=Role.TOOL, text="Rain.", tool_call_id="c2"),
        Message(role=Role.SYSTEM, text="Be brief."),
    )


def test_message_between_calls_and_outputs_does_not_part_them() -> None:
    """Chat wants outputs right after the turn that made the calls."""
    read = messages(
        CALL,
        {"role": "assistant", "content": "One moment."},
        {"type": "function_call_output", "call_id": "c1", "output": "Sunny."},
    )

    assert [message.role for message in read] == [Role.ASSISTANT, Role.TOOL]
    assert read[0].text == "One moment."
    assert len(read[0].tool_calls) == 1


def test_two_answers_in_a_row_stay_two_messages() -> None:
    """Only the items of one turn are joined."""
    thought = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "Hm."}]}
    read = messages({"role": "assistant", "content": "A"}, {"role": "assistant", "content": "B"}, thought)

    assert [(message.text, message.reasoning) for message in read] == [("A", None), ("B", None), ("", "Hm.")]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["text"]}, "input[0]"),
        ({"input": [{"role": "user", "content": "x"}] * (ITEMS_MAX + 1)}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"type": "web_search_call", "id": "ws"}]}, "input[0].type"),
        ({"input": [{}]}, "input[0].type"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": []}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": "x", "phase": "commentary"}]}, "input[0].phase"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input[0].content[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0].type",
        ),
        ({"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]}, "input[0].content[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "ftp://x"}]}]},
            "input[0].content[0].image_url",
        ),
        (
            {"input": [{"role": "assistant", "content": [{"type": "output_text", "text": "x", "annotations": [{}]}]}]},
            "input[0].content[0].annotations",
        ),
        ({"input": [{"type": "function_call_output", "call_id": "c1", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{**CALL, "arguments": {}}]}, "input[0].arguments"),
        ({"input": [{**CALL, "namespace": "n"}]}, "input[0].namespace"),
        (
            {"input": [{"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "gAAAA"}]},
            "input[0].encrypted_content",
        ),
        ({"instructions": ["x"]}, "instructions"),
        ({"model": 5}, "model"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL, {"type": "file_search", "vector_store_ids": ["v"]}]}, "tools[1].type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].function"),
        ({"tools": [TOOL] * (TOOLS_MAX + 1)}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice.name"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "p"}}}, "text.format.schema"),
        ({"text": {"tone": "x"}}, "text.tone"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"user": "a", "safety_identifier": "b"}, "user"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(n): "x" for n in range(METADATA_PAIRS_MAX + 1)}}, "metadata"),
        ({"n": 2}, "n"),
        ({"messages": []}, "messages"),
    ],
)
def test_refusal_names_the_field(fields: dict[str, Any], param: str) -> None:
    """Whoever gets a 400 can find the place in their own request."""
    assert refused(**fields).param == param


def test_refused_tool_and_state_are_named_with_a_remedy() -> None:
    """A built-in tool is refused by its own name; a reference to kept state says what to send."""
    tool, state = refused(tools=[{"type": "web_search"}]), refused(previous_response_id="resp_1")

    assert "'web_search'" in tool.message
    assert state.remedy == "send the whole conversation as input"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_NAMES = st.sampled_from(
    ["input", "tools", "tool_choice", "text", "reasoning", "metadata", "include", "stream_options", "instructions"]
)
_TYPES = st.sampled_from(
    ["message", "function_call", "function_call_output", "reasoning", "function", "json_schema", "input_text"]
)
_FIELDS = st.sampled_from(
    ["type", "role", "content", "name", "call_id", "arguments", "output", "summary", "schema", "format"]
)
_SHAPED = st.lists(
    st.dictionaries(_FIELDS, _TYPES | _JSON | st.lists(st.dictionaries(_FIELDS, _TYPES | _JSON)), max_size=4)
)


@settings(max_examples=examples(40), deadline=None)
@given(st.dictionaries(_NAMES, _JSON | _SHAPED, max_size=3))
def test_any_json_is_read_or_refused(fields: dict[str, Any]) -> None:
    """No body makes the parser fail in another way, and no refusal leaves the field out."""
    body = {"model": "m", "input": "Hello", **fields}
    refusal: RequestError | None = None
    try:
        FORMAT.parse(body)
    except RequestError as error:
        refusal = error

    assert refusal is None or refusal.param

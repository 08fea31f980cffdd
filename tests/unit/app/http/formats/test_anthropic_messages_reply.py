"""What the Anthropic Messages format writes, read by the official SDK's types and by our own decoder."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic import types
from anthropic.lib.streaming._messages import accumulate_event
from pydantic import TypeAdapter

from app.domain.chat import ChatDelta, ChatRequest, ChatResult, FinishReason, Message, Role, ToolCall, Usage
from app.domain.errors import UpstreamError
from app.domain.gateway import Asked, Served
from app.http.formats.anthropic_messages import AnthropicMessages
from app.providers.anthropic_reply import AnthropicStream, decode
from app.providers.sse import SseEvent

FORMAT = AnthropicMessages()
SERVED = Served(request_id="r1", created_s=1, account="a", provider="anthropic", model="claude")
CHAT = ChatRequest(model="m", messages=(Message(role=Role.USER, text="hi"),))
ASKED = Asked(chat=CHAT)
USAGE = Usage(input_tokens=100, output_tokens=20, cache_read_tokens=60, cache_write_tokens=30, reasoning_tokens=5)
WIRE_USAGE: dict[str, Any] = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 30,
    "cache_read_input_tokens": 60,
    "output_tokens": 20,
    "output_tokens_details": {"thinking_tokens": 5},
}
CONTENT: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "one", "signature": "s1"},
    {"type": "redacted_thinking", "data": "xyz"},
    {"type": "thinking", "thinking": "two", "signature": "s2"},
    {"type": "text", "text": "I look."},
    {"type": "tool_use", "id": "t1", "name": "find", "input": {"a": "1"}},
    {"type": "tool_use", "id": "t2", "name": "list", "input": {}},
]


def events(*deltas: ChatDelta) -> list[dict[str, Any]]:
    """Return the events of a whole stream, their names checked against their types."""
    stream = FORMAT.stream(ASKED, SERVED)
    raw = b"".join([stream.start(), *(stream.feed(delta) for delta in deltas), stream.end()]).decode()
    found = []
    for block in raw.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        body = json.loads(data.removeprefix("data: "))
        assert name == f"event: {body['type']}"
        found.append(body)
    return found


def message_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the message that the official SDK builds of a stream."""
    reader: TypeAdapter[Any] = TypeAdapter(types.RawMessageStreamEvent)
    snapshot = None
    json_bufs: dict[int, bytes] = {}
    for body in found:
        snapshot = accumulate_event(event=reader.validate_python(body), current_snapshot=snapshot, json_bufs=json_bufs)
    assert snapshot is not None
    built: dict[str, Any] = snapshot.model_dump(exclude_unset=True, mode="json")
    return built


def replay(content: list[dict[str, Any]], stop_reason: str, stop_sequence: str | None = None) -> list[ChatDelta]:
    """Return what the adapter makes of Anthropic's stream of ``content``."""
    decoder = AnthropicStream(CHAT, "anthropic", answer_tool=None)
    deltas: list[ChatDelta] = []

    def feed(kind: str, **fields: Any) -> None:
        deltas.extend(decoder.feed(SseEvent(name=kind, data=json.dumps({"type": kind, **fields}))))

    feed("message_start", message={"id": "x", "model": "claude-x", "usage": WIRE_USAGE | {"output_tokens": 1}})
    for index, block in enumerate(content):
        kind = block["type"]
        empty: dict[str, dict[str, Any]] = {
            "thinking": {"thinking": "", "signature": ""},
            "text": {"text": ""},
            "tool_use": {"input": {}},
        }
        feed("content_block_start", index=index, content_block=block | empty.get(kind, {}))
        if kind == "thinking":
            feed("content_block_delta", index=index, delta={"type": "thinking_delta", "thinking": block["thinking"]})
            feed("content_block_delta", index=index, delta={"type": "signature_delta", "signature": block["signature"]})
        if kind == "text":
            for letter in block["text"]:
                feed("content_block_delta", index=index, delta={"type": "text_delta", "text": letter})
        if kind == "tool_use" and block["input"]:
            for letter in json.dumps(block["input"]):
                feed("content_block_delta", index=index, delta={"type": "input_json_delta", "partial_json": letter})
        feed("content_block_stop", index=index)
    feed("message_delta", delta={"stop_reason": stop_reason, "stop_sequence": stop_sequence}, usage=WIRE_USAGE)
    feed("message_stop")
    return [*deltas, decoder.end()]


def test_stream_of_anthropic_comes_out_block_by_block_as_it_came() -> None:
    """Thoughts keep their own signatures, calls their arguments, and blocks come one after the other."""
    found = events(*replay(CONTENT, "tool_use"))

    order = [
        (body["type"], body["index"]) for body in found if body["type"] in ("content_block_start", "content_block_stop")
    ]
    assert order == [(kind, index) for index in range(6) for kind in ("content_block_start", "content_block_stop")]
    assert (found[0]["type"], found[-2]["type"], found[-1]["type"]) == (
        "message_start",
        "message_delta",
        "message_stop",
    )
    built = message_of(found)
    assert built["content"] == CONTENT
    assert (built["stop_reason"], built["stop_sequence"]) == ("tool_use", None)
    assert found[-2]["usage"] == WIRE_USAGE
    assert built["usage"] == WIRE_USAGE


def test_answer_of_anthropic_comes_out_as_it_came() -> None:
    """A whole answer, too: content, stop and usage are what the provider wrote."""
    body: Any = {"model": "claude-x", "content": CONTENT, "stop_reason": "tool_use", "usage": WIRE_USAGE}
    written = FORMAT.render(decode(body, CHAT, "anthropic", answer_tool=None), ASKED, SERVED)

    assert written == {
        "id": "msg_r1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": CONTENT,
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": WIRE_USAGE,
    }
    types.Message.model_validate(written)


def test_stream_says_which_stop_sequence_ended_it() -> None:
    """Clients that set several look here."""
    built = message_of(events(*replay([{"type": "text", "text": "a"}], "stop_sequence", "END")))

    assert (built["stop_reason"], built["stop_sequence"]) == ("stop_sequence", "END")


@pytest.mark.parametrize(
    "deltas",
    [
        [ChatDelta(reasoning="why"), ChatDelta(text="a"), ChatDelta(reasoning_signature="gemini:g")],
        [ChatDelta(reasoning="why"), ChatDelta(text="a"), ChatDelta(reasoning_signature="s")],
        [ChatDelta(reasoning="why", reasoning_signature="s"), ChatDelta(text="a")],
        [ChatDelta(reasoning="why"), ChatDelta(text="a")],
        [
            ChatDelta(
                reasoning="why",
                reasoning_signature='anthropic-blocks:[{"type":"redacted_thinking","data":"x"},'
                '{"type":"thinking","thinking":"why","signature":"s"}]',
            ),
            ChatDelta(text="a"),
        ],
    ],
)
def test_signature_comes_back_whenever_it_came(deltas: list[ChatDelta]) -> None:
    """What a client sends back of a stream is what the provider needs, early or late, its own or another's."""
    wanted = next((delta.reasoning_signature for delta in deltas if delta.reasoning_signature), None)
    built = message_of(events(*deltas, ChatDelta(finish_reason=FinishReason.STOP, usage=USAGE)))
    messages: Any = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": built["content"]}]
    back = FORMAT.parse({"model": "m", "max_tokens": 9, "messages": messages}).chat.messages[1:]

    assert [(turn.text, turn.reasoning, turn.reasoning_signature) for turn in back] == [("a", "why", wanted)]


def test_signature_of_a_call_comes_back() -> None:
    """Gemini refuses its own calls without it."""
    call = ToolCall(id="t", name="find", arguments='{"a":1}', signature="sig")
    written = FORMAT.render(ChatResult(text="", tool_calls=(call,)), ASKED, SERVED)
    messages: Any = [{"role": "assistant", "content": written["content"]}]
    delta = ChatDelta(tool_index=0, tool_id="t", tool_name="find", tool_arguments='{"a":1}', tool_signature="sig")

    assert written["stop_reason"] == "tool_use"
    assert FORMAT.parse({"max_tokens": 9, "messages": messages}).chat.messages[0].tool_calls == (call,)
    assert message_of(events(delta, ChatDelta(finish_reason=FinishReason.STOP)))["content"][0]["signature"] == "sig"


def test_broken_arguments_survive_the_way_there_and_back() -> None:
    """An object is all that the format can hold; the model's words are not lost for it."""
    call = ToolCall(id="t", name="find", arguments='{"a":')
    written = FORMAT.render(ChatResult(text="", tool_calls=(call,)), ASKED, SERVED)

    messages: Any = [{"role": "assistant", "content": written["content"]}]
    assert FORMAT.parse({"max_tokens": 9, "messages": messages}).chat.messages[0].tool_calls == (call,)


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        (FinishReason.STOP, "end_turn"),
        (FinishReason.LENGTH, "max_tokens"),
        (FinishReason.TOOL_CALLS, "tool_use"),
        (FinishReason.CONTENT_FILTER, "refusal"),
    ],
)
def test_reason_to_stop_is_anthropics(finish: FinishReason, reason: str) -> None:
    """Whole answers and streams say the same."""
    assert FORMAT.render(ChatResult(text="a", finish_reason=finish), ASKED, SERVED)["stop_reason"] == reason
    assert message_of(events(ChatDelta(text="a"), ChatDelta(finish_reason=finish)))["stop_reason"] == reason


def test_refusal_is_text_and_a_reason() -> None:
    """OpenAI's models say it in place of an answer."""
    written = FORMAT.render(ChatResult(text="", refusal="I cannot."), ASKED, SERVED)

    read = types.Message.model_validate(written)
    assert (read.stop_reason, written["content"]) == ("refusal", [{"type": "text", "text": "I cannot."}])
    assert read.stop_details is not None
    assert read.stop_details.explanation == "I cannot."


def test_call_that_goes_on_too_late_is_an_error() -> None:
    """Its block is closed; arguments that are cut in silence would be worse."""
    stream = FORMAT.stream(ASKED, SERVED)
    stream.feed(ChatDelta(tool_index=0, tool_id="t", tool_name="a"))
    stream.feed(ChatDelta(tool_index=1, tool_id="u", tool_name="b"))

    with pytest.raises(UpstreamError):
        stream.feed(ChatDelta(tool_index=0, tool_arguments="{}"))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_error_has_anthropics_type_and_names_the_field(status: int, kind: str) -> None:
    """The SDK reads the type; the message is the only place for the field."""
    error = FORMAT.error(status, "whatever", "is wrong", param="tools[0].type", request_id="r1")

    assert error == {
        "type": "error",
        "error": {"type": kind, "message": "tools[0].type: is wrong"},
        "request_id": "r1",
    }
    assert (
        FORMAT.stream(ASKED, SERVED).fail(error)
        == b"event: error\ndata: %b\n\n" % json.dumps(error, separators=(",", ":")).encode()
    )

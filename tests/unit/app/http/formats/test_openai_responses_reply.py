"""Writing Responses answers and streams, as the official SDK reads them; nothing leaves the process."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import orjson
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from app.domain.chat import ChatDelta, ChatResult, FinishReason, Json, ToolCall, Usage
from app.domain.gateway import Served
from app.http.formats.openai_responses import OpenAIResponses

FORMAT = OpenAIResponses()
SERVED = Served(request_id="r1", created_s=1_700_000_000, account="a", provider="openai", model="gpt-x")
USAGE = Usage(input_tokens=10, output_tokens=20, cache_read_tokens=4, cache_write_tokens=2, reasoning_tokens=7)
TOOL: dict[str, Any] = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
BODY: dict[str, Json] = {
    "model": "auto",
    "input": "Hello",
    "instructions": "Be brief.",
    "metadata": {"team": "blue"},
    "tools": [TOOL],
    "max_output_tokens": 50,
}
CALLS = (
    ToolCall(id="c1", name="weather", arguments='{"a":1}', signature="s1"),
    ToolCall(id="c2", name="weather", arguments='{"b":2}'),
)
FULL = ChatResult(
    text="Sunny and warm.",
    reasoning="Let me think.",
    reasoning_signature="SIG",
    tool_calls=CALLS,
    finish_reason=FinishReason.TOOL_CALLS,
    usage=USAGE,
)
DELTAS = (
    ChatDelta(reasoning="Let me "),
    ChatDelta(reasoning="think."),
    ChatDelta(text="Sunny "),
    ChatDelta(text="and warm."),
    ChatDelta(tool_index=0, tool_id="c1", tool_name="weather", tool_arguments='{"a"', tool_signature="s1"),
    ChatDelta(tool_index=1, tool_id="c2", tool_name="weather"),
    # Some servers mix the fragments of parallel calls.
    ChatDelta(tool_index=1, tool_arguments='{"b":2}'),
    ChatDelta(tool_index=0, tool_arguments=":1}"),
    ChatDelta(finish_reason=FinishReason.TOOL_CALLS, usage=USAGE, reasoning_signature="SIG"),
)
EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


def client(content: bytes, kind: str) -> openai.OpenAI:
    """Return the SDK with a transport that answers everything with ``content``."""

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=content, headers={"content-type": kind})

    return openai.OpenAI(
        api_key="k", base_url="http://t/v1", http_client=httpx.Client(transport=httpx.MockTransport(answer))
    )


def rendered(result: ChatResult, **fields: Json) -> dict[str, Any]:
    """Return the answer's body, checked against the SDK's own type."""
    body: dict[str, Any] = FORMAT.render(result, FORMAT.parse({**BODY, **fields}), SERVED)
    Response.model_validate(body, strict=False)
    read: dict[str, Any] = orjson.loads(orjson.dumps(body))
    return read


def streamed(*deltas: ChatDelta, **fields: Json) -> bytes:
    """Return the bytes of a whole stream."""
    stream = FORMAT.stream(FORMAT.parse({**BODY, "stream": True, **fields}), SERVED)
    return b"".join([stream.start(), *(stream.feed(delta) for delta in deltas), stream.end()])


def events(content: bytes) -> list[dict[str, Any]]:
    """Return the events, each checked for its name, its number and its type in the SDK."""
    found = []
    for number, block in enumerate(content.decode().removesuffix("\n\n").split("\n\n")):
        name, data = block.split("\n")
        event = orjson.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        EVENT.validate_python(event)
        found.append(event)
    return found


def test_whole_answer_has_items_in_order_and_the_apis_own_usage() -> None:
    """Reasoning, message, calls; cached and reasoning tokens inside the totals."""
    body = rendered(FULL)

    assert [item["type"] for item in body["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert body["output"][0]["content"] == [{"type": "reasoning_text", "text": "Let me think."}]
    assert body["output"][0]["encrypted_content"] == "tutti:SIG"
    assert body["output"][1]["content"][0]["text"] == "Sunny and warm."
    assert body["output"][2]["call_id"] == "c1"
    assert body["output"][2]["extra_content"] == {"google": {"thought_signature": "s1"}}
    assert body["status"] == "completed"
    assert body["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 7},
        "total_tokens": 30,
    }


def test_answer_repeats_the_request_and_names_who_served() -> None:
    """What the client set comes back as it was; what it left out has its default."""
    body = rendered(FULL)

    assert {name: body[name] for name in ("id", "object", "model", "created_at")} == {
        "id": "resp_r1",
        "object": "response",
        "model": "gpt-x",
        "created_at": 1_700_000_000,
    }
    assert body["metadata"] == {"team": "blue"}
    assert body["instructions"] == "Be brief."
    assert body["tools"] == [TOOL]
    assert (body["tool_choice"], body["parallel_tool_calls"], body["store"]) == ("auto", True, False)
    assert body["text"] == {"format": {"type": "text"}}
    assert body["max_output_tokens"] == 50


@pytest.mark.parametrize(
    ("result", "status", "reason", "item_status"),
    [
        (ChatResult(text="Sun"), "completed", None, "completed"),
        (ChatResult(text="Sun", finish_reason=FinishReason.LENGTH), "incomplete", "max_output_tokens", "incomplete"),
        (ChatResult(text="", finish_reason=FinishReason.CONTENT_FILTER), "incomplete", "content_filter", "incomplete"),
        (ChatResult(text="", finish_reason=FinishReason.CONTENT_FILTER, refusal="No."), "completed", None, "completed"),
    ],
)
def test_cut_answer_is_incomplete_and_says_why(
    result: ChatResult, status: str, reason: str | None, item_status: str
) -> None:
    """A client must not take half an answer for a whole one; a refusal is a whole answer."""
    body = rendered(result)

    assert body["status"] == status
    assert (body["incomplete_details"] or {}).get("reason") == reason
    assert body["output"][-1]["status"] == item_status


def test_refusal_is_a_part_of_its_own() -> None:
    """The SDK tells a refusal from an answer by the part's type."""
    body = rendered(ChatResult(text="", finish_reason=FinishReason.CONTENT_FILTER, refusal="No."))

    assert body["output"][0]["content"] == [{"type": "refusal", "refusal": "No."}]


def test_reasoning_is_written_as_a_summary_where_one_was_asked_for() -> None:
    """Clients that ask for a summary look for it there, whole or streamed."""
    asked: dict[str, Json] = {"effort": "low", "summary": "auto"}
    body = rendered(FULL, reasoning=asked)
    seen = events(streamed(*DELTAS, reasoning=asked))

    assert body["output"][0]["summary"] == [{"type": "summary_text", "text": "Let me think."}]
    assert "content" not in body["output"][0]
    assert seen[-1]["response"]["output"] == body["output"]
    deltas = [event["delta"] for event in seen if event["type"] == "response.reasoning_summary_text.delta"]
    assert "".join(deltas) == "Let me think."


def test_stream_ends_with_the_answer_that_a_whole_call_gives() -> None:
    """A stream and a whole answer differ in nothing but their way."""
    seen = events(streamed(*DELTAS))

    assert seen[-1]["type"] == "response.completed"
    assert seen[-1]["response"] == rendered(FULL)


def test_stream_opens_fills_and_closes_every_item_and_part() -> None:
    """What was added is done exactly once, and the deltas add up to what is done."""
    seen = events(streamed(*DELTAS))
    kinds = [event["type"] for event in seen]
    added = [event["output_index"] for event in seen if event["type"] == "response.output_item.added"]
    done = [event["output_index"] for event in seen if event["type"] == "response.output_item.done"]
    arguments: dict[str, str] = {}
    for event in seen:
        if event["type"] == "response.function_call_arguments.delta":
            arguments[event["item_id"]] = arguments.get(event["item_id"], "") + event["delta"]

    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert added == done == [0, 1, 2, 3]
    assert kinds.count("response.content_part.added") == kinds.count("response.content_part.done") == 2
    assert kinds.index("response.reasoning_text.done") < kinds.index("response.output_text.delta")
    assert arguments == {
        event["item_id"]: event["arguments"]
        for event in seen
        if event["type"] == "response.function_call_arguments.done"
    }
    assert b"[DONE]" not in streamed(*DELTAS)


def test_text_after_a_call_opens_another_part_of_the_message() -> None:
    """A part that is done stays done."""
    deltas = (ChatDelta(text="A"), ChatDelta(tool_index=0, tool_id="c", tool_name="f"), ChatDelta(text="B"))
    seen = events(streamed(*deltas, ChatDelta(finish_reason=FinishReason.TOOL_CALLS, usage=USAGE)))

    message, call = seen[-1]["response"]["output"]
    assert [part["text"] for part in message["content"]] == ["A", "B"]
    assert call["arguments"] == ""


def test_cut_stream_ends_incomplete() -> None:
    """The terminal event says that the limit cut the answer."""
    seen = events(streamed(ChatDelta(text="Sun"), ChatDelta(finish_reason=FinishReason.LENGTH, usage=USAGE)))

    assert seen[-1]["type"] == "response.incomplete"
    assert seen[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert seen[-1]["response"]["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(("status", "code"), [(502, "server_error"), (429, "rate_limit_exceeded")])
def test_broken_stream_ends_failed_with_what_had_come(status: int, code: str) -> None:
    """The last event says what happened, in a code that the SDK knows."""
    stream = FORMAT.stream(FORMAT.parse({**BODY, "stream": True}), SERVED)
    error = FORMAT.error(status, "upstream_error", "openai broke off", param=None, request_id="r1")
    seen = events(stream.start() + stream.feed(ChatDelta(text="Sun")) + stream.fail(error))

    assert seen[-1]["type"] == "response.failed"
    assert seen[-1]["response"]["status"] == "failed"
    assert seen[-1]["response"]["error"]["code"] == code
    assert seen[-1]["response"]["error"]["message"] == "openai broke off"
    assert seen[-1]["response"]["output"][0]["content"][0]["text"] == "Sun"


def test_failure_before_any_delta_is_a_failed_response() -> None:
    """There may be no output at all."""
    stream = FORMAT.stream(FORMAT.parse({**BODY, "stream": True}), SERVED)
    seen = events(stream.start() + stream.fail({}))

    assert seen[-1]["response"]["output"] == []


def test_empty_answer_has_an_empty_message() -> None:
    """SDKs look for a message, whole or streamed."""
    seen = events(streamed(ChatDelta(finish_reason=FinishReason.STOP, usage=USAGE)))

    assert seen[-1]["response"] == rendered(ChatResult(text="", usage=USAGE))


def test_answer_comes_back_as_the_turn_it_was() -> None:
    """What we wrote, sent back as the next call's input, is the same turn: signatures included."""
    for output in (rendered(FULL)["output"], events(streamed(*DELTAS))[-1]["response"]["output"]):
        replies: list[Json] = [
            {"type": "function_call_output", "call_id": call.id, "output": "Sunny."} for call in CALLS
        ]
        turn = FORMAT.parse({"model": "m", "input": [*output, *replies]}).chat.messages[0]

        assert (turn.text, turn.reasoning, turn.reasoning_signature) == (FULL.text, FULL.reasoning, "SIG")
        assert turn.tool_calls == CALLS


def test_signature_without_reasoning_survives_the_round() -> None:
    """Gemini signs plain text, too."""
    deltas = (ChatDelta(text="Hi"), ChatDelta(finish_reason=FinishReason.STOP, reasoning_signature="gemini:x"))
    whole = rendered(ChatResult(text="Hi", reasoning_signature="gemini:x"))

    for output in (events(streamed(*deltas))[-1]["response"]["output"], whole["output"]):
        (turn,) = FORMAT.parse({"model": "m", "input": output}).chat.messages
        assert (turn.text, turn.reasoning_signature) == ("Hi", "gemini:x")


def test_sdk_reads_a_whole_answer() -> None:
    """The official SDK's shortcut to the text works."""
    body = orjson.dumps(rendered(FULL))
    answer = client(body, "application/json").responses.create(model="m", input="Hello")

    assert answer.output_text == "Sunny and warm."
    assert answer.usage is not None
    assert answer.usage.output_tokens_details.reasoning_tokens == 7


def test_sdk_follows_a_stream_to_its_end() -> None:
    """The official SDK's accumulator agrees with every event."""
    with client(streamed(*DELTAS), "text/event-stream").responses.stream(model="m", input="Hello") as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()

    assert "".join(texts) == final.output_text == "Sunny and warm."
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]


def test_error_has_openais_shape() -> None:
    """One shape of errors for all of OpenAI's doors."""
    body = FORMAT.error(400, "invalid_request_error", "no", param="input[0].type", request_id="r1")

    assert body == {"error": {"message": "no", "type": "invalid_request_error", "param": "input[0].type", "code": None}}

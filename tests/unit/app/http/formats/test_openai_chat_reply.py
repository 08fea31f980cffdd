"""Writing answers, streams and errors as OpenAI's: read back with the official SDK's own types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import openai
import orjson
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from app.domain.chat import ChatDelta, ChatRequest, ChatResult, FinishReason, Message, Role, ToolCall, Usage
from app.domain.gateway import Asked, Served
from app.http.formats.openai_chat import OpenAIChat

FORMAT = OpenAIChat()
SERVED = Served(request_id="r1", created_s=1_700_000_000, account="a", provider="gemini", model="gpt-x")
CHAT = ChatRequest(model="gpt-x", messages=(Message(role=Role.USER, text="Hello"),))
ASKED = Asked(chat=CHAT)
USAGE = Usage(input_tokens=10, output_tokens=7, cache_read_tokens=4, cache_write_tokens=2, reasoning_tokens=3)


def answer(result: ChatResult) -> Any:
    """Return the rendered answer as the SDK reads it; unknown types fail."""
    return ChatCompletion.model_validate(orjson.loads(orjson.dumps(FORMAT.render(result, ASKED, SERVED))))


def wire(deltas: Sequence[ChatDelta], *, include_usage: bool = True, form: OpenAIChat = FORMAT) -> bytes:
    """Return the bytes of a whole stream."""
    stream = form.stream(Asked(chat=CHAT, include_usage=include_usage), SERVED)
    return stream.start() + b"".join(map(stream.feed, deltas)) + stream.end()


def events(data: bytes) -> list[Any]:
    """Return the events of a stream: JSON, or the end mark as text."""
    lines = data.split(b"\n\n")
    assert lines.pop() == b"", "the last event is closed"
    assert all(line.startswith(b"data: ") and b"\n" not in line for line in lines)
    texts = [line.removeprefix(b"data: ") for line in lines]
    return ["[DONE]" if text == b"[DONE]" else orjson.loads(text) for text in texts]


def chunks(deltas: Sequence[ChatDelta], **options: Any) -> list[Any]:
    """Return a stream's chunks as the SDK reads them; the end mark must follow."""
    *found, last = events(wire(deltas, **options))
    assert last == "[DONE]"
    return [ChatCompletionChunk.model_validate(chunk) for chunk in found]


def test_answer_has_every_field_of_the_api() -> None:
    """Id, time, model, usage and the message stand where SDKs look for them."""
    read = answer(ChatResult(text="Hi", reasoning="Greet.", reasoning_signature="sig", usage=USAGE, model="upstream"))

    assert (read.id, read.object, read.created, read.model) == (
        "chatcmpl-r1",
        "chat.completion",
        1_700_000_000,
        "gpt-x",
    )
    (choice,) = read.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content, choice.message.refusal) == ("assistant", "Hi", None)
    assert (choice.message.reasoning_content, choice.message.reasoning_signature) == ("Greet.", "sig")
    assert choice.message.tool_calls is None
    usage = read.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, 7, 17)
    assert (usage.prompt_tokens_details.cached_tokens, usage.completion_tokens_details.reasoning_tokens) == (4, 3)
    assert usage.prompt_tokens_details.cache_write_tokens == 2


def test_answer_of_tool_calls_only_has_null_content() -> None:
    """Clients tell by null that there is nothing to show."""
    call = ToolCall(id="c1", name="weather", arguments='{"city":"Hue"}', signature="sig")
    read = answer(ChatResult(text="", tool_calls=(call,), finish_reason=FinishReason.TOOL_CALLS))

    message = read.choices[0].message
    assert (message.content, read.choices[0].finish_reason) == (None, "tool_calls")
    assert (message.tool_calls[0].id, message.tool_calls[0].type) == ("c1", "function")
    assert message.tool_calls[0].function.arguments == '{"city":"Hue"}'
    assert message.tool_calls[0].extra_content == {"google": {"thought_signature": "sig"}}


def test_refusal_and_other_choices_are_shown() -> None:
    """Refusals have their own field; with n > 1 every choice has its index."""
    second = ChatResult(text="", refusal="No.", finish_reason=FinishReason.CONTENT_FILTER)
    read = answer(ChatResult(text="a", other_choices=(second, ChatResult(text="", finish_reason=FinishReason.LENGTH))))

    assert [choice.index for choice in read.choices] == [0, 1, 2]
    assert [choice.message.content for choice in read.choices] == ["a", None, ""]
    assert [choice.message.refusal for choice in read.choices] == [None, "No.", None]
    assert [choice.finish_reason for choice in read.choices] == ["stop", "content_filter", "length"]


@pytest.mark.parametrize(
    "result",
    [
        ChatResult(text="Hi", reasoning="Greet.", reasoning_signature="sig"),
        ChatResult(text="", tool_calls=(ToolCall(id="c1", name="now", arguments="{}", signature="s"),)),
        ChatResult(text="Let me see.", tool_calls=(ToolCall(id="c1", name="now", arguments="{"),), reasoning="Hm."),
        ChatResult(text="", reasoning="Cut."),
        ChatResult(text=""),
    ],
)
def test_answer_sent_back_as_an_earlier_turn_reads_as_it_was(result: ChatResult) -> None:
    """Reasoning, signatures and calls survive the client's appending ``message.model_dump()`` to its conversation."""
    echo = answer(result).choices[0].message.model_dump()

    (message,) = FORMAT.parse({"messages": [echo]}).chat.messages

    assert (message.text, message.tool_calls) == (result.text, result.tool_calls)
    assert (message.reasoning, message.reasoning_signature) == (result.reasoning, result.reasoning_signature)


def test_compatibility_fields_stand_on_top_only_where_wanted() -> None:
    """Under /api/v1 a script reads the text and the provider without descending."""
    compat = OpenAIChat(compat_fields=True)
    call = ToolCall(id="c1", name="now", arguments="{}")

    assert not {"content", "provider"} & FORMAT.render(ChatResult(text="Hi"), ASKED, SERVED).keys()
    body = compat.render(ChatResult(text="Hi"), ASKED, SERVED)
    assert (body["content"], body["provider"]) == ("Hi", "gemini")
    assert compat.render(ChatResult(text="", tool_calls=(call,)), ASKED, SERVED)["content"] is None
    assert compat.render(ChatResult(text="", refusal="No."), ASKED, SERVED)["content"] == "No."
    streamed = chunks([ChatDelta(text="Hi"), ChatDelta(finish_reason=FinishReason.STOP)], form=compat)
    assert {chunk.provider for chunk in streamed} == {"gemini"}


def test_stream_opens_with_the_role_and_ends_with_reason_usage_and_mark() -> None:
    """The order that OpenAI's SDK and everyone else relies on."""
    read = chunks(
        [
            ChatDelta(reasoning="Greet."),
            ChatDelta(text="Hé"),
            ChatDelta(text="llo\n\n"),
            ChatDelta(finish_reason=FinishReason.STOP, usage=USAGE, reasoning_signature="sig"),
        ]
    )

    assert {(c.id, c.object, c.created, c.model) for c in read} == {
        ("chatcmpl-r1", "chat.completion.chunk", 1_700_000_000, "gpt-x")
    }
    *body, usage = read
    assert (body[0].choices[0].delta.role, body[0].choices[0].delta.content) == ("assistant", "")
    assert [c.choices[0].delta.role for c in body[1:]] == [None] * (len(body) - 1)
    assert body[1].choices[0].delta.reasoning_content == "Greet."
    assert "".join(c.choices[0].delta.content or "" for c in body) == "Héllo\n\n"
    assert body[-2].choices[0].delta.reasoning_signature == "sig"
    assert [c.choices[0].finish_reason for c in body] == [None] * (len(body) - 1) + ["stop"]
    assert all(c.usage is None for c in body)
    assert usage.choices == []
    assert (usage.usage.total_tokens, usage.usage.prompt_tokens_details.cached_tokens) == (17, 4)


def test_stream_shows_no_usage_unless_asked() -> None:
    """Without the wish there is neither the chunk nor the null."""
    found = events(wire([ChatDelta(finish_reason=FinishReason.STOP, usage=USAGE)], include_usage=False))

    assert [event for event in found if event != "[DONE]" and (not event["choices"] or "usage" in event)] == []
    assert found[-2]["choices"][0]["finish_reason"] == "stop"


def test_stream_gives_tool_calls_as_fragments_by_index() -> None:
    """Id and name come once, arguments in pieces; an answer that opens with a call has null content."""
    read = chunks(
        [
            ChatDelta(tool_index=0, tool_id="c1", tool_name="weather", tool_signature="sig"),
            ChatDelta(tool_index=0, tool_arguments='{"city"'),
            ChatDelta(tool_index=0, tool_arguments=':"Hue"}'),
            ChatDelta(tool_index=1, tool_id="c2", tool_name="now", tool_arguments="{}"),
            ChatDelta(finish_reason=FinishReason.TOOL_CALLS, usage=USAGE),
        ]
    )

    assert read[0].choices[0].delta.content is None
    fragments = [call for c in read if c.choices for call in c.choices[0].delta.tool_calls or ()]
    assert [call.index for call in fragments] == [0, 0, 0, 1]
    assert [call.id for call in fragments] == ["c1", None, None, "c2"]
    assert [call.function.name for call in fragments] == ["weather", None, None, "now"]
    assert "".join(call.function.arguments for call in fragments[:3]) == '{"city":"Hue"}'
    assert fragments[0].extra_content == {"google": {"thought_signature": "sig"}}
    assert [c.choices[0].finish_reason for c in read if c.choices][-1] == "tool_calls"


def test_stream_of_several_choices_gives_each_its_role_and_reason() -> None:
    """Choices may interleave; clients sort them by index."""
    read = chunks(
        [
            ChatDelta(text="a"),
            ChatDelta(text="b", choice=1),
            ChatDelta(finish_reason=FinishReason.LENGTH, choice=1),
            ChatDelta(text="c", finish_reason=FinishReason.STOP, usage=USAGE),
        ]
    )

    seen = [c.choices[0] for c in read if c.choices]
    assert [c.index for c in seen if c.delta.role == "assistant"] == [0, 1]
    assert {c.index: c.finish_reason for c in seen if c.finish_reason} == {0: "stop", 1: "length"}
    assert "".join(c.delta.content or "" for c in seen if c.index == 0) == "ac"


def _client(response: httpx.Response) -> Any:
    """Return the SDK's client, whose every request is answered with ``response`` from memory."""
    transport = httpx.MockTransport(lambda _request: response)
    return openai.OpenAI(
        api_key="k", base_url="http://t/v1", http_client=httpx.Client(transport=transport), max_retries=0
    )


def _streaming(data: bytes) -> Any:
    return _client(httpx.Response(200, headers={"content-type": "text/event-stream"}, content=data))


def test_sdk_puts_a_streamed_answer_together_as_it_was() -> None:
    """The SDK's own accumulator, which is strict about indices, must end with the whole answer."""
    data = wire(
        [
            ChatDelta(text="Let me see."),
            ChatDelta(tool_index=0, tool_id="c1", tool_name="weather", tool_arguments='{"city"'),
            ChatDelta(tool_index=0, tool_arguments=':"Hue"}'),
            ChatDelta(tool_index=1, tool_id="c2", tool_name="now", tool_arguments="{}"),
            ChatDelta(finish_reason=FinishReason.TOOL_CALLS, usage=USAGE),
        ]
    )

    with _streaming(data).chat.completions.stream(model="m", messages=[{"role": "user", "content": "x"}]) as stream:
        final = stream.get_final_completion()

    (choice,) = final.choices
    assert (choice.message.content, choice.finish_reason) == ("Let me see.", "tool_calls")
    assert [(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls] == [
        ("c1", "weather", '{"city":"Hue"}'),
        ("c2", "now", "{}"),
    ]
    assert final.usage.total_tokens == 17


def _ask(client: Any) -> Any:
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)


def test_broken_stream_raises_in_the_sdk_and_has_no_end_mark() -> None:
    """A client must not take the half for the whole."""
    stream = FORMAT.stream(ASKED, SERVED)
    body = FORMAT.error(502, "upstream_error", "it broke", param=None, request_id="r1")
    data = stream.start() + stream.feed(ChatDelta(text="Hal")) + stream.fail(body)

    assert b"[DONE]" not in data
    seen: list[str] = []
    with pytest.raises(openai.APIError, match="it broke"):
        seen.extend(chunk.choices[0].delta.content for chunk in _ask(_streaming(data)))
    assert seen == ["", "Hal"]
    assert events(data)[-1] == body


@pytest.mark.parametrize(
    ("status", "kind", "param", "expected"),
    [
        (400, "invalid_request_error", "n", (openai.BadRequestError, "invalid_request_error", None)),
        (400, "token_budget_error", None, (openai.BadRequestError, "invalid_request_error", "token_budget_error")),
        (401, "authentication_error", None, (openai.AuthenticationError, "authentication_error", "invalid_api_key")),
        (403, "permission_error", "model", (openai.PermissionDeniedError, "permission_error", "permission_denied")),
        (404, "not_found_error", "model", (openai.NotFoundError, "invalid_request_error", "model_not_found")),
        (409, "conflict_error", None, (openai.ConflictError, "invalid_request_error", "conflict_error")),
        (
            422,
            "configuration_error",
            None,
            (openai.UnprocessableEntityError, "invalid_request_error", "configuration_error"),
        ),
        (429, "rate_limit_error", None, (openai.RateLimitError, "requests", "rate_limit_exceeded")),
        (429, "token_rate_limit_error", None, (openai.RateLimitError, "tokens", "rate_limit_exceeded")),
        (429, "insufficient_quota", None, (openai.RateLimitError, "insufficient_quota", "insufficient_quota")),
        (502, "upstream_error", None, (openai.InternalServerError, "server_error", "upstream_error")),
        (503, "capacity_error", None, (openai.InternalServerError, "server_error", "capacity_error")),
        (504, "deadline_error", None, (openai.InternalServerError, "server_error", "deadline_error")),
    ],
)
def test_error_becomes_the_sdks_own_exception(
    status: int, kind: str, param: str | None, expected: tuple[type[openai.APIStatusError], str, str | None]
) -> None:
    """Programs written for OpenAI catch by class and look at ``type``, ``code`` and ``param``."""
    body = FORMAT.error(status, kind, "so it is", param=param, request_id="r1")

    with pytest.raises(openai.APIStatusError) as caught:
        _client(httpx.Response(status, json=body)).models.list()

    error = caught.value
    assert (type(error), error.type, error.code) == expected
    assert (error.param, "so it is" in error.message) == (param, True)

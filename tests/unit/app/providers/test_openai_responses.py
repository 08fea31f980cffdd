"""Responses say what chat completions say: requests one way, answers the other, shaped as OpenAI documents them."""

from __future__ import annotations

from app.domain.chat import ChatRequest, FinishReason, Json, Message, Role
from app.providers import openai_reply
from app.providers.openai_responses import background_body, completion_of

ASKED = ChatRequest(model="m", messages=(Message(role=Role.USER, text="What is a cell?"),))
REASONING: Json = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "x"}],
}
SAID: Json = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "A small room.", "annotations": [], "logprobs": []}],
}
CALLED: Json = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "look", "arguments": '{"at":"it"}'}


def a_response(*output: Json, status: str = "completed", incomplete: Json = None) -> Json:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1756781646.0,
        "status": status,
        "error": None,
        "incomplete_details": incomplete,
        "instructions": None,
        "model": "gpt-5-2025-08-07",
        "output": list(output),
        "usage": {
            "input_tokens": 12,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens": 30,
            "output_tokens_details": {"reasoning_tokens": 20},
            "total_tokens": 42,
        },
    }


def test_an_answer_after_reasoning_is_its_message_alone() -> None:
    """Reasoning is no part of what was answered, although it is of what is billed."""
    result = openai_reply.decode(completion_of(a_response(REASONING, SAID)), ASKED, "openai")

    assert (result.text, result.finish_reason, result.provider_id) == ("A small room.", FinishReason.STOP, "resp_1")
    usage = result.usage
    assert (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens, usage.reasoning_tokens) == (12, 4, 30, 20)
    assert usage.source == "provider"


def test_a_call_of_a_function_carries_the_id_that_its_result_must_name() -> None:
    """Not the item's own id: that one means nothing in a later turn."""
    result = openai_reply.decode(completion_of(a_response(CALLED)), ASKED, "openai")

    (call,) = result.tool_calls
    assert (call.id, call.name, call.arguments) == ("call_1", "look", '{"at":"it"}')
    assert result.finish_reason is FinishReason.TOOL_CALLS


def test_an_answer_that_was_cut_says_why() -> None:
    """A judge must know that there is more to come, or that the rest was withheld."""
    for reason, finish in (
        ("max_output_tokens", FinishReason.LENGTH),
        ("content_filter", FinishReason.CONTENT_FILTER),
    ):
        cut = a_response(SAID, status="incomplete", incomplete={"reason": reason})
        assert openai_reply.decode(completion_of(cut), ASKED, "openai").finish_reason is finish


def test_a_request_keeps_its_meaning() -> None:
    """Functions lose a level and stay as lenient as they were: there, strict is what nothing said would mean."""
    chat: dict[str, Json] = {
        "model": "m",
        "stream": False,
        "max_completion_tokens": 50,
        "temperature": 0.5,
        "reasoning_effort": "low",
        "safety_identifier": "u1",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": "u"}}],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}},
    }

    assert background_body(chat) == {
        "model": "m",
        "background": True,
        "store": True,
        "max_output_tokens": 50,
        "temperature": 0.5,
        "reasoning": {"effort": "low"},
        "safety_identifier": "u1",
        "input": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "See"},
                    {"type": "input_image", "image_url": "u", "detail": "auto"},
                ],
            },
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
        ],
        "tools": [{"type": "function", "name": "look", "parameters": {}, "strict": False}],
        "tool_choice": {"type": "function", "name": "look"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}},
    }

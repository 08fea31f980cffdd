"""What every client format must do with every provider behind it, each feature as one check through an official SDK.

``tests/acceptance/test_gateway_sdks.py`` runs all of it; docs/compatibility.md shows it as a table.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
from pydantic import BaseModel

from tests.fakes.gateway_cells import FEATURES, FORMATS
from tests.fakes.gateway_pool import CALLS, GREETING, KEY, MEASURED, PIXEL, SEEN, THOUGHT

PIXEL_URL = f"data:image/png;base64,{PIXEL}"
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
CHAT_TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
RESPONSES_TOOLS: list[Any] = [{"type": "function", "name": "weather", "parameters": PARAMETERS}]
MESSAGES_TOOLS: list[Any] = [{"name": "weather", "input_schema": PARAMETERS}]


class Town(BaseModel):
    """What a structured answer must be."""

    name: str
    inhabitants: int


@dataclass(frozen=True)
class Clients:
    """The official SDKs, pointed at a server."""

    openai: openai.OpenAI
    anthropic: anthropic.Anthropic


def clients_of(url: str, key: str = KEY) -> Clients:
    """Return SDKs for a server; they never retry by themselves."""
    return Clients(
        openai=openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30),
        anthropic=anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=30),
    )


Check = Callable[[Clients, str], None]


def says(text: str) -> list[Any]:
    """Return a conversation of one turn."""
    return [{"role": "user", "content": text}]


# OpenAI chat completions.


def chat_text(to: Clients, model: str) -> None:
    """An answer, its usage, its end."""
    answer = to.openai.chat.completions.create(model=model, messages=says("please greet"))

    assert answer.choices[0].message.content == GREETING
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == model
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens > 0


def chat_stream(to: Clients, model: str) -> None:
    """The same text in pieces, and the usage at the end where it was asked for."""
    chunks = list(
        to.openai.chat.completions.create(
            model=model, messages=says("please greet"), stream=True, stream_options={"include_usage": True}
        )
    )
    said = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    last = chunks[-1].usage

    assert "".join(said) == GREETING
    assert len([text for text in said if text]) > 1
    assert last is not None
    assert last.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


def chat_length(to: Clients, model: str) -> None:
    """The ceiling of output is kept and said."""
    answer = to.openai.chat.completions.create(model=model, messages=says("words"), max_completion_tokens=3)

    assert answer.choices[0].finish_reason == "length"


def chat_tools(to: Clients, model: str) -> None:
    """Two calls at once come whole."""
    answer = to.openai.chat.completions.create(model=model, messages=says("weather in two towns"), tools=CHAT_TOOLS)
    calls = answer.choices[0].message.tool_calls or []

    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == CALLS
    assert len({call.id for call in calls}) == 2
    assert answer.choices[0].finish_reason == "tool_calls"


def chat_tools_stream(to: Clients, model: str) -> None:
    """Two calls at once come together again from their pieces."""
    with to.openai.chat.completions.stream(
        model=model, messages=says("weather in two towns"), tools=CHAT_TOOLS
    ) as stream:
        answer = stream.get_final_completion()
    calls = answer.choices[0].message.tool_calls or []

    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == CALLS


def chat_tool_results(to: Clients, model: str) -> None:
    """Calls and results go back, and the model reads them."""
    messages = says("weather in one town")
    first = to.openai.chat.completions.create(model=model, messages=messages, tools=CHAT_TOOLS).choices[0].message
    assert first.tool_calls
    messages += [
        first.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "21 degrees"},
    ]
    answer = to.openai.chat.completions.create(model=model, messages=messages, tools=CHAT_TOOLS)

    assert answer.choices[0].message.content == MEASURED


def chat_schema(to: Clients, model: str) -> None:
    """The SDK's own parse() gets an object of the schema."""
    answer = to.openai.chat.completions.parse(model=model, messages=says("a town"), response_format=Town)

    assert isinstance(answer.choices[0].message.parsed, Town)


def chat_image(to: Clients, model: str) -> None:
    """A picture goes through beside the text."""
    content: list[Any] = [
        {"type": "text", "text": "describe the picture"},
        {"type": "image_url", "image_url": {"url": PIXEL_URL}},
    ]
    answer = to.openai.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])

    assert answer.choices[0].message.content == SEEN


def chat_reasoning(to: Clients, model: str) -> None:
    """Reasoning comes beside the answer, and is taken back."""
    messages = says("think first")
    first = to.openai.chat.completions.create(model=model, messages=messages).choices[0].message
    again = to.openai.chat.completions.create(
        model=model, messages=[*messages, first.model_dump(exclude_none=True), *says("please greet")]
    )

    assert first.content == "Tea."
    assert first.model_dump().get("reasoning_content") == THOUGHT
    assert again.choices[0].message.content


# OpenAI Responses.


def responses_text(to: Clients, model: str) -> None:
    """An answer, its usage, its end."""
    answer = to.openai.responses.create(model=model, input="please greet")

    assert answer.output_text == GREETING
    assert answer.status == "completed"
    assert answer.usage is not None
    assert answer.usage.output_tokens > 0


def responses_stream(to: Clients, model: str) -> None:
    """Every event comes, and the last one carries the whole answer."""
    events = list(to.openai.responses.create(model=model, input="please greet", stream=True))
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")

    assert said == GREETING
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == GREETING
    assert events[-1].response.usage


def responses_length(to: Clients, model: str) -> None:
    """The ceiling of output is kept and said."""
    answer = to.openai.responses.create(model=model, input="words", max_output_tokens=16)

    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


def responses_tools(to: Clients, model: str) -> None:
    """Two calls at once come whole."""
    answer = to.openai.responses.create(model=model, input="weather in two towns", tools=RESPONSES_TOOLS)
    calls = [item for item in answer.output if item.type == "function_call"]

    assert [(call.name, json.loads(call.arguments)) for call in calls] == CALLS


def responses_tools_stream(to: Clients, model: str) -> None:
    """Two calls at once come together again from their pieces."""
    with to.openai.responses.stream(model=model, input="weather in two towns", tools=RESPONSES_TOOLS) as stream:
        answer = stream.get_final_response()
    calls = [item for item in answer.output if item.type == "function_call"]

    assert [(call.name, json.loads(call.arguments)) for call in calls] == CALLS


def responses_tool_results(to: Clients, model: str) -> None:
    """Calls and results go back, and the model reads them."""
    turns: list[Any] = says("weather in one town")
    first = to.openai.responses.create(model=model, input=turns, tools=RESPONSES_TOOLS)
    call = next(item for item in first.output if item.type == "function_call")
    turns += [item.model_dump(exclude_none=True) for item in first.output]
    turns.append({"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"})
    answer = to.openai.responses.create(model=model, input=turns, tools=RESPONSES_TOOLS)

    assert answer.output_text == MEASURED


def responses_schema(to: Clients, model: str) -> None:
    """The SDK's own parse() gets an object of the schema."""
    answer = to.openai.responses.parse(model=model, input="a town", text_format=Town)

    assert isinstance(answer.output_parsed, Town)


def responses_image(to: Clients, model: str) -> None:
    """A picture goes through beside the text."""
    content: list[Any] = [
        {"type": "input_text", "text": "describe the picture"},
        {"type": "input_image", "image_url": PIXEL_URL, "detail": "auto"},
    ]
    answer = to.openai.responses.create(model=model, input=[{"role": "user", "content": content}])

    assert answer.output_text == SEEN


def responses_reasoning(to: Clients, model: str) -> None:
    """Reasoning comes beside the answer, and is taken back."""
    first = to.openai.responses.create(model=model, input="think first")
    thoughts = [item for item in first.output if item.type == "reasoning"]
    turns: list[Any] = [*says("think first"), *(item.model_dump(exclude_none=True) for item in first.output)]
    again = to.openai.responses.create(model=model, input=[*turns, *says("please greet")])

    assert first.output_text == "Tea."
    assert THOUGHT in json.dumps([item.model_dump() for item in thoughts])
    assert again.output_text


# Anthropic Messages.


def messages_text(to: Clients, model: str) -> None:
    """An answer, its usage, its end."""
    answer = to.anthropic.messages.create(model=model, max_tokens=500, messages=says("please greet"))

    assert [block.text for block in answer.content if block.type == "text"] == [GREETING]
    assert answer.stop_reason == "end_turn"
    assert answer.model == model
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0


def messages_stream(to: Clients, model: str) -> None:
    """The same text in pieces, and the SDK's own accumulator puts them together."""
    with to.anthropic.messages.stream(model=model, max_tokens=500, messages=says("please greet")) as stream:
        pieces = list(stream.text_stream)
        answer = stream.get_final_message()

    assert "".join(pieces) == GREETING
    assert len(pieces) > 1
    assert answer.usage.output_tokens > 0
    assert answer.stop_reason == "end_turn"


def messages_length(to: Clients, model: str) -> None:
    """The ceiling of output is kept and said."""
    answer = to.anthropic.messages.create(model=model, max_tokens=3, messages=says("words"))

    assert answer.stop_reason == "max_tokens"


def messages_tools(to: Clients, model: str) -> None:
    """Two calls at once come whole."""
    answer = to.anthropic.messages.create(
        model=model, max_tokens=500, messages=says("weather in two towns"), tools=MESSAGES_TOOLS
    )
    calls = [block for block in answer.content if block.type == "tool_use"]

    assert [(call.name, call.input) for call in calls] == CALLS
    assert answer.stop_reason == "tool_use"


def messages_tools_stream(to: Clients, model: str) -> None:
    """Two calls at once come together again from their pieces."""
    with to.anthropic.messages.stream(
        model=model, max_tokens=500, messages=says("weather in two towns"), tools=MESSAGES_TOOLS
    ) as stream:
        answer = stream.get_final_message()
    calls = [block for block in answer.content if block.type == "tool_use"]

    assert [(call.name, call.input) for call in calls] == CALLS


def messages_tool_results(to: Clients, model: str) -> None:
    """Calls and results go back, and the model reads them."""
    turns: list[Any] = says("weather in one town")
    first = to.anthropic.messages.create(model=model, max_tokens=500, messages=turns, tools=MESSAGES_TOOLS)
    call = next(block for block in first.content if block.type == "tool_use")
    turns += [
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "21 degrees"}]},
    ]
    answer = to.anthropic.messages.create(model=model, max_tokens=500, messages=turns, tools=MESSAGES_TOOLS)

    assert [block.text for block in answer.content if block.type == "text"] == [MEASURED]


def messages_schema(to: Clients, model: str) -> None:
    """The SDK's own parse() gets an object of the schema."""
    answer = to.anthropic.messages.parse(model=model, max_tokens=500, messages=says("a town"), output_format=Town)

    assert isinstance(answer.parsed_output, Town)


def messages_image(to: Clients, model: str) -> None:
    """A picture goes through beside the text."""
    picture: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    content = [{"type": "text", "text": "describe the picture"}, picture]
    answer = to.anthropic.messages.create(model=model, max_tokens=500, messages=[{"role": "user", "content": content}])

    assert [block.text for block in answer.content if block.type == "text"] == [SEEN]


def messages_reasoning(to: Clients, model: str) -> None:
    """Reasoning comes beside the answer, and is taken back."""
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    first = to.anthropic.messages.create(model=model, max_tokens=2048, thinking=thinking, messages=says("think first"))
    turns: list[Any] = [
        *says("think first"),
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]},
        *says("please greet"),
    ]
    again = to.anthropic.messages.create(model=model, max_tokens=2048, thinking=thinking, messages=turns)

    assert [block.thinking for block in first.content if block.type == "thinking"] == [THOUGHT]
    assert [block.text for block in first.content if block.type == "text"] == ["Tea."]
    assert again.content


CHECKS: dict[tuple[str, str], Check] = {
    (form, feature): globals()[f"{form}_{feature}"] for form in FORMATS for feature in FEATURES
}

"""OpenAI's Responses in the background, told in the words of chat completions: their bodies, translated both ways.

Pure. What a dialect, a schema in words or an extra field does to a request is done before, by ``openai_compat``; what
an answer means is read after, by ``openai_reply``. A response in the background goes on being made when nobody listens,
and is kept by the provider for some minutes (OpenAI: about ten) under a name that it gives at once.

Source: developers.openai.com/api/docs/guides/background and /api/reference/resources/responses, read 2026-11-21.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.chat import Json
from app.providers.payload import as_list, as_object, as_text, find_text

UNDER_WAY = frozenset(("queued", "in_progress"))
UNSAYABLE = ("stop", "seed", "n")
"""Fields of chat completions that Responses have no word for."""
_TRANSLATED = frozenset(
    (
        "messages",
        "stream",
        "max_tokens",
        "max_completion_tokens",
        "tools",
        "tool_choice",
        "response_format",
        "reasoning_effort",
    )
)
_FINISH = {"max_output_tokens": "length", "content_filter": "content_filter"}


def background_body(chat: Mapping[str, Json]) -> dict[str, Json]:
    """Return the body that asks for the same in the background; fields that only extras bring stay as they are."""
    body: dict[str, Json] = {name: value for name, value in chat.items() if name not in _TRANSLATED}
    body["input"] = [item for message in as_list(chat.get("messages")) for item in _items(as_object(message))]
    body |= {"background": True, "store": True}
    ceiling = chat.get("max_completion_tokens", chat.get("max_tokens"))
    optional: dict[str, Json] = {
        "max_output_tokens": ceiling,
        "tools": [_flat(tool) for tool in as_list(chat.get("tools"))] or None,
        "tool_choice": _tool_choice(chat.get("tool_choice")),
        "text": _text_format(as_object(chat.get("response_format"))),
        "reasoning": {"effort": chat["reasoning_effort"]} if "reasoning_effort" in chat else None,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def completion_of(response: Json) -> Json:
    """Return an ended response as the chat completion that it would have been."""
    fields = as_object(response)
    texts, refusals, thoughts, calls = [], [], [], []
    for item in map(as_object, as_list(fields.get("output"))):
        # A reasoning item may have contents too: they are no part of the answer.
        for part in map(as_object, as_list(item.get("content")) if item.get("type") == "message" else ()):
            texts.append(as_text(part.get("text")))
            refusals.append(as_text(part.get("refusal")))
        thoughts += [as_text(as_object(part).get("text")) for part in as_list(item.get("summary"))]
        if item.get("type") == "function_call":
            function: dict[str, Json] = {"name": item.get("name"), "arguments": item.get("arguments")}
            calls.append({"id": item.get("call_id"), "type": "function", "function": function})
    message: dict[str, Json] = {
        "role": "assistant",
        "content": "".join(texts),
        "refusal": "".join(refusals) or None,
        "reasoning_content": "\n\n".join(filter(None, thoughts)) or None,
        "tool_calls": [*calls],
    }
    why = as_text(as_object(fields.get("incomplete_details")).get("reason"))
    finish = _FINISH.get(why, "length") if fields.get("status") == "incomplete" else "stop"
    return {
        "id": fields.get("id"),
        "model": fields.get("model"),
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": _usage(as_object(fields.get("usage"))),
    }


def _items(message: Mapping[str, Json]) -> list[Json]:
    """Return what a message is among the input: itself, and each of its calls, or a call's result."""
    if message.get("role") == "tool":
        output = message.get("content")
        text = output if isinstance(output, str) else "\n".join(_texts(output))
        return [{"type": "function_call_output", "call_id": message.get("tool_call_id"), "output": text}]
    items: list[Json] = []
    role, content = as_text(message.get("role")), message.get("content")
    if content:
        items.append({"role": role, "content": _content(content, role)})
    for call in map(as_object, as_list(message.get("tool_calls"))):
        function = as_object(call.get("function"))
        items.append(
            {
                "type": "function_call",
                "call_id": call.get("id"),
                "name": function.get("name"),
                "arguments": function.get("arguments"),
            }
        )
    return items


def _content(content: Json, role: str) -> Json:
    if not isinstance(content, list):
        return content
    kind = "output_text" if role == "assistant" else "input_text"
    parts: list[Json] = []
    for part in map(as_object, content):
        if part.get("type") == "image_url":
            image = as_object(part.get("image_url"))
            parts.append(
                {"type": "input_image", "image_url": image.get("url"), "detail": image.get("detail") or "auto"}
            )
        else:
            parts.append({"type": kind, "text": part.get("text")})
    return parts


def _texts(parts: Json) -> list[str]:
    return [text for part in as_list(parts) if (text := find_text(as_object(part).get("text")))]


def _flat(tool: Json) -> Json:
    """Return a tool without the level that chat completions put around a function; strict only where it is asked."""
    return {"type": "function", "strict": False, **as_object(as_object(tool).get("function"))}


def _tool_choice(choice: Json) -> Json:
    if not isinstance(choice, dict):
        return choice
    return {"type": "function", "name": as_object(choice.get("function")).get("name")}


def _text_format(chosen: Mapping[str, Json]) -> Json:
    kind = chosen.get("type")
    if kind is None:
        return None
    return {"format": {"type": kind, **as_object(chosen.get("json_schema"))}}


def _usage(usage: Mapping[str, Json]) -> Json:
    if not usage:
        return None
    return {
        "prompt_tokens": usage.get("input_tokens"),
        "completion_tokens": usage.get("output_tokens"),
        "total_tokens": usage.get("total_tokens"),
        "prompt_tokens_details": usage.get("input_tokens_details"),
        "completion_tokens_details": usage.get("output_tokens_details"),
    }

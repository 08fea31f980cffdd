"""Writes answers as OpenAI's Responses: one ``response`` object with reasoning, message and function-call items.

An item of reasoning carries the model's signature in ``encrypted_content``, whether asked for or not, so that clients
that keep no state send it back; a call's own signature stands in ``extra_content`` (as in Gemini's OpenAI mode). Called
by ``openai_responses``; ``openai_responses_stream`` shares the shapes.

Source: openai-python's ``Response`` and ``ResponseUsage``, as of 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.domain.chat import ChatResult, FinishReason, Json, ToolCall, Usage
from app.domain.gateway import Asked, Served
from app.http.formats.openai_responses_input import SIGNATURE_MARK

_INCOMPLETE = {FinishReason.LENGTH: "max_output_tokens", FinishReason.CONTENT_FILTER: "content_filter"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedResponse(Asked):
    """A call of this format, with what only its answer needs."""

    echo: Mapping[str, Json] = field(default_factory=dict)
    """Fields that the answer repeats of its request."""
    reasoning_as_summary: bool = False
    """Whether reasoning is written as a summary, as the client asked, instead of as content."""


def response(result: ChatResult, asked: AskedResponse, served: Served) -> dict[str, Json]:
    """Return a complete ``response`` object."""
    reason = incomplete_reason(result.finish_reason, refused=result.refusal is not None)
    return {
        **head(asked, served),
        "status": "completed" if reason is None else "incomplete",
        "completed_at": served.created_s if reason is None else None,
        "incomplete_details": None if reason is None else {"reason": reason},
        "output": _output(result, asked, served, status="completed" if reason is None else "incomplete"),
        "usage": usage_body(result.usage),
    }


def head(asked: AskedResponse, served: Served) -> dict[str, Json]:
    """Return what every state of one response shows alike, with the fields of a state that is not known yet."""
    return {
        "id": f"resp_{served.request_id}",
        "object": "response",
        "created_at": served.created_s,
        "status": "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": served.model,
        "output": [],
        "usage": None,
        **asked.echo,
    }


def incomplete_reason(finish: FinishReason, *, refused: bool) -> str | None:
    """Return why an answer is incomplete; a refusal in the model's own words is complete."""
    if refused and finish is FinishReason.CONTENT_FILTER:
        return None
    return _INCOMPLETE.get(finish)


def usage_body(usage: Usage) -> dict[str, Json]:
    """Return a ``usage`` object; OpenAI, like us, counts cached and reasoning tokens inside the totals."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def reasoning_item(item_id: str, texts: list[str], signature: str | None, *, as_summary: bool) -> dict[str, Json]:
    """Return a reasoning item with one part a text."""
    item: dict[str, Json] = {
        "id": item_id,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text} for text in texts] if as_summary else [],
        "encrypted_content": None if signature is None else SIGNATURE_MARK + signature,
    }
    if not as_summary:
        item["content"] = [{"type": "reasoning_text", "text": text} for text in texts]
    return item


def text_part(text: str) -> dict[str, Json]:
    """Return a part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def message_item(item_id: str, content: list[Json], *, status: str) -> dict[str, Json]:
    """Return a message item."""
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def call_item(item_id: str, call: ToolCall, *, status: str) -> dict[str, Json]:
    """Return a function-call item."""
    item: dict[str, Json] = {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    }
    if call.signature is not None:
        item["extra_content"] = {"google": {"thought_signature": call.signature}}
    return item


def item_id(prefix: str, served: Served, output_index: int) -> str:
    """Return the id of an output item, the same in a stream and in a whole answer."""
    return f"{prefix}_{served.request_id}_{output_index}"


def _output(result: ChatResult, asked: AskedResponse, served: Served, *, status: str) -> list[Json]:
    output: list[Json] = []
    if result.reasoning is not None or result.reasoning_signature is not None:
        texts = [result.reasoning] if result.reasoning else []
        output.append(
            reasoning_item(
                item_id("rs", served, 0), texts, result.reasoning_signature, as_summary=asked.reasoning_as_summary
            )
        )
    content: list[Json] = [text_part(result.text)] if result.text else []
    if result.refusal is not None:
        content.append({"type": "refusal", "refusal": result.refusal})
    if content or not result.tool_calls:
        # The item that was being written is the one that is cut.
        own = "completed" if result.tool_calls else status
        output.append(message_item(item_id("msg", served, len(output)), content or [text_part("")], status=own))
    last = len(result.tool_calls) - 1
    for index, call in enumerate(result.tool_calls):
        own = status if index == last else "completed"
        output.append(call_item(item_id("fc", served, len(output)), call, status=own))
    return output

"""OpenAI's Responses, as far as they are made in the background: whole, polled for, never streamed.

Source: openai-python's types; developers.openai.com/api/docs/guides/background.
"""

from __future__ import annotations

from dataclasses import replace

import orjson
from pydantic import JsonValue

from app.simulator.exchange import ChatRequest, Choice, HttpRequest, Plan, Refusal, json_body
from app.simulator.json_reading import JsonObject, object_at, objects_in, text_of
from app.simulator.wire_openai import OpenAIWire

_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponsesWire(OpenAIWire):
    """Reads a response's request as the chat that it is, and writes its answer as a response."""

    def parse(self, http: HttpRequest) -> ChatRequest:
        """Return the request."""
        body = json_body(http.raw)
        if body.get("background") is not True or body.get("stream") is True:
            raise Refusal("invalid", "Only background responses without a stream are simulated.", param="background")
        if body.get("store") is False:
            raise Refusal("invalid", "Background responses must be stored.", param="store")
        found = body.get("input")
        items = objects_in([{"role": "user", "content": found}] if isinstance(found, str) else found)
        if not items:
            raise Refusal("invalid", "Missing required parameter: 'input'.", param="input")
        chosen = body.get("tool_choice")
        chat: JsonObject = {
            "model": body.get("model"),
            "messages": [_message(item) for item in items],
            "max_completion_tokens": body.get("max_output_tokens"),
            "tools": [{"type": "function", "function": tool} for tool in objects_in(body.get("tools"))],
            "tool_choice": {"function": {"name": chosen.get("name")}} if isinstance(chosen, dict) else chosen,
            "response_format": _response_format(object_at(body, "text", "format")),
        }
        return super().parse(replace(http, raw=orjson.dumps(chat)))

    def body(self, plan: Plan) -> bytes:
        """Return an ended response."""
        choice = plan.choices[0]
        reason = _REASONS.get(choice.finish)
        usage: JsonObject = {
            "input_tokens": plan.request.input_tokens,
            "input_tokens_details": {"cached_tokens": plan.cached_tokens},
            "output_tokens": plan.output_tokens,
            "output_tokens_details": {"reasoning_tokens": plan.reasoning_tokens},
            "total_tokens": plan.request.input_tokens + plan.output_tokens,
        }
        return orjson.dumps(
            {
                "object": "response",
                "created_at": plan.created_s,
                "status": "completed" if reason is None else "incomplete",
                "incomplete_details": None if reason is None else {"reason": reason},
                "error": None,
                "background": True,
                "model": plan.request.model,
                "output": _output(plan, choice),
                "usage": usage,
            }
        )


def _message(item: JsonObject) -> JsonObject:
    """Return an input item as the message that it is."""
    match item.get("type"):
        case "function_call_output":
            return {"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")}
        case "function_call":
            function: JsonObject = {"name": item.get("name"), "arguments": item.get("arguments")}
            return {"role": "assistant", "content": None, "tool_calls": [{"function": function}]}
        case _:
            return {"role": text_of(item.get("role")) or "user", "content": item.get("content")}


def _response_format(chosen: JsonObject) -> JsonObject:
    return {"type": chosen.get("type"), "json_schema": {"name": chosen.get("name"), "schema": chosen.get("schema")}}


def _output(plan: Plan, choice: Choice) -> list[JsonValue]:
    output: list[JsonValue] = []
    if choice.reasoning:
        summary: JsonObject = {"type": "summary_text", "text": choice.reasoning}
        output.append({"type": "reasoning", "id": f"rs_{plan.number:024x}", "summary": [summary]})
    if choice.text or not choice.tool_calls:
        part: JsonObject = {"type": "output_text", "text": choice.text, "annotations": []}
        output.append(
            {
                "type": "message",
                "id": f"msg_{plan.number:024x}",
                "status": "completed",
                "role": "assistant",
                "content": [part],
            }
        )
    for number, call in enumerate(choice.tool_calls):
        output.append(
            {
                "type": "function_call",
                "id": f"fc_{plan.number:021x}{number:03x}",
                "call_id": f"call_{plan.number:021x}{number:03x}",
                "name": call.name,
                "arguments": call.arguments,
                "status": "completed",
            }
        )
    return output

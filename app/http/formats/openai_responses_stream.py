"""Writes a streamed answer as the named events of OpenAI's Responses API.

One reasoning item, one message item and one item a call, each opened by its first delta and closed at the end in the
order of opening: the signature of the reasoning comes last, and servers may mix the fragments of parallel calls. Parts
inside an item close as soon as something else follows. Called by ``openai_responses``.

Source: openai-python's ``ResponseStreamEvent``, as of 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from app.domain.chat import ChatDelta, FinishReason, Json, ToolCall, Usage
from app.domain.gateway import Served
from app.http.formats.openai_responses_reply import (
    AskedResponse,
    call_item,
    head,
    incomplete_reason,
    item_id,
    message_item,
    reasoning_item,
    text_part,
    usage_body,
)

_FAILED_LIMIT = "rate_limit_exceeded"
_FAILED = "server_error"


@dataclass(slots=True)
class _Prose:
    """A reasoning or message item that is being written."""

    id: str
    index: int
    """Its place in the output."""
    delta: str
    """The name of the event that extends its part."""
    part_index: str
    """The name of the field that says which part."""
    parts: list[list[str]] = field(default_factory=list)
    """The pieces of each part."""
    is_open: bool = False
    """Whether the last part may still grow."""
    opening: bytes = b""
    """A delta event up to the delta itself."""


@dataclass(slots=True)
class _Call:
    """A function-call item that is being written."""

    id: str
    index: int
    call_id: str
    name: str
    opening: bytes
    pieces: list[str] = field(default_factory=list)
    signature: str | None = None

    def call(self) -> ToolCall:
        """Return what has come."""
        return ToolCall(id=self.call_id, name=self.name, arguments="".join(self.pieces), signature=self.signature)


class ResponseStream:
    """Writes one stream; implements ``base.AnswerStream``. Not thread-safe.

    Deltas of choices other than the first are left out: this format has one answer, and asks for no more.
    """

    def __init__(self, asked: AskedResponse, served: Served) -> None:
        self._asked = asked
        self._served = served
        self._number = 0
        """Of the next event."""
        self._reasoning: _Prose | None = None
        self._message: _Prose | None = None
        self._calls: dict[int, _Call] = {}
        self._items: list[_Prose | _Call] = []
        self._signature: str | None = None
        self._finish: FinishReason | None = None
        self._usage: Usage | None = None

    def start(self) -> bytes:
        """See ``base.AnswerStream``."""
        shown = head(self._asked, self._served)
        created = self._event("response.created", {"response": shown})
        return created + self._event("response.in_progress", {"response": shown})

    def feed(self, delta: ChatDelta) -> bytes:
        """See ``base.AnswerStream``."""
        if delta.choice != 0:
            return b""
        out: list[bytes] = []
        if delta.reasoning:
            self._say_reasoning(delta.reasoning, out)
        if delta.text:
            self._say_text(delta.text, out)
        if delta.tool_index is not None:
            self._call_on(delta, delta.tool_index, out)
        if delta.reasoning_signature is not None:
            self._signature = delta.reasoning_signature
        if delta.finish_reason is not None:
            self._finish = delta.finish_reason
        if delta.usage is not None:
            self._usage = delta.usage
        return out[0] if len(out) == 1 else b"".join(out)

    def end(self) -> bytes:
        """See ``base.AnswerStream``."""
        out: list[bytes] = []
        reason = incomplete_reason(self._finish or FinishReason.STOP, refused=False)
        if self._signature is not None and self._reasoning is None:
            # A signature without any reasoning: of the text itself.
            self._reasoning = self._open_reasoning(out)
        if not self._items or (self._message is None and not self._calls):
            self._say_text("", out)
        output = self._close_items(out, status="completed" if reason is None else "incomplete")
        final: dict[str, Json] = {
            **head(self._asked, self._served),
            "status": "completed" if reason is None else "incomplete",
            "completed_at": self._served.created_s if reason is None else None,
            "incomplete_details": None if reason is None else {"reason": reason},
            "output": output,
            "usage": None if self._usage is None else usage_body(self._usage),
        }
        name = "response.completed" if reason is None else "response.incomplete"
        out.append(self._event(name, {"response": final}))
        return b"".join(out)

    def fail(self, error: Mapping[str, Json]) -> bytes:
        """See ``base.AnswerStream``. What had come stands in the failed response, marked as incomplete."""
        told = error.get("error")
        told = told if isinstance(told, dict) else {}
        code = _FAILED_LIMIT if told.get("code") == _FAILED_LIMIT else _FAILED
        failed: dict[str, Json] = {
            **head(self._asked, self._served),
            "status": "failed",
            "error": {
                "code": code,
                "message": told.get("message") or "the answer broke off",
                "param": told.get("param"),
                "type": told.get("type"),
            },
            "output": [self._item(item, "incomplete") for item in self._items],
            "usage": None if self._usage is None else usage_body(self._usage),
        }
        return self._event("response.failed", {"response": failed})

    def _say_reasoning(self, text: str, out: list[bytes]) -> None:
        item = self._reasoning
        if item is None:
            item = self._reasoning = self._open_reasoning(out)
        if not item.is_open:
            self._close_part(self._message, out)
            self._open_part(item, out)
        self._grow(item, text, out)

    def _open_reasoning(self, out: list[bytes]) -> _Prose:
        summary = self._asked.reasoning_as_summary
        item = _Prose(
            item_id("rs", self._served, len(self._items)),
            len(self._items),
            "response.reasoning_summary_text" if summary else "response.reasoning_text",
            "summary_index" if summary else "content_index",
        )
        self._add(item, out)
        return item

    def _say_text(self, text: str, out: list[bytes]) -> None:
        item = self._message
        if item is None:
            self._close_part(self._reasoning, out)
            index = len(self._items)
            item = _Prose(item_id("msg", self._served, index), index, "response.output_text", "content_index")
            self._message = item
            self._add(item, out)
        if not item.is_open:
            self._close_part(self._reasoning, out)
            self._open_part(item, out)
        if text:
            self._grow(item, text, out)

    def _call_on(self, delta: ChatDelta, tool_index: int, out: list[bytes]) -> None:
        item = self._calls.get(tool_index)
        if item is None:
            self._close_part(self._reasoning, out)
            self._close_part(self._message, out)
            index = len(self._items)
            own_id = item_id("fc", self._served, index)
            opening = _opening("response.function_call_arguments.delta", own_id, index, b"")
            call_id = delta.tool_id or f"call_{self._served.request_id}_{tool_index}"
            item = self._calls[tool_index] = _Call(own_id, index, call_id, delta.tool_name or "", opening)
            self._add(item, out)
        elif delta.tool_name is not None:
            item.name = item.name or delta.tool_name
        if delta.tool_signature is not None:
            item.signature = delta.tool_signature
        if delta.tool_arguments:
            item.pieces.append(delta.tool_arguments)
            out.append(self._delta(item.opening, delta.tool_arguments))

    def _add(self, item: _Prose | _Call, out: list[bytes]) -> None:
        self._items.append(item)
        shown = self._item(item, "in_progress")
        out.append(self._event("response.output_item.added", {"output_index": item.index, "item": shown}))

    def _open_part(self, item: _Prose, out: list[bytes]) -> None:
        place = b'"%b":%d,' % (item.part_index.encode(), len(item.parts))
        if item is self._message:
            place += b'"logprobs":[],'
        item.opening = _opening(f"{item.delta}.delta", item.id, item.index, place)
        item.parts.append([])
        item.is_open = True
        out.append(self._event(_part_event(item, "added"), {**_place(item), "part": self._part(item, "")}))

    def _close_part(self, item: _Prose | None, out: list[bytes]) -> None:
        if item is None or not item.is_open:
            return
        item.is_open = False
        text, place = "".join(item.parts[-1]), _place(item)
        said: dict[str, Json] = {**place, "text": text}
        if item is self._message:
            said["logprobs"] = []
        out.append(self._event(f"{item.delta}.done", said))
        out.append(self._event(_part_event(item, "done"), {**place, "part": self._part(item, text)}))

    def _grow(self, item: _Prose, text: str, out: list[bytes]) -> None:
        item.parts[-1].append(text)
        out.append(self._delta(item.opening, text))

    def _close_items(self, out: list[bytes], *, status: str) -> list[Json]:
        output: list[Json] = []
        for item in self._items:
            if isinstance(item, _Prose):
                self._close_part(item, out)
            else:
                place: dict[str, Json] = {"item_id": item.id, "output_index": item.index}
                said: dict[str, Json] = {**place, "name": item.name, "arguments": "".join(item.pieces)}
                out.append(self._event("response.function_call_arguments.done", said))
            # The item that was being written last is the one that is cut.
            shown = self._item(item, status if item is self._items[-1] else "completed")
            out.append(self._event("response.output_item.done", {"output_index": item.index, "item": shown}))
            output.append(shown)
        return output

    def _item(self, item: _Prose | _Call, status: str) -> dict[str, Json]:
        """Return an item as it is now."""
        if isinstance(item, _Call):
            return call_item(item.id, item.call(), status=status)
        texts = ["".join(part) for part in item.parts]
        if item.delta == "response.output_text":
            return message_item(item.id, [text_part(text) for text in texts], status=status)
        return reasoning_item(item.id, texts, self._signature, as_summary=self._asked.reasoning_as_summary)

    def _part(self, item: _Prose, text: str) -> dict[str, Json]:
        if item is self._message:
            return text_part(text)
        return {"type": "summary_text" if self._asked.reasoning_as_summary else "reasoning_text", "text": text}

    def _delta(self, opening: bytes, text: str) -> bytes:
        number = self._number
        self._number += 1
        return b'%b%b,"sequence_number":%d}\n\n' % (opening, orjson.dumps(text), number)

    def _event(self, name: str, fields: dict[str, Json]) -> bytes:
        body = orjson.dumps({"type": name, **fields, "sequence_number": self._number})
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (name.encode(), body)


def _part_event(item: _Prose, what: str) -> str:
    kind = "reasoning_summary_part" if item.part_index == "summary_index" else "content_part"
    return f"response.{kind}.{what}"


def _place(item: _Prose) -> dict[str, Json]:
    """Return where the last part of ``item`` stands."""
    return {"item_id": item.id, "output_index": item.index, item.part_index: len(item.parts) - 1}


def _opening(name: str, own_id: str, index: int, place: bytes) -> bytes:
    """Return a delta event up to its delta: what all deltas of one part share is written once."""
    return b'event: %b\ndata: {"type":"%b","item_id":%b,"output_index":%d,%b"delta":' % (
        name.encode(),
        name.encode(),
        orjson.dumps(own_id),
        index,
        place,
    )

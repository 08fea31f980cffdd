"""Reads the input of a Responses body: items become messages.

A model's turn comes as several items (reasoning, message, function calls), which are put together into one assistant
message, as every provider's chat wants it. Reasoning travels with its signature in ``encrypted_content``, marked as
ours: what another service encrypted, no model behind this gateway can read. Called by ``openai_responses``.

Source: openai-python's ``ResponseInputParam``, as of 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from app.domain.chat import ImagePart, Json, Message, Role, ToolCall
from app.http.formats.openai_chat_fields import as_name, as_object, as_text, find_name, only, refuse, wrong_type

ITEMS_MAX = 8_192
PARTS_MAX = 1_024
ID_CHARS_MAX = 65_536
"""Of a call; some gateways hide a model's signature in it."""
SIGNATURE_MARK = "tutti:"
"""Begins the ``encrypted_content`` that we wrote; the model's signature follows."""

_ROLES = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}
_TEXT_TYPES = {
    Role.SYSTEM: ("input_text",),
    Role.USER: ("input_text",),
    Role.ASSISTANT: ("output_text", "input_text"),
    Role.TOOL: ("input_text",),
}
_MESSAGE_FIELDS = frozenset(("type", "role", "content", "id", "status"))
_CALL_FIELDS = frozenset(("type", "id", "call_id", "name", "arguments", "status", "extra_content"))
_OUTPUT_FIELDS = frozenset(("type", "id", "call_id", "name", "output", "status"))
_REASONING_FIELDS = frozenset(("type", "id", "summary", "content", "encrypted_content", "status"))
_TEXT_FIELDS = frozenset(("type", "text"))
_REFUSAL_FIELDS = frozenset(("type", "refusal"))
_IMAGE_FIELDS = frozenset(("type", "image_url", "detail"))
_DETAILS = ("auto", "low", "high", "original")
_ITEMS = "message, function_call, function_call_output, reasoning"


def read_input(value: Json) -> tuple[Message, ...]:
    """Return the conversation.

    Raises:
        RequestError: names what is missing, wrong, too many or unknown.
    """
    if isinstance(value, str):
        if not value:
            refuse("input", "the input is empty", "send a text, or a list of items")
        return (Message(role=Role.USER, text=value),)
    if not isinstance(value, list):
        wrong_type("input", value, "a string or a list of items")
    if not value or len(value) > ITEMS_MAX:
        refuse("input", f"there are {len(value)} items", f"send 1 to {ITEMS_MAX}")
    reader = _Reader()
    for index, item in enumerate(value):
        reader.read(item, f"input[{index}]")
    return reader.end()


class _Turn:
    """What has been read of a model's turn."""

    __slots__ = ("calls", "reasoning", "said", "signature", "texts")

    def __init__(self) -> None:
        self.reasoning: list[str] = []
        self.signature: str | None = None
        self.texts: list[str] = []
        self.calls: list[ToolCall] = []
        self.said = False
        """Whether a message item is among it, empty ones included."""

    def message(self) -> Message:
        """Return the turn as one message."""
        return Message(
            role=Role.ASSISTANT,
            text="\n".join(self.texts),
            tool_calls=tuple(self.calls),
            reasoning="\n\n".join(self.reasoning) if self.reasoning else None,
            reasoning_signature=self.signature,
        )


class _Reader:
    """Turns items into messages, in order."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._turn: _Turn | None = None
        self._call_ids: set[str] = set()

    def end(self) -> tuple[Message, ...]:
        """Return all messages."""
        self._close_turn()
        return tuple(self._messages)

    def read(self, value: Json, where: str) -> None:
        """Read one item."""
        item = as_object(value, where)
        kind = item.get("type")
        if kind is None and "role" in item:
            kind = "message"
        if kind == "message":
            self._message(item, where)
        elif kind == "function_call":
            self._call(item, where)
        elif kind == "function_call_output":
            self._output(item, where)
        elif kind == "reasoning":
            self._reasoning(item, where)
        else:
            _refuse_kind(kind, f"{where}.type")

    def _message(self, item: dict[str, Json], where: str) -> None:
        name = item.get("role")
        role = _ROLES.get(name) if isinstance(name, str) else None
        if role is None:
            if not isinstance(name, str):
                wrong_type(f"{where}.role", name, "a string")
            refuse(f"{where}.role", f"there is no role {name[:40]!r}", f"use one of {', '.join(_ROLES)}")
        if len(item) > 2:
            only(item, _MESSAGE_FIELDS, item, f"{where}.")
        parts = _content(item.get("content"), role, f"{where}.content")
        if role is not Role.ASSISTANT:
            self._close_turn()
            self._messages.append(_said(role, parts))
            return
        turn = self._turn
        if turn is not None and turn.said and not turn.calls:
            # Two messages in a row are two turns; after calls, another message would part them from their outputs.
            self._close_turn()
        turn = self._open_turn()
        turn.said = True
        text = "".join([part for part in parts if isinstance(part, str)])
        if text:
            turn.texts.append(text)

    def _call(self, item: dict[str, Json], where: str) -> None:
        only(item, _CALL_FIELDS, item, f"{where}.")
        call = ToolCall(
            id=as_name(item.get("call_id"), f"{where}.call_id", most=ID_CHARS_MAX),
            name=as_name(item.get("name"), f"{where}.name"),
            arguments=as_text(item.get("arguments"), f"{where}.arguments"),
            signature=_tool_signature(item.get("extra_content"), f"{where}.extra_content"),
        )
        self._call_ids.add(call.id)
        self._open_turn().calls.append(call)

    def _output(self, item: dict[str, Json], where: str) -> None:
        only(item, _OUTPUT_FIELDS, item, f"{where}.")
        call_id = as_name(item.get("call_id"), f"{where}.call_id", most=ID_CHARS_MAX)
        if call_id not in self._call_ids:
            refuse(
                f"{where}.call_id",
                "the output answers a call that is not in the input",
                "send the function_call item before it: nothing is kept between calls",
            )
        parts = _content(item.get("output"), Role.TOOL, f"{where}.output")
        self._close_turn()
        self._messages.append(_said(Role.TOOL, parts, call_id=call_id, name=find_name(item, "name", f"{where}.")))

    def _reasoning(self, item: dict[str, Json], where: str) -> None:
        only(item, _REASONING_FIELDS, item, f"{where}.")
        # The content is the reasoning itself; where there is any, the summary only repeats it.
        text = _texts(item.get("content"), "reasoning_text", f"{where}.content", "") or _texts(
            item.get("summary"), "summary_text", f"{where}.summary", "\n\n"
        )
        signature = _signature(item.get("encrypted_content"), f"{where}.encrypted_content")
        turn = self._turn
        if turn is not None and turn.said and not turn.calls and text:
            self._close_turn()
        turn = self._open_turn()
        if text:
            turn.reasoning.append(text)
        if signature is not None:
            if turn.signature is not None:
                refuse(f"{where}.encrypted_content", "one turn holds reasoning of two answers", "send it as it came")
            turn.signature = signature

    def _open_turn(self) -> _Turn:
        if self._turn is None:
            self._turn = _Turn()
        return self._turn

    def _close_turn(self) -> None:
        if self._turn is not None:
            self._messages.append(self._turn.message())
            self._turn = None


def _refuse_kind(kind: Json, param: str) -> NoReturn:
    if kind == "item_reference":
        refuse(param, "no item is kept here that could be referred to", "send the item itself")
    if not isinstance(kind, str):
        wrong_type(param, kind, "a string")
    refuse(param, f"items of type {kind[:40]!r} cannot be passed on to every model", f"use one of {_ITEMS}")


def _said(
    role: Role, parts: tuple[str | ImagePart, ...], *, call_id: str | None = None, name: str | None = None
) -> Message:
    texts = [part for part in parts if isinstance(part, str)]
    in_order = len(parts) == 1 or not texts or (len(texts) == 1 and parts[0] is texts[0])
    return Message(
        role=role,
        text=texts[0] if len(texts) == 1 else "\n".join(texts),
        images=tuple([part for part in parts if isinstance(part, ImagePart)]) if len(parts) > len(texts) else (),
        parts=() if in_order else parts,
        tool_call_id=call_id,
        name=name,
    )


def _content(value: Json, role: Role, where: str) -> tuple[str | ImagePart, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        wrong_type(where, value, "a string or a list of parts")
    if len(value) > PARTS_MAX or (not value and role is not Role.ASSISTANT):
        refuse(where, f"{where} has {len(value)} parts", f"send 1 to {PARTS_MAX}")
    return tuple([_part(part, role, f"{where}[{index}]") for index, part in enumerate(value)])


def _part(value: Json, role: Role, where: str) -> str | ImagePart:
    part = as_object(value, where)
    kind = part.get("type")
    if not isinstance(kind, str):
        wrong_type(f"{where}.type", kind, "a string")
    if kind in _TEXT_TYPES[role]:
        if len(part) > 2:
            # Annotations and log probabilities are allowed while empty, as answers carry them.
            only(part, _TEXT_FIELDS, part, f"{where}.")
        return as_text(part.get("text"), f"{where}.text")
    if kind == "refusal" and role is Role.ASSISTANT:
        only(part, _REFUSAL_FIELDS, part, f"{where}.")
        return as_text(part.get("refusal"), f"{where}.refusal")
    if kind == "input_image" and role is not Role.ASSISTANT:
        return _image(part, where)
    if kind in ("input_file", "input_audio"):
        refuse(f"{where}.type", f"{kind} cannot be passed on to every model", "send what it says as text")
    allowed = ", ".join(_TEXT_TYPES[role]) + (", refusal" if role is Role.ASSISTANT else ", input_image")
    refuse(f"{where}.type", f"there is no part of type {kind[:40]!r} here", f"use one of {allowed}")


def _image(part: dict[str, Json], where: str) -> ImagePart:
    if part.get("file_id") is not None:
        refuse(f"{where}.file_id", "no file is kept here that could be referred to", "send image_url")
    only(part, _IMAGE_FIELDS, part, f"{where}.")
    url = as_text(part.get("image_url"), f"{where}.image_url")
    detail = part.get("detail")
    if detail is not None and (not isinstance(detail, str) or detail not in _DETAILS):
        refuse(f"{where}.detail", "there is no such detail", f"use one of {', '.join(_DETAILS)}")
    scheme = url[:8].lower()
    if scheme.startswith(("https://", "http://")):
        return ImagePart(url=url, detail=detail)
    head, comma, data = url.partition(",")
    media_type, _, encoding = head[5:].partition(";")
    if not (scheme.startswith("data:") and comma and data and media_type and encoding.lower() == "base64"):
        refuse(
            f"{where}.image_url",
            "the image has no address that can be passed on",
            "use https://..., or data:<media type>;base64,<data>",
        )
    return ImagePart(data_base64=data, media_type=media_type, detail=detail)


def _texts(value: Json, kind: str, where: str, between: str) -> str:
    """Return the texts of a reasoning item's parts."""
    if value is None:
        return ""
    if not isinstance(value, list):
        wrong_type(where, value, "a list of parts")
    texts: list[str] = []
    for index, item in enumerate(value):
        part = as_object(item, f"{where}[{index}]")
        if part.get("type") != kind:
            refuse(f"{where}[{index}].type", "there is no such part here", f"use {kind}")
        only(part, _TEXT_FIELDS, part, f"{where}[{index}].")
        texts.append(as_text(part.get("text"), f"{where}[{index}].text"))
    return between.join(texts)


def _signature(value: Json, where: str) -> str | None:
    if value is None:
        return None
    text = as_text(value, where)
    if not text.startswith(SIGNATURE_MARK):
        refuse(where, "no model behind this gateway can read what another service encrypted", "leave it out")
    return text.removeprefix(SIGNATURE_MARK) or None


def _tool_signature(value: Json, where: str) -> str | None:
    """Return Gemini's thought signature, in the place that its OpenAI mode gives it."""
    if value is None:
        return None
    extra: Mapping[str, Json] = as_object(value, where)
    only(extra, frozenset(("google",)), extra, f"{where}.")
    google = as_object(extra.get("google", {}), f"{where}.google")
    only(google, frozenset(("thought_signature",)), google, f"{where}.google.")
    signature = google.get("thought_signature")
    return None if signature is None else as_text(signature, f"{where}.google.thought_signature")

"""Reads the system prompt and the messages of an Anthropic Messages body.

One turn becomes one ``Message``, but: every tool result is a message of its own, and thinking that follows text or a
call opens a new one, so that each thought stays with what it led to. Cache marks keep their places. Blocks that only
Anthropic's own servers understand (documents, server tools and their results) are refused by name. Called by
``anthropic_messages``.

Source: anthropic-sdk-python's ``MessageParam``, as of 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import orjson

from app.domain.chat import ImagePart, Json, Message, Role, ToolCall
from app.domain.thinking import FOREIGN_SIGNATURE, PACKED_SIGNATURE, pack_signature, thinking_text
from app.http.formats.openai_chat_fields import (
    as_name,
    as_object,
    as_text,
    find_bool,
    json_text,
    only,
    refuse,
    wrong_type,
)

MESSAGES_MAX = 4_096
BLOCKS_MAX = 1_024

_ROLES = {"user": Role.USER, "assistant": Role.ASSISTANT, "system": Role.SYSTEM}
_TTLS = ("5m", "1h")
_MESSAGE_FIELDS = frozenset(("role", "content"))
_TEXT_FIELDS = frozenset(("type", "text", "cache_control"))
_IMAGE_FIELDS = frozenset(("type", "source", "cache_control"))
_TOOL_USE_FIELDS = frozenset(("type", "id", "name", "input", "cache_control", "caller", "signature"))
_TOOL_RESULT_FIELDS = frozenset(("type", "tool_use_id", "content", "is_error", "cache_control"))
_THINKING_FIELDS = frozenset(("type", "thinking", "signature"))
_REDACTED_FIELDS = frozenset(("type", "data"))
_BLOCKS = {
    Role.SYSTEM: frozenset(("text",)),
    Role.USER: frozenset(("text", "image", "tool_result")),
    Role.ASSISTANT: frozenset(("text", "tool_use", "thinking", "redacted_thinking")),
    Role.TOOL: frozenset(("text", "image")),
}
_REMEDIES = {
    "document": "send the document's text, or pictures of its pages",
    "search_result": "send what was found as text",
    "server_tool_use": "offer the tool as a custom tool and run it yourself",
}


def read_system(value: Json) -> tuple[Message, ...]:
    """Return the system prompt as one message, or none.

    Raises:
        RequestError: names what is wrong.
    """
    if value is None or value in ("", []):
        return ()
    if isinstance(value, str):
        return (Message(role=Role.SYSTEM, text=value),)
    return tuple(_Turn(Role.SYSTEM).read(value, "system"))


def read_messages(value: Json) -> list[Message]:
    """Return the conversation.

    Raises:
        RequestError: names what is missing, wrong, too many or unknown.
    """
    if not isinstance(value, list):
        wrong_type("messages", value, "a list of messages")
    if not value:
        refuse("messages", "there is no message", "send at least one")
    if len(value) > MESSAGES_MAX:
        refuse("messages", f"there are {len(value)} messages", f"send at most {MESSAGES_MAX}")
    messages: list[Message] = []
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            wrong_type(f"messages[{index}]", item, "an object")
        name = item.get("role")
        role = _ROLES.get(name) if isinstance(name, str) else None
        if role is None:
            _refuse_role(name, f"messages[{index}].role")
        content = item.get("content")
        if len(item) > 2:
            only(item, _MESSAGE_FIELDS, item, f"messages[{index}].")
        if isinstance(content, str):
            messages.append(Message(role=role, text=content))
        else:
            messages += _Turn(role).read(content, f"messages[{index}].content")
    return messages


def cache_ttl(value: Json, where: str) -> str | None:
    """Return the lifetime that a ``cache_control`` asks for; None where it is absent or null.

    Raises:
        RequestError: it is no ephemeral cache, or has another lifetime.
    """
    if value is None:
        return None
    control = as_object(value, where)
    only(control, frozenset(("type", "ttl")), control, f"{where}.")
    if control.get("type") != "ephemeral":
        refuse(f"{where}.type", "there is no such cache", "send type 'ephemeral'")
    ttl = control.get("ttl")
    if ttl is not None and ttl not in _TTLS:
        refuse(f"{where}.ttl", "there is no such lifetime", f"use one of {', '.join(_TTLS)}")
    return ttl if isinstance(ttl, str) else _TTLS[0]


class _Turn:
    """Collects the blocks of one turn into messages; used once."""

    def __init__(self, role: Role) -> None:
        self._role = role
        self._messages: list[Message] = []
        self._clear()

    def read(self, value: Json, where: str) -> list[Message]:
        """Return the messages of a list of blocks."""
        if not isinstance(value, list):
            wrong_type(where, value, "a string or a list of blocks")
        if not value or len(value) > BLOCKS_MAX:
            refuse(where, f"{where} has {len(value)} blocks", f"send 1 to {BLOCKS_MAX}")
        for index, item in enumerate(value):
            self._block(as_object(item, f"{where}[{index}]"), f"{where}[{index}]")
        self._close()
        return self._messages

    def _clear(self) -> None:
        self._pieces: list[str | ImagePart] = []
        self._calls: list[ToolCall] = []
        self._thinking: list[dict[str, Json]] = []
        self._whole_signature: str | None = None
        """One that stands for all thinking of the message."""
        self._marks: list[tuple[bool, int, str]] = []
        """Whether a call is marked, its place among its kind, and the lifetime."""

    def _block(self, block: dict[str, Json], where: str) -> None:
        kind = block.get("type")
        if not isinstance(kind, str) or kind not in _BLOCKS[self._role]:
            _refuse_block(kind, self._role, f"{where}.type")
        match kind:
            case "tool_result":
                self._result(block, where)
            case "tool_use":
                self._mark(block, where, call=True)
                self._calls.append(_tool_use(block, where))
            case "text" | "image":
                self._mark(block, where, call=False)
                self._pieces.append(_piece(kind, block, where))
            case _:
                self._thought(block, where)

    def _mark(self, block: dict[str, Json], where: str, *, call: bool) -> None:
        if "cache_control" in block:
            ttl = cache_ttl(block["cache_control"], f"{where}.cache_control")
            if ttl is not None:
                self._marks.append((call, len(self._calls if call else self._pieces), ttl))

    def _thought(self, block: dict[str, Json], where: str) -> None:
        redacted = block["type"] == "redacted_thinking"
        only(block, _REDACTED_FIELDS if redacted else _THINKING_FIELDS, block, f"{where}.")
        if redacted:
            thought: dict[str, Json] = {
                "type": "redacted_thinking",
                "data": as_text(block.get("data"), f"{where}.data"),
            }
        else:
            signature = as_text(block.get("signature", ""), f"{where}.signature")
            text = as_text(block.get("thinking"), f"{where}.thinking")
            if signature.startswith((FOREIGN_SIGNATURE, PACKED_SIGNATURE)):
                # It signs the message, not one thought, and may come after the text.
                self._whole_signature, signature = signature, ""
                if not text:
                    return
            if signature and not text and self._thinking and not self._thinking[-1].get("signature", True):
                # A stream's signature came after the text, when the block of its thought was closed.
                self._thinking[-1]["signature"] = signature
                return
            thought = {"type": "thinking", "thinking": text, "signature": signature}
        # A call must stay in one message with those beside it: other providers want the results right after.
        if self._pieces and not self._calls:
            self._close()
        self._thinking.append(thought)

    def _result(self, block: dict[str, Json], where: str) -> None:
        if self._pieces:
            refuse(f"{where}.type", "a tool_result stands after other content", "put tool results first in the turn")
        only(block, _TOOL_RESULT_FIELDS, block, f"{where}.")
        content = block.get("content")
        answer = Message(role=Role.TOOL)
        if isinstance(content, list) and content:
            answer = _Turn(Role.TOOL).read(content, f"{where}.content")[0]
        elif content is not None and content != []:
            answer = Message(role=Role.TOOL, text=as_text(content, f"{where}.content"))
        ttl = cache_ttl(block.get("cache_control"), f"{where}.cache_control")
        self._messages.append(
            Message(
                role=Role.TOOL,
                text=answer.text,
                images=answer.images,
                parts=answer.parts,
                tool_call_id=as_name(block.get("tool_use_id"), f"{where}.tool_use_id"),
                is_error=find_bool(block, "is_error", f"{where}.") or False,
                # To the API, a mark on the last part and one on the result as a whole are the same prefix.
                cache_marks=((0, ttl),)
                if ttl is not None
                else answer.cache_marks[-1:] and ((0, answer.cache_marks[-1][1]),),
            )
        )

    def _close(self) -> None:
        if not (self._pieces or self._calls or self._thinking or self._whole_signature):
            return
        pieces = self._pieces
        texts = [piece for piece in pieces if isinstance(piece, str)]
        in_order = not texts or (len(texts) == 1 and pieces[0] is texts[0])
        self._messages.append(
            Message(
                role=self._role,
                text="\n".join(texts),
                images=tuple([piece for piece in pieces if isinstance(piece, ImagePart)]),
                parts=() if in_order else tuple(pieces),
                tool_calls=tuple(self._calls),
                reasoning=thinking_text(self._thinking),
                reasoning_signature=self._whole_signature or pack_signature(self._thinking),
                cache_marks=tuple([(place + len(pieces) * call, ttl) for call, place, ttl in self._marks]),
            )
        )
        self._clear()


def _piece(kind: str, block: Mapping[str, Json], where: str) -> str | ImagePart:
    if kind == "text":
        if len(block) > 2:
            only(block, _TEXT_FIELDS, block, f"{where}.")
        return as_text(block.get("text"), f"{where}.text")
    only(block, _IMAGE_FIELDS, block, f"{where}.")
    where = f"{where}.source"
    source = as_object(block.get("source"), where)
    match source.get("type"):
        case "base64":
            only(source, frozenset(("type", "media_type", "data")), source, f"{where}.")
            return ImagePart(
                data_base64=_filled(source, "data", where), media_type=_filled(source, "media_type", where)
            )
        case "url":
            only(source, frozenset(("type", "url")), source, f"{where}.")
            url = _filled(source, "url", where)
            if not url.lower().startswith(("https://", "http://")):
                refuse(f"{where}.url", "the image has no address that can be passed on", "use https://...")
            return ImagePart(url=url)
        case _:
            refuse(f"{where}.type", "an image can be passed on as base64 or url only", "send it as base64")


def _filled(fields: Mapping[str, Json], name: str, where: str) -> str:
    text = as_text(fields.get(name), f"{where}.{name}")
    if not text:
        wrong_type(f"{where}.{name}", text, "a non-empty string")
    return text


def _tool_use(block: Mapping[str, Json], where: str) -> ToolCall:
    only(block, _TOOL_USE_FIELDS, block, f"{where}.")
    caller = block.get("caller")
    if caller is not None and caller != {"type": "direct"}:
        refuse(f"{where}.caller", "only the model's own calls can be passed on", "leave it out")
    signature = block.get("signature")
    return ToolCall(
        id=as_name(block.get("id"), f"{where}.id"),
        name=as_name(block.get("name"), f"{where}.name"),
        arguments=_arguments(as_object(block.get("input"), f"{where}.input"), f"{where}.input"),
        signature=None if signature is None else as_text(signature, f"{where}.signature"),
    )


def _arguments(given: dict[str, Json], where: str) -> str:
    broken = given.get(BROKEN_JSON) if len(given) == 1 else None
    return broken if isinstance(broken, str) and not _is_object(broken) else json_text(given, where)


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except ValueError:
        return False


BROKEN_JSON = "INVALID_JSON"
"""Holds arguments that are no JSON object, as Anthropic's guide to fine-grained tool streaming wraps them."""


def _refuse_role(role: Json, param: str) -> NoReturn:
    if not isinstance(role, str):
        wrong_type(param, role, "a string")
    refuse(param, f"there is no role {role[:40]!r}", f"use one of {', '.join(_ROLES)}")


def _refuse_block(kind: Json, role: Role, param: str) -> None:
    if not isinstance(kind, str):
        wrong_type(param, kind, "a string")
    remedy = _REMEDIES.get(kind) or f"use one of {', '.join(sorted(_BLOCKS[role]))}"
    refuse(param, f"a block of type {kind[:40]!r} cannot be passed on in a turn of {role.value}", remedy)

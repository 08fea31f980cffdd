"""Reads the messages of an OpenAI chat body.

Keeps the order of texts and images. Assistant turns come back from clients as we or OpenAI wrote them: null fields and
empty lists are allowed there. What ``Message`` has no place for is refused by name. Called by ``openai_chat``.

Source: openai-python's ``ChatCompletionMessageParam``, as of 2026-11; ``reasoning_content`` is DeepSeek's field,
``reasoning`` OpenRouter's and vLLM's, ``extra_content`` that of Gemini's OpenAI mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn, TypeAlias

from app.domain.chat import ImagePart, Json, Message, Role, ToolCall
from app.http.formats.openai_chat_fields import as_name, as_object, as_text, find_name, only, refuse, wrong_type

MESSAGES_MAX = 4_096
PARTS_MAX = 1_024
TOOL_CALLS_MAX = 512
ID_CHARS_MAX = 65_536
"""Of a tool call; some gateways hide a model's signature in it."""

_Content: TypeAlias = tuple[str, tuple[ImagePart, ...], tuple[str | ImagePart, ...]]
"""Text, images, and both in order where they would not show it."""
_EMPTY: _Content = ("", (), ())

_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
}
_PLAIN = frozenset(("role", "content", "name"))
_FIELDS = {
    Role.SYSTEM: _PLAIN,
    Role.USER: _PLAIN,
    Role.ASSISTANT: _PLAIN
    | {"refusal", "tool_calls", "reasoning_content", "reasoning", "reasoning_signature", "function_call"},
    Role.TOOL: _PLAIN | {"tool_call_id"},
}
_CALL_FIELDS = frozenset(("id", "type", "function", "index", "extra_content"))
_FUNCTION_FIELDS = frozenset(("name", "arguments"))
_DETAILS = ("auto", "low", "high", "original")
_NO_SOUND = "send what it says as text"


def read_messages(value: Json) -> tuple[Message, ...]:
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
    return tuple([_message(item, index) for index, item in enumerate(value)])


def _message(item: Json, index: int) -> Message:
    if not isinstance(item, dict):
        wrong_type(f"messages[{index}]", item, "an object")
    name = item.get("role")
    role = _ROLES.get(name) if isinstance(name, str) else None
    content = item.get("content")
    if role is None:
        _refuse_role(name, f"messages[{index}].role")
    if len(item) == 2 and isinstance(content, str) and role is not Role.TOOL:
        # Nearly all messages.
        return Message(role=role, text=content)
    where = f"messages[{index}]."
    if len(item) > 2:
        only(item, _FIELDS[role], item, where)
    if role is Role.ASSISTANT:
        return _assistant(item, where)
    text, images, parts = _content(content, role, where)
    return Message(
        role=role,
        text=text,
        images=images,
        parts=parts,
        tool_call_id=as_name(item.get("tool_call_id"), where + "tool_call_id", most=ID_CHARS_MAX)
        if role is Role.TOOL
        else None,
        name=find_name(item, "name", where),
    )


def _refuse_role(role: Json, param: str) -> NoReturn:
    if role == "function":
        refuse(param, "the role 'function' is no longer understood", "send role 'tool' with tool_call_id")
    if not isinstance(role, str):
        wrong_type(param, role, "a string")
    refuse(param, f"there is no role {role[:40]!r}", f"use one of {', '.join(_ROLES)}")


def _assistant(item: Mapping[str, Json], where: str) -> Message:
    if item.get("function_call") is not None:
        refuse(where + "function_call", "function_call is no longer understood", "send tool_calls")
    calls = _tool_calls(item.get("tool_calls"), where + "tool_calls")
    reasoning = _reasoning(item, where)
    content, refusal = item.get("content"), item.get("refusal")
    refused = None if refusal is None else as_text(refusal, where + "refusal")
    may_be_empty = bool(calls or refused or reasoning is not None)
    said = _EMPTY if may_be_empty and content in (None, []) else _content(content, Role.ASSISTANT, where)
    text, images, parts = _with_refusal(said, refused) if refused else said
    return Message(
        role=Role.ASSISTANT,
        text=text,
        images=images,
        parts=parts,
        tool_calls=calls,
        name=find_name(item, "name", where),
        reasoning=reasoning,
        reasoning_signature=_find_text(item, "reasoning_signature", where),
    )


def _with_refusal(said: _Content, refused: str) -> _Content:
    """Add what the model said in place of an answer; streams give it as text, too."""
    text, images, parts = said
    before = parts or ((text, *images) if text else images)
    return (f"{text}\n{refused}" if text else refused, images, (*before, refused) if before else ())


def _reasoning(item: Mapping[str, Json], where: str) -> str | None:
    first = _find_text(item, "reasoning_content", where)
    second = _find_text(item, "reasoning", where)
    if first is not None and second is not None and first != second:
        refuse(where + "reasoning", "reasoning contradicts reasoning_content", "send one of them")
    return second if first is None else first


def _find_text(item: Mapping[str, Json], name: str, where: str) -> str | None:
    value = item.get(name)
    return None if value is None else as_text(value, where + name)


def _content(value: Json, role: Role, where: str) -> _Content:
    param = where + "content"
    if isinstance(value, str):
        return value, (), ()
    if not isinstance(value, list):
        wrong_type(param, value, "a string or a list of parts")
    if not value or len(value) > PARTS_MAX:
        refuse(param, f"{param} has {len(value)} parts", f"send 1 to {PARTS_MAX}")
    parts = tuple([_part(part, role, f"{param}[{index}]") for index, part in enumerate(value)])
    texts = [part for part in parts if isinstance(part, str)]
    images = tuple([part for part in parts if isinstance(part, ImagePart)])
    in_order = not texts or (len(texts) == 1 and parts[0] is texts[0])
    return "\n".join(texts), images, () if in_order else parts


def _part(value: Json, role: Role, where: str) -> str | ImagePart:
    part = as_object(value, where)
    kind = part.get("type")
    if not isinstance(kind, str):
        wrong_type(f"{where}.type", kind, "a string")
    if kind == "text" or (kind == "refusal" and role is Role.ASSISTANT):
        if len(part) > 2:
            only(part, frozenset(("type", kind)), part, f"{where}.")
        return as_text(part.get(kind), f"{where}.{kind}")
    if kind == "image_url":
        if len(part) > 2:
            only(part, frozenset(("type", kind)), part, f"{where}.")
        return _image(as_object(part.get(kind), f"{where}.{kind}"), f"{where}.{kind}.")
    if kind == "input_audio":
        refuse(f"{where}.type", "audio parts cannot be passed on to any model", _NO_SOUND)
    if kind == "file":
        refuse(f"{where}.type", "file parts cannot be passed on to any model", "send the file's text or its pictures")
    allowed = "text, image_url" + (", refusal" if role is Role.ASSISTANT else "")
    refuse(f"{where}.type", f"there is no part of type {kind[:40]!r} here", f"use one of {allowed}")


def _image(image: dict[str, Json], where: str) -> ImagePart:
    if len(image) > 1:
        only(image, frozenset(("url", "detail")), image, where)
    url = as_text(image.get("url"), where + "url")
    detail = image.get("detail")
    if detail is not None and (not isinstance(detail, str) or detail not in _DETAILS):
        refuse(where + "detail", "there is no such detail", f"use one of {', '.join(_DETAILS)}")
    scheme = url[:8].lower()
    if scheme.startswith(("https://", "http://")):
        return ImagePart(url=url, detail=detail)
    head, comma, data = url.partition(",")
    media_type, _, encoding = head[5:].partition(";")
    if not (scheme.startswith("data:") and comma and data and media_type and encoding.lower() == "base64"):
        refuse(
            where + "url",
            "the image has no address that can be passed on",
            "use https://..., or data:<media type>;base64,<data>",
        )
    return ImagePart(data_base64=data, media_type=media_type, detail=detail)


def _tool_calls(value: Json, where: str) -> tuple[ToolCall, ...]:
    if value is None or value == []:
        return ()
    if not isinstance(value, list):
        wrong_type(where, value, "a list of tool calls")
    if len(value) > TOOL_CALLS_MAX:
        refuse(where, f"there are {len(value)} tool calls", f"send at most {TOOL_CALLS_MAX}")
    return tuple([_tool_call(call, index, f"{where}[{index}]") for index, call in enumerate(value)])


def _tool_call(value: Json, index: int, where: str) -> ToolCall:
    call = as_object(value, where)
    only(call, _CALL_FIELDS, call, f"{where}.")
    if call.get("type") not in (None, "function"):
        refuse(f"{where}.type", "only calls of functions can be passed on", "send type 'function'")
    if call.get("index") not in (None, index):
        refuse(f"{where}.index", "the calls are not in the order of their index", "send them in order")
    function = as_object(call.get("function"), f"{where}.function")
    only(function, _FUNCTION_FIELDS, function, f"{where}.function.")
    return ToolCall(
        id=as_name(call.get("id"), f"{where}.id", most=ID_CHARS_MAX),
        name=as_name(function.get("name"), f"{where}.function.name"),
        arguments=as_text(function.get("arguments"), f"{where}.function.arguments"),
        signature=_signature(call.get("extra_content"), f"{where}.extra_content"),
    )


def _signature(value: Json, where: str) -> str | None:
    if value is None:
        return None
    extra = as_object(value, where)
    only(extra, frozenset(("google",)), extra, f"{where}.")
    google = as_object(extra.get("google", {}), f"{where}.google")
    only(google, frozenset(("thought_signature",)), google, f"{where}.google.")
    return _find_text(google, "thought_signature", f"{where}.google.")

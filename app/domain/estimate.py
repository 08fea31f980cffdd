"""Estimates the size of a request in tokens before it is sent, without any tokenizer.

Characters per token by script: Latin text about 4, Vietnamese about 2.6, Chinese about 1.3. The provider's usage
corrects every reservation afterwards, so an estimate only has to be near, and rather high than low.
"""

from __future__ import annotations

from app.domain.chat import ChatRequest

TOKENS_PER_MESSAGE = 4
TOKENS_PER_IMAGE = 1_000
LATIN_CHARS_PER_TOKEN = 3.6
"""English prose measures 4 to 4.5; lower because code and names need more tokens."""
MARKED_TOKENS_PER_CHAR = 0.55
"""Letters with diacritics and other alphabets."""
CJK_TOKENS_PER_CHAR = 0.8


def text_tokens(text: str) -> int:
    """Return the estimated number of tokens of ``text``."""
    if text.isascii():
        return int(len(text) / LATIN_CHARS_PER_TOKEN) + 1 if text else 0
    plain = marked = cjk = 0
    for letter in text:
        code = ord(letter)
        if code < 0x80:
            plain += 1
        elif 0x2E80 <= code <= 0x9FFF or 0xAC00 <= code <= 0xD7AF or 0xF900 <= code <= 0xFAFF or code >= 0x20000:
            cjk += 1
        else:
            marked += 1
    return int(plain / LATIN_CHARS_PER_TOKEN + marked * MARKED_TOKENS_PER_CHAR + cjk * CJK_TOKENS_PER_CHAR) + 1


def estimate_tokens(request: ChatRequest) -> int:
    """Return the estimated input tokens of ``request``: messages, images, tools and schema."""
    tokens = TOKENS_PER_MESSAGE
    for message in request.messages:
        tokens += TOKENS_PER_MESSAGE + text_tokens(message.text) + TOKENS_PER_IMAGE * len(message.images)
        tokens += sum(text_tokens(call.name) + text_tokens(call.arguments) for call in message.tool_calls)
    for tool in request.tools:
        tokens += text_tokens(tool.name) + text_tokens(tool.description) + text_tokens(repr(tool.parameters or {}))
    if request.output is not None and not isinstance(request.output, str):
        tokens += text_tokens(repr(request.output.schema))
    return tokens

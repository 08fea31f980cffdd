"""Carries Anthropic's thinking blocks through the one reasoning text and one signature that a message has.

The API wants the thinking of a tool turn back unchanged. One plain block fits as it is; several, or redacted ones, are
packed as JSON into the signature. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.chat import Json
from app.providers.payload import as_list, as_text, dump_json, parse_json

_PACKED = "anthropic-blocks:"
_FOREIGN = "gemini:"
"""Signatures of another provider: this one would refuse them."""


def pack_signature(blocks: Sequence[dict[str, Json]]) -> str | None:
    """Return the signature that stands for ``blocks`` (thinking and redacted_thinking, as received)."""
    if not blocks:
        return None
    if len(blocks) == 1 and blocks[0].get("type") == "thinking":
        return as_text(blocks[0].get("signature")) or None
    return _PACKED + dump_json(list(blocks))


def thinking_text(blocks: Sequence[dict[str, Json]]) -> str | None:
    """Return the readable reasoning in ``blocks``."""
    return "\n\n".join(text for block in blocks if (text := as_text(block.get("thinking")))) or None


def thinking_blocks(reasoning: str | None, signature: str | None) -> list[Json]:
    """Return the blocks to send back; none without a signature of this provider, which would be refused."""
    if not signature or signature.startswith(_FOREIGN):
        return []
    if not signature.startswith(_PACKED):
        return [{"type": "thinking", "thinking": reasoning or "", "signature": signature}]
    try:
        return as_list(parse_json(signature.removeprefix(_PACKED)))
    except ValueError:
        return []

"""Carries Anthropic's thinking blocks through the one reasoning text and one signature that a message has.

The API wants the thinking of a tool turn back unchanged. One plain block fits as it is; several, or redacted ones, are
packed as JSON into the signature. Used by the provider's adapter and by the client format; both see the same blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from app.domain.chat import Json

PACKED_SIGNATURE = "anthropic-blocks:"
"""Begins signatures that hold whole blocks."""
FOREIGN_SIGNATURE = "gemini:"
"""Begins signatures of another provider, which Anthropic would refuse."""


def pack_signature(blocks: Sequence[dict[str, Json]]) -> str | None:
    """Return the signature that stands for ``blocks`` (thinking and redacted_thinking, as received).

    Blocks without a signature are another provider's reasoning and are left out: they are in ``thinking_text``.
    """
    signed = [block for block in blocks if block.get("signature") or block.get("type") == "redacted_thinking"]
    if not signed:
        return None
    if len(blocks) == 1 and blocks[0].get("type") == "thinking":
        signature = blocks[0].get("signature")
        return signature if isinstance(signature, str) else None
    return PACKED_SIGNATURE + orjson.dumps(signed).decode()


def thinking_text(blocks: Sequence[dict[str, Json]]) -> str | None:
    """Return the readable reasoning in ``blocks``."""
    texts = (block.get("thinking") for block in blocks)
    return "\n\n".join(text for text in texts if isinstance(text, str) and text) or None


def thinking_blocks(reasoning: str | None, signature: str | None) -> list[Json]:
    """Return the blocks to send back; none without a signature of this provider, which would be refused."""
    if not signature or signature.startswith(FOREIGN_SIGNATURE):
        return []
    # A client that joins the pieces of a stream has earlier signatures before the last, which holds all blocks.
    head, packed, _text = signature.partition(PACKED_SIGNATURE)
    if not packed:
        return [{"type": "thinking", "thinking": reasoning or "", "signature": signature}]
    for text in (signature.removeprefix(head + packed), signature.rpartition(PACKED_SIGNATURE)[2]):
        try:
            blocks: Json = orjson.loads(text)
        except ValueError:
            continue
        return blocks if isinstance(blocks, list) else []
    return []

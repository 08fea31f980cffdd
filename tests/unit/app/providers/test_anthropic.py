"""Anthropic's schema subset, thinking blocks and efforts."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.chat import Json
from app.domain.thinking import pack_signature, thinking_blocks, thinking_text
from app.providers.anthropic import enforceable


def test_what_the_grammar_cannot_enforce_is_said_instead() -> None:
    """Nothing of a schema is dropped: it moves into the description, and names are no keywords."""
    schema: dict[str, Json] = {
        "type": "object",
        "properties": {"minimum": {"type": "integer", "minimum": 1}, "tags": {"type": "array", "minItems": 2}},
        "$defs": {"pattern": {"type": "string", "pattern": "^a"}},
        "required": ["minimum"],
    }

    assert enforceable(schema) == {
        "type": "object",
        "properties": {
            "minimum": {"type": "integer", "description": "{minimum: 1}"},
            "tags": {"type": "array", "description": "{minItems: 2}"},
        },
        "$defs": {"pattern": {"type": "string", "description": "{pattern: ^a}"}},
        "required": ["minimum"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "blocks",
    [
        [{"type": "thinking", "thinking": "a", "signature": "s"}],
        [{"type": "thinking", "thinking": "", "signature": "s"}],
        [{"type": "redacted_thinking", "data": "xyz"}],
        [
            {"type": "thinking", "thinking": "a", "signature": "s"},
            {"type": "thinking", "thinking": "b", "signature": "t"},
        ],
    ],
)
def test_thinking_comes_back_unchanged(blocks: list[dict[str, Any]]) -> None:
    """The API refuses a tool turn whose thinking was altered."""
    assert thinking_blocks(thinking_text(blocks), pack_signature(blocks)) == blocks


@pytest.mark.parametrize("signature", [None, "", "gemini:abc", "anthropic-blocks:{broken"])
def test_thinking_without_a_signature_of_its_own_is_not_sent(signature: str | None) -> None:
    """Another provider's signature would be refused."""
    assert thinking_blocks("because", signature) == []

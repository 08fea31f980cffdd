"""Reasoning that a server left in the text is kept apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.providers.think_tags import ThinkSplitter


def split(pieces: list[str]) -> tuple[str, str]:
    splitter = ThinkSplitter()
    parts = [splitter.feed(piece) for piece in pieces] + [splitter.end()]
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts)


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>\nwhy\n</think>\n\nbecause", "why\n", "because"),
        ("\n<think></think>x", "", "x"),
        ("no tags", "", "no tags"),
        ("  kept as is", "", "  kept as is"),
        ("an answer about <think>tags</think>", "", "an answer about <think>tags</think>"),
        ("<think>a < b </thin</think>c", "a < b </thin", "c"),
        ("<think>never ended", "never ended", ""),
        ("<thinker> is no tag", "", "<thinker> is no tag"),
        ("<th", "", "<th"),
        ("", "", ""),
    ],
)
@given(size=st.integers(1, 9))
def test_reasoning_is_split_however_the_text_comes(text: str, reasoning: str, answer: str, size: int) -> None:
    """Only a tag at the very start counts; nothing is lost, nothing doubled."""
    pieces = [text[start : start + size] for start in range(0, len(text), size)]

    assert split(pieces) == (reasoning, answer)

"""Keeps reasoning apart that a server left inside the answer's text, as ``<think>…</think>`` at its start.

Servers without a reasoning parser do that with R1-like models. Incremental and pure. Only a tag at the very start
counts: an answer that merely mentions one is left alone.
"""

from __future__ import annotations

from typing import Literal

_OPEN, _CLOSE = "<think>", "</think>"


class ThinkSplitter:
    """Splits one answer's text into reasoning and text, piece by piece. Not thread-safe."""

    def __init__(self) -> None:
        self._held = ""
        self._state: Literal["start", "opened", "thinking", "after", "text"] = "start"

    def feed(self, piece: str) -> tuple[str, str]:
        """Return the (reasoning, text) that can be told apart so far; what may begin a tag is held back."""
        if self._state == "text":
            return "", piece
        self._held += piece
        if self._state == "start":
            start = self._held.lstrip()
            if start.startswith(_OPEN):
                self._state, self._held = "opened", start[len(_OPEN) :]
            elif _OPEN.startswith(start):
                return "", ""
            else:
                self._state = "text"
        if self._state == "opened":
            self._held = self._held.lstrip("\n")
            if not self._held:
                return "", ""
            self._state = "thinking"
        reasoning = ""
        if self._state == "thinking":
            reasoning, found, rest = self._held.partition(_CLOSE)
            if not found:
                keep = _tail_of_tag(self._held)
                cut = len(self._held) - keep
                reasoning, self._held = self._held[:cut], self._held[cut:]
                return reasoning, ""
            self._state, self._held = "after", rest
        if self._state == "after":
            self._held = self._held.lstrip()
            if not self._held:
                return reasoning, ""
            self._state = "text"
        text, self._held = self._held, ""
        return reasoning, text

    def end(self) -> tuple[str, str]:
        """Return what was held back."""
        held, self._held = self._held, ""
        return (held, "") if self._state == "thinking" else ("", held)


def _tail_of_tag(text: str) -> int:
    """Return how many characters at the end of ``text`` may begin the closing tag."""
    return next((size for size in range(len(_CLOSE) - 1, 0, -1) if text.endswith(_CLOSE[:size])), 0)

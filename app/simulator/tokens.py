"""The simulator's one rule for tokens: four characters make one, rounded up. Also its filler text.

The rule is the same for every format, for prompts, replies, schemas and the counting endpoints. It is no tokenizer:
what matters is that anybody can recompute it.
"""

from __future__ import annotations

import random

CHARS_PER_TOKEN = 4

_PROSE = (
    "the orchestra waits while each player tunes a string and listens for the first note of the evening "
    "then rain falls on quiet streets as a small train carries letters between two old towns by the river "
    "nobody counts the hours because work that is shared goes quickly and leaves time for tea under a lamp"
)
_WORDS = _PROSE.split()


def count_tokens(text: str) -> int:
    """Return how many tokens ``text`` has: its characters over four, rounded up."""
    return -(-len(text) // CHARS_PER_TOKEN)


def cut_to_tokens(text: str, tokens: int) -> str:
    """Return the beginning of ``text`` that has at most ``tokens`` tokens."""
    return text[: max(tokens, 0) * CHARS_PER_TOKEN]


def _filler() -> str:
    chance = random.Random("filler")
    return " ".join(chance.choice(_WORDS) for _ in range(4_000)) + " "


_FILLER = _filler()


def filler_text(tokens: int, chance: random.Random) -> str:
    """Return prose of exactly ``tokens`` tokens, decided by ``chance``."""
    length = tokens * CHARS_PER_TOKEN
    start = chance.randrange(len(_FILLER))
    text = _FILLER[start : start + length]
    while len(text) < length:
        text += _FILLER[: length - len(text)]
    return text


def filler_words(count: int, chance: random.Random) -> str:
    """Return ``count`` words, decided by ``chance``."""
    return " ".join(chance.choice(_WORDS) for _ in range(count))

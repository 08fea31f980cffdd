"""What code can see and mend in a worker's text: going round in circles, a cut end, JSON inside of talk. Pure."""

from __future__ import annotations

import json
import re

from app.domain.language import sentences
from app.domain.structured import read

PIECE_CHARS = 12
PIECES_MIN = 40
DISTINCT_SHARE_MIN = 0.8
"""Below this share of distinct pieces a text goes round in circles; good prose is above 0.95."""


def loops(text: str) -> bool:
    """Tell whether ``text`` says the same again and again."""
    pieces = [text[start : start + PIECE_CHARS] for start in range(len(text) - PIECE_CHARS)]
    return len(pieces) >= PIECES_MIN and len(set(pieces)) < DISTINCT_SHARE_MIN * len(pieces)


def without_cut_end(text: str) -> str:
    """Return ``text`` up to its last finished sentence; all of it where none is finished."""
    finished = re.match(r".*(?:[.!?](?=\s)|[。!?]|[.!?]\Z)", text, re.DOTALL)
    # "1." at the end is the number of the next point, not a sentence.
    kept = re.sub(r"\n\s*\d{1,3}[.)]\s*\Z", "", finished.group(0)) if finished else ""
    return kept.strip() if len(kept) >= len(text) // 3 else text.strip()


def without_repeats(text: str) -> str:
    """Return the sentences of ``text`` that are not literally said before."""
    return " ".join(dict.fromkeys(sentences(text)))


def json_text(text: str) -> tuple[str, bool]:
    """Return the JSON in ``text`` and whether its syntax had to be repaired; ``text`` itself where there is none."""
    reading = read(text, None, {})
    if not reading.found:
        return text, False
    return json.dumps(reading.value, ensure_ascii=False, indent=2), reading.repaired

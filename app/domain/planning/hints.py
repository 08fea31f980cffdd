"""Reads the structure of a request without any model: its language, its parts, and which parts build on others.

The embedded model plans inside a grammar made from this; for larger models it is only advice. A reading that finds
nothing says so (no parts) and does no harm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.domain.estimate import text_tokens
from app.domain.language import UNKNOWN, detect_language

PARTS_MAX = 200
"""Further parts are not looked for; the plan's own limit is far lower."""
LIST_ITEM_WORDS_MAX = 4
"""An aspect in "compare a and b: cost, taste, health" is short; a longer piece is a sentence."""

_NUMBERED = re.compile(
    r"(?:(?<=^)|(?<=[\s:;.,。;:,、]))[(\uff08]?(\d{1,3})(?:[)\uff09、]|\.(?=\s))[ \t]*(?=\S)", re.MULTILINE
)
_BULLETED = re.compile(r"^[ \t]*[-*•–][ \t]+(?=\S)", re.MULTILINE)
_NOUNS = "(?:parts?|points?|steps?|sections?|results?|answers?|lists?|ideas?|items?)"
_ABOVE = re.compile(
    rf"\b{_NOUNS} above\b|\babove {_NOUNS}\b|\b(?:previous|earlier|preceding) {_NOUNS}\b|\bthe above\b|"
    rf"\bbased on (?:the |these |those )?(?:above|previous|{_NOUNS})\b|"
    r"(?:phần|bước|mục|ý|kết quả|điều) (?:ở )?(?:trên|trước)|ở trên|dựa (?:trên|vào) (?:những|các)|"
    r"以上|上述|前面|上面|之前的(?:部分|结果|步骤)",
    re.IGNORECASE,
)
_THEN = re.compile(
    r"^(?:and )?(?:then|finally|lastly|at last|in the end|afterwards?)\b|^(?:sau đó|cuối cùng|rồi|tiếp theo)(?!\w)|"
    r"^(?:然后|最后|接着|并且?|再|随后)",
    re.IGNORECASE,
)
_NAMED_PART = re.compile(
    r"(?:parts?|points?|steps?|phần|bước|第)\s*(\d{1,3})(?:\s*(?:,|and|&|và|和|、)\s*(\d{1,3}))?", re.I
)
_PRONOUN = re.compile(r"\b(?:it|them|this|these|those)\b|(?<!\w)(?:nó|chúng)(?!\w)|它", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|(?<=[。!?;])|\n+")
_CHINESE_TURN = re.compile(r"[,,](?=(?:并且?|然后|最后|接着|随后|再))")
_ENGLISH_TURN = re.compile(r",? and then |, then ", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One piece of work that the request itself names."""

    text: str
    """Without its number and its closing stop."""
    builds_on: tuple[int, ...] = ()
    """Indices of earlier parts whose results it needs, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What the request shows by its form."""

    language: str
    goal: str
    """What stands before the parts; the whole request where there are none."""
    parts: tuple[Part, ...]
    """At least two, or none."""
    tokens: int
    """Estimated size of the request."""

    @property
    def pieces(self) -> tuple[Part, ...]:
        """The parts, or the whole request as the one part."""
        return self.parts or (Part(text=self.goal),)


def read_hints(request: str) -> Hints:
    """Read ``request``; any text gives a result."""
    text = request.strip()
    goal, pieces = _split(text)
    parts = tuple(Part(text=piece, builds_on=_builds_on(piece, index)) for index, piece in enumerate(pieces))
    return Hints(
        language=detect_language(text) if text else UNKNOWN,
        goal=goal or text,
        parts=parts if len(parts) >= 2 else (),
        tokens=text_tokens(text),
    )


def _split(text: str) -> tuple[str, list[str]]:
    for split in (_numbered, _bulleted, _aspects, _turns):
        goal, pieces = split(text)
        pieces = [_clean(piece) for piece in pieces[:PARTS_MAX]]
        if len(pieces) >= 2 and all(re.search(r"\w{2}|[\u3400-\u9fff]", piece) for piece in pieces):
            return _clean(goal), pieces
    return _clean(text), []


def _numbered(text: str) -> tuple[str, list[str]]:
    """Split at the longest run of numbers that counts up from 1."""
    marks: list[re.Match[str]] = []
    for match in _NUMBERED.finditer(text):
        if int(match.group(1)) == len(marks) + 1:
            marks.append(match)
    return _between(text, marks)


def _bulleted(text: str) -> tuple[str, list[str]]:
    return _between(text, list(_BULLETED.finditer(text)))


def _between(text: str, marks: list[re.Match[str]]) -> tuple[str, list[str]]:
    if len(marks) < 2:
        return text, []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return text[: marks[0].start()], [text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]


def _aspects(text: str) -> tuple[str, list[str]]:
    """Split "compare a and b: cost, taste, health. Then recommend one." into its aspects and what follows them."""
    sentences = [piece for piece in _SENTENCE_END.split(text) if piece.strip()]
    head, colon, listed = _at_colon(sentences[0]) if sentences else ("", "", "")
    if not colon:
        return text, []
    aspects = [
        piece.strip() for piece in re.split(r"[,,、;]|\band\b|(?<!\w)và(?!\w)|和", _clean(listed)) if piece.strip()
    ]
    short = all(len(aspect.split()) <= LIST_ITEM_WORDS_MAX and len(aspect) <= 40 for aspect in aspects)
    if len(aspects) < 2 or not short:
        return text, []
    return head, [f"{head.strip()}: {aspect}" for aspect in aspects] + sentences[1:]


def _at_colon(sentence: str) -> tuple[str, str, str]:
    for colon in (": ", ":"):
        head, found, rest = sentence.partition(colon)
        if found:
            return head, found, rest
    return sentence, "", ""


def _turns(text: str) -> tuple[str, list[str]]:
    """Split where the request says what comes after: "… Then …", "…,并…"."""
    pieces = [
        piece
        for sentence in _SENTENCE_END.split(text)
        for turn in _CHINESE_TURN.split(sentence)
        for piece in _ENGLISH_TURN.split(turn)
        if piece.strip()
    ]
    turned = len(pieces) >= 2 and any(_THEN.search(piece.strip()) or _ABOVE.search(piece) for piece in pieces[1:])
    if not turned and len(pieces) >= 2:
        turned = bool(_ENGLISH_TURN.search(text))
    return (text, pieces) if turned else (text, [])


def _builds_on(piece: str, index: int) -> tuple[int, ...]:
    if index == 0:
        return ()
    named = {int(number) - 1 for pair in _NAMED_PART.findall(piece) for number in pair if number}
    earlier = tuple(sorted(number for number in named if 0 <= number < index))
    if earlier:
        return earlier
    if _ABOVE.search(piece) or _THEN.search(piece):
        return tuple(range(index))
    # "translate it" means what came just before.
    return (index - 1,) if _PRONOUN.search(piece) else ()


def _clean(piece: str) -> str:
    return re.sub(r"^[\s,;、,;]+|[\s,;、,;.。]+$", "", " ".join(piece.split()))

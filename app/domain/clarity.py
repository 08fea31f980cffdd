"""Reads from the form of a request whether it can be planned at all, without any model.

A strong sign (no words, only pronouns and fillers) is reason enough to ask; a weak one (a placeholder, two words) only
where a model agrees. Everything else counts as clear: needless questions cost more than they bring.
"""

from __future__ import annotations

import re
from typing import Literal

from app.domain.language import words_of
from app.domain.plan import Question

SHORT_WORDS_MAX = 2
PRONOUN_WORDS_MAX = 5

_FILLERS = frozenset(
    re.findall(
        r"\w+",
        "do it this that these those them make fix help me us please now just go on continue again better something "
        "anything thing things stuff the a an and for to with of in can could you would i want need handle work same "
        "as before usual ok okay yes hi hello hey so well all "
        "làm đi nó cái này kia đó việc giúp tôi với hãy tiếp tục lại như cũ xin chào vui lòng được không ạ nhé cho "
        "mình fais le ça cela mach das bitte es hazlo por favor",
    )
)
_CHINESE_FILLERS = re.compile(r"[做作弄办搞吧这那它个事请帮我你您好的了一下继续干来去给把吗呢啊]+")
_PLACEHOLDER = re.compile(
    r"\[[^\]\n\d]{2,40}\](?!\()|<(?!/?\w+\s*/?>)[^<>\n]{2,40}>|\{\{?[^{}\n]{1,40}\}?\}|_{3,}|\b(?:todo|tbd|xxx+)\b|"
    r"(?:about|for|on|named|called|về|cho|关于)\s*(?:…|\.\.\.)",
    re.IGNORECASE,
)
_PRONOUN = re.compile(
    r"\b(?:it|this|that|them|these|those)\b|(?<!\w)(?:nó|cái này|cái đó|việc này)(?!\w)|它|这个|那个", re.I
)

_QUESTIONS = {
    "vi": (
        "Chính xác thì cần làm gì, và về chủ đề gì?",
        "Yêu cầu chưa nói rõ cần làm gì.",
        "Hiểu yêu cầu theo nghĩa đen.",
    ),
    "zh": ("具体要做什么?主题是什么?", "请求没有说明要做什么。", "按字面意思理解请求。"),
    "en": (
        "What exactly should be done, and about what?",
        "The request does not say what is to be done.",
        "Take the request literally.",
    ),
}
Sign = Literal["strong", "weak", "none"]


def unclear_sign(request: str) -> Sign:
    """Return how strongly the form of ``request`` speaks for asking back."""
    words = words_of(request)
    chinese = "".join(word for word in words if re.fullmatch(r"[\u3400-\u9fff]", word))
    latin = [word for word in words if not re.fullmatch(r"[\u3040-\u30ff\u3400-\u9fff]", word)]
    if all(word in _FILLERS or word.isdigit() for word in latin) and (
        not chinese or _CHINESE_FILLERS.fullmatch(chinese)
    ):
        return "strong"
    telling = [word for word in latin if word not in _FILLERS]
    # "translate this": a verb, and nothing that it could be done to.
    if _PRONOUN.search(request) and len(telling) + len(chinese) / 4 <= 1 and len(words) <= PRONOUN_WORDS_MAX:
        return "strong"
    if _PLACEHOLDER.search(request):
        return "weak"
    length = len(latin) + len(chinese) / 1.5
    if length <= SHORT_WORDS_MAX or (length <= PRONOUN_WORDS_MAX and _PRONOUN.search(request)):
        return "weak"
    return "none"


def general_question(language: str) -> Question:
    """Return the one question that fits a request which says nothing, in that language."""
    question, why, default = _QUESTIONS.get(language, _QUESTIONS["en"])
    return Question(
        id="q1",
        question=question,
        why=why,
        default=default,
        dimension="goal",
        cost_if_wrong=5,
        probability_default_wrong=0.9,
    )


def worth_asking(question: Question, threshold: float) -> bool:
    """Tell whether a wrong default would cost more than the question."""
    return question.cost_if_wrong * question.probability_default_wrong >= threshold


def as_assumption(question: Question) -> str:
    """Return the default of ``question`` as a recorded assumption."""
    return f"{question.question} {question.default}".strip()

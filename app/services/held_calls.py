"""Questions about calls that were lost on their way, where only a person may say whether to buy them again.

Plain functions between a run's record and its caller. Asked like the clarifier's questions and answered the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from app.domain.plan import Question
from app.domain.recovery import Ruling
from app.domain.run import CallRecord, RunRecord

PREFIX = "held-"
BUY_AGAIN, GIVE_UP = "buy again", "give up"


def question_of(call: CallRecord) -> Question:
    """Return what to ask about a held call; the same call is always the same question."""
    what = f"{call.purpose} of {call.task_id}" if call.task_id else call.purpose
    return Question(
        id=_id_of(call),
        question=f"{what}: nobody knows whether its provider billed it. Buy it again, or give it up?",
        why="It was on its way when the run was interrupted, and the configuration says to ask before paying twice.",
        options=(BUY_AGAIN, GIVE_UP),
        default=GIVE_UP,
    )


def is_held(question_id: str) -> bool:
    """Return whether a question is about a lost call."""
    return question_id.startswith(PREFIX)


def ruling_on(record: RunRecord, call: CallRecord) -> Ruling | None:
    """Return what was decided on a call; None: nothing yet."""
    answer = dict(record.answers).get(_id_of(call))
    if answer is not None:
        return "buy_again" if answer.strip().casefold().startswith("buy") else "give_up"
    question = question_of(call)
    return "give_up" if _assumed(question) in record.assumptions else None


def without_rulings(record: RunRecord) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return answers and assumptions on the work itself."""
    answers = tuple((name, text) for name, text in record.answers if not is_held(name))
    held = {_assumed(question) for question in record.questions if is_held(question.id)}
    return answers, tuple(text for text in record.assumptions if text not in held)


def new_questions(record: RunRecord, held: Iterable[CallRecord]) -> tuple[Question, ...]:
    """Return the run's questions with those about ``held`` calls."""
    asked: Mapping[str, Question] = {question.id: question for question in record.questions}
    more = {question.id: question for question in map(question_of, held)}
    return tuple({**asked, **more}.values())


def _assumed(question: Question) -> str:
    return f"{question.question} {question.default}"


def _id_of(call: CallRecord) -> str:
    return PREFIX + hashlib.sha256(call.key.encode()).hexdigest()[:8]

"""Asking a person: options, defaults, and leaving."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console

from app.terminal.ask import ask_all
from tests.fakes.runs import QUESTION


def _typing(*lines: str) -> Callable[[], str]:
    waiting = list(lines)

    def read_line() -> str:
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    return read_line


def _asked(*lines: str, default: str = "Lisbon") -> tuple[dict[str, str] | None, str]:
    out = io.StringIO()
    question = replace(QUESTION, default=default)
    return ask_all([question], Console(file=out, width=100), _typing(*lines)), out.getvalue()


def test_question_is_shown_with_its_options_and_default() -> None:
    """A person sees why it is asked and what happens on Enter."""
    _, shown = _asked("")

    for words in ("Which city is it for?", "why: Rules for packaging differ.", "1) Hanoi", "2) Lisbon", "[Lisbon]"):
        assert words in shown


def test_answer_is_default_option_or_own_words() -> None:
    """Enter takes the default, a number its option, anything else is the answer."""
    assert _asked("")[0] == {"q1": "Lisbon"}
    assert _asked("1")[0] == {"q1": "Hanoi"}
    assert _asked(" Da Nang ")[0] == {"q1": "Da Nang"}
    assert _asked("7")[0] == {"q1": "7"}


def test_question_without_default_insists() -> None:
    """Nothing is not an answer where there is no default."""
    answers, shown = _asked("", "Hanoi", default="")

    assert answers == {"q1": "Hanoi"}
    assert "There is no default" in shown


def test_end_of_input_gives_no_answers() -> None:
    """Ctrl-D leaves the run waiting instead of inventing answers."""
    assert _asked()[0] is None

"""Asks a person the questions a run waits on, showing options and defaults. Only where there is a terminal."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import current_thread, main_thread

from rich.console import Console
from rich.text import Text

from app.domain.plan import Question
from app.terminal.words import printable

ReadLine = Callable[[], str]


def ask_all(questions: Sequence[Question], console: Console, read_line: ReadLine = input) -> dict[str, str] | None:
    """Return an answer for every question; None where the person ended the input instead.

    An empty line takes the default; a number takes that option; anything else is the answer itself.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    answers: dict[str, str] = {}
    with _interruptible():
        for number, question in enumerate(questions, start=1):
            console.print(
                Text.assemble((f"\n{number}/{len(questions)} ", "dim"), (printable(question.question), "bold"))
            )
            if question.why:
                console.print(Text(f"  why: {printable(question.why)}", style="dim"))
            for index, option in enumerate(question.options, start=1):
                console.print(Text(f"  {index}) {printable(option)}"))
            answer = _one(question, console, read_line)
            if answer is None:
                return None
            answers[question.id] = answer
    return answers


def _one(question: Question, console: Console, read_line: ReadLine) -> str | None:
    prompt = Text("  answer", style="cyan")
    if question.default:
        prompt.append(f" [{printable(question.default)}]")
    while True:
        console.print(prompt, Text(": "), end="", sep="")
        try:
            said = read_line().strip()
        except EOFError:
            console.print()
            return None
        if said.isdecimal() and 1 <= int(said) <= len(question.options):
            return question.options[int(said) - 1]
        if said or question.default:
            return said or question.default
        console.print(Text("  There is no default; please answer, or end with Ctrl-D.", style="yellow"))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C interrupt a blocking read; asyncio's own handler only sets a flag for its loop."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

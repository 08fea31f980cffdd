"""Rows of many provider calls with what the books say of them, in the statements that one of them would take.

Calls of many runs end at about the same time, and each brings a command of the books: applied together they cost a
third. Each stands for itself all the same: what is refused of one is nothing to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sqlalchemy import Connection

from app.domain.books.entries import Answer, Command, Hold
from app.domain.books.refusals import exhausted
from app.domain.errors import GatewayError
from app.domain.run import CallRecord
from app.storage import journal, ledger

Outcome: TypeAlias = list[Answer] | GatewayError
"""What the books answered, or why nothing was written: another conductor has the run, a budget has no room."""


@dataclass(frozen=True, slots=True)
class CallWrite:
    """Calls of runs that are conducted in ``epoch``, and the books' commands that go with them."""

    calls: Sequence[CallRecord]
    commands: Sequence[Command] = ()
    """A hold stands alone: where it is refused nothing else may have been booked."""
    epoch: int = 0

    def __post_init__(self) -> None:
        assert len(self.commands) <= 1 or not any(isinstance(command, Hold) for command in self.commands)


def record(connection: Connection, writes: Sequence[CallWrite]) -> list[Outcome]:
    """Write them all, but for those that are refused, and return what became of each."""
    epochs = journal.find_epochs(connection, (call.run_id for write in writes for call in write.calls))
    lost = [_lost(write, epochs) for write in writes]
    kept = [write for write, error in zip(writes, lost, strict=True) if error is None]
    answers = iter(ledger.apply(connection, [command for write in kept for command in write.commands]))
    outcomes: list[Outcome] = []
    calls: list[CallRecord] = []
    for write, error in zip(writes, lost, strict=True):
        if error is not None:
            outcomes.append(error)
            continue
        own = [next(answers) for _command in write.commands]
        refusal = next((answer.refusal for answer in own if answer.refusal is not None), None)
        if refusal is None:
            calls.extend(write.calls)
        outcomes.append(own if refusal is None else exhausted(refusal))
    journal.record_calls(connection, calls)
    return outcomes


def _lost(write: CallWrite, epochs: dict[str, int]) -> GatewayError | None:
    found = (journal.lost(call.run_id, write.epoch, epochs) for call in write.calls)
    return next((error for error in found if error is not None), None)

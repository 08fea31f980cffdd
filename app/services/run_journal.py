"""One run's writes, in the name of the conductor that took it: once somebody else has, nothing is written any more.

A conductor that was stopped for long (a paused machine, a lost network) must not overwrite what its successor did: the
store refuses its epoch, and from then on this class refuses everything by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from app.domain.books.entries import Command
from app.domain.errors import CancelledError, RunTakenError
from app.domain.plan import Plan
from app.domain.ports import Journal
from app.domain.run import CallRecord, RunEvent, RunRecord, TaskRecord


class RunJournal:
    """The journal as the conductor of one run may write it.

    Args:
        journal: The store.
        run_id: Whose writes these are.
        epoch: Under which the run was taken.
        on_lost: Told once, when the store says that somebody else has taken the run.

    Every write raises CancelledError once the run is lost. Not thread-safe: the conductor's event loop is the lock.
    """

    def __init__(self, journal: Journal, run_id: str, epoch: int, *, on_lost: Callable[[], None]) -> None:
        self._journal = journal
        self._run_id = run_id
        self.epoch = epoch
        self._on_lost = on_lost
        self.lost = False

    async def update_run(self, record: RunRecord, events: Sequence[RunEvent]) -> None:
        """Replace the run's row."""
        with _Fence(self):
            await self._journal.update_run(record, events)

    async def record_plan(self, plan: Plan, events: Sequence[RunEvent]) -> None:
        """Append a plan version."""
        with _Fence(self):
            await self._journal.record_plan(self._run_id, plan, events, self.epoch)

    async def record_task(self, task: TaskRecord, events: Sequence[RunEvent]) -> None:
        """Write a task's row."""
        with _Fence(self):
            await self._journal.record_task(self._run_id, task, events, self.epoch)

    async def record_calls(self, calls: Sequence[CallRecord], commands: Sequence[Command]) -> None:
        """Write calls and what the books say of them; raises QuotaError where a budget has no room."""
        with _Fence(self):
            await self._journal.record_calls(calls, commands, self.epoch)

    async def calls(self) -> Sequence[CallRecord]:
        """Return every call of the run as it stands."""
        return await self._journal.calls_of(self._run_id)

    async def append_events(self, events: Sequence[RunEvent]) -> None:
        """Append progress lines."""
        with _Fence(self):
            await self._journal.append_events(events, self.epoch)

    def lose(self) -> None:
        """Take the run for somebody else's from now on."""
        if not self.lost:
            self.lost = True
            self._on_lost()

    def gone(self) -> CancelledError:
        """Return what every later write raises."""
        return CancelledError(f"the run {self._run_id!r} has another conductor by now")


class _Fence:
    """Lets a write through while the run is ours, and turns the store's refusal into the end of it."""

    def __init__(self, journal: RunJournal) -> None:
        self._journal = journal

    def __enter__(self) -> None:
        if self._journal.lost:
            raise self._journal.gone()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, RunTakenError):
            self._journal.lose()
            raise self._journal.gone() from error

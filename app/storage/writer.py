"""The one thread that writes to the journal, with group commit.

Commands queued while a transaction is being synced go into the next one together, each in a savepoint of its own: a
command that fails undoes only itself, and no caller is told "done" before the commit that holds its command returned.

A fault of the storage fails the group it met, with an error that says what to do. The next group begins anew, with a
new connection where the old one is lost, so writing goes on by itself when the fault ends.

A commit whose answer was lost is asked for by its receipt over the next connection, and acknowledged where it was done.
Where nobody answers it is refused, and may still be done when the server goes on: before any later write, because the
next session gets the writer's lock only when the one before has ended. Repeating it is safe, as for every command.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

from sqlalchemy import Connection, Engine

from app.domain.errors import CapacityError, GatewayError
from app.storage import receipts
from app.storage.faults import fault, kind_of
from app.storage.place import Place

Value = TypeVar("Value")

QUEUE_COMMANDS_MAX = 10_000
"""Above this the caller is refused: the disk cannot keep up, and waiting longer would hide it."""
GROUP_COMMANDS_MAX = 512

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Command:
    run: Callable[[Connection], Any]
    done: Future[Any]


_Outcome: TypeAlias = tuple[_Command, Any, BaseException | None]


class Writer:
    """Runs commands on one connection in one thread and resolves their futures after the commit.

    Args:
        engine: Of the database's one writer.
        place: Where the database is, for messages.

    Thread-safe. What was queued but not committed when the process dies was never acknowledged.
    """

    def __init__(self, engine: Engine, place: Place | None = None) -> None:
        self._engine = engine
        self._place = place
        self._queue: queue.Queue[_Command | None] = queue.Queue(QUEUE_COMMANDS_MAX)
        self._thread = threading.Thread(target=self._work, name="journal-writer", daemon=True)
        self._thread.start()

    def submit(self, run: Callable[[Connection], Value]) -> Future[Value]:
        """Queue a command; its future ends after the commit.

        Raises:
            CapacityError: the queue is full.
        """
        command = _Command(run=run, done=Future())
        try:
            self._queue.put_nowait(command)
        except queue.Full:
            raise CapacityError(
                f"the journal has {QUEUE_COMMANDS_MAX} writes waiting", retry_after_s=1.0, remedy="check the disk"
            ) from None
        return cast("Future[Value]", command.done)

    def close(self) -> None:
        """Write what is queued, then end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            group, last = self._take_group(first)
            # From here on a caller that gives up cannot take its command back; one that did before is skipped.
            self._commit([command for command in group if command.done.set_running_or_notify_cancel()])
            if last:
                return

    def _take_group(self, first: _Command) -> tuple[list[_Command], bool]:
        group = [first]
        while len(group) < GROUP_COMMANDS_MAX:
            try:
                command = self._queue.get_nowait()
            except queue.Empty:
                return group, False
            if command is None:
                return group, True
            group.append(command)
        return group, False

    def _commit(self, group: list[_Command]) -> None:
        outcomes: list[_Outcome] = []
        receipt: int | None = None
        try:
            with self._engine.connect() as connection:
                try:
                    with connection.begin():
                        outcomes.extend((command, *self._run(connection, command.run)) for command in group)
                        receipt = receipts.take(connection)
                except BaseException:
                    _drop_after_fault(connection)
                    raise
        except Exception as error:  # noqa: BLE001  outermost edge of the thread: whatever fails, callers must hear
            if receipt is None or not self._was_committed(receipt):
                self._refuse(group, error)
                return
            _log.warning("%d writes whose answer was lost are done", len(group))
        for command, value, problem in outcomes:
            if problem is None:
                command.done.set_result(value)
            else:
                command.done.set_exception(problem)

    def _was_committed(self, receipt: int) -> bool:
        """Ask how a commit ended that was not answered; while nobody can be asked, it was not."""
        try:
            # Whoever is let in as the writer has seen the session before it end, and with it all that it did.
            with self._engine.connect() as connection, connection.begin():
                return receipts.is_committed(connection, receipt)
        except Exception as error:  # noqa: BLE001  as for the commit itself
            _log.error("whether writes under way were done is not known: %s", fault(error, self._place))
            return False

    def _refuse(self, group: list[_Command], error: Exception) -> None:
        failure = fault(error, self._place)
        _log.error("%d writes failed: %s (%s)", len(group), failure, type(error).__name__)
        for command in group:
            command.done.set_exception(failure)

    def _run(self, connection: Connection, run: Callable[[Connection], Any]) -> tuple[Any, BaseException | None]:
        """Run one command in a savepoint; raise only what concerns the whole group: a fault of the storage."""
        savepoint = connection.begin_nested()
        try:
            value = run(connection)
        except GatewayError as error:
            savepoint.rollback()
            return None, error
        except Exception as error:  # a bug in one command must not fail its neighbours
            if kind_of(error) is not None:
                raise
            savepoint.rollback()
            _log.exception("a command of the journal failed")
            return None, fault(error, self._place)
        savepoint.commit()
        return value, None


def _drop_after_fault(connection: Connection) -> None:
    """Close SQLite's connection: what it knew of a file whose disk failed is not to be trusted.

    PostgreSQL's stays unless it is lost: the session is what holds the writer's lock.
    """
    if connection.dialect.name == "sqlite" and not connection.closed:
        connection.invalidate()

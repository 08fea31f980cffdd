"""The single writer of durable state: runs, plans, tasks, calls, events and limiter states.

A plain class that ``bootstrap`` makes an actor. Deliberately decides nothing: it commits what it is told, in groups,
and wakes who waits for events. Called by the coordinator, the account actors and every way in (through ``handles``).

It keeps the books too: holds, entries and budgets are decided by the domain inside the writer's transaction.

May die at any moment: a command whose call returned is on disk; one whose call did not return may or may not be, and
every command is safe to repeat (runs by id or idempotency key, tasks and calls by key, the books' by their ids) except
``append_events``, whose repetition shows a progress line twice. Lost are the newest entries for who watches them live.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from actors.alerts import Alerts
from actors.books_watch import BooksWatch
from actors.call_writes import CallWrites, said_at
from actors.chores import keep_doing
from actors.outbox_rows import OutboxRows
from actors.repeat_rows import RepeatRows
from app.domain.books.budgets import BudgetSpec
from app.domain.books.corrections import Corrected, HandCorrection
from app.domain.books.entries import Answer, Command, Expire
from app.domain.books.figures import BudgetFigures, Difference, ExportRow, ReconcileLine
from app.domain.books.prices import PriceRow
from app.domain.books.unknown import Settled, Settlement, UnknownHold
from app.domain.books.usage import UsageQuery, UsageRow
from app.domain.calls import CallPlace
from app.domain.chat import Json
from app.domain.crash_points import CrashPoint, passes
from app.domain.errors import CapacityError, GatewayError
from app.domain.limiter_state import SavedLimiter
from app.domain.live_usage import LiveUsage, RecentUsage, booked_by
from app.domain.plan import Plan
from app.domain.repeats import Claim
from app.domain.run import CallRecord, RunEvent, RunRecord, TaskRecord
from app.storage import (
    books_checks,
    budgets,
    call_places,
    entry_corrections,
    journal,
    ledger,
    migrating,
    repeats,
    run_budgets,
    unknown_holds,
    usage_queries,
)
from app.storage.books_reads import as_of_one_moment, as_of_one_moment_at_length, has_overdue
from app.storage.call_rows import CallWrite
from app.storage.opened import Opened, open_store
from app.storage.place import Place
from app.storage.run_export import export_run

EVENT_WAIT_MAX_S = 30.0
BOOKS_COMMANDS_MAX = 50_000
"""Waiting in this process; above it callers are refused, as the writer does."""
EXPIRY_PERIOD_S = 5.0
BATCHED = frozenset({"update_run", "record_plan", "record_task", "record_calls", "append_events", "save_limiters"})

_log = logging.getLogger(__name__)


class Store:
    """Owner of the data directory.

    Args:
        data_dir: Where the journal lives; created when missing. Opened with the first command, so that whoever gives
            it hears why that fails: ConflictError (another Tutti holds the directory or the database),
            ConfigurationError (a newer Tutti wrote the journal), InternalError (it cannot be used now). The next
            command tries again.
        url: The PostgreSQL database that holds the journal instead of a file in ``data_dir``.
        wall_s: Seconds since the epoch: the time of everything in the books.

    Not thread-safe: the actor's event loop is the lock; the writer thread is the only one that touches the database for
    writing.
    """

    def __init__(self, data_dir: str, url: str | None = None, *, wall_s: Callable[[], float] = time.time) -> None:
        self._place = Place(Path(data_dir).expanduser(), url)
        self._opening: asyncio.Task[Opened] | None = None
        self._opened: Opened | None = None
        self._changed: dict[str, asyncio.Event] = {}
        self._wall_s = wall_s
        self._books_waiting: list[_Booking] = []
        self._books_under_way: asyncio.Task[None] | None = None
        self._recent = RecentUsage(secrets.token_hex(4))
        self._booked = asyncio.Event()
        self._chores: tuple[asyncio.Task[None], ...] = ()
        """Run while the database is open."""
        self._repeats = RepeatRows(self._write_alone, wall_s)
        self._alerts = Alerts()
        self._outbox = OutboxRows(self._write_alone, self._read, wall_s)
        self._watch = BooksWatch(self._write_alone, self._read, wall_s)
        self._calls = CallWrites(self._write_alone, self._tell_booked, wall_s)

    def __repr__(self) -> str:
        return "tutti store"  # as Ray's dashboard and logs show it

    async def ping(self) -> str:
        """Return "ok" once a commit went through."""
        await self._write(lambda connection: None, ())
        return "ok"

    async def create_run(self, record: RunRecord) -> RunRecord:
        """Record a new run, or return the one that has the idempotency key; raises ConflictError."""
        return await self._write(lambda connection: journal.create_run(connection, record), ())

    async def update_run(self, record: RunRecord, events: Sequence[RunEvent]) -> None:
        """Replace the run's row and append events in one transaction."""
        await self._write(lambda connection: journal.update_run(connection, record), events)

    async def take_run(self, run_id: str, epoch: int, owner: str) -> RunRecord:
        """Make ``owner`` the run's conductor in place of that of ``epoch``; raises ConflictError, NotFoundError."""
        return await self._write(lambda connection: journal.take_run(connection, run_id, epoch, owner), ())

    async def record_plan(self, run_id: str, plan: Plan, events: Sequence[RunEvent], epoch: int = 0) -> None:
        """Append a plan version and events in one transaction; raises ConflictError where the epoch is over."""

        def write(connection: Connection) -> None:
            journal.require_epoch(connection, [run_id], epoch)
            journal.record_plan(connection, run_id, plan)

        await self._write(write, events)

    async def record_task(self, run_id: str, task: TaskRecord, events: Sequence[RunEvent], epoch: int = 0) -> None:
        """Write one task and append events in one transaction; raises ConflictError where the epoch is over."""

        def write(connection: Connection) -> None:
            journal.require_epoch(connection, [run_id], epoch)
            journal.record_task(connection, run_id, task)

        await self._write(write, events)

    async def record_calls(self, calls: Sequence[CallRecord], commands: Sequence[Command] = (), epoch: int = 0) -> None:
        """Write the rows of provider calls and apply the books' commands, all in one transaction or not at all.

        Raises:
            ConflictError: the epoch is over.
            QuotaError: a budget has no room for a hold.
        """
        (failure,) = await self._calls.record([CallWrite(calls, commands, epoch)])
        if failure is not None:
            raise failure

    async def place_call(self, place: CallPlace) -> None:
        """Note where a call is about to be sent, or its name there; raises ConflictError where it is not to be sent."""
        await self._write(lambda connection: call_places.place_call(connection, place), ())

    async def append_events(self, events: Sequence[RunEvent], epoch: int = 0) -> None:
        """Append progress events; raises ConflictError where the epoch is over."""
        await self._write(
            lambda connection: journal.require_epoch(connection, (event.run_id for event in events), epoch), events
        )

    async def write_batch(self, commands: Sequence[tuple[str, tuple[Any, ...]]]) -> list[GatewayError | None]:
        """Do several writes that came in one call; each stands for itself, and its error is its own answer.

        The writes of one run are in order: they go to the writer in the order given. Calls' rows go first and together;
        whoever writes what follows from one has waited for it.
        """
        for method, _arguments in commands:
            assert method in BATCHED, f"{method} is no write"
        calls = [CallWrite(*arguments) for method, arguments in commands if method == "record_calls"]
        others = [(method, arguments) for method, arguments in commands if method != "record_calls"]
        recording = asyncio.create_task(self._calls.record(calls))
        answers = await asyncio.gather(
            *(getattr(self, method)(*arguments) for method, arguments in others), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, GatewayError):
                raise answer
        of_calls, of_others = iter(await recording), iter(answers)
        taken = (next(of_calls if method == "record_calls" else of_others) for method, _arguments in commands)
        return [answer if isinstance(answer, GatewayError) else None for answer in taken]

    async def get_run(self, run_id: str) -> RunRecord:
        """Return the run; raises NotFoundError."""
        return await self._read(lambda connection: journal.get_run(connection, run_id))

    async def list_runs(self, limit: int, before_s: float | None) -> list[RunRecord]:
        """Return the newest runs first."""
        return await self._read(lambda connection: journal.list_runs(connection, limit=limit, before_s=before_s))

    async def unfinished_runs(self) -> list[str]:
        """Return ids of runs that somebody should be conducting."""
        return await self._read(journal.unfinished_runs)

    async def calls_of(self, run_id: str) -> list[CallRecord]:
        """Return every recorded call of the run."""
        return await self._read(lambda connection: journal.calls_of(connection, run_id))

    async def events_after(self, run_id: str, seq: int, wait_s: float) -> list[RunEvent]:
        """Return events with a larger ``seq``, waiting up to ``wait_s`` seconds for the first; raises NotFoundError."""
        changed = self._changed.setdefault(run_id, asyncio.Event())
        found = await self._read(lambda connection: journal.events_after(connection, run_id, seq))
        if found:
            return found
        await self._read(lambda connection: journal.require_run(connection, run_id))
        try:
            await asyncio.wait_for(changed.wait(), min(wait_s, EVENT_WAIT_MAX_S))
        except TimeoutError:
            return []
        return await self._read(lambda connection: journal.events_after(connection, run_id, seq))

    async def save_limiters(self, states: Sequence[SavedLimiter], wall_s: float) -> None:
        """Replace the saved states of these limiters."""

        def write(connection: Connection) -> None:
            for saved in states:
                journal.save_limiter_state(
                    connection, saved.scope, saved.model, state=saved.state, clean=saved.clean, wall_s=wall_s
                )

        await self._write(write, ())

    async def find_limiters(self, keys: Sequence[tuple[str, str]]) -> list[SavedLimiter]:
        """Return what is saved of these (scope, model) pairs."""

        def read(connection: Connection) -> list[SavedLimiter]:
            saved = []
            for scope, model in keys:
                found = journal.find_limiter_state(connection, scope, model)
                if found is not None:
                    saved.append(SavedLimiter(scope=scope, model=model, state=found[0], clean=found[1]))
            return saved

        return await self._read(read)

    async def apply_books(self, commands: Sequence[Command]) -> list[Answer]:
        """Apply commands in order, in one transaction, and return once they are on disk; each may be repeated.

        The time of a command is this store's, and a hold lives from now on as long as its holder meant: clocks of
        replicas may differ. Calls that come while one is being written are written together.

        Raises:
            CapacityError: the disk does not keep up.
        """
        self._outbox.require_room(commands)
        waiting = sum(len(booking.commands) for booking in self._books_waiting)
        if waiting + len(commands) > BOOKS_COMMANDS_MAX:
            raise CapacityError(
                f"the books have {waiting} commands waiting", retry_after_s=1.0, remedy="check the disk"
            )
        booking = _Booking(commands=commands, done=asyncio.get_running_loop().create_future())
        self._books_waiting.append(booking)
        if self._books_under_way is None or self._books_under_way.done():
            self._books_under_way = asyncio.create_task(self._book())
        return await booking.done

    async def sync_books(
        self, specs: Sequence[BudgetSpec], prices: Sequence[PriceRow], webhook: str | None = None
    ) -> None:
        """Put the configuration's budgets in force, keep the text of its prices, and learn where alerts go."""
        self._alerts.webhook = webhook

        def write(connection: Connection) -> None:
            budgets.record_prices(connection, prices)
            run_budgets.end_overdue(connection)
            budgets.sync_budgets(connection, specs, self._wall_s())

        await self._write(write, ())

    async def usage(self, query: UsageQuery) -> list[UsageRow]:
        """Return sums by period and group; raises RequestError."""
        return await self._read(lambda connection: usage_queries.usage(as_of_one_moment(connection), query))

    async def budget_figures(self) -> list[BudgetFigures]:
        """Return every budget in the window that is open, burnt down."""
        now_s = self._wall_s()
        return await self._read(lambda connection: budgets.budgets(as_of_one_moment(connection), now_s))

    async def verify_books(self) -> list[Difference]:
        """Add the books up again, return what differs, and tell that it was done; reads everything."""
        return await self._watch.verify()

    async def reconcile_books(self, export: Sequence[ExportRow]) -> list[ReconcileLine]:
        """Return a provider's export beside the books."""
        return await self._read(
            lambda connection: books_checks.reconcile(as_of_one_moment_at_length(connection), export)
        )

    async def unknown_holds(self) -> list[UnknownHold]:
        """Return holds of dead processes of which nobody knows what was bought, the longest unknown first."""
        return await self._read(lambda connection: unknown_holds.list_unknown(as_of_one_moment(connection)))

    async def settle_unknown(self, settlement: Settlement) -> Settled:
        """Book what a person says of one; raises NotFoundError, ConflictError, RequestError."""
        now_s = self._wall_s()
        done, commands, answers = await self._write(
            lambda connection: unknown_holds.settle(connection, settlement, now_s), ()
        )
        self._tell_booked(commands, answers)
        return done

    async def correct_entry(self, correction: HandCorrection) -> Corrected:
        """Book what a person says of an entry; raises NotFoundError, ConflictError, RequestError."""
        now_s = self._wall_s()
        done, commands, answers = await self._write(
            lambda connection: entry_corrections.correct(connection, correction, now_s), ()
        )
        self._tell_booked(commands, answers)
        return done

    async def export_run(self, run_id: str, configuration: dict[str, Json]) -> bytes:
        """Return everything that is known of the run, as a zip; raises NotFoundError."""
        versions: dict[str, Json] = {
            "tutti": version("tutti"),
            "schema": migrating.head(),
            "exported_s": self._wall_s(),
        }
        return await self._read(
            lambda connection: export_run(
                as_of_one_moment_at_length(connection), run_id, configuration=configuration, versions=versions
            )
        )

    async def entries_after(self, cursor: str | None, wait_s: float) -> LiveUsage:
        """Return what was booked after ``cursor``; wait up to ``wait_s`` seconds for the first; None: from now on."""
        booked = self._booked
        found = self._recent.after(cursor)
        if found.entries or found.lost or cursor is None:
            return found
        try:
            async with asyncio.timeout(min(wait_s, EVENT_WAIT_MAX_S)):
                await booked.wait()
        except TimeoutError:
            return found
        return self._recent.after(cursor)

    async def expire_holds(self) -> int:
        """Take overdue holders for dead: what they held is unknown from now on; return how many holds that were."""
        now_s = self._wall_s()
        if not await self._read(lambda connection: has_overdue(connection, now_s)):
            return 0
        passes(CrashPoint.RECOVERING)
        (answer,) = await self.apply_books([Expire(at_s=now_s)])
        passes(CrashPoint.RECOVERED)
        if answer.count:
            _log.warning("%d holds of dead processes count as spent until somebody knows better", answer.count)
        return answer.count

    async def claim_repeat(self, claim: Claim, wait_s: float) -> repeats.Found:
        """Give an idempotency key to whoever asks first; the others wait for the answer; see ``repeat_keys``."""
        return await self._repeats.claim(claim, wait_s)

    async def renew_repeats(self, held: Sequence[Claim]) -> None:
        """Hear that these calls are still being made."""
        await self._repeats.renew(held)

    async def finish_repeat(self, held: Claim, answer: str | None) -> repeats.Found:
        """Keep a keyed call's answer and wake who waits for it; the first one stands."""
        return await self._repeats.finish(held, answer)

    async def forget_repeat(self, held: Claim) -> None:
        """Free the key of a call that failed."""
        await self._repeats.forget(held)

    async def expire_repeats(self) -> int:
        """Forget answers whose day is over; return how many that were."""
        now_s = self._wall_s()
        if not await self._read(lambda connection: repeats.has_overdue(connection, now_s)):
            return 0
        return await self._write(lambda connection: repeats.expire(connection, now_s), ())

    async def outbox(self, method: str, arguments: Sequence[Any]) -> object:
        """Answer who ships events, or looks at them; see ``outbox_rows``."""
        return await self._outbox.ask(method, arguments)

    async def close(self) -> None:
        """Write what is queued and let go of the directory."""
        if self._opening is not None:
            with contextlib.suppress(GatewayError):
                await self._opening
        chores, self._chores = self._chores, ()
        for chore in chores:
            chore.cancel()
        await self._alerts.aclose()
        if self._opened is not None:
            opened, self._opened = self._opened, None
            await asyncio.to_thread(opened.close)

    async def _open(self) -> Opened:
        if self._opened is not None:
            return self._opened
        if self._opening is None:
            # One attempt for all who wait: at a server that hangs each takes seconds.
            self._opening = asyncio.create_task(self._open_now())
            self._opening.add_done_callback(self._end_opening)
        return await asyncio.shield(self._opening)

    async def _open_now(self) -> Opened:
        # Migrating takes as long as it takes; the event loop goes on answering.
        opened = await asyncio.to_thread(open_store, self._place)
        self._opened = opened
        expiring = keep_doing(self._expire, failing="overdue holds were not looked for", period_s=EXPIRY_PERIOD_S)
        self._chores = (asyncio.create_task(expiring), asyncio.create_task(self._watch.run()))
        return opened

    def _end_opening(self, opening: asyncio.Task[Opened]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # taken: whoever waited has it, unless all have given up

    async def _expire(self) -> None:
        await self.expire_holds()
        await self.expire_repeats()
        await self._outbox.expire()

    async def _book(self) -> None:
        while self._books_waiting:
            bookings, self._books_waiting = self._books_waiting, []
            if not await self._book_together(bookings) and len(bookings) > 1:
                # One that cannot be written must not fail its neighbours.
                for booking in bookings:
                    await self._book_together([booking])

    async def _book_together(self, bookings: Sequence[_Booking]) -> bool:
        """Write bookings in one transaction and answer them; what fails is answered where it stands alone."""
        try:
            answers = await self._apply([command for booking in bookings for command in booking.commands])
        except Exception as error:  # noqa: BLE001  whatever happened, no caller may wait for ever
            if len(bookings) == 1 and not bookings[0].done.done():
                bookings[0].done.set_exception(error)
            return False
        start = 0
        for booking in bookings:
            end = start + len(booking.commands)
            if not booking.done.done():
                booking.done.set_result(answers[start:end])
            start = end
        return True

    async def _apply(self, commands: Sequence[Command]) -> list[Answer]:
        now_s = self._wall_s()
        timed = [said_at(command, now_s) for command in commands]
        answers = await self._write(lambda connection: ledger.apply(connection, timed), ())
        self._tell_booked(commands, answers)
        return answers

    def _tell_booked(self, commands: Sequence[Command], answers: Sequence[Answer]) -> None:
        """Tell what was added to the books to who watches them live, and what became of budgets."""
        for answer in answers:
            for alert in answer.alerts:
                self._alerts.tell(alert)
        booked = tuple(booked_by(commands, answers))
        if booked:
            self._recent.add(booked)
            self._booked.set()
            self._booked = asyncio.Event()

    async def _write_alone(self, command: Callable[[Connection], journal.Value]) -> journal.Value:
        return await self._write(command, ())

    async def _write(self, command: Callable[[Connection], journal.Value], events: Sequence[RunEvent]) -> journal.Value:
        def run(connection: Connection) -> journal.Value:
            value = command(connection)
            journal.append_events(connection, events)
            return value

        opened = await self._open()
        value = await asyncio.wrap_future(opened.writer.submit(run))
        for run_id in {event.run_id for event in events}:
            # Waiters hold the old event; whoever comes later waits on a new one.
            waiting = self._changed.pop(run_id, None)
            if waiting is not None:
                waiting.set()
        return value

    async def _read(self, query: Callable[[Connection], journal.Value]) -> journal.Value:
        opened = await self._open()
        return await asyncio.to_thread(opened.read, query)


@dataclass(slots=True, kw_only=True)
class _Booking:
    commands: Sequence[Command]
    done: asyncio.Future[list[Answer]]

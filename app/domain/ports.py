"""What the services need from the world, as protocols; actors and storage provide them, tests own fakes of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from app.domain.accounts import Orchestra
from app.domain.books.budgets import Owners
from app.domain.books.corrections import Corrected, HandCorrection
from app.domain.books.entries import Answer, Command
from app.domain.books.figures import BudgetFigures
from app.domain.books.unknown import Settled, Settlement, UnknownHold
from app.domain.books.usage import UsageQuery, UsageRow
from app.domain.calls import Admission, CallAnswer, CallOrder, Collected, ModelCall
from app.domain.chat import ChatDelta, ChatRequest, ChatResult
from app.domain.events.batches import BatchKept, EventBatch, EventTerms
from app.domain.events.delivery import Delivery
from app.domain.events.spooled import Backlog, DeadLetter, SpooledEvent
from app.domain.gateway import EmbeddingRequest, EmbeddingResult
from app.domain.leases import Exchange, Exchanged
from app.domain.live_usage import LiveUsage
from app.domain.load import LoadRow
from app.domain.plan import Plan
from app.domain.repeats import Claim, Claimed, KeptAnswer
from app.domain.run import CallRecord, RunEvent, RunRecord, RunRequest, TaskRecord
from app.domain.views import AccountView, LiveCheck, ReloadReport


class Clock(Protocol):
    """Time, injected."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never go back; only differences mean anything."""

    def wall_s(self) -> float:
        """Seconds since the epoch; may jump."""


class ModelCaller(Protocol):
    """Gets answers from models, whoever serves them; implemented by ``services/dispatch``."""

    async def call(self, call: ModelCall) -> CallAnswer:
        """Return the answer.

        Raises:
            UpstreamError: every account that could serve failed, or the request is refused for good.
            CapacityError: nobody can serve before the deadline.
            DeadlineError: the deadline passed during the call.

        Cancelling the awaiting task cancels the provider call.
        """


class AccountHosts(Protocol):
    """The account actors, by the name of the actor that hosts them; implemented by ``actors/handles``."""

    async def submit(self, host: str, orders: Sequence[CallOrder]) -> Sequence[Admission]:
        """Offer orders to one host in one call; the admissions come in the same order.

        Raises:
            InternalError: the host died or did not answer; nothing is known to have been sent.
        """

    async def collect(self, host: str, owner: str, incarnation: str) -> Collected:
        """Wait (bounded) for outcomes of ``owner`` at ``host``; may return none.

        Raises:
            InternalError: the host died; every call in flight there ended unknown.
        """

    async def cancel(self, host: str, owner: str, call_ids: Sequence[str]) -> None:
        """Stop these calls; their outcomes are not delivered. Unknown ids are ignored."""


class Upstream(Protocol):
    """One account as its provider's adapter offers it (``app/providers/base.ProviderAdapter``)."""

    async def chat_completion(self, request: ChatRequest, *, timeout_s: float) -> ChatResult:
        """Return the whole answer; raises RequestError (nothing was sent) or UpstreamError."""

    def chat_completion_stream(
        self, request: ChatRequest, *, timeout_s: float, idle_timeout_s: float
    ) -> AsyncGenerator[ChatDelta, None]:
        """Stream the answer; the last delta carries finish reason and usage. Errors as above, at any step."""

    async def embed(self, request: EmbeddingRequest, *, timeout_s: float) -> EmbeddingResult:
        """Return the vectors; errors as above."""


class Upstreams(Protocol):
    """The adapters of all accounts, for whoever holds permits; implemented by ``actors/lease``."""

    def of(self, account: str) -> Upstream:
        """Return the account's adapter; raises KeyError where there is no such account any more."""

    def name(self, account: str, model: str) -> str:
        """Return the provider's own name of public ``model``."""

    def provider(self, account: str) -> str:
        """Return the account's provider; empty where there is no such account any more."""

    def goes_on(self, account: str, *, stream: bool) -> bool:
        """Tell whether its provider finishes, and bills, a call whose connection is closed."""


class Books(Protocol):
    """The ledger, for whoever buys; implemented by ``actors/store_handle``."""

    async def apply_books(self, commands: Sequence[Command]) -> Sequence[Answer]:
        """Apply commands in order, in one transaction, and return once they are on disk; each may be repeated."""


class RepeatKeys(Protocol):
    """Idempotency keys of all replicas, with the answers; implemented by ``actors/repeat_keys``.

    Every method may be repeated, and raises InternalError where the store cannot be asked.
    """

    async def claim(self, claim: Claim, *, wait_s: float) -> Claimed:
        """Take the key, or say who has it, waiting up to ``wait_s`` seconds while that is somebody else.

        Whoever is told NEW holds the key, says so with ``renew`` within ``LEASE_S``, and ends with ``finish`` or
        ``forget``.
        """

    async def renew(self, held: Sequence[Claim]) -> None:
        """Say that these calls are still being made."""

    async def finish(self, held: Claim, answer: KeptAnswer) -> KeptAnswer:
        """Keep the answer for a day; returns the one that stands: another's, where somebody took over and was first."""

    async def forget(self, held: Claim) -> None:
        """Let go of the key: the call failed."""


class UsageBooks(Protocol):
    """The ledger, for whoever looks: people and their tools; implemented by ``actors/store_handle``."""

    async def usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """Return sums by period and group; raises RequestError where they would be too many."""

    async def budget_figures(self) -> Sequence[BudgetFigures]:
        """Return every budget in the window that is open, burnt down."""

    async def entries_after(self, cursor: str | None, *, wait_s: float) -> LiveUsage:
        """Return what was booked after ``cursor``; wait up to ``wait_s`` seconds for the first; None: from now on."""

    async def unknown_holds(self) -> Sequence[UnknownHold]:
        """Return holds of dead processes of which nobody knows what was bought, the longest unknown first."""

    async def settle_unknown(self, settlement: Settlement) -> Settled:
        """Book what a person says of one; may be repeated.

        Raises:
            NotFoundError: there is no such hold.
            ConflictError: somebody knows, or it is settled otherwise.
            RequestError: the settlement makes no sense.
        """

    async def correct_entry(self, correction: HandCorrection) -> Corrected:
        """Book what a person says of an entry; may be repeated.

        Raises:
            NotFoundError: there is no such entry.
            ConflictError: it was corrected before, or nothing was bought with it.
            RequestError: the correction makes no sense.
        """


class Tells(Protocol):
    """Tells what happens; implemented by ``services/events/emitter``."""

    def emit(self, event_type: str, /, *, at_ns: int | None = None, **values: object) -> None:
        """Tell an event of a type of ``events.schema``; neither blocks nor fails."""


class EventKeeper(Protocol):
    """The node's spool as processes see it; implemented by ``actors/event_handles``."""

    async def keep(self, batch: EventBatch) -> BatchKept:
        """Keep events and return once they are on disk; the same again is the same.

        Raises:
            InternalError: nothing was kept.
        """

    async def terms(self) -> EventTerms:
        """Return how events are to be told; errors as above."""


class EventSource(Protocol):
    """Where events wait to be shipped: a node's spool, the journal's outbox; implemented by ``actors/event_handles``.

    Every method may be repeated, and raises InternalError where the source cannot be asked.
    """

    async def pending(self, after_seq: int, *, docs_max: int, bytes_max: int) -> Sequence[SpooledEvent]:
        """Return events that wait, in order, from the first whose ``seq`` is larger; at least one where one waits."""

    async def shipped(self, seqs: Sequence[int]) -> None:
        """Hear that these are stored at their receiver for good."""

    async def dead(self, seq: int, *, status: int, reason: str) -> None:
        """Put one aside that its receiver refuses for good."""

    async def dead_letters(self, *, limit: int) -> Sequence[DeadLetter]:
        """Return what was put aside, oldest first."""

    async def replay(self, event_ids: Sequence[str] | None) -> int:
        """Let what was put aside wait again (None: all of it); return how many that were."""

    async def drop(self, event_ids: Sequence[str] | None) -> int:
        """Forget what was put aside (None: all of it); return how many that were."""

    async def backlog(self) -> Backlog:
        """Return how much waits."""


class EventSink(Protocol):
    """Who takes events in the end; implemented by ``app/sinks``."""

    name: str
    """What people call it."""

    async def deliver(self, events: Sequence[SpooledEvent]) -> Delivery:
        """Hand them over in one request; never raises for what the receiver does. Events may come again."""

    async def aclose(self) -> None:
        """Close its connections and files."""


class PermitHosts(Protocol):
    """The account actors as holders of permits see them (``leases``); implemented by ``actors/handles``."""

    async def exchange(self, host: str, message: Exchange) -> Exchanged:
        """Report and wish in one message.

        Raises:
            InternalError: the host died or did not answer; reports may be told again.
        """

    async def watch(self, host: str, epoch: int, wait_s: float) -> Exchanged:
        """Return once the host's epoch differs from ``epoch``, at the latest after ``wait_s`` seconds."""


class Roster(Protocol):
    """Which accounts exist and where; a dated copy of the directory's snapshot."""

    def orchestra(self) -> Orchestra:
        """Return the newest known configuration."""

    def host_of(self, account: str) -> str | None:
        """Return the actor that hosts ``account``; None while it is being created or drained."""

    def load(self) -> Sequence[LoadRow]:
        """Return the last known load of every (account, model)."""


class Journal(Protocol):
    """Durable state of runs; implemented by the store actor's handle. Every method is committed when it returns.

    Every write of a conductor names the epoch in which it took the run, and raises RunTakenError once somebody else
    has taken it: nothing is written then. 0 is a run that nobody has taken.
    """

    async def take_run(self, run_id: str, epoch: int, owner: str) -> RunRecord:
        """Become the run's conductor in place of that of ``epoch``; later writes name the epoch of what is returned.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: somebody else took it meanwhile.
        """

    async def create_run(self, record: RunRecord) -> RunRecord:
        """Record a new run; with a known idempotency key return the run that has it instead.

        Raises:
            ConflictError: the key was used with another request.
        """

    async def get_run(self, run_id: str) -> RunRecord:
        """Return the run; raises NotFoundError."""

    async def list_runs(self, *, limit: int, before_s: float | None = None) -> Sequence[RunRecord]:
        """Return the newest runs first, without their tasks."""

    async def update_run(self, record: RunRecord, events: Sequence[RunEvent]) -> None:
        """Replace the run's row (not its tasks or plan) and append events in one transaction."""

    async def record_plan(self, run_id: str, plan: Plan, events: Sequence[RunEvent], epoch: int = 0) -> None:
        """Append an immutable plan version."""

    async def record_task(self, run_id: str, task: TaskRecord, events: Sequence[RunEvent], epoch: int = 0) -> None:
        """Write one task's row and append events in one transaction."""

    async def record_calls(self, calls: Sequence[CallRecord], commands: Sequence[Command] = (), epoch: int = 0) -> None:
        """Write or replace the rows of provider calls and apply the books' commands, all in one transaction.

        Raises:
            QuotaError: a budget has no room for a hold among the commands; nothing is written.
        """

    async def calls_of(self, run_id: str) -> Sequence[CallRecord]:
        """Return every recorded call of the run, oldest first."""

    async def append_events(self, events: Sequence[RunEvent], epoch: int = 0) -> None:
        """Append progress events. The store numbers them: ``seq`` in the argument is ignored."""

    async def events_after(self, run_id: str, seq: int, *, wait_s: float) -> Sequence[RunEvent]:
        """Return events with a larger ``seq``, waiting up to ``wait_s`` for the first one."""


class Desk(Protocol):
    """Everything a way in (HTTP, command line, job) may ask; implemented by ``actors/desk_handle``.

    Every method may raise ``InternalError`` when the cluster does not answer in time.
    """

    async def start(self, request: RunRequest) -> RunRecord:
        """Accept a run and return at once; with a known idempotency key return the run that has it.

        Raises:
            RequestError: the request cannot be accepted (empty, too large).
            ConflictError: the key was used with another request.
        """

    async def get(self, run_id: str) -> RunRecord:
        """Return the run; raises NotFoundError."""

    async def list_runs(self, *, limit: int, before_s: float | None = None) -> Sequence[RunRecord]:
        """Return the newest runs first."""

    async def events(self, run_id: str, after_seq: int, *, wait_s: float) -> Sequence[RunEvent]:
        """Return events with a larger ``seq``, waiting up to ``wait_s`` for the first; raises NotFoundError."""

    async def answer(self, run_id: str, answers: Mapping[str, str], *, assume_rest: bool) -> RunRecord:
        """Give answers by question id; the run goes on once all are given or ``assume_rest`` is set.

        Raises:
            NotFoundError: no such run.
            ConflictError: the run is not waiting for answers.
            RequestError: an unknown question id.
        """

    async def cancel(self, run_id: str) -> RunRecord:
        """Stop the run and its provider calls; no-op on an ended run. Raises NotFoundError."""

    async def retry(self, run_id: str, task_id: str) -> RunRecord:
        """Do one task of an ended run again, and everything that depends on it; the rest is kept.

        Raises:
            NotFoundError: no such run.
            ConflictError: it has not ended, or has no plan.
            RequestError: its plan has no such task.
        """

    async def fork(
        self, run_id: str, task_id: str, *, more: str | None = None, buyers: Owners | None = None
    ) -> RunRecord:
        """Begin a new run that takes over every result that does not depend on ``task_id``.

        Args:
            run_id: The run before; it stays as it is.
            task_id: From here on everything is done anew.
            more: What that task is told beside its instruction.
            buyers: On whose behalf the new run is.

        Raises:
            NotFoundError, ConflictError, RequestError: as ``retry``; the run need not have ended.
        """

    async def export(self, run_id: str) -> bytes:
        """Return everything that is known of the run, without secrets, as a zip; raises NotFoundError."""

    async def accounts(self) -> Sequence[AccountView]:
        """Return one row per (account, model)."""

    async def check_live(self) -> Sequence[LiveCheck]:
        """Make one tiny call per account and say how it went."""

    async def reload(self) -> ReloadReport:
        """Read the configuration again; a wrong one changes nothing and raises ConfigurationError."""

    async def ready(self) -> Mapping[str, str]:
        """Return a word per part (store, directory, coordinator, accounts): "ok", or what is wrong with it.

        A part that works in spite of something says "ok; " and what that is.
        """

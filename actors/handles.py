"""Typed clients of our actors over ``.remote()``: deadlines, cancellation, and Ray's errors turned into ours.

The only place that sees Ray errors. A Ray call is not cancelled when its awaiter gives up, so ``ask`` does that; a
``RayTaskError`` carries a traceback with paths, so only its cause leaves this module.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError, TaskCancelledError

from actors.packing import pack, unpack
from app.domain.calls import Admission, CallOrder, Collected
from app.domain.chat import ChatDelta, ChatRequest, ChatResult
from app.domain.errors import CancelledError, DeadlineError, GatewayError, InternalError
from app.domain.hosting import Snapshot
from app.domain.leases import Exchange, Exchanged
from app.domain.load import LoadRow
from app.domain.telemetry import TelemetrySpec
from app.domain.trace_context import TraceContext
from app.domain.views import AccountView, LiveCheck, ReloadReport
from app.services.events.log_lines import UNTOLD

if TYPE_CHECKING:
    from app.domain.accounts import AccountSpec, ModelInfo, Orchestra

Value = TypeVar("Value")

CONTROL_TIMEOUT_S = 30.0
"""Calls that only look or record."""
SUBMIT_TIMEOUT_S = 10.0
COLLECT_WAIT_S = 20.0
STORE_PATIENCE_S = 20.0
RESTART_PAUSE_S = 0.2

_log = logging.getLogger(__name__)


class ActorGoneError(InternalError):
    """The actor died or cannot be reached; it is restarted by Ray, so a later call may succeed."""


async def ask(reference: Any, *, of: str, timeout_s: float) -> Any:
    """Await a remote call.

    Args:
        reference: What ``.remote()`` returned.
        of: The actor's name, for messages.
        timeout_s: After this many seconds the call is cancelled at the actor too.

    Raises:
        GatewayError: as raised by the actor.
        ActorGoneError: the actor died or is unreachable.
        DeadlineError: no answer in time.
        InternalError: the actor failed in a way it did not foresee (logged with its traceback there).
    """
    try:
        # Not ``wait_for``: up to Python 3.11 it swallows a cancellation that comes with the answer.
        async with asyncio.timeout(timeout_s):
            return await reference
    except TimeoutError:
        ray.cancel(reference)
        raise DeadlineError(f"{of} did not answer within {timeout_s:g} s") from None
    except asyncio.CancelledError:
        ray.cancel(reference)
        raise
    except (RayError, GatewayError) as error:
        raise translate(error, of=of) from None


def translate(error: BaseException, *, of: str) -> GatewayError:
    """Turn whatever Ray raised into one of our errors, without tracebacks or paths in its message."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, GatewayError) and not isinstance(cause, RayTaskError):
        return cause
    if isinstance(error, RayActorError):
        return ActorGoneError(f"{of} is not running", remedy="it is restarted automatically; try again")
    if isinstance(error, TaskCancelledError):
        return CancelledError(f"the call of {of} was cancelled")
    if isinstance(error, GetTimeoutError):
        return DeadlineError(f"{of} did not answer in time")
    _log.error("unforeseen failure in %s (%s)", of, type(cause).__name__)
    # Its words may quote what it was given: they stay in this process's log.
    _log.error("%s", error, extra=UNTOLD)
    return InternalError(f"{of} failed ({type(cause).__name__})", remedy="see the logs of the Ray session")


class ActorHandle:
    """A named actor, looked up when first used and again after it was replaced.

    Args:
        name: The actor's name.
        namespace: Where it lives.
        patience_s: How long a call is repeated while the actor is being restarted; more than 0 only where every command
            is safe to repeat.
    """

    def __init__(self, name: str, namespace: str, *, patience_s: float = 0.0) -> None:
        self.name = name
        self.namespace = namespace
        self._patience_s = patience_s
        self._actor: Any = None

    async def ask(self, method: str, *arguments: Any, timeout_s: float = CONTROL_TIMEOUT_S) -> Any:
        """Call ``method`` and await its answer; errors as ``handles.ask``."""
        until_s = time.monotonic() + self._patience_s
        while True:
            actor = await self.found()
            try:
                return await ask(getattr(actor, method).remote(*arguments), of=self.name, timeout_s=timeout_s)
            except ActorGoneError:
                self._actor = None
                if time.monotonic() >= until_s:
                    raise
                await asyncio.sleep(RESTART_PAUSE_S)

    async def found(self) -> Any:
        if self._actor is None:
            try:
                self._actor = await asyncio.to_thread(ray.get_actor, self.name, self.namespace)
            except ValueError:
                raise ActorGoneError(f"{self.name} is not running", remedy="start Tutti: `tutti serve`") from None
        return self._actor


class HostHandles:
    """The account actors, as the services' port ``AccountHosts`` and for the directory."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._actors: dict[str, ActorHandle] = {}

    def _host(self, host: str) -> ActorHandle:
        return self._actors.setdefault(host, ActorHandle(host, self._namespace))

    async def submit(self, host: str, orders: Sequence[CallOrder]) -> Sequence[Admission]:
        answer = await self._host(host).ask("submit", list(orders), timeout_s=SUBMIT_TIMEOUT_S)
        return cast("list[Admission]", answer)

    async def collect(self, host: str, owner: str, incarnation: str) -> Collected:
        answer = await self._host(host).ask(
            "collect", owner, COLLECT_WAIT_S, incarnation, timeout_s=COLLECT_WAIT_S + CONTROL_TIMEOUT_S
        )
        return cast("Collected", answer)

    async def exchange(self, host: str, message: Exchange) -> Exchanged:
        answer = await self._host(host).ask("packed", "exchange", pack((message,)), timeout_s=SUBMIT_TIMEOUT_S)
        return cast("Exchanged", unpack(answer))

    async def watch(self, host: str, epoch: int, wait_s: float) -> Exchanged:
        answer = await self._host(host).ask("watch", epoch, wait_s, timeout_s=wait_s + CONTROL_TIMEOUT_S)
        return cast("Exchanged", answer)

    async def chat(
        self, host: str, account: str, request: ChatRequest, timeout_s: float, trace: TraceContext | None = None
    ) -> ChatResult:
        patience_s = timeout_s + SUBMIT_TIMEOUT_S
        answer = await self._host(host).ask("chat", account, request, timeout_s, trace, timeout_s=patience_s)
        return cast("ChatResult", answer)

    async def chat_stream(
        self, host: str, account: str, request: ChatRequest, timeout_s: float, trace: TraceContext | None = None
    ) -> AsyncGenerator[ChatDelta, None]:
        """Stream an answer out of the account's actor; closing the generator stops it there."""
        actor = await self._host(host).found()
        references = actor.chat_stream.remote(account, request, timeout_s, trace)
        try:
            async for reference in references:
                yield cast("ChatDelta", await reference)
        except (RayError, GatewayError) as error:
            raise translate(error, of=host) from None
        finally:
            ray.cancel(references)

    async def cancel(self, host: str, owner: str, call_ids: Sequence[str]) -> None:
        await self._host(host).ask("cancel", owner, list(call_ids), timeout_s=SUBMIT_TIMEOUT_S)

    async def configure(
        self,
        host: str,
        version: int,
        accounts: Sequence[AccountSpec],
        models: Sequence[ModelInfo],
        telemetry: TelemetrySpec,
    ) -> None:
        await self._host(host).ask("configure", version, list(accounts), list(models), telemetry)

    async def status(self, host: str) -> tuple[str, int, Sequence[LoadRow]]:
        """Return (incarnation, configured version, load rows) of a host."""
        return cast("tuple[str, int, list[LoadRow]]", await self._host(host).ask("status", timeout_s=5.0))

    async def views(self, host: str) -> Sequence[AccountView]:
        return cast("list[AccountView]", await self._host(host).ask("views", timeout_s=5.0))

    async def check(self, host: str, account: str) -> LiveCheck:
        return cast("LiveCheck", await self._host(host).ask("check", account, timeout_s=60.0))

    async def drain(self, host: str, timeout_s: float) -> None:
        await self._host(host).ask("drain", timeout_s, timeout_s=timeout_s + SUBMIT_TIMEOUT_S)


class DirectoryHandle:
    """The directory of accounts."""

    def __init__(self, namespace: str) -> None:
        self._actor = ActorHandle("directory", namespace)

    async def start(self, orchestra: Orchestra) -> bool:
        """Give the directory its first configuration; False where it has one already."""
        return cast("bool", await self._actor.ask("start", orchestra, timeout_s=60.0))

    async def watch(self, version: int, wait_s: float) -> Snapshot:
        return cast("Snapshot", await self._actor.ask("watch", version, wait_s, timeout_s=wait_s + CONTROL_TIMEOUT_S))

    async def apply(self, orchestra: Orchestra) -> ReloadReport:
        return cast("ReloadReport", await self._actor.ask("apply", orchestra, timeout_s=60.0))

    async def apply_mapping(self, document: Mapping[str, Any]) -> ReloadReport:
        return cast("ReloadReport", await self._actor.ask("apply_mapping", dict(document), timeout_s=60.0))

    async def reload(self) -> ReloadReport:
        return cast("ReloadReport", await self._actor.ask("reload", timeout_s=60.0))

    async def suspect(self, host: str) -> None:
        """Say that a host did not answer, so that it is looked after at once."""
        await self._actor.ask("suspect", host)

    async def views(self) -> Sequence[AccountView]:
        return cast("list[AccountView]", await self._actor.ask("views"))

    async def check_live(self) -> Sequence[LiveCheck]:
        return cast("list[LiveCheck]", await self._actor.ask("check_live", timeout_s=90.0))

    async def ready(self) -> Mapping[str, str]:
        return cast("dict[str, str]", await self._actor.ask("ready", timeout_s=5.0))

    async def drain(self, timeout_s: float) -> None:
        await self._actor.ask("drain", timeout_s, timeout_s=timeout_s + SUBMIT_TIMEOUT_S)

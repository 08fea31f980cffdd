"""The gateway's use case: one chat call of a client, from its caller's limits to a settled answer.

Admit (the caller's limits) → cache → route → permit, attempt, failover (``attempts``) → settle. Used by the HTTP doors;
knows no wire format.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from app.domain.accounts import GatewaySpec, ModelInfo, Orchestra
from app.domain.allowance import Allowance
from app.domain.books.budgets import Owners
from app.domain.books.tiers import asked_tier
from app.domain.cache_key import cache_key
from app.domain.chat import NO_USAGE, ChatDelta, ChatRequest, ChatResult, Json, Usage
from app.domain.estimate import estimate_tokens, text_tokens
from app.domain.gateway import (
    AUTO,
    NO_WISH,
    Asked,
    Caller,
    Candidate,
    EmbeddingRequest,
    EmbeddingResult,
    RoutingWish,
    Served,
)
from app.domain.load import LoadRow
from app.domain.ports import Clock, Tells
from app.domain.repeats import KeptAnswer, a_claim, call_key
from app.domain.response_cache import ResponseCache, replay
from app.domain.route_explanation import explain
from app.domain.routed import Needs
from app.domain.routing import RoutingTable
from app.domain.trace_context import trace_id
from app.services.events.emitter import Silence
from app.services.gateway.attempts import Attempts, Bid, Won
from app.services.gateway.caller_gate import Admitted, CallerGate
from app.services.gateway.classify import Classifier
from app.services.gateway.repeats import Repeats
from app.services.gateway.shared_streams import Led, SharedStreams
from app.services.gateway.spending import Billing, Spends
from app.services.pricing import PriceList
from app.services.roster import SnapshotRoster
from app.services.single_flight import SingleFlight
from app.services.telemetry.instruments import note_wait
from app.services.telemetry.tracing import span

OUTPUT_TOKENS_DEFAULT = 1_024
"""Reserved where the client names no ceiling; what is used beyond it is charged as debt."""
DEADLINE_S = 600.0
FLIGHTS_MAX = 10_000
_STARTED = ChatDelta()

T = TypeVar("T", bound=ChatRequest | EmbeddingRequest)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCall:
    """What a door hands in."""

    request_id: str
    caller: Caller
    asked: Asked
    user: str | None = None
    """For which of the caller's users; for their limits."""
    wish: RoutingWish = NO_WISH
    deadline_s: float = DEADLINE_S
    may_cache: bool = True
    """False where the client said ``Cache-Control: no-store``."""
    idempotency_key: str | None = None
    """Repeats with the same key are the same request."""
    lost_at_s: float | None = None
    """When a replica died that held that key and may have bought the call, seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingCall:
    """What the door of embeddings hands in."""

    request_id: str
    caller: Caller
    request: EmbeddingRequest
    user: str | None = None
    wish: RoutingWish = NO_WISH
    deadline_s: float = DEADLINE_S
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the response's headers tell."""

    served: Served
    cost_usd: str | None = None
    """Known once the usage is; None where a price is unknown, or for a stream."""
    upstream_s: float = 0.0
    """Time that was the provider's; the rest was ours, queueing included."""
    cached: bool = False


class Gateway:
    """One per replica.

    Args:
        roster: Configuration and load.
        attempts: Sends calls.
        gate: The callers' limits.
        spending: The books of attempts.
        clock: Time.
        spec: As configured.
        repeats: Of calls with an idempotency key.
        events: Told what happens to calls; None: nobody is.

    Not thread-safe: one event loop.
    """

    def __init__(  # noqa: PLR0913  the parts of a replica, put together in one place
        self,
        roster: SnapshotRoster,
        attempts: Attempts,
        gate: CallerGate,
        spending: Spends,
        clock: Clock,
        *,
        spec: GatewaySpec,
        repeats: Repeats,
        events: Tells | None = None,
    ) -> None:
        self.events: Tells = events or Silence()
        """Told what happens to calls."""
        self._roster = roster
        self._attempts = attempts
        self._gate = gate
        self._spending = spending
        self._clock = clock
        self._spec = spec
        self._cache = ResponseCache(spec.cache.size_bytes if spec.cache.enabled else 0, spec.cache.ttl_s)
        self._flights: SingleFlight[tuple[ChatResult, Won]] = SingleFlight(FLIGHTS_MAX)
        self._streams = SharedStreams(FLIGHTS_MAX)
        self._repeats = repeats
        self._classifier = Classifier(attempts)
        self._prices = PriceList(roster.orchestra, clock)
        self._table: RoutingTable | None = None
        self._table_of: Orchestra | None = None

    async def complete(self, call: ClientCall) -> tuple[ChatResult, Facts]:
        """Answer a call that is not streamed.

        Raises:
            QuotaError: the caller's limit is used up.
            NotFoundError, RequestError: the model or a field cannot be served.
            CapacityError, DeadlineError, UpstreamError: see ``Attempts``.
        """
        if call.idempotency_key is None:
            return await self._complete(call)

        async def make(left_s: float, lost_at_s: float | None) -> KeptAnswer:
            return _kept(*await self._complete(replace(call, deadline_s=left_s, lost_at_s=lost_at_s)))

        kept = await self._repeats.run(
            call.caller.name, call.idempotency_key, call.asked.chat, make, deadline_s=call.deadline_s
        )
        assert isinstance(kept.result, ChatResult), "the kind of request is part of its fingerprint"
        return kept.result, _facts_of(kept)

    async def _complete(self, call: ClientCall) -> tuple[ChatResult, Facts]:
        with span("route"):
            bid = await self._bid(call)
        admitted, bid = await self._admit(call, bid)
        try:
            result, won, cached = await self._answer(call, bid)
        except BaseException as error:
            self._give_up(admitted, error, bid)
            raise
        if cached:
            self._spending.cached(bid.billing, bid.candidates[0].model, result.usage, tier=bid.extent.tier)
        with span("settle"):
            # Where the provider names no usage, all that was reserved counts.
            self._gate.settle(admitted, NO_USAGE if cached else (result.usage if result.usage != NO_USAGE else None))
        return result, self._facts(call, bid, won, result.usage, cached=cached)

    async def embed(self, call: EmbeddingCall) -> tuple[EmbeddingResult, Facts]:
        """Answer a call for vectors; errors as ``complete``."""
        if call.idempotency_key is None:
            return await self._embed(call)

        async def make(left_s: float, _lost_at_s: float | None) -> KeptAnswer:
            return _kept(*await self._embed(replace(call, deadline_s=left_s)))

        kept = await self._repeats.run(
            call.caller.name, call.idempotency_key, call.request, make, deadline_s=call.deadline_s
        )
        assert isinstance(kept.result, EmbeddingResult), "the kind of request is part of its fingerprint"
        return kept.result, _facts_of(kept)

    async def _embed(self, call: EmbeddingCall) -> tuple[EmbeddingResult, Facts]:
        request, sizes = call.request, [text_tokens(text) for text in call.request.inputs]
        input_tokens = sum(sizes)
        needs = Needs(
            input_tokens=max(sizes),
            output_tokens_max=0,
            kind="embedding",
            billed_input_tokens=input_tokens,
            tier=asked_tier(request.extra),
        )
        rows, now_s = self._roster.load() if request.model in ("", AUTO) else (), self._clock.monotonic_ns() / 1e9
        routed = self.table().route(request.model, call.wish, caller=call.caller, needs=needs, rows=rows, now_s=now_s)
        bid = Bid(
            request=request,
            candidates=routed.candidates,
            input_tokens=input_tokens,
            output_tokens_max=0,
            caller=call.caller,
            deadline_s=call.deadline_s,
            queue_s=min(self._spec.queue_timeout_s, call.deadline_s),
            billing=self._billing(call, call.wish),
        )
        admitted, bid = await self._admit(call, bid)
        try:
            result, won = await self._attempts.embed(bid)
        except BaseException as error:
            self._give_up(admitted, error)
            raise
        usage = Usage(input_tokens=result.input_tokens, output_tokens=0, source=result.source)
        self._gate.settle(admitted, usage)
        return result, self._facts(call, bid, won, usage, cached=False)

    async def stream(self, call: ClientCall) -> tuple[AsyncGenerator[ChatDelta, None], Facts]:
        """Answer a streamed call; returns once the first delta is there. Errors as ``complete``, later ones are raised.

        Close the generator when leaving early: that stops the provider where it stops the bill. With an idempotency
        key the call is answered whole, and the answer is streamed then.
        """
        if call.idempotency_key is not None:
            whole = replace(call, asked=replace(call.asked, chat=replace(call.asked.chat, stream=False)))
            result, facts = await self.complete(whole)
            return _again(result), facts
        with span("route"):
            bid = await self._bid(call)
        admitted, bid = await self._admit(call, bid)
        led: Led | None = None
        try:
            key = self._key(call, bid)
            if key is not None:
                kept, bid = await self._known(key, bid)
                if kept is not None:
                    facts = self._facts(call, bid, None, kept.usage, cached=True)
                    self._spending.cached(bid.billing, bid.candidates[0].model, kept.usage, tier=bid.extent.tier)
                    self._gate.settle(admitted, NO_USAGE)
                    return _again(kept), facts
                led = self._streams.lead(key)
            deltas, won = await self._attempts.open(bid)
        except BaseException as error:
            if led is not None:
                led.end(whole=False)
            self._give_up(admitted, error, bid)
            raise
        watched = self._watch(admitted, deltas, bid, led)
        # Started here: closing a generator that never ran would neither stop the provider nor settle.
        await anext(watched)
        return watched, self._facts(call, bid, won, None, cached=False)

    async def aclose(self) -> None:
        """Stop the calls whose clients have left."""
        await self._repeats.aclose()
        await self._attempts.aclose()

    def limits(self, caller: Caller, user: str | None) -> tuple[Allowance, ...]:
        """Return what is left of a caller's limits, as last known, for the response's headers."""
        return self._gate.allowances(caller, user)

    def load(self) -> Sequence[LoadRow]:
        """Return the last known load of every account."""
        return self._roster.load()

    def explain(self, wanted: str, wish: RoutingWish, *, caller: Caller, needs: Needs) -> dict[str, Json]:
        """Say who would serve such a call, and why; errors as routing."""
        table, rows, now_s = self.table(), self._roster.load(), self._clock.monotonic_ns() / 1e9
        routed = table.survey(wanted, wish, caller=caller, needs=needs, rows=rows, now_s=now_s)
        return explain(table, routed, rows, needs, now_s=now_s)

    def orchestra(self) -> Orchestra:
        """Return the newest known configuration; raises CapacityError while there is none."""
        return self._roster.orchestra()

    def table(self) -> RoutingTable:
        """Return the routing table of the newest configuration."""
        orchestra = self._roster.orchestra()
        if self._table is None or self._table_of is not orchestra:
            self._table, self._table_of = RoutingTable(orchestra, self._prices.find), orchestra
        return self._table

    async def _answer(self, call: ClientCall, bid: Bid[ChatRequest]) -> tuple[ChatResult, Won | None, bool]:
        key = self._key(call, bid)
        if key is None:
            result, won = await self._attempts.complete(bid)
            return result, won, False
        kept, bid = await self._known(key, bid)
        if kept is not None:
            return kept, None, True
        (result, won), shared = await self._flights.run(key, lambda: self._attempts.complete(bid))
        if not shared:
            self._cache.put(key, result, self._clock.monotonic_ns())
        return result, won, shared

    async def _known(self, key: bytes, bid: Bid[ChatRequest]) -> tuple[ChatResult | None, Bid[ChatRequest]]:
        """Return the answer that is kept, or that an equal stream under way brings; and the bid with its time left."""
        began_ns = self._clock.monotonic_ns()
        kept = self._cache.get(key, began_ns)
        if kept is None:
            kept = await self._streams.join(key, bid.deadline_s)
        waited_s = (self._clock.monotonic_ns() - began_ns) / 1e9
        return kept, replace(bid, deadline_s=bid.deadline_s - waited_s) if waited_s else bid

    def _key(self, call: ClientCall, bid: Bid[ChatRequest]) -> bytes | None:
        if not (self._spec.cache.enabled and call.may_cache):
            return None
        scope = "" if self._spec.cache.scope == "shared" else call.caller.name
        return cache_key(call.asked.chat, scope, [candidate.model for candidate in bid.candidates])

    async def _bid(self, call: ClientCall) -> Bid[ChatRequest]:
        request = call.asked.chat
        input_tokens = estimate_tokens(request)
        wish = call.wish
        if call.asked.task_type is not None:
            wish = replace(wish, task_type=call.asked.task_type)
        elif self._spec.classifier is not None and request.model in ("", AUTO) and wish.task_type is None:
            found = await self._classifier.find(self._roster.orchestra(), self._spec.classifier, request)
            wish = replace(wish, task_type=found)
        routed = self.table().route(
            request.model,
            wish,
            caller=call.caller,
            needs=needs_of(request, input_tokens),
            rows=self._roster.load() if request.model in ("", AUTO) else (),
            now_s=self._clock.monotonic_ns() / 1e9,
        )
        return Bid(
            request=request,
            candidates=routed.candidates,
            input_tokens=input_tokens,
            output_tokens_max=request.output_tokens_max or OUTPUT_TOKENS_DEFAULT,
            caller=call.caller,
            deadline_s=call.deadline_s,
            queue_s=min(self._spec.queue_timeout_s, call.deadline_s),
            idle_timeout_s=self._spec.idle_timeout_s,
            billing=self._billing(call, wish),
            billable_output_tokens=self._billable(request, routed.candidates),
            key=_key_of(call),
            lost_at_s=call.lost_at_s,
        )

    async def _admit(self, call: ClientCall | EmbeddingCall, bid: Bid[T]) -> tuple[Admitted, Bid[T]]:
        """Reserve what the caller's limits ask for; returns the bid with what is left of its time."""
        began_ns = self._clock.monotonic_ns()
        with span("admission"):
            admitted = await self._gate.admit(
                call.caller, bid.input_tokens, bid.output_tokens_max, call.user, deadline_s=bid.deadline_s
            )
        waited_s = (self._clock.monotonic_ns() - began_ns) / 1e9
        note_wait(waited_s, "caller")
        return admitted, replace(bid, deadline_s=bid.deadline_s - waited_s)

    def _billing(self, call: ClientCall | EmbeddingCall, wish: RoutingWish) -> Billing:
        caller = call.caller
        owners = Owners(tenant=self._roster.orchestra().tenant, team=caller.team, user=call.user or "", key=caller.name)
        return Billing(
            owners=owners,
            request_id=call.request_id,
            task_type=wish.task_type or "",
            trace_id=trace_id(),
        )

    def _billable(self, request: ChatRequest, candidates: Sequence[Candidate]) -> int:
        """Return the most that the request may generate: what it allows, else what the models are able to."""
        most = request.output_tokens_max or max(self._model(each.model).output_tokens_max for each in candidates)
        return most * request.choices

    def _give_up(self, admitted: Admitted, error: BaseException, bid: Bid[ChatRequest] | None = None) -> None:
        """Settle a call without an answer: a failed one costs its caller nothing, one that was left what it used.

        Where nobody will know, that is all that was reserved.
        """
        left = isinstance(error, asyncio.CancelledError)
        if not (left and bid is not None and self._attempts.follow(bid, partial(self._gate.settle, admitted))):
            self._gate.settle(admitted, None, sent=left)

    async def _watch(
        self,
        admitted: Admitted,
        deltas: AsyncGenerator[ChatDelta, None],
        bid: Bid[ChatRequest],
        led: Led | None,
    ) -> AsyncGenerator[ChatDelta, None]:
        usage: Usage | None = None
        whole = False
        try:
            yield _STARTED
            async for delta in deltas:
                if delta.usage is not None:
                    usage = delta.usage
                if led is not None:
                    led.add(delta)
                yield delta
            whole = True
        finally:
            try:
                await deltas.aclose()
            finally:
                if led is not None:
                    answer = led.end(whole=whole)
                    if answer is not None:
                        self._cache.put(led.key, answer, self._clock.monotonic_ns())
                if usage is not None or not self._attempts.follow(bid, partial(self._gate.settle, admitted)):
                    self._gate.settle(admitted, usage)

    def _facts(
        self, call: ClientCall | EmbeddingCall, bid: Bid[T], won: Won | None, usage: Usage | None, *, cached: bool
    ) -> Facts:
        account = won.permit.account if won is not None else ""
        request = call.asked.chat if isinstance(call, ClientCall) else call.request
        # Of a kept answer: whoever would have been asked first, as the books have it.
        model = won.permit.model if won is not None else bid.candidates[0].model
        served = Served(
            request_id=call.request_id,
            created_s=int(time.time()),
            account=account,
            provider=self._attempts.provider(account) if account else "cache",
            model=model,
        )
        cost = "0" if cached else self._cost(served, usage, asked_tier(request.extra))
        return Facts(served=served, cost_usd=cost, upstream_s=won.upstream_s if won is not None else 0.0, cached=cached)

    def _cost(self, served: Served, usage: Usage | None, tier: str) -> str | None:
        return None if usage is None else self._spending.cost_usd(served.model, served.provider, usage, tier=tier)

    def _model(self, name: str) -> ModelInfo:
        try:
            return self._roster.orchestra().model(name)
        except KeyError:  # removed from the configuration meanwhile
            return ModelInfo(name=name, family="unknown")


def needs_of(request: ChatRequest, input_tokens: int) -> Needs:
    """Return what a chat request needs of a model."""
    return Needs(
        input_tokens=input_tokens,
        output_tokens_max=request.output_tokens_max,
        images=any(message.images for message in request.messages),
        tools=bool(request.tools),
        schema=request.output is not None,
        choices=request.choices,
        tier=asked_tier(request.extra),
    )


async def _again(result: ChatResult) -> AsyncGenerator[ChatDelta, None]:
    for delta in replay(_said(result)):
        yield delta


def _said(result: ChatResult) -> ChatResult:
    """Return an answer with its refusal in its text: there it is in a stream."""
    others = tuple(_said(other) for other in result.other_choices)
    return replace(result, text=result.text + (result.refusal or ""), refusal=None, other_choices=others)


def _key_of(call: ClientCall) -> str:
    """Return our name of a call that its client may repeat: who takes it over after a crash sends the same one."""
    if call.idempotency_key is None:
        return ""
    return call_key(a_claim(caller=call.caller.name, key=call.idempotency_key, request=call.asked.chat, holder=""))


def _kept(result: ChatResult | EmbeddingResult, facts: Facts) -> KeptAnswer:
    return KeptAnswer(
        # What the provider said about its limits at the time teaches nobody anything later.
        result=replace(result, observations=()),
        served=facts.served,
        cost_usd=facts.cost_usd,
        upstream_s=facts.upstream_s,
        cached=facts.cached,
    )


def _facts_of(kept: KeptAnswer) -> Facts:
    return Facts(served=kept.served, cost_usd=kept.cost_usd, upstream_s=kept.upstream_s, cached=kept.cached)

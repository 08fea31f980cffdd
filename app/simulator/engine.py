"""Takes one request from its key to its bill: authenticate, parse, compose, admit, choose a fault, deliver, count."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import orjson

from app.simulator.accounts import Account, Accounts
from app.simulator.background import InBackground
from app.simulator.batches import Batches
from app.simulator.books import LOG_TEXT_CHARS, Books, LogRow
from app.simulator.compose import Composer, Stamp
from app.simulator.config import Fault, SimulatorConfig
from app.simulator.connection import Connection
from app.simulator.delivery import Delivery, Order
from app.simulator.exchange import ChatRequest, HttpRequest, Plan, Refusal, Wire
from app.simulator.faults import FaultBox, altered
from app.simulator.json_reading import JsonObject
from app.simulator.limits import Demand, Quota, Rejection
from app.simulator.remembered import Remembered
from app.simulator.templates import Script

Render = Callable[[Plan], bytes]
Parse = Callable[[HttpRequest], tuple[ChatRequest, Render | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request with the format it came in."""

    wire: Wire
    http: HttpRequest
    parse: Parse
    """Returns the request, and how to write its answer where that is no chat."""


class Engine:
    """All state of a simulator. Not thread-safe: the server's event loop is the lock."""

    def __init__(self, config: SimulatorConfig) -> None:
        self._number = 0
        self.configure(config)
        self.reset()

    def configure(self, config: SimulatorConfig) -> None:
        """Put another configuration in force; counts and buckets whose limits did not change go on."""
        known = getattr(self, "config", None)
        self.config = config
        if known is None or known.faults != config.faults or known.seed != config.seed:
            self._faults = FaultBox(config.faults, config.seed)
        if known is None or known.replies != config.replies:
            self._script = Script(config.replies)
        self._composer = Composer(config, self._script)
        if known is not None:
            self._accounts.apply(config)

    def reset(self) -> None:
        """Zero the counts, the clock, the buckets, and how often faults and replies have matched."""
        config, now_ns = self.config, time.monotonic_ns()
        self._accounts = Accounts(config, wall_offset_ns=time.time_ns() - now_ns)
        self._faults = FaultBox(config.faults, config.seed)
        self._script = Script(config.replies)
        self._composer = Composer(config, self._script)
        self._remembered = Remembered()
        self._books = Books(start_ns=now_ns, log_rows_max=config.log_rows_max)
        self.background, self.batches = InBackground(), Batches()

    def stats(self, *, with_log: bool) -> JsonObject:
        """Return all counts."""
        return self._books.as_json(with_log=with_log, now_ns=time.monotonic_ns())

    def authenticate(self, wire: Wire, http: HttpRequest) -> Account:
        """Return the account of a request that is neither limited nor billed, such as a list of models.

        Raises:
            Refusal: the key may not be used.
        """
        return self._account(wire, http)

    def serves(self, model: str, wire: Wire) -> bool:
        """Whether ``model`` exists in this format."""
        if not self.config.models:
            return True
        own = self.config.models.get(model)
        return own is not None and wire.format in own.formats

    async def handle(self, call: Call, connection: Connection) -> None:
        """Answer one request and count it."""
        self._number += 1
        number, now_ns, books, accounts = self._number, time.monotonic_ns(), self._books, self._accounts
        wire = call.wire
        key = wire.key_of(call.http)
        known = accounts.find(key)
        row = LogRow(
            at_ns=books.elapsed_ns(now_ns),
            key=key or "(none)",
            model="",
            format=wire.format,
            text="",
            traceparent=call.http.headers.get("traceparent", ""),
        )
        as_array = False
        try:
            account = self._account(wire, call.http)
            request, render = call.parse(call.http)
            as_array = request.as_array
            row.model, row.text = request.model, request.text[:LOG_TEXT_CHARS]
            self._check(wire, request)
            again = self._remembered.find(account.key, self._name(call), call.http.raw)
            if again is not None:
                books.repeat(row, account.group)
                await Delivery(connection, self._order(call, again, None, account, render)).run()
                return
            plan = self._composer.compose(request, Stamp(number=number, created_s=int(time.time()), key=account.key))
            if render is not None:
                plan = replace(plan, choices=())
            quota = self._admit(account, plan, row, now_ns)
        except Refusal as refusal:
            answer = wire.error(refusal, model=row.model, number=number, as_array=as_array)
            books.reject(row, known.group if known else None, refusal.kind, answer.status)
            if known is not None and row.model:
                gauges = accounts.gauges(known, row.model, now_ns)
                answer.headers.update(wire.success_headers(gauges, number=number))
            await connection.answer(answer)
            return
        fault = self._faults.choose(request, account.key, books.elapsed_ns(now_ns) / 1e9)
        if fault is not None:
            plan = altered(plan, fault.kind)
        self._remembered.keep(account.key, self._name(call), call.http.raw, plan)
        ticket = books.accept(row, account.group)
        delivery = Delivery(connection, self._order(call, plan, fault, account, render))
        try:
            await delivery.run()
        finally:
            # Also when the server cancels us: what is in flight must end in the books.
            outcome = delivery.outcome()
            quota.settle(outcome.output_tokens, outcome.ended_ns)
            ticket.end(outcome, None if fault is None else fault.kind)
            self._remember(call, account, plan, made=bool(outcome.output_tokens))

    def stored(self, key: str, metadata: Mapping[str, str], limit: int) -> list[JsonObject]:
        """Return the stored completions of an API key that have this metadata and are listed by now."""
        return self._remembered.listed(key, metadata, time.monotonic_ns(), limit)

    def _name(self, call: Call) -> str | None:
        """Return the request's idempotency key, where such keys are honoured."""
        return call.http.headers.get("idempotency-key") if self.config.idempotency else None

    def _order(self, call: Call, plan: Plan, fault: Fault | None, account: Account, render: Render | None) -> Order:
        gauges = self._accounts.gauges(account, plan.request.model, time.monotonic_ns())
        return Order(
            wire=call.wire,
            plan=plan,
            fault=fault,
            headers=call.wire.success_headers(gauges, number=plan.number),
            # What can be asked for again is made to its end.
            bill_on_disconnect="all" if self._name(call) is not None else self.config.bill_on_disconnect,
            body=None if render is None else render(plan),
        )

    def _remember(self, call: Call, account: Account, plan: Plan, *, made: bool) -> None:
        """Keep what can be asked for again, and nothing that was never made."""
        if not made:
            self._remembered.forget(account.key, self._name(call))
        elif plan.request.store:
            metadata = dict(plan.request.metadata)
            completion = orjson.loads(call.wire.body(plan)) | {"metadata": metadata}
            listed_ns = time.monotonic_ns() + int(self.config.store_lag_s * 1e9)
            self._remembered.store(account.key, metadata, completion, listed_ns)

    def _account(self, wire: Wire, http: HttpRequest) -> Account:
        key = wire.key_of(http)
        try:
            return self._accounts.get(key)
        except Refusal as refusal:
            known = self._accounts.find(key)
            # DeepSeek says 402 where OpenAI says 429 insufficient_quota; its keys are those without headers.
            if refusal.kind == "no_balance" and known is not None and not known.headers:
                refusal.status = 402
            raise

    def _check(self, wire: Wire, request: ChatRequest) -> None:
        """Refuse a model that does not exist and a prompt that does not fit."""
        if not self.serves(request.model, wire):
            raise Refusal("not_found", f"The model `{request.model}` does not exist or you do not have access to it.")
        own = self.config.models.get(request.model)
        if own is None or own.context_tokens is None:
            return
        wanted = request.input_tokens + (0 if wire.format == "gemini" else request.max_tokens or 0)
        if wanted > own.context_tokens:
            refusal = Refusal(
                "context",
                f"This model's maximum context length is {own.context_tokens} tokens. However, you requested {wanted} "
                f"tokens ({request.input_tokens} in the messages). Please reduce the length of the messages.",
                param="messages",
            )
            refusal.limit = own.context_tokens
            raise refusal

    def _admit(self, account: Account, plan: Plan, row: LogRow, now_ns: int) -> Quota:
        request = plan.request
        largest = plan.output_tokens if request.max_tokens is None else request.max_tokens * request.n
        demand = Demand(
            input_tokens=request.input_tokens,
            uncached_input_tokens=request.input_tokens - plan.cached_tokens,
            output_tokens=largest if plan.choices else 0,
        )
        row.demand_tokens = demand.input_tokens + demand.output_tokens
        admitted = self._accounts.admit(account, request.model, demand, now_ns)
        if isinstance(admitted, Rejection):
            raise _over(admitted, headers_shown=account.headers)
        return admitted


def _over(rejection: Rejection, *, headers_shown: bool) -> Refusal:
    message = f"Limit {rejection.limit}, Used {rejection.used}, Requested {rejection.requested}."
    if rejection.retry_after_ns is None:
        message += " The request is larger than the limit; it will never fit."
    else:
        message += f" Please try again in {rejection.retry_after_ns / 1e9:.3f}s."
    refusal = Refusal(rejection.kind, message)
    refusal.limit = rejection.limit
    refusal.headers_shown = headers_shown
    if rejection.retry_after_ns is not None:
        refusal.retry_after = f"{-(-rejection.retry_after_ns // 1_000_000) / 1000:.3f}"
    return refusal

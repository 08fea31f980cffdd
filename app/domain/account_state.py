"""The books of one account host: limiters by scope, health and measured speed by (account, model).

Pure: time is an argument (monotonic and wall nanoseconds). The account actor asks it before a call and tells it after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeAlias

from app.domain.accounts import AccountSpec, ModelInfo, Provider
from app.domain.chat import LimitObservation, Usage
from app.domain.errors import UpstreamError, UpstreamKind
from app.domain.health import Health
from app.domain.hosting import find_pattern
from app.domain.limiter import Limiter, LimitLoad, Observation, Refusal
from app.domain.limiter_state import LimiterState
from app.domain.limits import MINUTE_NS, Charge, LimitSpec, RateName
from app.domain.load import BucketKind, BucketLevel, LoadRow
from app.domain.meter import Meter
from app.domain.passing_scopes import KEPT_MAX, PassingScopes
from app.domain.views import AccountView, LimitView
from app.domain.windows import SLACK_NS

DAY_NS = 86_400_000_000_000
PACIFIC_MIDNIGHT_NS = 8 * 3_600_000_000_000
"""Gemini's days end at midnight Pacific: 08:00 UTC in winter, 07:00 in summer; the later one is safe for both."""
SECOND_NS = 1_000_000_000
NEVER_S = 1e9
RECHECK_S = 0.25

_PROVIDER_TROUBLE = frozenset(
    {
        UpstreamKind.OVERLOADED,
        UpstreamKind.TIMEOUT,
        UpstreamKind.CONNECTION,
        UpstreamKind.CUT,
        UpstreamKind.GARBAGE,
    }
)
_NAME_OF_SCOPE: dict[str, RateName] = {
    "requests": "rpm",
    "tokens": "tpm",
    "input_tokens": "itpm",
    "output_tokens": "otpm",
}
_KIND_OF_NAME: dict[RateName, BucketKind] = {
    "rpm": "requests",
    "tpm": "tokens",
    "itpm": "input_tokens",
    "otpm": "output_tokens",
}


TOO_MANY = "too many users at once"
TOO_MANY_S = 10.0


class Order(Protocol):
    """What the books need of a call: ``CallOrder`` and ``PermitWish`` are such."""

    @property
    def account(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def input_tokens(self) -> int: ...
    @property
    def output_tokens_max(self) -> int: ...


class Ending(Enum):
    """How a call ended that neither succeeded nor failed upstream."""

    WITHDRAWN = "withdrawn"
    """Never sent: everything is given back."""
    CANCELLED = "cancelled"
    """Stopped under way: the provider may have counted all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether an order is admitted."""

    admitted: bool
    start_in_s: float
    reason: str = ""
    refused_for_good: bool = False
    """The order can never be admitted here."""


@dataclass(slots=True)
class _Scope:
    limiter: Limiter
    spec: LimitSpec
    day_offset_ns: int
    moved_ns: int
    """When something last began to count in its windows."""
    lost_ns: int | None = None
    """Where an earlier life may have admitted calls: when it ended, at the latest."""
    day_index: int = -1


_Guest: TypeAlias = tuple[_Scope, Meter]


def _is_at_rest(guest: _Guest, now_ns: int) -> bool:
    load = guest[0].limiter.load(now_ns)
    return load.in_flight == 0 and all(limit.level >= limit.capacity for limit in load.limits)


@dataclass(slots=True)
class AccountBook:
    """Everything an account host knows."""

    dirty: bool = False
    """A limiter changed since the last ``snapshots``."""
    troubled: bool = False
    """A call failed since: what a limiter learned from it should be saved soon."""
    users_max: int = KEPT_MAX
    """Users of callers whose limits are kept at once."""
    _scopes: dict[tuple[str, str], _Scope] = field(default_factory=dict)
    _meters: dict[tuple[str, str], Meter] = field(default_factory=dict)
    _retired: dict[tuple[str, str], Meter] = field(default_factory=dict)
    """Meters of removed accounts: calls under way still settle."""
    _guests: PassingScopes[_Guest] = field(init=False)
    """Users of callers, by account; they come and go."""

    def __post_init__(self) -> None:
        self._guests = PassingScopes(_is_at_rest, self.users_max)

    def scopes(self) -> set[tuple[str, str]]:
        """Return the (scope, model) pairs that have a limiter."""
        return set(self._scopes)

    def configure(
        self,
        accounts: Sequence[AccountSpec],
        models: Sequence[ModelInfo],
        saved: Mapping[tuple[str, str], tuple[LimiterState, bool]],
        now_ns: int,
        wall_ns: int,
    ) -> None:
        """Take a configuration: new scopes continue their saved state, known ones keep theirs with changed limits."""
        infos = {model.name: model for model in models}
        meters: dict[tuple[str, str], Meter] = {}
        scopes: dict[tuple[str, str], _Scope] = {}
        for account in accounts:
            for name, spec in account.limits:
                key = (account.scope, name)
                scopes[key] = scopes.get(key) or self._scope(key, spec, account, saved.get(key), now_ns, wall_ns)
                info = infos.get(name) or ModelInfo(name=name, family="unknown")
                meters[account.name, name] = self._meter(account, info)
        # A removed scope stays while calls of it are in flight, so that they still settle.
        for key, scope in self._scopes.items():
            if key not in scopes and scope.limiter.in_flight:
                scopes[key] = scope
        self._retired.update({key: meter for key, meter in self._meters.items() if key not in meters})
        self._scopes, self._meters = scopes, meters
        for _name, (scope, meter) in self._guests:
            pattern = scopes.get((meter.account.scope, meter.model.name))
            if pattern is not None and pattern.spec != scope.spec:
                scope.limiter.change_limits(pattern.spec, now_ns)
                scope.spec = pattern.spec
        self.dirty = True

    def admit(  # noqa: PLR0913  when, and on which terms
        self,
        order: Order,
        ticket: str,
        now_ns: int,
        wall_ns: int,
        *,
        horizon_s: float,
        headroom: float = 0.0,
        usable_s: float = 0.0,
    ) -> Decision:
        """Reserve for an order, or refuse it with the earliest start.

        Args:
            order: What is to be called, and its size.
            ticket: Names the reservation.
            now_ns: Monotonic time.
            wall_ns: Wall clock, for the day.
            horizon_s: Admit only what may start within this.
            headroom: Share of every limit that must stay free.
            usable_s: How long after its start the order may still be sent.
        """
        if (order.account, order.model) not in self._meters and not self._receive(order, now_ns):
            return Decision(admitted=False, start_in_s=TOO_MANY_S, reason=TOO_MANY)
        scope, meter = self._of(order.account, order.model)
        self._begin_day(scope, now_ns, wall_ns)
        ready_ns = meter.health.ready_at_ns(now_ns)
        if ready_ns is None:
            return Decision(admitted=False, start_in_s=NEVER_S, reason=meter.last_error or "the key is refused")
        if ready_ns > now_ns:
            return Decision(admitted=False, start_in_s=_seconds(ready_ns - now_ns), reason=meter.health.state(now_ns))
        charge = Charge(requests=1, input_tokens=order.input_tokens, output_tokens_max=order.output_tokens_max)
        found = scope.limiter.reserve(
            ticket,
            charge,
            now_ns,
            horizon_ns=int(horizon_s * SECOND_NS),
            headroom_ppm=int(headroom * 1e6),
            usable_ns=int(usable_s * SECOND_NS),
        )
        if isinstance(found, Refusal):
            if found.forever:
                reason = f"it needs more than the whole limit {found.binding}"
                return Decision(admitted=False, start_in_s=NEVER_S, reason=reason, refused_for_good=True)
            # Where it depends on calls in flight, their end wakes the caller.
            start_in_s = RECHECK_S if found.retry_at_ns is None else _seconds(found.retry_at_ns - now_ns)
            return Decision(admitted=False, start_in_s=start_in_s, reason=found.binding)
        meter.health.on_start(now_ns)
        self.dirty = True
        scope.moved_ns = now_ns
        return Decision(admitted=True, start_in_s=_seconds(found.start_ns - now_ns))

    def revive(self, account: str) -> None:
        """Give a dead account another chance, because a person looks at it."""
        for (name, _model), meter in self._meters.items():
            if name == account and meter.health.ready_at_ns(0) is None:
                meter.health, meter.last_error = Health(), None

    def may_send(self, order: Order, ticket: str, now_ns: int) -> bool:
        """Tell whether an admitted order whose start has come may be sent; False where a cooldown came in between."""
        scope, _meter = self._of(order.account, order.model)
        return scope.limiter.may_send(ticket, now_ns)

    def succeed(  # noqa: PLR0913  what was used, and how long it took
        self,
        order: Order,
        ticket: str,
        usage: Usage,
        observations: Sequence[LimitObservation],
        now_ns: int,
        *,
        duration_s: float,
        ttft_s: float | None = None,
    ) -> None:
        """Settle a call that was answered; ``ttft_s`` where it was streamed."""
        scope, meter = self._of(order.account, order.model)
        if observations:
            scope.limiter.correct_from_headers(ticket, [_observation(seen) for seen in observations], now_ns)
        used = Charge(requests=1, input_tokens=usage.input_tokens, output_tokens_max=usage.output_tokens)
        scope.limiter.settle(ticket, used, now_ns)
        if scope.spec.counted_from == "answer" or usage.output_tokens > order.output_tokens_max:
            scope.moved_ns = now_ns
        meter.health.on_success(now_ns)
        meter.note(order.output_tokens_max, usage, now_ns, duration_s=duration_s, ttft_s=ttft_s)
        self.dirty = True

    def fail(self, order: Order, ticket: str, error: UpstreamError, now_ns: int, wall_ns: int) -> None:
        """Settle a call that failed upstream and move the account's state by how it failed."""
        scope, meter = self._of(order.account, order.model)
        retry_ns = None if error.retry_after_s is None else int(error.retry_after_s * SECOND_NS)
        if error.kind is UpstreamKind.MINUTE_LIMIT:
            until_ns = scope.limiter.on_rate_limited(now_ns, retry_ns, reservation_id=ticket)
            meter.health.on_minute_limit(now_ns, until_ns)
        elif error.kind is UpstreamKind.DAY_LIMIT:
            until_ns = now_ns + self._until_reset_ns(scope, wall_ns)
            scope.limiter.cooldown_until(until_ns)
            meter.health.on_day_limit(now_ns, until_ns)
        elif error.kind is UpstreamKind.DEAD_KEY:
            for (account, _model), other in self._meters.items():
                if account == order.account:
                    other.health.on_dead_key(now_ns)
                    other.last_error = error.message
        elif error.kind in _PROVIDER_TROUBLE:
            meter.health.on_trouble(now_ns, retry_ns)
        else:
            meter.health.on_refused_request(now_ns)
        meter.last_error = error.message
        self._settle_failed(scope, order, ticket, error, now_ns)
        self.dirty = self.troubled = True

    def end(self, order: Order, ticket: str, ending: Ending, now_ns: int) -> None:
        """Settle a call that was withdrawn before it was sent, or cancelled under way."""
        scope, meter = self._of(order.account, order.model)
        if ending is Ending.WITHDRAWN:
            scope.limiter.release(ticket, now_ns)
        else:
            scope.limiter.settle(ticket, _whole(order), now_ns)
        meter.health.on_withdrawn(now_ns)
        self.dirty = True

    def serves(self, account: str, model: str) -> bool:
        """Tell whether that account takes calls of that model; so does one that a pattern is there for."""
        return (account, model) in self._meters or (find_pattern(account), model) in self._meters

    def spare(self, order: Order, now_ns: int) -> int:
        """Return how many such permits may be given away ahead of their use; only where the account is healthy."""
        scope, meter = self._of(order.account, order.model)
        if meter.health.state(now_ns) != "healthy" or scope.limiter.cooldown_until_ns > now_ns:
            return 0
        return scope.limiter.spare(_whole(order), now_ns)

    def is_far_from_limits(self, order: Order, count: int) -> bool:
        """Tell whether so many such permits may be held back for a while without anybody missing them."""
        scope, _meter = self._of(order.account, order.model)
        return scope.limiter.is_far(_whole(order), count)

    def row(self, account: str, model: str, now_ns: int) -> LoadRow | None:
        """Return the load of one (account, model); None where it is not served."""
        meter = self._meters.get((account, model))
        guest = self._guests.find(account) if meter is None else None
        if guest is not None:
            scope, meter = guest
        elif meter is not None:
            scope = self._scopes[meter.account.scope, model]
        else:
            return None
        load = scope.limiter.load(now_ns)
        ready_ns = meter.health.ready_at_ns(now_ns)
        cooldown_ns = max(load.cooldown_until_ns, meter.health.cooling_until_ns(now_ns)) - now_ns
        return LoadRow(
            account=account,
            model=model,
            scope=meter.account.scope if guest is None else account,
            state=meter.health.state(now_ns),
            in_flight=load.in_flight,
            concurrency=load.concurrency,
            buckets=tuple(
                BucketLevel(
                    kind=_KIND_OF_NAME[limit.name],
                    level=float(limit.level),
                    capacity=float(limit.capacity),
                    rate_per_s=limit.limit / 60.0,
                    full_s=_full_s(scope, limit, load.in_flight, now_ns) if scope.spec.window == "sliding" else None,
                )
                for limit in load.limits
                if limit.name in _KIND_OF_NAME
            ),
            cooldown_s=_seconds(cooldown_ns),
            # While somebody tries it again, what is known of it is good enough for the others.
            measured=meter.calls > 0 and (load.in_flight > 0 or meter.is_fresh(now_ns)),
            closed_s=_seconds(max(load.opens_ns or now_ns, ready_ns or now_ns) - now_ns),
            call_s=meter.call_s,
            call_output_tokens=meter.call_output_tokens,
            ttft_s=meter.speed.ttft_s,
            tokens_per_s=meter.speed.tokens_per_s,
            output_tokens=meter.speed.output_tokens,
            error_rate=meter.health.error_rate,
            context_tokens=meter.model.context_tokens,
            observed_at_s=now_ns / SECOND_NS,
        )

    def rows(self, now_ns: int, wall_ns: int) -> list[LoadRow]:
        """Return the load of everything served."""
        for scope in self._scopes.values():
            self._begin_day(scope, now_ns, wall_ns)
        rows = [self.row(account, model, now_ns) for account, model in self._meters]
        return [row for row in rows if row is not None]

    def views(self, now_ns: int) -> list[AccountView]:
        """Return what operators look at."""
        return [self._view(meter, now_ns) for meter in self._meters.values()]

    def snapshots(self, now_ns: int, wall_ns: int) -> dict[tuple[str, str], LimiterState]:
        """Return every limiter's state and count it as saved."""
        self.dirty = self.troubled = False
        return {key: scope.limiter.snapshot(now_ns, wall_ns) for key, scope in self._scopes.items()}

    def _of(self, account: str, model: str) -> tuple[_Scope, Meter]:
        meter = self._meters.get((account, model))
        if meter is None:
            guest = self._guests.find(account)
            if guest is not None:
                return guest
            meter = self._retired[account, model]
        return self._scopes[meter.account.scope, model], meter

    def _receive(self, order: Order, now_ns: int) -> bool:
        """Make room for a guest, unless it is here already; False where there are too many."""
        pattern = self._meters.get((find_pattern(order.account) or "", order.model))
        if pattern is None:
            return True  # a removed account: calls under way still settle

        def make() -> _Guest:
            scope = self._scopes[pattern.account.scope, order.model]
            began_ns = now_ns if scope.lost_ns is None else scope.lost_ns
            # What guests used in an earlier life is not known: the most they can have.
            limiter = Limiter.restore(scope.spec, None, lost=scope.lost_ns is not None, now_ns=began_ns, wall_ns=0)
            guest = _Scope(limiter=limiter, spec=scope.spec, day_offset_ns=0, moved_ns=began_ns)
            return guest, Meter(account=pattern.account, model=pattern.model, health=Health())

        return self._guests.open(order.account, make, now_ns) is not None

    def _scope(
        self,
        key: tuple[str, str],
        spec: LimitSpec,
        account: AccountSpec,
        saved: tuple[LimiterState, bool] | None,
        now_ns: int,
        wall_ns: int,
    ) -> _Scope:
        known = self._scopes.get(key)
        if known is not None:
            if known.spec != spec:
                known.limiter.change_limits(spec, now_ns)
                known.spec = spec
            return known
        state, clean = saved if saved is not None else (None, True)
        limiter = Limiter.restore(spec, state, lost=not clean, now_ns=now_ns, wall_ns=wall_ns)
        offset_ns = PACIFIC_MIDNIGHT_NS if account.provider is Provider.GEMINI else 0
        lost_ns = None
        if state is not None:
            lost_ns = now_ns - (max(0, wall_ns - state.wall_ns) if clean else 0)
        return _Scope(limiter=limiter, spec=spec, day_offset_ns=offset_ns, moved_ns=now_ns, lost_ns=lost_ns)

    def _meter(self, account: AccountSpec, model: ModelInfo) -> Meter:
        known = self._meters.get((account.name, model.name))
        if known is None:
            return Meter(account=account, model=model, health=Health())
        if known.account.api_key != account.api_key or known.account.base_url != account.base_url:
            # A person acted: a new key (or address) deserves a new chance.
            known.health, known.last_error = Health(), None
        known.account, known.model = account, model
        return known

    def _begin_day(self, scope: _Scope, now_ns: int, wall_ns: int) -> None:
        day = (wall_ns - scope.day_offset_ns) // DAY_NS
        if day != scope.day_index:
            scope.day_index = day
            scope.limiter.start_day(day, now_ns + self._until_reset_ns(scope, wall_ns))

    def _until_reset_ns(self, scope: _Scope, wall_ns: int) -> int:
        return DAY_NS - (wall_ns - scope.day_offset_ns) % DAY_NS

    def _settle_failed(self, scope: _Scope, order: Order, ticket: str, error: UpstreamError, now_ns: int) -> None:
        if error.kind is UpstreamKind.CONNECTION and error.billed is False:
            scope.limiter.release(ticket, now_ns)
        elif error.billed is False:
            # It arrived and was refused: providers count the request, not its tokens.
            scope.limiter.settle(ticket, Charge(requests=1), now_ns, final=False)
            scope.limiter.release(ticket, now_ns)
        else:
            scope.limiter.settle(ticket, _whole(order), now_ns)

    def _view(self, meter: Meter, now_ns: int) -> AccountView:
        row = self.row(meter.account.name, meter.model.name, now_ns)
        assert row is not None, "every meter has a scope"
        limiter = self._scopes[meter.account.scope, meter.model.name].limiter
        return AccountView(
            account=meter.account.name,
            provider=meter.account.provider.value,
            model=meter.model.name,
            state=row.state,
            identity=meter.account.identity,
            quota_group=meter.account.quota_group,
            limits=tuple(
                LimitView(name=limit.name, limit=limit.limit, used=limit.used) for limit in limiter.load(now_ns).limits
            ),
            in_flight=row.in_flight,
            cooldown_s=row.cooldown_s,
            last_error=meter.last_error,
            calls=meter.calls,
            input_tokens=meter.input_tokens,
            output_tokens=meter.output_tokens,
            ttft_s=row.ttft_s,
            tokens_per_s=row.tokens_per_s,
        )


def _full_s(scope: _Scope, limit: LimitLoad, in_flight: int, now_ns: int) -> float:
    """Return when a window is full again if nothing more starts; what is under way counts as answered now."""
    if limit.level >= limit.capacity:
        return 0.0
    if scope.spec.counted_from == "start":
        return max(0.0, _seconds(scope.moved_ns + MINUTE_NS + SLACK_NS - now_ns))
    return _seconds(MINUTE_NS if in_flight else max(0, scope.moved_ns + MINUTE_NS - now_ns))


def _whole(order: Order) -> Charge:
    return Charge(requests=1, input_tokens=order.input_tokens, output_tokens_max=order.output_tokens_max)


def _observation(seen: LimitObservation) -> Observation:
    return Observation(
        name=_NAME_OF_SCOPE[seen.scope],
        limit=seen.limit,
        remaining=seen.remaining,
        reset_ns=None if seen.reset_s is None else int(seen.reset_s * SECOND_NS),
    )


def _seconds(duration_ns: int) -> float:
    return duration_ns / SECOND_NS

"""Which models may serve a call, best first, and which accounts each of them may use.

Pure: the configuration, what the client asked and the last known load go in, an ordered list comes out, with a reason
for everything that was left out. Chooses no account and waits for none: that is ``placement``. A call that names its
model costs a dictionary look-up; only ``auto`` looks at the load. Asked by the gateway's use cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import TypeAlias

from app.domain.accounts import ModelInfo, ModelKind, Orchestra, Provider, StructuredOutput, Tier
from app.domain.books.prices import PriceRow
from app.domain.callers import may_use
from app.domain.errors import NotFoundError, RequestError
from app.domain.gateway import AUTO, Caller, Candidate, RoutingWish
from app.domain.health import BREAKER_ERROR_RATE
from app.domain.load import LoadRow
from app.domain.outlook import Prospect, expected_finish_s, expected_start_s, prospects
from app.domain.placement import NEVER_S, PATIENCE_S
from app.domain.routed import (
    COST_PARAM,
    MODEL_PARAM,
    ORDER_PARAM,
    PROVIDERS_PARAM,
    TASK_TYPE_PARAM,
    Cause,
    Excluded,
    Group,
    Needs,
    Routed,
    call_cost_max,
    refusal,
)

GENERAL = "general"
"""The task type of calls to ``auto`` that name none and are not classified."""
SECONDS_PER_USD = 100.0
"""What a dollar weighs against waiting, where nothing else says who goes first: a cent is worth a second."""
UNKNOWN_PRICE_USD = 0.10
"""What a model of unknown price is taken to cost in that comparison, and nowhere else."""
NAMES_SHOWN_MAX = 40
NAME_CHARS_MAX = 200

PriceOf: TypeAlias = Callable[[str, str], PriceRow | None]
"""The price in force now of a model, by its public name, at a provider; None where it is unknown."""


@dataclass(frozen=True, slots=True)
class _Plain:
    """The answer to a call that names its model and wishes nothing else, with what makes it the answer."""

    routed: Routed
    kind: ModelKind
    input_tokens_max: int
    images: bool
    tools: bool

    def takes(self, needs: Needs) -> bool:
        """Return whether every candidate can serve a call with these needs."""
        return (
            needs.input_tokens <= self.input_tokens_max
            and needs.kind == self.kind
            and (self.images or not needs.images)
            and (self.tools or not needs.tools)
        )


@dataclass(frozen=True, slots=True)
class _Rules:
    """Everything that one call's candidates are measured by."""

    wish: RoutingWish
    caller: Caller
    needs: Needs
    cost_max: Decimal | None


class RoutingTable:
    """Routes calls by one configuration; build it once for each version of that.

    Args:
        orchestra: The configuration.
        price: What the books reckon with; ceilings of cost are kept by it.

    Not thread-safe in its cache of plain answers: one event loop uses it.
    """

    def __init__(self, orchestra: Orchestra, price: PriceOf) -> None:
        self._price = price
        self._models = {model.name: model for model in orchestra.models}
        self._aliases = {name: public for name, public in orchestra.aliases if public in self._models}
        # Floats are good enough to compare by; what a call may cost is reckoned in decimals.
        self._token_usd = {model.name: _token_usd(model) for model in orchestra.models}
        self._routes = {route.task_type: route for route in orchestra.routes}
        self._fallbacks = dict(orchestra.gateway.fallbacks)
        self._accounts: dict[str, list[tuple[str, str]]] = {name: [] for name in self._models}
        for account in orchestra.accounts:
            for public, _ in account.models:
                self._accounts.setdefault(public, []).append((account.name, account.provider.value))
        self._known_places = {place for pairs in self._accounts.values() for pair in pairs for place in pair}
        self._plain: dict[tuple[str, tuple[str, ...]], _Plain] = {}

    def model(self, name: str) -> ModelInfo:
        """Return what is known of a candidate; raises KeyError for a name that is not public."""
        return self._models[name]

    def provider(self, model: str, account: str) -> str:
        """Return the provider of an account that serves ``model``."""
        return dict(self._accounts[model])[account]

    def cost_max(self, candidate: Candidate, needs: Needs) -> Decimal | None:
        """Return the dearest that the call may become on any of the candidate's accounts, in USD; None if unknown."""
        info, providers = self._models[candidate.model], dict(self._accounts[candidate.model])
        dearest = Decimal(0)
        for provider in {providers[name] for name in candidate.accounts}:
            cost = call_cost_max(info, needs, self._price(info.name, provider))
            if cost is None:
                return None
            dearest = max(dearest, cost)
        return dearest

    def find(self, wanted: str) -> str | None:
        """Return the public name that ``wanted``, a public name or an alias, stands for."""
        return wanted if wanted in self._models else self._aliases.get(wanted)

    def route(
        self,
        wanted: str,
        wish: RoutingWish,
        *,
        caller: Caller,
        needs: Needs,
        rows: Sequence[LoadRow] = (),
        now_s: float | None = None,
    ) -> Routed:
        """Return who may serve the call, at least one candidate.

        Args:
            wanted: A public name, an alias, ``auto``, or nothing, which is auto.
            wish: What else the client asks.
            caller: Who asks.
            needs: What the call needs.
            rows: Last known load; looked at for ``auto`` only.
            now_s: Monotonic seconds on the clock of the rows; None takes them as if just observed.

        Raises:
            NotFoundError: nobody serves the model, or the caller may not use it.
            RequestError: what the client asks cannot be met, or a wish cannot be understood.
            CapacityError: the keys of every account that might serve are refused by their providers.
        """
        model = self.find(wanted)
        if model is not None and not (wish.providers or wish.order or wish.cost_usd_max or wish.task_type):
            plain = self._plain.get((wanted, caller.allowed_models)) or self._remember(wanted, model, caller)
            if plain is not None and plain.takes(needs):
                return plain.routed
        routed = self.survey(wanted, wish, caller=caller, needs=needs, rows=rows, now_s=now_s)
        if not routed.candidates:
            raise refusal(routed)
        return routed

    def survey(
        self,
        wanted: str,
        wish: RoutingWish,
        *,
        caller: Caller,
        needs: Needs,
        rows: Sequence[LoadRow] = (),
        now_s: float | None = None,
    ) -> Routed:
        """Return what ``route`` does, also where there is no candidate; for explanations. Raises as it does else."""
        self._check_wish(wish)
        rules = _Rules(wish, caller, needs, _ceiling(wish.cost_usd_max))
        if wanted in ("", AUTO) and wanted not in self._models:
            return self._auto(wanted, rules, rows, now_s)
        model = self.find(wanted)
        if model is None or not self._allowed(caller, wanted, model):
            raise self._unknown(wanted, caller)
        return self._named(wanted, model, rules)

    def usable(self, caller: Caller) -> list[str]:
        """Return the public names that ``caller`` may use, in configured order."""
        return [name for name in self._models if may_use(caller, name)]

    # How a call that names its model is routed.

    def _named(self, wanted: str, model: str, rules: _Rules) -> Routed:
        excluded: list[Excluded] = []
        candidates: list[Candidate] = []
        groups: list[Group] = []
        for name in (model, *self._fallbacks.get(model, ())):
            candidate = self._admit(name, rules, excluded, asked=name == model)
            if candidate is not None:
                candidates.append(candidate)
                groups.append("named" if name == model else "fallback of the model")
        return Routed(
            wanted=wanted,
            candidates=tuple(candidates),
            groups=tuple(groups),
            excluded=tuple(excluded),
            ordered=bool(rules.wish.order),
        )

    def _remember(self, wanted: str, model: str, caller: Caller) -> _Plain | None:
        """Keep the answer for this name and these rights, of which there are as many as configured keys."""
        if not self._allowed(caller, wanted, model):
            return None
        nothing = Needs(input_tokens=0, kind=self._models[model].kind)
        routed = self._named(wanted, model, _Rules(RoutingWish(), caller, nothing, None))
        infos = [self._models[candidate.model] for candidate in routed.candidates]
        if not infos:
            return None
        plain = _Plain(
            routed=routed,
            kind=infos[0].kind,
            input_tokens_max=min(info.context_tokens for info in infos),
            images=all(info.images is not False for info in infos),
            tools=all(info.tools is not False for info in infos),
        )
        self._plain[wanted, caller.allowed_models] = plain
        return plain

    # How a call to auto is routed.

    def _auto(self, wanted: str, rules: _Rules, rows: Sequence[LoadRow], now_s: float | None) -> Routed:
        task_type = rules.wish.task_type or GENERAL
        route = self._routes.get(task_type)
        primary = route.primary if route is not None else ()
        fallback = tuple(name for name in route.fallback if name not in primary) if route is not None else ()
        others = tuple(name for name in self._models if name not in primary and name not in fallback)
        by_model: dict[str, dict[str, LoadRow]] = {}
        for row in rows:
            by_model.setdefault(row.model, {})[row.account] = row
        foreseen = prospects(
            {name: tuple(known.values()) for name, known in by_model.items()}, rules.needs.output_tokens_max
        )
        excluded: list[Excluded] = []
        ranked: list[tuple[tuple[float, ...], Candidate, Group]] = []
        groups: tuple[tuple[Group, tuple[str, ...]], ...] = (
            ("primary", primary),
            ("fallback", fallback),
            ("any other", others),
        )
        for rank, (group, names) in enumerate(groups):
            for position, name in enumerate(names):
                if name not in self._models or self._models[name].kind != rules.needs.kind:
                    continue
                known = by_model.get(name, {})
                candidate = self._admit(name, rules, excluded, known)
                if candidate is None:
                    continue
                score: float = position
                if group == "any other":
                    score = self._score(candidate, rules, known, foreseen.get(name), now_s)
                key = (
                    self._wished(candidate, rules.wish),
                    not _fits(self._models[name], rules.needs),
                    _late(candidate, known, rules.needs, now_s),
                    rank,
                    score,
                )
                ranked.append((key, candidate, group))
        ranked.sort(key=lambda entry: entry[0])
        return Routed(
            wanted=wanted,
            task_type=task_type,
            candidates=tuple(candidate for _, candidate, _ in ranked),
            groups=tuple(group for _, _, group in ranked),
            excluded=tuple(excluded),
            ordered=bool(rules.wish.order),
        )

    def _score(
        self,
        candidate: Candidate,
        rules: _Rules,
        known: Mapping[str, LoadRow],
        prospect: Prospect | None,
        now_s: float | None,
    ) -> float:
        """Return what a candidate that no route names costs in time and money, in seconds; less is better."""
        info = self._models[candidate.model]
        tiny_s = NEVER_S if info.tier is Tier.TINY else 0.0
        finishes = [
            expected_finish_s(
                known[name], rules.needs.input_tokens, rules.needs.output_tokens_max, now_s, prospect=prospect
            )
            for name in candidate.accounts
            if name in known
        ]
        output = rules.needs.output_tokens_max or info.output_tokens_max
        price = self._token_usd[candidate.model]
        usd = UNKNOWN_PRICE_USD if price is None else rules.needs.input_tokens * price[0] + output * price[1]
        return tiny_s + min(finishes, default=0.0) + SECONDS_PER_USD * usd

    def _wished(self, candidate: Candidate, wish: RoutingWish) -> int:
        """Return how early the client's order names one of the candidate's accounts."""
        if not wish.order:
            return 0
        providers = dict(self._accounts[candidate.model])
        return min(_place_in(wish.order, name, providers[name]) for name in candidate.accounts)

    # What both have in common.

    def _allowed(self, caller: Caller, wanted: str, model: str) -> bool:
        return may_use(caller, model) or wanted in caller.allowed_models

    def _admit(
        self,
        name: str,
        rules: _Rules,
        excluded: list[Excluded],
        known: Mapping[str, LoadRow] | None = None,
        *,
        asked: bool = False,
    ) -> Candidate | None:
        """Return the model as a candidate, or None; what is left out is added to ``excluded``."""
        info = self._models.get(name)
        if info is None:
            return None
        against: tuple[Cause, str] | None = _against(info, rules)
        # Who may use a model under its alias may use it: that was checked where it was asked for.
        if not asked and not may_use(rules.caller, name):
            against = "not allowed", f"{rules.caller.name!r} may not use it"
        if against is not None:
            excluded.append(Excluded(model=name, cause=against[0], reason=against[1]))
            return None
        accounts: list[tuple[str, str]] = []
        for account, provider in self._accounts[name]:
            row = known.get(account) if known else None
            if rules.wish.providers and provider not in rules.wish.providers:
                reason = f"its provider {provider!r} is not among those the client allows"
                excluded.append(Excluded(model=name, account=account, cause="provider", reason=reason))
            elif row is not None and row.state == "dead":
                reason = "its key is refused by the provider until a person acts"
                excluded.append(Excluded(model=name, account=account, cause="dead key", reason=reason))
            elif (dear := self._too_dear(info, provider, rules)) is not None:
                excluded.append(Excluded(model=name, account=account, cause="cost", reason=dear))
            else:
                accounts.append((account, provider))
        if not accounts:
            return None
        if rules.wish.order:
            accounts.sort(key=lambda pair: _place_in(rules.wish.order, *pair))
        return Candidate(model=name, accounts=tuple(account for account, _ in accounts))

    def _too_dear(self, info: ModelInfo, provider: str, rules: _Rules) -> str | None:
        """Return why the client's ceiling of cost keeps the model at that provider out, if it does."""
        if rules.cost_max is None:
            return None
        cost = call_cost_max(info, rules.needs, self._price(info.name, provider))
        if cost is None:
            return "its price is unknown, so no ceiling can be kept"
        return f"it may cost {cost:f} USD, the ceiling is {rules.cost_max:f}" if cost > rules.cost_max else None

    def _check_wish(self, wish: RoutingWish) -> None:
        if wish.task_type is not None and wish.task_type not in self._routes:
            raise RequestError(
                f"unknown task type {wish.task_type[:NAME_CHARS_MAX]!r}",
                param=TASK_TYPE_PARAM,
                remedy=f"use one of {', '.join(self._routes)}, or leave it out",
            )
        providers = {provider.value for provider in Provider}
        for name in wish.providers:
            if name not in providers:
                raise RequestError(
                    f"unknown provider {name[:NAME_CHARS_MAX]!r}",
                    param=PROVIDERS_PARAM,
                    remedy=f"use {', '.join(sorted(providers))}",
                )
        for name in wish.order:
            if name not in providers and name not in self._known_places:
                raise RequestError(
                    f"neither a provider nor an account is called {name[:NAME_CHARS_MAX]!r}",
                    param=ORDER_PARAM,
                    remedy=f"name providers ({', '.join(sorted(providers))}) or accounts",
                )

    def _unknown(self, wanted: str, caller: Caller) -> NotFoundError:
        names = self.usable(caller)
        shown = ", ".join(names[:NAMES_SHOWN_MAX]) + (", …" if len(names) > NAMES_SHOWN_MAX else "")
        close: list[str] = []
        if len(wanted) <= NAME_CHARS_MAX:
            aliases = [name for name, model in self._aliases.items() if may_use(caller, model)]
            close = get_close_matches(wanted, [*names, *aliases], n=1)
        likely = f"did you mean {close[0]!r}? " if close else ""
        return NotFoundError(
            f"the model {wanted[:NAME_CHARS_MAX]!r} does not exist or you have no access to it; "
            f"{likely}there is: {shown or 'none'}",
            param=MODEL_PARAM,
            remedy=f"Use one of these, or {AUTO!r}; GET /v1/models describes them.",
        )


def _token_usd(info: ModelInfo) -> tuple[float, float] | None:
    """Return the prices of one token of input and of output; None where one is unknown."""
    if info.input_usd_per_mtok is None or info.output_usd_per_mtok is None:
        return None
    return float(info.input_usd_per_mtok) / 1e6, float(info.output_usd_per_mtok) / 1e6


def _against(info: ModelInfo, rules: _Rules) -> tuple[Cause, str] | None:
    """Return why the model cannot serve the call, if it cannot."""
    needs = rules.needs
    if info.kind != needs.kind:
        return "kind", f"it is a model for {info.kind}, not for {needs.kind}"
    if needs.input_tokens > info.context_tokens:
        return "context", f"the request of about {needs.input_tokens} tokens exceeds its {info.context_tokens}"
    if needs.images and info.images is False:
        return "images", "it takes no images"
    if needs.tools and info.tools is False:
        return "tools", "it calls no functions"
    return None


def _fits(info: ModelInfo, needs: Needs) -> bool:
    """Return whether the model certainly serves the call, as far as we know."""
    output = needs.output_tokens_max or 1
    return (
        needs.input_tokens + output <= info.context_tokens
        and output <= info.output_tokens_max
        and (not needs.images or info.images is True)
        and (not needs.tools or info.tools is True)
        and (not needs.schema or info.structured is StructuredOutput.SCHEMA)
    )


def _late(candidate: Candidate, known: Mapping[str, LoadRow], needs: Needs, now_s: float | None) -> bool:
    """Return whether none of the accounts is steady and can start soon; one of which nothing is known can."""
    for name in candidate.accounts:
        row = known.get(name)
        if row is None:
            return False
        if row.error_rate < BREAKER_ERROR_RATE:
            start_s = expected_start_s(row, needs.input_tokens, needs.output_tokens_max, now_s)
            if start_s <= PATIENCE_S:
                return False
    return True


def _place_in(order: Iterable[str], account: str, provider: str) -> int:
    names = tuple(order)
    return next((index for index, name in enumerate(names) if name in (account, provider)), len(names))


def _ceiling(text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        ceiling = Decimal(text)
    except InvalidOperation:
        ceiling = Decimal("NaN")
    if not ceiling.is_finite() or ceiling < 0:
        raise RequestError(
            f"{text[:NAME_CHARS_MAX]!r} is not a sum of money",
            param=COST_PARAM,
            remedy="Write US dollars as a decimal number, for instance 0.05.",
        )
    return ceiling

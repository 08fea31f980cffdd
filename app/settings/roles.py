"""Who plays which part where the configuration leaves it open: coordinator, judge, clarifier, transcriber, routes.

Pure choices over models that accounts serve. The embedded model (tier tiny) takes a part only where there is no other:
its judgements were measured to be noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from app.domain.accounts import CoordinatorSpec, ModelInfo, RouteSpec, StructuredOutput, Tier
from app.settings.model_table import price_order
from app.settings.schema import CoordinatorSection, RouteSection

_STRENGTH = {tier: rank for rank, tier in enumerate(Tier)}
_STRONG_FIRST = (Tier.STRONG, Tier.STANDARD, Tier.CHEAP, Tier.TINY)
_MIDDLE_FIRST = (Tier.STANDARD, Tier.STRONG, Tier.CHEAP, Tier.TINY)
_CHEAP_FIRST = (Tier.CHEAP, Tier.STANDARD, Tier.STRONG, Tier.TINY)

DEFAULT_TIERS: Mapping[str, tuple[Tier, ...]] = {
    "general": _MIDDLE_FIRST,
    "reasoning": _STRONG_FIRST,
    "writing": _MIDDLE_FIRST,
    "research": _MIDDLE_FIRST,
    "code_generation": _STRONG_FIRST,
    "data_extraction": _CHEAP_FIRST,
    "translation": _CHEAP_FIRST,
    "summarisation": _CHEAP_FIRST,
    "financial_analysis": _STRONG_FIRST,
}
"""Task types there always are, and the order in which tiers take them."""

Find = Callable[[str], str | None]
"""Returns the public name under which a model or alias is served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """Who plays, and what a user should know about the choice."""

    coordinator: CoordinatorSpec
    routes: tuple[RouteSpec, ...]
    notes: tuple[str, ...]


def cast_roles(
    models: Sequence[ModelInfo], section: CoordinatorSection, routing: Mapping[str, RouteSection], find: Find
) -> Cast:
    """Return who plays which part.

    Args:
        models: Every served model, in configured order; not empty.
        section: The configuration's wishes; each named model but ``model`` is served, as ``references`` has checked.
        routing: Routes that replace the defaults; their models are served.
        find: Resolves aliases.
    """
    notes: list[str] = []
    by_name = {model.name: model for model in models}
    found = find(section.model)
    chief = by_name[found] if found else max(models, key=_strength)
    if found is None and chief.tier is not Tier.TINY:
        kind = "the strongest reasoning model configured" if chief.reasoning else "the strongest model configured"
        notes.append(f"No account serves {section.model!r}: {chief.name!r}, {kind}, coordinates instead.")
    able = [model for model in models if model.tier is not Tier.TINY] if chief.tier is not Tier.TINY else [chief]

    def named(wish: str | None, otherwise: ModelInfo) -> str:
        resolved = find(wish) if wish is not None else None
        return resolved or otherwise.name

    strangers = [model for model in able if model.family != chief.family]
    cheap = [model for model in able if model.tier is Tier.CHEAP]
    strict = [model for model in able if model.structured is StructuredOutput.SCHEMA]
    coordinator = CoordinatorSpec(
        model=chief.name,
        requested_model=section.model,
        judge_model=named(section.judge_model, max(strangers, key=_judging, default=chief)),
        clarify_model=named(section.clarify_model, min(cheap, key=price_order, default=chief)),
        transcribe_model=named(section.transcribe_model, min(strict, key=price_order, default=chief)),
        tasks_max=section.max_tasks,
        depth_max=section.max_depth,
        redo_max=section.max_redo,
        clarify_threshold=section.clarify_threshold,
        retry_share=section.retry_share,
        on_unknown=section.on_unknown,
    )
    return Cast(coordinator=coordinator, routes=_routes(models, routing, find), notes=tuple(notes))


def _strength(model: ModelInfo) -> tuple[bool, bool, int, Decimal]:
    """Sort by: can be trusted at all, reasons, tier, price (what is dearer at the same tier is usually stronger)."""
    price = price_order(model)
    return (
        model.tier is not Tier.TINY,
        model.reasoning,
        _STRENGTH[model.tier],
        price if price.is_finite() else Decimal(-1),
    )


def _judging(model: ModelInfo) -> tuple[int, bool, Decimal]:
    """Sort judges by: tier, enforces schemas, cheapness; every result is judged, so price counts."""
    return _STRENGTH[model.tier], model.structured is StructuredOutput.SCHEMA, -price_order(model)


def _routes(models: Sequence[ModelInfo], routing: Mapping[str, RouteSection], find: Find) -> tuple[RouteSpec, ...]:
    routes = {task_type: _default_route(task_type, models, tiers) for task_type, tiers in DEFAULT_TIERS.items()}
    for task_type, section in routing.items():
        primary = _resolved(section.primary, find)
        fallback = [name for name in _resolved(section.fallback, find) if name not in primary]
        routes[task_type] = RouteSpec(
            task_type=task_type, primary=tuple(primary), fallback=tuple(fallback), on_unknown=section.on_unknown
        )
    return tuple(routes.values())


def _resolved(names: Sequence[str], find: Find) -> list[str]:
    found = [find(name) for name in names]
    return list(dict.fromkeys(name for name in found if name is not None))


def _default_route(task_type: str, models: Sequence[ModelInfo], tiers: Sequence[Tier]) -> RouteSpec:
    """Return the route by tiers: the first tier that anybody has is primary, within a tier the cheapest goes first."""
    ordered = sorted(models, key=lambda model: (tiers.index(model.tier), price_order(model)))
    first = ordered[0].tier
    return RouteSpec(
        task_type=task_type,
        primary=tuple(model.name for model in ordered if model.tier is first),
        fallback=tuple(model.name for model in ordered if model.tier is not first),
    )

"""Which models may play which role: the coordinator's for the stages, the route's for the tasks. Pure."""

from __future__ import annotations

from app.domain.accounts import ModelInfo, Orchestra, Tier
from app.domain.plan import PlannedTask

GENERAL = "general"
_ORDER = {tier: number for number, tier in enumerate(Tier)}


def task_types(orchestra: Orchestra) -> tuple[str, ...]:
    """Return the task types that a plan may use; ``general`` always is one."""
    named = tuple(dict.fromkeys(route.task_type for route in orchestra.routes))
    return named if GENERAL in named else (GENERAL, *named)


def worker_models(orchestra: Orchestra, task: PlannedTask) -> tuple[str, ...]:
    """Return the models that may work on ``task``, best first; never empty.

    Models below the task's floor come last rather than not at all: a weaker answer, judged, is better than none.
    """
    routes = {route.task_type: route for route in orchestra.routes}
    route = routes.get(task.task_type) or routes.get(GENERAL)
    known = {model.name: model for model in orchestra.models}
    named = [name for name in (*route.primary, *route.fallback) if name in known] if route else []
    named = named or [orchestra.coordinator.model]
    able = [name for name in named if _ORDER[known[name].tier] >= _ORDER[task.min_tier]]
    return tuple(dict.fromkeys([*able, *named]))


def stage_models(orchestra: Orchestra, preferred: str) -> tuple[str, ...]:
    """Return ``preferred``, then the coordinator's model, which must be able to do everything.

    The embedded model stands in for no larger one, and none of its size is asked while the coordinator is larger.
    """
    coordinator = orchestra.coordinator.model
    if orchestra.model(preferred).tier is Tier.TINY or orchestra.model(coordinator).tier is Tier.TINY:
        return (coordinator,) if orchestra.model(preferred).tier is Tier.TINY else (preferred,)
    return tuple(dict.fromkeys((preferred, coordinator)))


def redo_models(orchestra: Orchestra, models: tuple[str, ...], attempt: int) -> tuple[str, ...]:
    """Return ``models`` in the order for that attempt: from the third on another or a stronger family first."""
    if attempt < 3 or len(models) < 2:
        return models
    first = orchestra.model(models[0])

    def changed(name: str) -> tuple[bool, int]:
        model = orchestra.model(name)
        return model.family == first.family, -_ORDER[model.tier]

    return tuple(sorted(models, key=changed))


def transcriber(orchestra: Orchestra) -> ModelInfo:
    """Return the model that writes strict JSON from another's text; the embedded one only where all is embedded."""
    coordinator = orchestra.model(orchestra.coordinator.model)
    chosen = orchestra.model(orchestra.coordinator.transcribe_model)
    return coordinator if chosen.tier is Tier.TINY and coordinator.tier is not Tier.TINY else chosen

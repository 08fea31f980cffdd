"""The JSON schema of a plan, and the reading of a value of that schema into drafts of tasks.

The strict form is in the common subset of all providers (prompts.md section 6): every property required, closed
objects, short enums. The embedded model gets a tighter grammar of its own, from ``tiny``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, cast, get_args

from app.domain.accounts import Tier
from app.domain.chat import Json
from app.domain.plan import (
    CheckKind,
    Criterion,
    Dependency,
    ExpectedOutput,
    MergePlan,
    OutputFormat,
    Plan,
    PlannedTask,
)

MergeStrategy: TypeAlias = Literal["concat", "synthesise", "vote", "pick_best", "code"]
Effort: TypeAlias = Literal["S", "M", "L"]

MERGE_STRATEGIES = get_args(MergeStrategy)
TIERS = (Tier.CHEAP.value, Tier.STANDARD.value, Tier.STRONG.value)
EFFORTS = get_args(Effort)

_STRING: Json = {"type": "string"}
_STRINGS: Json = {"type": "array", "items": {"type": "string"}}


def closed_object(properties: Mapping[str, Json]) -> dict[str, Json]:
    """Return the schema of an object with exactly these properties, all required, in this order."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def array_of(items: Json) -> dict[str, Json]:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def one_of(choices: Sequence[str]) -> dict[str, Json]:
    """Return the schema of one of these words."""
    return {"type": "string", "enum": list(choices)}


def plan_schema(task_types: Sequence[str]) -> dict[str, Json]:
    """Return the strict schema of a plan whose tasks have one of ``task_types``."""
    criterion = closed_object(
        {
            "id": _STRING,
            "statement": _STRING,
            "check": one_of(get_args(CheckKind)),
            "check_arg": {"type": ["string", "null"]},
            "must": {"type": "boolean"},
        }
    )
    task = closed_object(
        {
            "id": _STRING,
            "title": _STRING,
            "instruction": _STRING,
            "out_of_scope": _STRING,
            "depends_on": array_of(closed_object({"task_id": _STRING, "uses": _STRING})),
            "capability": one_of(task_types),
            "min_tier": one_of(TIERS),
            "expected_output": closed_object(
                {
                    "format": one_of(get_args(OutputFormat)),
                    "description": _STRING,
                    "max_words": {"type": ["integer", "null"]},
                }
            ),
            "acceptance_criteria": array_of(criterion),
            "effort": one_of(EFFORTS),
            "side_effects": {"type": "boolean"},
        }
    )
    return closed_object(
        {
            "goal_restated": _STRING,
            "assumptions": _STRINGS,
            "decomposition_reason": _STRING,
            "tasks": array_of(task),
            "merge": closed_object({"strategy": one_of(MERGE_STRATEGIES), "instruction": _STRING, "covers": _STRINGS}),
        }
    )


def plan_of(value: Json) -> Plan:
    """Return the plan that a value of ``plan_schema`` describes, as it came: not yet validated."""
    fields = cast("dict[str, Json]", value)
    merge = _object(fields["merge"])
    return Plan(
        goal=_text(fields["goal_restated"]),
        tasks=tuple(_task(_object(item)) for item in _list(fields["tasks"])),
        merge=MergePlan(
            strategy=cast("MergeStrategy", merge["strategy"]),
            instruction=_text(merge["instruction"]),
            covers=tuple(_text(item) for item in _list(merge["covers"])),
        ),
        assumptions=tuple(_text(item) for item in _list(fields["assumptions"])),
        reason=_text(fields["decomposition_reason"]),
    )


def _task(fields: dict[str, Json]) -> PlannedTask:
    expected = _object(fields["expected_output"])
    max_words = expected["max_words"]
    return PlannedTask(
        id=_text(fields["id"]).strip(),
        title=_text(fields["title"]).strip(),
        instruction=_text(fields["instruction"]).strip(),
        out_of_scope=_text(fields["out_of_scope"]).strip(),
        depends_on=tuple(_dependency(_object(item)) for item in _list(fields["depends_on"])),
        task_type=_text(fields["capability"]),
        min_tier=Tier(_text(fields["min_tier"])),
        expected_output=ExpectedOutput(
            format=cast("OutputFormat", expected["format"]),
            description=_text(expected["description"]),
            max_words=max_words if isinstance(max_words, int) and max_words > 0 else None,
        ),
        criteria=tuple(_criterion(_object(item)) for item in _list(fields["acceptance_criteria"])),
        effort=cast("Effort", fields["effort"]),
        side_effects=fields["side_effects"] is True,
    )


def _dependency(fields: dict[str, Json]) -> Dependency:
    return Dependency(task_id=_text(fields["task_id"]).strip(), uses=_text(fields["uses"]).strip())


def _criterion(fields: dict[str, Json]) -> Criterion:
    argument = fields["check_arg"]
    return Criterion(
        id=_text(fields["id"]).strip(),
        statement=_text(fields["statement"]).strip(),
        check=cast("CheckKind", fields["check"]),
        check_arg=argument if isinstance(argument, str) and argument else None,
        must=fields["must"] is True,
    )


def _object(value: Json) -> dict[str, Json]:
    return cast("dict[str, Json]", value)


def _list(value: Json) -> list[Json]:
    return cast("list[Json]", value)


def _text(value: Json) -> str:
    return cast("str", value)

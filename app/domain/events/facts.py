"""What is told of facts that the journal and the books write: a type, a time and values, without words of models.

Pure; called by the store inside the transaction of the fact. Text that people or models wrote (requests, answers,
feedback, messages of errors) is left where it is: events name things, they do not quote them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from app.domain.books.budgets import OwnerKind, Owners
from app.domain.books.entries import Answer, Command, Ending, Expire, Hold, Refusal, SoftAlert, UsageEntry
from app.domain.books.money import nano_from_usd
from app.domain.chat import Json
from app.domain.events.fields import PROVIDERS
from app.domain.events.schema import TYPE
from app.domain.run import RunEvent

if TYPE_CHECKING:
    from app.domain.books.balances import BookedEntry
    from app.domain.books.corrections import Corrected, HandCorrection
    from app.domain.books.unknown import Settlement

Told: TypeAlias = tuple[str, int, Mapping[str, object]]
"""(event type, nanoseconds since 1970, values by short name)."""

_OUTCOMES = {
    Ending.ANSWERED: "success",
    Ending.CACHE_HIT: "success",
    Ending.HEDGE: "success",
    Ending.FAILED: "failure",
}
"""Of the other endings nobody knows."""
_NEXT = {"elsewhere": "failover", "gives up": "gave up"}
"""What follows a failed call."""
_ENDED_WELL = {"completed": "success", "partial": "success", "failed": "failure"}


def entries_told(booked: Iterable[BookedEntry]) -> Iterator[Told]:
    """Yield a posting for every entry, and for every correction of one."""
    for one in booked:
        entry = one.entry
        if one.corrects is None:
            yield "call.finished", _ns(entry.at_s), _of_entry(entry, one.hold_id)
        else:
            yield "ledger.corrected", _ns(one.booked_s), _of_correction(one.row_id, one.corrects, entry)


def answers_told(commands: Sequence[Command], answers: Sequence[Answer]) -> Iterator[Told]:
    """Yield what commands led to beside entries: budgets near their end or at it, holders that fell silent.

    A hold for calls to come that finds no room is nobody's refusal.
    """
    for command, answer in zip(commands, answers, strict=True):
        for alert in answer.alerts:
            yield "budget.alert", _ns(command.at_s), _of_alert(alert)
        if isinstance(command, Hold) and answer.refusal is not None and not command.spare:
            yield "budget.refused", _ns(command.at_s), _of_refusal(answer.refusal, command.owners)
        if isinstance(command, Expire) and answer.count:
            yield "ledger.unknown", _ns(command.at_s), {"holds": answer.count, "reason": "holder silent"}


def settled_told(settlement: Settlement, entry: UsageEntry, at_s: float) -> Told:
    """Return that a person settled a hold of which nobody knew: who, and how; their words stay in the books."""
    values = {
        "operator": settlement.by,
        "subject": "an unknown hold",
        "reason": settlement.how,
        "outcome": "success",
        "hold_id": settlement.hold_id,
        "entry_id": entry.entry_id,
        "cost_nano": entry.cost_nano,
    }
    return "operator.acted", _ns(at_s), values


def corrected_told(correction: HandCorrection, done: Corrected, at_s: float) -> Told:
    """Return that a person corrected an entry: who, and to which cost; their words stay in the books."""
    values = {
        "operator": correction.by,
        "subject": "an entry",
        "reason": "figures",
        "outcome": "success",
        "entry_id": done.entry_id,
        "cost_nano": done.after.cost_nano,
    }
    return "operator.acted", _ns(at_s), values


def verified_told(differences: int, at_s: float) -> Told:
    """Return that the books were added up again, and how many sums differ."""
    outcome = "failure" if differences else "success"
    return "ledger.verified", _ns(at_s), {"difference": differences, "outcome": outcome}


def run_events_told(events: Iterable[RunEvent]) -> Iterator[Told]:
    """Yield the lines of runs that are events."""
    for event in events:
        declared = TYPE.get(event.kind)
        if declared is None:
            continue
        values = {name: value for name, value in _of_line(event).items() if name in declared.fields}
        yield event.kind, _ns(event.at_s), {**values, "trace_id": event.trace_id or None}


def _of_entry(entry: UsageEntry, hold_id: str | None) -> dict[str, object]:
    owners, usage = entry.owners, entry.usage
    return {
        **_who(owners),
        "run_id": owners.run or None,
        "conversation_id": owners.run or None,
        "task_id": entry.task_id or None,
        "task_type": entry.task_type or None,
        "provider": PROVIDERS.get(entry.provider, entry.provider) or None,
        "account": entry.account or None,
        "model": entry.model or None,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "usage_source": usage.source,
        "cost_nano": entry.cost_nano,
        "savings_nano": entry.savings_nano or None,
        "price_id": entry.price_id,
        "ending": entry.ending.value,
        "outcome": _OUTCOMES.get(entry.ending, "unknown"),
        # What a person said of a hold stands there too, and no word of theirs is told.
        "error_type": (entry.error_kind or None) if entry.ending is not Ending.SETTLED else None,
        "entry_id": entry.entry_id,
        "hold_id": hold_id,
        "duration_ns": _ns(entry.duration_s),
        "ttft_s": entry.ttft_s,
        "request_id": entry.request_id or None,
        "trace_id": entry.trace_id or None,
    }


def _of_correction(correction_id: str, corrected: str, entry: UsageEntry) -> dict[str, object]:
    usage = entry.usage
    return {
        "correction_id": correction_id,
        "entry_id": corrected,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "usage_source": usage.source,
        "cost_nano": entry.cost_nano,
        "price_id": entry.price_id,
    }


def _of_alert(alert: SoftAlert) -> dict[str, object]:
    owner = alert.owner_kind.value
    return {
        "user": alert.owner_name if alert.owner_kind is OwnerKind.USER else None,
        "budget_id": alert.budget_id,
        "budget_owner": owner if alert.owner_kind is OwnerKind.TENANT else f"{owner}:{alert.owner_name}",
        "budget_window": alert.window.value,
        "budget_unit": alert.ledger.value,
        "budget_limit": alert.limit,
        "budget_spent": alert.spent,
    }


def _of_refusal(refusal: Refusal, owners: Owners) -> dict[str, object]:
    owner = refusal.owner_kind.value
    return {
        **_who(owners),
        "run_id": owners.run or None,
        "budget_id": refusal.budget_id,
        "budget_owner": owner if refusal.owner_kind is OwnerKind.TENANT else f"{owner}:{refusal.owner_name}",
        "budget_window": refusal.window.value,
        "budget_unit": refusal.ledger.value,
        "budget_limit": refusal.limit,
        "reason": refusal.reason,
    }


def _of_line(event: RunEvent) -> dict[str, object]:
    """Return everything that a run's line says in words of ours and in numbers."""
    said = event.payload
    status, stage, passed = said.get("status"), said.get("stage"), said.get("passed")
    estimate, wait_s = said.get("estimate"), said.get("retry_after_s")
    values: dict[str, object] = {
        **_who(event.buyers),
        "run_id": event.run_id,
        "conversation_id": event.run_id,
        "sequence": event.seq,
        "task_id": event.task_id,
        "attempt": event.attempt,
        "run_status": status,
        "task_status": status,
        "task_type": _word(said.get("task_type")),
        "stage": stage,
        "account": _word(said.get("account")),
        "model": _word(said.get("model")),
        "produced_by": _word(said.get("produced_by")),
        "verdict": None if passed is None else ("accepted" if passed else "redo"),
        "forked_from": _word(said.get("run_id")),
        "tasks": _count(said.get("tasks") or said.get("reused")),
        "questions": _count(said.get("questions") or said.get("answers")),
        "makespan_s": said.get("makespan_s"),
        "lower_bound_s": (estimate if isinstance(estimate, dict) else said).get("lower_bound_s"),
        "outcome": _outcome(status, said),
        "error_type": _word(said.get("kind")),
        "reason": _word(said.get("reason"))
        if event.kind == "call.waiting"
        else _NEXT.get(_word(said.get("next")) or ""),
        "retry_after_ms": int(wait_s * 1e3) if isinstance(wait_s, int | float) else None,
    }
    seconds, cost, usage = said.get("seconds"), said.get("cost_usd"), said.get("usage")
    if isinstance(seconds, int | float):
        values["duration_ns"] = _ns(seconds)
    if isinstance(cost, str):
        values["cost_nano"] = nano_from_usd(cost)
    if isinstance(usage, dict):
        values |= {name: usage.get(name) for name in ("input_tokens", "output_tokens")}
    return values


def _who(owners: Owners) -> dict[str, object]:
    return {
        "tenant": owners.tenant or None,
        "team": owners.team or None,
        "user": owners.user or None,
        "caller": owners.key or None,
    }


def _outcome(status: Json, said: Mapping[str, Json]) -> str | None:
    if isinstance(status, str):
        return _ENDED_WELL.get(status, "unknown")
    return None if "error" not in said else ("success" if said["error"] is None else "failure")


def _word(value: Json) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(value: Json) -> int | None:
    return len(value) if isinstance(value, list | dict) else None


def _ns(seconds: float) -> int:
    return int(seconds * 1_000_000_000)

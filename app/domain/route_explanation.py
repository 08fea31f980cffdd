"""Says who would serve a call and why: the answer of ``POST /v1/route/explain``, in plain JSON.

Words what ``routing`` decided and what ``outlook`` expects of each account; decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.domain.chat import Json
from app.domain.load import LoadRow
from app.domain.outlook import Prospect, expected_finish_s, expected_start_s, prospects
from app.domain.placement import NEVER_S
from app.domain.routed import Needs, Routed
from app.domain.routing import RoutingTable


def explain(
    table: RoutingTable, routed: Routed, rows: Sequence[LoadRow], needs: Needs, *, now_s: float | None = None
) -> dict[str, Json]:
    """Return the candidates in order with what speaks for each, and everything left out with its reason.

    Args:
        table: What routed the call.
        routed: The answer of its ``survey``.
        rows: Last known load.
        needs: What the call needs.
        now_s: Monotonic seconds on the clock of the rows; None takes them as if just observed.
    """
    load: dict[str, dict[str, LoadRow]] = {}
    for row in rows:
        load.setdefault(row.model, {})[row.account] = row
    foreseen = prospects({name: tuple(known.values()) for name, known in load.items()}, needs.output_tokens_max)
    candidates = [
        _candidate(table, routed, index, _Load(load.get(name, {}), foreseen.get(name), now_s), needs)
        for index, name in enumerate(candidate.model for candidate in routed.candidates)
    ]
    return {
        "model": routed.wanted,
        "task_type": routed.task_type,
        "chosen": _chosen(candidates),
        "candidates": list(candidates),
        "excluded": [
            {"model": item.model, "account": item.account, "cause": item.cause, "reason": item.reason}
            for item in routed.excluded
        ],
    }


@dataclass(frozen=True, slots=True)
class _Load:
    """What is known of one model."""

    rows: Mapping[str, LoadRow]
    """By account."""
    prospect: Prospect | None
    now_s: float | None


def _candidate(table: RoutingTable, routed: Routed, index: int, load: _Load, needs: Needs) -> dict[str, Json]:
    candidate = routed.candidates[index]
    info = table.model(candidate.model)
    cost = table.cost_max(candidate, needs)
    accounts = [_account(name, table.provider(candidate.model, name), load, needs) for name in candidate.accounts]
    if not routed.ordered:
        accounts.sort(key=_by_finish)
    return {
        "model": candidate.model,
        "because": routed.groups[index],
        "cost_usd_max": None if cost is None else format(cost, "f"),
        "input_usd_per_mtok": info.input_usd_per_mtok,
        "output_usd_per_mtok": info.output_usd_per_mtok,
        "context_tokens": info.context_tokens,
        "context_left_tokens": info.context_tokens - needs.input_tokens - (needs.output_tokens_max or 0),
        "enforces_schema": info.structured.value == "schema",
        "accounts": list(accounts),
    }


def _account(name: str, provider: str, load: _Load, needs: Needs) -> dict[str, Json]:
    row, now_s = load.rows.get(name), load.now_s
    if row is None:
        return {"account": name, "provider": provider, "health": "unknown"}
    start_s = expected_start_s(row, needs.input_tokens, needs.output_tokens_max, now_s)
    finish_s = expected_finish_s(row, needs.input_tokens, needs.output_tokens_max, now_s, prospect=load.prospect)
    return {
        "account": name,
        "provider": provider,
        "health": row.state,
        "in_flight": row.in_flight,
        "concurrency": row.concurrency,
        "error_rate": round(row.error_rate, 4),
        "latency_s": round(row.call_s, 3) if row.measured else None,
        "ttft_s": None if row.ttft_s is None else round(row.ttft_s, 3),
        "tokens_per_s": None if row.tokens_per_s is None else round(row.tokens_per_s, 1),
        "expected_start_s": None if start_s >= NEVER_S else round(start_s, 3),
        "expected_finish_s": None if finish_s >= NEVER_S else round(finish_s, 3),
    }


def _by_finish(account: Mapping[str, Json]) -> float:
    """Sort by expected finish: first those that finish, then those of which nothing is known, then the others."""
    finish_s = account.get("expected_finish_s", NEVER_S / 2)
    return float(finish_s) if isinstance(finish_s, int | float) else NEVER_S


def _chosen(candidates: Sequence[Mapping[str, Json]]) -> dict[str, Json] | None:
    """Return the first account that can start, of the first model that has one."""
    for candidate in candidates:
        accounts = candidate["accounts"]
        assert isinstance(accounts, list), "made above"
        for account in accounts:
            assert isinstance(account, dict), "made above"
            if account["health"] == "unknown" or account.get("expected_start_s") is not None:
                return {"model": candidate["model"], "account": account["account"], "provider": account["provider"]}
    return None

"""What the routes of the books answer, as pydantic models for the documentation; written by ``usage_wire``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class CostFigures(BaseModel):
    """Sums of calls and money."""

    calls: int
    unpriced: int = Field(description="Of the calls, those whose cost is unknown: `cost_usd` is too low by them.")
    input_tokens: int
    output_tokens: int
    cost_usd: str | None = Field(description="Decimal text; null where nothing of it is known.")
    savings_usd: str = Field(description="What was not paid because we kept an answer, or the provider a prompt.")


class StatsFigures(CostFigures):
    """Sums of calls, tokens, time and money."""

    cache_read_tokens: int = Field(description="Included in `input_tokens`.")
    cache_write_tokens: int = Field(description="Included in `input_tokens`.")
    cache_write_1h_tokens: int = Field(description="Included in `cache_write_tokens`.")
    reasoning_tokens: int = Field(description="Included in `output_tokens`.")
    mean_s: float | None = Field(description="Mean duration of a call, in seconds.")


class CostRow(CostFigures):
    """One group in one period."""

    period: str | None = Field(description="Day or hour in the time zone asked for; null for the whole range.")
    group: dict[str, str] = Field(description="Value by dimension; empty means none.")


class StatsRow(StatsFigures):
    """One group in one period."""

    period: str | None = Field(description="Day or hour in the time zone asked for; null for the whole range.")
    group: dict[str, str] = Field(description="Value by dimension; empty means none.")


class _Answer(BaseModel):
    from_s: float
    to_s: float
    time_zone: str
    period: Literal["all", "day", "hour"]
    group_by: list[str]


class CostsOut(_Answer):
    """What was spent. Groups without calls are left out."""

    data: list[CostRow]
    total: CostFigures


class StatsOut(_Answer):
    """What was used. Groups without calls are left out."""

    data: list[StatsRow]
    total: StatsFigures


class BudgetOut(BaseModel):
    """One owner's budget in the window that is open. Amounts are decimal text, in dollars or tokens as `unit` says."""

    budget_id: str
    kind: Literal["tenant", "team", "user", "key", "run"]
    name: str
    window: Literal["day", "month", "total"]
    window_key: str = Field(description="2026-11-21, 2026-11, or empty.")
    starts_s: float
    resets_s: float | None = Field(description="When the next window begins; null: never.")
    unit: Literal["usd", "tokens"]
    limit: str
    spent: str
    held: str = Field(description="Set aside for calls that have not ended.")
    unknown: str = Field(description="Held by processes that died; counts as spent until somebody knows.")
    left: str
    forecast: str | None = Field(description="Spent at the window's end if it goes on as until now.")
    exhausted_s: float | None = Field(description="When nothing will be left at that rate; null: not in this window.")
    soft: float
    hard: bool


class BudgetListOut(BaseModel):
    """All budgets; one for `*` is shown for each owner who used it."""

    data: list[BudgetOut]

"""Routes for who keeps the books: holds of which nobody knows what was bought, and what a person says of them.

Decodes, asks the books, encodes. Where keys are configured they are for one with `admin: true`.
"""

from __future__ import annotations

import time
from typing import Literal, cast

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.domain.books.corrections import ID_PATTERN, HandCorrection
from app.domain.books.money import USD_MAX, is_amount, nano_from_usd
from app.domain.books.unknown import REASON_CHARS_MAX, Settlement
from app.domain.gateway import ANONYMOUS, Caller
from app.domain.ports import UsageBooks
from app.http.body import JsonRoute
from app.http.books_wire import corrected_json, settled_json, unknown_list_json
from app.http.documented import BODY, refusals
from app.http.errors import HttpProblem

TOKENS_MAX = 10**15
NAME_CHARS_MAX = 200
ENTRY_CHARS_MAX = 500
"""Ids of entries may name a run, a task and an attempt."""

router = APIRouter(prefix="/api/v1/books", tags=["usage"], route_class=JsonRoute)


class UnknownHoldOut(BaseModel):
    """Money and tokens that a process held when it died. They count as spent until somebody knows better."""

    hold_id: str
    holder: str = Field(description="The process that died.")
    tenant: str
    team: str
    user: str
    key: str
    run: str
    task_id: str
    account: str = Field(description="Empty: not known, or several.")
    model: str
    usd: str | None = Field(description="The most that was spent; null: the price is unknown.")
    tokens: int
    calls: int = Field(description="How many calls it covers at most.")
    at_s: float
    expired_s: float
    age_s: float


class UnknownHoldListOut(BaseModel):
    """All of them, the longest unknown first."""

    data: list[UnknownHoldOut]


class SettleIn(BaseModel):
    """What was bought with a hold."""

    model_config = ConfigDict(extra="forbid")

    hold_id: str = Field(min_length=1, max_length=NAME_CHARS_MAX)
    how: Literal["figures", "as_spent", "void"] = Field(
        description="`figures`: `usd` or `tokens`, or both. `as_spent`: all that it may have been. `void`: nothing."
    )
    usd: str | None = Field(default=None, description="Dollars as decimal text; null: as much as was held.")
    tokens: int | None = Field(default=None, ge=0, le=TOKENS_MAX, description="In and out; null: as many as were held.")
    reason: str = Field(min_length=1, max_length=REASON_CHARS_MAX, description="Kept with the entry.")
    account: str = Field(default="", max_length=NAME_CHARS_MAX, description="Where it was bought, if that is known.")
    model: str = Field(default="", max_length=NAME_CHARS_MAX)

    @field_validator("usd")
    @classmethod
    def _amount(cls, usd: str | None) -> str | None:
        return _checked(usd)


class SettledOut(BaseModel):
    """What stands in the books for the hold now."""

    hold_id: str
    entry_id: str
    cost_usd: str | None
    tokens: int
    reason: str = Field(description="Who said so, and why.")
    repeated: bool = Field(description="It was settled so before; nothing changed.")


class CorrectIn(BaseModel):
    """What an entry's attempt consumed and cost; what is null stays as it stands."""

    model_config = ConfigDict(extra="forbid")

    entry_id: str = Field(min_length=1, max_length=ENTRY_CHARS_MAX)
    usd: str | None = Field(default=None, description="Dollars as decimal text.")
    input_tokens: int | None = Field(default=None, ge=0, le=TOKENS_MAX, description="Cached ones included.")
    output_tokens: int | None = Field(default=None, ge=0, le=TOKENS_MAX, description="Reasoning included.")
    reason: str = Field(min_length=1, max_length=REASON_CHARS_MAX, description="Kept with the correction.")
    id: str = Field(
        default="",
        pattern=f"^{ID_PATTERN}$",
        description="Tells corrections of one entry apart; without one an entry is corrected once.",
    )

    @field_validator("usd")
    @classmethod
    def _amount(cls, usd: str | None) -> str | None:
        return _checked(usd)


class EntryFiguresOut(BaseModel):
    """What an entry says."""

    cost_usd: str | None = Field(description="Null: the price is unknown.")
    input_tokens: int
    output_tokens: int


class CorrectedOut(BaseModel):
    """What stands in the books for the entry with this correction, and what stood there before it."""

    entry_id: str
    correction_id: str
    before: EntryFiguresOut
    after: EntryFiguresOut
    reason: str = Field(description="Who said so, and why.")
    repeated: bool = Field(description="It was corrected so before; nothing changed.")


@router.get(
    "/unknown",
    summary="Holds of which nobody knows what was bought",
    response_model=UnknownHoldListOut,
    responses=refusals(401, 403),
)
async def list_unknown(request: Request) -> Response:
    """Return what processes held that died on the way: at most so much was billed beside what is booked."""
    _keeper(request)
    return JSONResponse(unknown_list_json(await _books(request).unknown_holds(), time.time()))


@router.post(
    "/settle",
    summary="Settle such a hold",
    response_model=SettledOut,
    responses=refusals(*BODY, 401, 403, 404, 409),
)
async def settle(request: Request, body: SettleIn) -> Response:
    """Book what was bought with an unknown hold, with who says so and why. The same again changes nothing.

    Should the process that held it come back and say what it bought, that replaces what was settled.
    """
    settlement = Settlement(
        hold_id=body.hold_id,
        how=body.how,
        nano=None if body.usd is None else nano_from_usd(body.usd),
        tokens=body.tokens,
        reason=body.reason,
        by=_keeper(request),
        account=body.account,
        model=body.model,
    )
    return JSONResponse(settled_json(await _books(request).settle_unknown(settlement)))


@router.post(
    "/correct",
    summary="Correct an entry",
    response_model=CorrectedOut,
    responses=refusals(*BODY, 401, 403, 404, 409),
)
async def correct(request: Request, body: CorrectIn) -> Response:
    """Book the difference between what an entry says and what was billed, with who says so and why.

    The entry stays, the correction is a row of its own. The same again changes nothing.
    """
    correction = HandCorrection(
        entry_id=body.entry_id,
        nano=None if body.usd is None else nano_from_usd(body.usd),
        input_tokens=body.input_tokens,
        output_tokens=body.output_tokens,
        reason=body.reason,
        by=_keeper(request),
        name=body.id,
    )
    return JSONResponse(corrected_json(await _books(request).correct_entry(correction)))


def _checked(usd: str | None) -> str | None:
    if usd is not None and usd != "0" and not is_amount(usd):
        raise ValueError(f"an amount in dollars is decimal text up to {USD_MAX}, in whole nano-dollars")
    return usd


def _books(request: Request) -> UsageBooks:
    return cast("UsageBooks", request.app.state.books())


def _keeper(request: Request) -> str:
    """Return who asks; raises HttpProblem where it is a key that sees its own use only."""
    caller: Caller = getattr(request.state, "caller", ANONYMOUS)
    if caller != ANONYMOUS and not caller.admin:
        raise HttpProblem(
            403, "This key sees its own use only.", param="authorization", remedy="Use a key with `admin: true`."
        )
    return caller.name

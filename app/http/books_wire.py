"""Writes unknown holds, settlements and corrections as JSON: for the routes, and the command line beside a database."""

from __future__ import annotations

from collections.abc import Iterable

from app.domain.books.corrections import Corrected, EntryFigures, HandCorrection
from app.domain.books.money import usd_from_nano
from app.domain.books.unknown import Settled, Settlement, UnknownHold
from app.domain.chat import Json


def unknown_list_json(holds: Iterable[UnknownHold], now_s: float) -> dict[str, Json]:
    """Return the holds of which nobody knows what was bought, with their ages."""
    return {"data": [{**unknown_json(one), "age_s": round(max(0.0, now_s - one.at_s), 3)} for one in holds]}


def unknown_json(one: UnknownHold) -> dict[str, Json]:
    """Return one of them."""
    owners = one.owners
    return {
        "hold_id": one.hold_id,
        "holder": one.holder,
        "tenant": owners.tenant,
        "team": owners.team,
        "user": owners.user,
        "key": owners.key,
        "run": owners.run,
        "task_id": one.task_id,
        "account": one.account,
        "model": one.model,
        "usd": None if one.amount_nano is None else usd_from_nano(one.amount_nano),
        "tokens": one.tokens,
        "calls": one.calls,
        "at_s": one.at_s,
        "expired_s": one.expired_s,
    }


def settle_json(settlement: Settlement) -> dict[str, Json]:
    """Return the body with which a settlement is sent; who says so, the server knows by the key."""
    return {
        "hold_id": settlement.hold_id,
        "how": settlement.how,
        "usd": None if settlement.nano is None else usd_from_nano(settlement.nano),
        "tokens": settlement.tokens,
        "reason": settlement.reason,
        "account": settlement.account,
        "model": settlement.model,
    }


def settled_json(done: Settled) -> dict[str, Json]:
    """Return what stands in the books for a hold that was settled."""
    return {
        "hold_id": done.hold_id,
        "entry_id": done.entry_id,
        "cost_usd": None if done.cost_nano is None else usd_from_nano(done.cost_nano),
        "tokens": done.tokens,
        "reason": done.reason,
        "repeated": done.repeated,
    }


def correct_json(correction: HandCorrection) -> dict[str, Json]:
    """Return the body with which a correction is sent; who says so, the server knows by the key."""
    return {
        "entry_id": correction.entry_id,
        "usd": None if correction.nano is None else usd_from_nano(correction.nano),
        "input_tokens": correction.input_tokens,
        "output_tokens": correction.output_tokens,
        "reason": correction.reason,
        "id": correction.name,
    }


def corrected_json(done: Corrected) -> dict[str, Json]:
    """Return what stands in the books for an entry that was corrected, and what stood there before."""
    return {
        "entry_id": done.entry_id,
        "correction_id": done.correction_id,
        "before": _figures_json(done.before),
        "after": _figures_json(done.after),
        "reason": done.reason,
        "repeated": done.repeated,
    }


def _figures_json(figures: EntryFigures) -> dict[str, Json]:
    return {
        "cost_usd": None if figures.cost_nano is None else usd_from_nano(figures.cost_nano),
        "input_tokens": figures.input_tokens,
        "output_tokens": figures.output_tokens,
    }

"""Writes down where a call is about to be sent, where its endpoint can be asked for it again after a crash."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from app.domain.calls import CallPlace
from app.domain.errors import ConflictError
from app.domain.run import CallState
from app.storage import tables


def place_call(connection: Connection, place: CallPlace) -> None:
    """Note the account of a call that is about to leave, or then its provider's name of it; may be repeated.

    A name is noted whoever has the run by now: it helps to find what has left. It stays until there is another.

    Raises:
        ConflictError: it must not leave any more: it ended, was taken for lost, or has left it to another conductor.
    """
    found: dict[str, str] = {"account": place.account, "model": place.model}
    if place.provider_id is not None:
        found["provider_id"] = place.provider_id
    elif not _may_leave(connection, place):
        raise _not_any_more(place)
    call = tables.call
    placing = update(call).where(call.c.key == place.key, call.c.state == CallState.SENT.value).values(found)
    if connection.execute(placing).rowcount != 1:
        raise _not_any_more(place)


def _may_leave(connection: Connection, place: CallPlace) -> bool:
    """Tell whether the call's run is still with who ordered it; nobody can take it until this transaction ends."""
    run, call = tables.run, tables.call
    of_call = select(run.c.owner_epoch).join(call, call.c.run_id == run.c.id).where(call.c.key == place.key)
    return connection.execute(of_call.with_for_update(of=run)).scalar() == place.epoch


def _not_any_more(place: CallPlace) -> ConflictError:
    return ConflictError(f"the call {place.key!r} is not to be sent any more")

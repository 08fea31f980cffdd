"""Writes down where a call is about to be sent, where its endpoint can be asked for it again after a crash."""

from __future__ import annotations

from sqlalchemy import Connection, update

from app.domain.errors import ConflictError
from app.domain.run import CallState
from app.storage import tables


def place_call(connection: Connection, key: str, account: str, model: str, provider_id: str | None = None) -> None:
    """Note the account of a call that is about to leave, and then its provider's name of it; may be repeated.

    A name that is there stays until there is another.

    Raises:
        ConflictError: it must not leave any more: it ended, or was taken for lost.
    """
    table = tables.call
    place = {"account": account, "model": model} | ({} if provider_id is None else {"provider_id": provider_id})
    placing = update(table).where(table.c.key == key, table.c.state == CallState.SENT.value).values(place)
    if connection.execute(placing).rowcount != 1:
        raise ConflictError(f"the call {key!r} is not to be sent any more")

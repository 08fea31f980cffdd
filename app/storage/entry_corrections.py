"""Entries that a person corrects: finds what stands of one, and books the difference.

Called with an open connection inside the caller's transaction, as ``ledger`` is.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, select

from app.domain.books import corrections
from app.domain.books.corrections import Corrected, HandCorrection
from app.domain.books.entries import Answer, Correct
from app.domain.errors import NotFoundError
from app.domain.events.facts import corrected_told
from app.storage import books_rows as rows
from app.storage import ledger, outbox
from app.storage.books_tables import usage_entry

_ENTRY = select(usage_entry).where(usage_entry.c.id == bindparam("of_id"), usage_entry.c.corrects.is_(None))
_LATER = (
    select(usage_entry)
    .where(usage_entry.c.corrects == bindparam("of_id"))
    .order_by(usage_entry.c.booked_s, usage_entry.c.id)
)


def correct(
    connection: Connection, correction: HandCorrection, now_s: float
) -> tuple[Corrected, Sequence[Correct], Sequence[Answer]]:
    """Correct an entry; return what stands in the books now, and what was booked: nothing where it was said before.

    Raises:
        NotFoundError: there is no such entry.
        ConflictError: it was corrected before, or nothing was bought with it.
        RequestError: the correction makes no sense.
    """
    corrections.check(correction)
    row = connection.execute(_ENTRY, {"of_id": correction.entry_id}).first()
    if row is None:
        raise NotFoundError(
            f"there is no entry {correction.entry_id!r}",
            param="entry_id",
            remedy="events (`call.finished`), GET /api/v1/usage/live and a project's export name entries",
        )
    booked = rows.booked_of(row)
    later = [rows.booked_of(one) for one in connection.execute(_LATER, {"of_id": correction.entry_id})]
    said = next((place for place, one in enumerate(later) if one.row_id == correction.correction_id), None)
    stood = corrections.standing(booked, later[:said])
    command = corrections.command_of(stood, correction, now_s)
    if said is not None:
        stands = corrections.figures_of(corrections.standing(booked, later[: said + 1]))
        if stands != corrections.figures_of(command):
            raise corrections.other_correction(correction, stands)
        note = later[said].entry.error_kind
    else:
        corrections.require_correctable(booked, later, correction)
        note = correction.note
    done = Corrected(
        entry_id=correction.entry_id,
        correction_id=correction.correction_id,
        before=corrections.figures_of(stood),
        after=corrections.figures_of(command),
        reason=note,
        repeated=said is not None,
    )
    if done.repeated:
        return done, (), ()
    answers = ledger.apply(connection, [command])
    outbox.tell(connection, [corrected_told(correction, done, now_s)])
    return done, (command,), answers

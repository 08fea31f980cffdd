"""The table of keyed calls, beside the journal's on one ``MetaData``: who makes one, and its answer for a day."""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, String, Table, Text

from app.storage.tables import metadata

repeat = Table(
    "repeat",
    metadata,
    Column("place", String, primary_key=True),
    Column("fingerprint", String, nullable=False),
    Column("holder", String, nullable=False),
    Column("lease_until_s", Float),
    # Null as soon as the call has ended.
    Column("answer", Text),
    # Null where it is too large to be kept here.
    Column("expires_s", Float, nullable=False),
)
Index("repeat_by_expiry", repeat.c.expires_s)

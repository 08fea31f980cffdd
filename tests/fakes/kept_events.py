"""Events as they are kept on a server's machine, in spool and outbox, read beside it."""

from __future__ import annotations

from pathlib import Path

import orjson

from app.domain.events.fields import FIELDS
from app.domain.events.spooled import KeptEvent
from app.storage.database import open_for_reading
from app.storage.event_reads import newest_in_outbox, newest_in_spool
from app.storage.place import Place
from app.storage.spool import FILE_NAME
from tests.fakes.event_samples import Sample

_SHORT = {field.path: field.name for field in FIELDS}


def kept_events(data_dir: Path) -> list[KeptEvent]:
    """Return all of them."""
    found = list(newest_in_spool(data_dir / FILE_NAME, 0))
    engine = open_for_reading(Place(data_dir))
    with engine.connect() as connection:
        found += newest_in_outbox(connection, 0)
    engine.dispose()
    return found


def kept_samples(data_dir: Path) -> list[Sample]:
    """Return what they say, by the fields' short names."""
    found = []
    for event in kept_events(data_dir):
        document = orjson.loads(event.body)
        values = {_SHORT[path]: value for path, value in document.items()}
        found.append(Sample(type=event.type, time_ns=event.time_ns, node=document["service.node.name"], values=values))
    return found

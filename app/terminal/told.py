"""Keeps on this machine what a command did: in the node's spool, beside a server that runs or not."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from app.domain.accounts import Orchestra
from app.domain.errors import CapacityError
from app.domain.events.record import EventIds, Origin, Recorder
from app.storage.spool import FILE_NAME, Spool


def tell(orchestra: Orchestra, event_type: str, time_ns: int, values: Mapping[str, object]) -> None:
    """Write the event into the spool, where there is one: without, no server was ever started here.

    Raises:
        CapacityError: see ``keep``.
        ConfigurationError: its directory cannot be written.
        InternalError: the disk does not let us.
    """
    file = Path(orchestra.data_dir) / FILE_NAME
    if not file.exists():
        return
    spool = Spool(file, bytes_max=orchestra.events.spool_bytes, wall_s=time.time)
    try:
        keep(spool, orchestra, event_type, time_ns, values)
    finally:
        spool.close()


def keep(spool: Spool, orchestra: Orchestra, event_type: str, time_ns: int, values: Mapping[str, object]) -> None:
    """Write the event into an open spool.

    Raises:
        CapacityError: there is no room for it. What it tells of is done all the same.
    """
    recorder = Recorder(Origin(node="cli"), EventIds(secrets.randbits(62)), orchestra.events.profile)
    appended = spool.append([recorder.record(event_type, time_ns, values)], ships=orchestra.events.ships)
    if appended.refused:
        raise CapacityError(
            f"it is done, and nothing tells of it: there is no room for {event_type!r} in the spool of events",
            remedy="see why events are not shipped (`tutti doctor`), or raise events.spool_mb, and note it by hand",
        )

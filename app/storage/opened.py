"""A database that is open for its one writer and for readers, with the lock of its directory; the store has one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from app.storage.data_dir import hold_directory
from app.storage.database import open_database, open_for_reading
from app.storage.faults import fault
from app.storage.place import Place
from app.storage.writer import Writer

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Everything that is open."""

    place: Place
    lock: int
    writers: Engine
    readers: Engine
    writer: Writer

    def read(self, query: Callable[[Connection], Value]) -> Value:
        """Ask a reader; blocks. Raises GatewayError where the storage fails."""
        try:
            with self.readers.connect() as connection:
                return query(connection)
        except SQLAlchemyError as error:
            raise fault(error, self.place) from error

    def close(self) -> None:
        """Write what is queued, then let go of everything."""
        self.writer.close()
        self.readers.dispose()
        self.writers.dispose()
        os.close(self.lock)


def open_store(place: Place) -> Opened:
    """Take the directory and open its database; errors as ``open_database`` and ``hold_directory`` raise them."""
    lock = hold_directory(place.data_dir)
    try:
        writers = open_database(place.data_dir, place.url)
    except BaseException:
        os.close(lock)
        raise
    return Opened(
        place=place, lock=lock, writers=writers, readers=open_for_reading(place), writer=Writer(writers, place)
    )

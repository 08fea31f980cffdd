"""Where the journal's database is: a file in the data directory, or a PostgreSQL server named by URL."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.domain.errors import ConfigurationError

FILE_NAME = "journal.sqlite"
DRIVER = "postgresql+psycopg"


@dataclass(frozen=True, slots=True)
class Place:
    """A database's address.

    Args:
        data_dir: The data directory; holds the file where there is no ``url``, and the lock in any case.
        url: ``postgresql://…``; None for the file. Holds a password, so it is never shown.
    """

    data_dir: Path
    url: str | None = field(default=None, repr=False)

    @property
    def file(self) -> Path | None:
        """The database's file, or None for a server."""
        return None if self.url else self.data_dir / FILE_NAME

    def address(self) -> URL:
        """Return the address for SQLAlchemy; raises ConfigurationError where it is none."""
        if self.url is None:
            return URL.create("sqlite", database=str(self.file))
        scheme, separator, rest = self.url.partition("://")
        if not separator or scheme not in ("postgresql", "postgres", DRIVER):
            raise _no_address()
        try:
            return make_url(f"{DRIVER}://{rest}")
        except (ArgumentError, ValueError):
            raise _no_address() from None

    def __str__(self) -> str:
        """Return the address for people: no user, no password, no options."""
        if self.url is None:
            return repr(str(self.file))
        address = self.address()
        port = f":{address.port}" if address.port else ""
        return repr(f"postgresql://{address.host or 'localhost'}{port}/{address.database or ''}")


def _no_address() -> ConfigurationError:
    # The value itself is not shown: what is in the wrong place may be the password.
    return ConfigurationError(
        "the address of the store is not a PostgreSQL address",
        param="store.url",
        remedy="write postgresql://USER:PASSWORD@HOST:5432/DATABASE, with the password as ${NAME}",
    )

"""A place is shown without user, password and options, whatever is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.domain.errors import ConfigurationError
from app.storage.place import Place


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_a_server_is_shown_without_its_password(scheme: str) -> None:
    """Every message, log line and `tutti db status` shows it."""
    place = Place(Path("/data"), f"{scheme}://tutti:hun%40ter2@db:5433/books?password=hunter2")

    assert str(place) == "'postgresql://db:5433/books'"
    assert "ter2" not in repr(place)
    assert place.file is None
    assert place.address().drivername == "postgresql+psycopg"
    assert place.address().password == "hun@ter2"


def test_a_file_is_shown_by_its_path() -> None:
    """The default."""
    assert str(Place(Path("/data"))) == "'/data/journal.sqlite'"
    assert Place(Path("/data")).file == Path("/data/journal.sqlite")


@pytest.mark.parametrize("url", ["mysql://u:hunter2@h/d", "hunter2", "postgresql://u:hunter2@h:port/d"])
def test_what_is_no_address_is_refused_without_being_shown(url: str) -> None:
    """What stands in the wrong place may be the password itself."""
    with pytest.raises(ConfigurationError) as refused:
        Place(Path("/data"), url).address()
    assert "hunter2" not in f"{refused.value.message} {refused.value.remedy}"

"""Every provider says what it does with a call whose connection is closed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.accounts import AccountSpec, Provider
from app.providers.departures import DEPARTURES, goes_on

ACCOUNT = AccountSpec(name="a", provider=Provider.GEMINI, models=(("m", "m"),))


@pytest.mark.parametrize("provider", Provider)
def test_departures_are_declared_with_their_source(provider: Provider) -> None:
    """What a stream goes on for, a whole answer goes on for: nobody notices sooner that a silent client has gone."""
    departure = DEPARTURES[provider]

    assert departure.source
    assert departure.whole_goes_on >= departure.stream_goes_on


def test_departure_of_a_plugin_stops_the_call() -> None:
    """Of a provider that nobody knows, leaving is never dearer than staying."""
    plugged = replace(ACCOUNT, options=(("adapter", "plugged"),))

    assert goes_on(ACCOUNT, stream=True)
    assert not goes_on(plugged, stream=True)
    assert not goes_on(plugged, stream=False)

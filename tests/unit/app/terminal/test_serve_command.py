"""A door that asks nobody for a key stays on this machine."""

from __future__ import annotations

import pytest

from app.domain.errors import ConfigurationError
from app.terminal.serve_command import check_door


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "::1", "localhost"])
@pytest.mark.parametrize("has_keys", [False, True])
def test_door_on_loopback_needs_no_keys(host: str, has_keys: bool) -> None:
    """Whoever is on this machine may call."""
    check_door(host, has_keys=has_keys)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "tutti.example.com", ""])
def test_door_that_others_can_reach_needs_keys(host: str) -> None:
    """A name may be anybody's, and nothing means every address."""
    with pytest.raises(ConfigurationError) as refused:
        check_door(host, has_keys=False)

    assert (refused.value.param, "auth" in (refused.value.remedy or "")) == ("--host", True)
    check_door(host, has_keys=True)

"""A job joins the cluster it was started in, or one that the user named, and no other."""

from __future__ import annotations

import pytest

from actors.cluster import named_address
from app.domain.errors import ConfigurationError


@pytest.mark.parametrize(
    ("named", "recorded", "address"),
    [
        ("", None, None),
        ("", "", None),
        ("", "10.0.0.1:6379", "10.0.0.1:6379"),
        ("auto", "10.0.0.1:6379", "10.0.0.1:6379"),
        ("auto", None, None),
        ("10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"),
        ("local", "10.0.0.1:6379", None),
        ("[::1]:6379", None, "[::1]:6379"),
    ],
)
def test_address_is_what_the_user_named_or_ray_start_recorded(
    named: str, recorded: str | None, address: str | None
) -> None:
    """RAY_ADDRESS goes first, the record is second, and there is no third place to look."""
    assert named_address(named, recorded) == address


@pytest.mark.parametrize("named", ["http://127.0.0.1:8265", "ray://10.0.0.1:10001", "head-node", ":6379", "head:port"])
def test_address_that_is_no_clusters_is_refused_with_words(named: str) -> None:
    """A dashboard's address is right for `ray job submit` and wrong here: say so, do not start something else."""
    with pytest.raises(ConfigurationError) as refused:
        named_address(named, "10.0.0.1:6379")

    assert (refused.value.param, repr(named) in refused.value.message) == ("RAY_ADDRESS", True)
    assert "HOST:PORT" in (refused.value.remedy or "")

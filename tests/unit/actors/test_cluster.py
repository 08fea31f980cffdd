"""A job joins the cluster it was started in, or one that the user named, and no other; HAProxy is where it can be."""

from __future__ import annotations

import pytest

from actors import cluster
from actors.cluster import named_address, serve_environment
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


@pytest.mark.parametrize(
    ("named", "package", "on_path", "enabled"),
    [
        ("", True, False, "1"),
        ("", False, True, "1"),
        ("/opt/haproxy", False, False, "1"),
        ("", False, False, "0"),
    ],
)
def test_haproxy_is_in_front_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, named: str, package: bool, on_path: bool, enabled: str
) -> None:
    """Ray Serve does not start without it once it is switched on: elsewhere its own proxy serves."""
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", named)
    monkeypatch.setattr(cluster, "find_spec", lambda _name: object() if package else None)
    monkeypatch.setattr("shutil.which", lambda _name: "/usr/sbin/haproxy" if on_path else None)

    assert serve_environment()["RAY_SERVE_ENABLE_HA_PROXY"] == enabled

"""The one table of errors and the one shape they have."""

from __future__ import annotations

import pytest

from app.domain import errors as domain_errors
from app.domain.errors import CapacityError, ConfigurationError, GatewayError, UpstreamError, UpstreamKind
from app.http.errors import TABLE, body_of, wire_kind


def _all_classes(cls: type[GatewayError]) -> list[type[GatewayError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in _all_classes(child))]


def test_every_domain_error_has_a_row_of_its_own() -> None:
    """A new error class must decide its status; falling through to a parent's row would hide that."""
    ours = [cls for cls in _all_classes(GatewayError) if cls.__module__ == domain_errors.__name__]

    assert {cls.__name__ for cls in ours} == {cls.__name__ for cls in TABLE}
    assert all(400 <= row.status <= 599 and row.type.endswith("_error") and row.remedy for row in TABLE.values())


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (UpstreamKind.TIMEOUT, 504),
        (UpstreamKind.MINUTE_LIMIT, 503),
        (UpstreamKind.OVERLOADED, 503),
        (UpstreamKind.DEAD_KEY, 502),
        (UpstreamKind.GARBAGE, 502),
        (UpstreamKind.REFUSED, 400),
    ],
)
def test_upstream_status_follows_the_kind_of_failure(kind: UpstreamKind, status: int) -> None:
    """A caller may come back soon after a limit, not after a refusal: the status says which it is."""
    error = UpstreamError("it failed", kind=kind, account="a")

    assert wire_kind(error).status == status
    assert wire_kind(error).type == "upstream_error"


def test_body_names_field_and_remedy() -> None:
    """The shape has exactly four fields, and an error without a remedy gets its class's."""
    named = body_of(ConfigurationError("duplicate account 'a'", param="accounts[1].name", remedy="Rename it.", line=7))
    unnamed = body_of(CapacityError("every account is full"))

    assert named == {
        "error": {
            "type": "configuration_error",
            "message": "duplicate account 'a'",
            "param": "accounts[1].name",
            "remedy": "Rename it.",
        }
    }
    error = unnamed["error"]
    assert isinstance(error, dict)
    assert set(error) == {"type", "message", "param", "remedy"}
    assert error["remedy"]

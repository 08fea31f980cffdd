"""Crash points are off unless the environment names one, and kill where they say."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from app.domain.crash_points import CrashPoint, arm, passes
from app.domain.errors import ConfigurationError
from app.settings.crash_points import CRASH_VARIABLE, arm_crash_points


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Who was killed with what, instead of killing."""
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: told.append((pid, number)))
    yield told
    arm(None)


def test_points_do_nothing_unless_the_environment_names_one(
    kills: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product that nobody tests never dies by them, also after a test in the same process."""
    monkeypatch.setenv(CRASH_VARIABLE, "held")
    arm_crash_points()
    monkeypatch.delenv(CRASH_VARIABLE)

    assert arm_crash_points() is None
    for point in CrashPoint:
        passes(point)
    assert kills == []


def test_point_kills_this_process_at_the_passing_that_was_named(
    kills: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL, at that point and at no other, once it was passed so often."""
    monkeypatch.setenv(CRASH_VARIABLE, "accepted:2")

    assert arm_crash_points() is CrashPoint.ACCEPTED
    passes(CrashPoint.ACCEPTED)
    for other in set(CrashPoint) - {CrashPoint.ACCEPTED}:
        passes(other)
    assert kills == []
    passes(CrashPoint.ACCEPTED)
    assert kills == [(os.getpid(), signal.SIGKILL)]


@pytest.mark.parametrize("text", ["somewhere", "held:0", "held:x", "held:-1", ":1"])
def test_a_point_that_does_not_exist_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing error must not turn a test of crashes into one of nothing."""
    monkeypatch.setenv(CRASH_VARIABLE, text)

    with pytest.raises(ConfigurationError, match="TUTTI_CRASH_AT"):
        arm_crash_points()

"""A chore is done at its times, and no failure ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest

from actors.chores import keep_doing
from app.domain.errors import InternalError
from tests.fakes.virtual_time import VirtualClock, run

MINUTE_S = 60.0


class Rounds:
    """Work that fails as it is told, and knows when it was done."""

    def __init__(self, failures: Sequence[Exception | None] = (), *, takes_s: float = 0.0) -> None:
        self.clock = VirtualClock()
        self.at_s: list[int] = []
        self._began_s = self.clock.now_s
        self._failures = list(failures)
        self._takes_s = takes_s

    async def work(self) -> None:
        self.at_s.append(round(self.clock.now_s - self._began_s))
        await asyncio.sleep(self._takes_s)
        failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            raise failure

    def until(self, end_s: float, *, first_s: float = 0.0, retry_s: float | None = None) -> list[int]:
        """Return when it was done, in seconds from the beginning."""

        async def play() -> None:
            doing = keep_doing(
                self.work, failing="it was not done", period_s=MINUTE_S, first_s=first_s, retry_s=retry_s
            )
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(doing, end_s)

        run(play(), self.clock)
        return self.at_s


def away() -> InternalError:
    return InternalError("the disk does not answer", remedy="wait")


def test_chore_is_done_at_once_and_then_after_every_period() -> None:
    """Who starts it need not do it once by hand."""
    assert Rounds().until(200.0) == [0, 60, 120, 180]


def test_chore_waits_before_its_first_round_as_told() -> None:
    """Whoever waited for the actor goes first."""
    assert Rounds().until(140.0, first_s=10.0) == [10, 70, 130]


def test_period_is_counted_from_the_end_of_a_round() -> None:
    """Rounds that take long must not run into each other."""
    assert Rounds(takes_s=30.0).until(200.0) == [0, 90, 180]


@pytest.mark.parametrize("failure", [away(), ValueError("a bug")])
def test_chore_goes_on_after_a_failure(failure: Exception) -> None:
    """At its period; sooner where it is told so, and only until it succeeds."""
    assert Rounds([None, failure]).until(200.0) == [0, 60, 120, 180]
    assert Rounds([None, failure, failure]).until(200.0, retry_s=5.0) == [0, 60, 65, 70, 130, 190]


def test_log_has_the_message_of_an_error_and_the_traceback_of_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    """An error that was foreseen is one line for the operator; a bug needs its place."""
    Rounds([away(), ValueError("a bug")]).until(100.0)

    assert [(one.levelno, one.getMessage(), one.exc_info is not None) for one in caplog.records] == [
        (logging.WARNING, "it was not done: the disk does not answer", False),
        (logging.ERROR, "it was not done", True),
    ]


def test_chore_ends_when_it_is_cancelled_in_its_round() -> None:
    """Closing must not wait for a round that hangs."""
    rounds = Rounds(takes_s=1_000.0)

    assert rounds.until(100.0) == [0]

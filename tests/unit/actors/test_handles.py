"""What an actor raises becomes an error of ours, whose words quote nothing."""

from __future__ import annotations

import logging

import pytest

from actors.handles import translate
from app.services.events.log_lines import LogLines
from tests.fakes.told import Told


def test_words_of_an_unforeseen_failure_stay_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """They may quote what the actor was given: neither the caller nor an event repeats them."""
    events = Told()
    handler = LogLines(events)
    logger = logging.getLogger("actors.handles")
    logger.addHandler(handler)
    try:
        error = translate(ValueError("cannot read 'canary prompt'"), of="store")
    finally:
        logger.removeHandler(handler)

    assert error.message == "store failed (ValueError)"
    assert [told["message"] for told in events.values("log.line")] == ["unforeseen failure in store (ValueError)"]
    assert "canary prompt" in caplog.text

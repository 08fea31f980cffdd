"""Log lines of ours are told with their level, place and trace; an exception's own words are not."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from app.services.events import log_lines
from app.services.events.log_lines import UNTOLD, LogLines, follow_logs
from tests.fakes.told import Told


@pytest.fixture
def heard() -> Iterator[tuple[Told, logging.Logger]]:
    """A logger below one of ours whose lines are told."""
    events = Told()
    logger = logging.getLogger("app.test_log_lines")
    handler = LogLines(events)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield events, logger
    logger.removeHandler(handler)


def test_line_is_told_with_level_and_logger(heard: tuple[Told, logging.Logger]) -> None:
    """Below info nothing is."""
    events, logger = heard
    logger.debug("not this")
    logger.warning("the %s is full", "disk")
    (values,) = events.values("log.line")

    assert (values["message"], values["log_level"], values["logger"]) == (
        "the disk is full",
        "warning",
        "app.test_log_lines",
    )


def test_exception_is_told_by_kind_and_place_not_by_its_words(heard: tuple[Told, logging.Logger]) -> None:
    """Its message may quote what it was given."""
    events, logger = heard
    secret = "sk-canary"
    try:
        raise ValueError(f"cannot parse {secret}")
    except ValueError:
        logger.exception("a line failed")
    (values,) = events.values("log.line")

    assert values["error_type"] == "ValueError"
    assert "test_log_lines.py" in str(values["stack_trace"])
    assert "sk-canary" not in str(values)


def test_line_about_telling_is_not_told_where_that_could_go_on_for_ever(heard: tuple[Told, logging.Logger]) -> None:
    """It is in the log."""
    events, logger = heard
    logger.warning("an event is lost", extra=UNTOLD)

    assert events.events == []


def test_line_is_told_beside_where_it_went_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python writes what no handler takes to standard error, Ray's logs of a process: with ours it must stay there."""
    logger = logging.getLogger("test_log_lines_alone")
    monkeypatch.setattr(log_lines, "LOGGERS", (logger.name,))
    monkeypatch.setattr(logger, "propagate", False)
    events = Told()
    follow_logs(events)
    follow_logs(events)
    logger.warning("the disk is full")

    assert [told["message"] for told in events.values("log.line")] == ["the disk is full"]
    assert capsys.readouterr().err == "the disk is full\n"


def test_line_that_cannot_be_formatted_fails_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """A bug in a log call is the log's."""
    events = Told()
    LogLines(events).emit(logging.makeLogRecord({"msg": "%d words", "args": ("no number",)}))

    assert events.events == []
    assert "Logging error" in capsys.readouterr().err

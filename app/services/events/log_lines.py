"""Our own log lines as events: what a process says of itself, with its trace.

Only loggers of ours: what libraries say may quote what they were given. Of an exception its kind and the places of its
stack are told, not its message.
"""

from __future__ import annotations

import logging
import traceback

from app.domain.ports import Tells
from app.domain.trace_context import current

LOGGERS = ("app", "actors", "tutti")
MESSAGE_CHARS_MAX = 2_000
STACK_FRAMES_MAX = 20
UNTOLD = {"untold": True}
"""``extra`` of a line that is not told: one about events themselves could lead to the next such line, for ever; one
that names a person would stay when their events are deleted."""


class LogLines(logging.Handler):
    """Tells every line it is given.

    Args:
        events: Told the lines; called from any thread.
        level: Lines below are not told.
    """

    def __init__(self, events: Tells, level: int = logging.INFO) -> None:
        super().__init__(level)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        """Tell a line; never raises."""
        if getattr(record, "untold", False):
            return
        try:
            kind, _error, stack = record.exc_info or (None, None, None)
            context = current()
            self._events.emit(
                "log.line",
                at_ns=int(record.created * 1e9),
                message=record.getMessage()[:MESSAGE_CHARS_MAX],
                log_level=record.levelname.lower(),
                logger=record.name,
                error_type=kind.__name__ if kind is not None else None,
                stack_trace="".join(traceback.format_tb(stack, STACK_FRAMES_MAX)) if stack is not None else None,
                trace_id=context.trace_id if context is not None else None,
            )
        except Exception:  # noqa: BLE001  as every handler of the library does
            self.handleError(record)


def follow_logs(events: Tells) -> None:
    """Have this process's own lines told, beside wherever else they go; once a process."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if any(isinstance(handler, LogLines) for handler in logger.handlers):
            continue
        if not logger.hasHandlers():
            # To standard error, as before: a logger with a handler is not written there by itself any more.
            logger.addHandler(logging.lastResort or logging.StreamHandler())
        logger.addHandler(LogLines(events))

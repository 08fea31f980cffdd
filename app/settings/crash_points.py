"""Arms the named crash points (``domain/crash_points``) where ``TUTTI_CRASH_AT`` names one; else they stay off.

For tests of durability only. ``held`` kills this process when it passes that point first, ``held:3`` the third time.
"""

from __future__ import annotations

import logging
import os
import signal

from app.domain.crash_points import CrashPoint, arm
from app.domain.errors import ConfigurationError

CRASH_VARIABLE = "TUTTI_CRASH_AT"

_log = logging.getLogger(__name__)


def arm_crash_points() -> CrashPoint | None:
    """Have this process killed at the point that the environment names; return it, None where it names none.

    Raises:
        ConfigurationError: it names no point that exists.
    """
    text = os.environ.get(CRASH_VARIABLE, "")
    if not text:
        arm(None)
        return None
    name, _, count = text.partition(":")
    if name not in set(CrashPoint) or not (count or "1").isdecimal() or count == "0":
        raise ConfigurationError(
            f"{CRASH_VARIABLE} is {text!r}",
            param=CRASH_VARIABLE,
            remedy=f"unset it, or name one of {', '.join(CrashPoint)}, and after a colon at which passing",
        )
    wanted, left = CrashPoint(name), int(count or 1)

    def die(point: CrashPoint) -> None:
        nonlocal left
        if point is wanted:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    _log.warning("this process kills itself at %s, because %s says so", text, CRASH_VARIABLE)
    arm(die)
    return wanted

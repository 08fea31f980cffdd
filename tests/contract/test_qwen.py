"""DashScope's OpenAI mode, against recordings: what we send, and how we read what comes back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.playback import recording, recordings
from tests.contract.replay import check, check_error

PROVIDER = "qwen"
ANSWERS = [name for name in recordings(PROVIDER) if not name.endswith("/errors")]
ERRORS = recording(f"{PROVIDER}/errors")["errors"]
STREAMED_ERRORS = [error for error in ERRORS if not error.get("whole_only")]


@pytest.mark.parametrize("name", ANSWERS)
async def test_adapter_sends_and_reads_as_recorded(name: str) -> None:
    """Requests are translated field by field; answers come out under our one definition."""
    await check(PROVIDER, recording(name))


@pytest.mark.parametrize("error", ERRORS, ids=[error["name"] for error in ERRORS])
async def test_adapter_classifies_a_refusal_as_recorded(error: dict[str, Any]) -> None:
    """Whose fault it is, how long to wait and what was billed are told apart; the body is never shown."""
    await check_error(PROVIDER, error, stream=False)


@pytest.mark.parametrize("error", STREAMED_ERRORS, ids=[error["name"] for error in STREAMED_ERRORS])
async def test_adapter_classifies_a_refused_stream_as_recorded(error: dict[str, Any]) -> None:
    """A stream that is refused at its head fails as a whole answer does."""
    await check_error(PROVIDER, error, stream=True)

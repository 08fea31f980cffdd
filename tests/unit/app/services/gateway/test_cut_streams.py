"""A streaming call that is cut, by whichever side and wherever, is booked once, with all that it may have cost."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator

from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from app.domain.books.entries import Ending
from app.domain.chat import ChatDelta
from app.domain.errors import GatewayError, InternalError, UpstreamError, UpstreamKind
from app.services.pricing import INPUT_MARGIN
from tests.effort import examples
from tests.fakes.permit_world import play
from tests.fakes.virtual_time import VirtualClock
from tests.unit.app.services.gateway.test_attempts import USAGE, Stage, a_stage

DELTAS = 3
BID_TOKENS = INPUT_MARGIN * 10 + 20
"""What the stage's requests may consume: all of it is booked where nobody knows."""

FAILURES: dict[str, GatewayError] = {
    "provider": UpstreamError("cut", kind=UpstreamKind.CUT, billed=None),
    "provider, billed": UpstreamError("cut", kind=UpstreamKind.CUT, billed=True),
    "our actor": InternalError("the actor is gone"),
}

cuts = st.lists(
    st.tuples(st.sampled_from(["client", "client is cancelled", "nobody", *FAILURES]), st.integers(0, DELTAS)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=examples(20), deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(cuts=cuts, going_on=st.booleans())
@example(cuts=[("client", 0), ("client", 2), *((who, 1) for who in FAILURES), ("nobody", 0)], going_on=False)
@example(cuts=[("client", 0), ("client is cancelled", 1), ("provider", 3), ("nobody", 0)], going_on=True)
def test_every_stream_that_was_sent_has_its_entry_and_none_too_little(
    cuts: list[tuple[str, int]], going_on: bool
) -> None:
    """One entry a call that left; what the provider generated is never more than what is booked for it."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [None]}, attempts_max=1) as stage:
            stage.going_on = going_on
            account = stage.accounts["a"]
            account.deltas = DELTAS
            for who, after in cuts:
                account.breaks_after = None
                if who in FAILURES:
                    account.breaks_after = (min(after, DELTAS - 1), FAILURES[who])
                await play_one(stage, who, after)
                # Those that go on without their client come to their end.
                await asyncio.sleep(5.0)
            await stage.nothing_left()
            await asyncio.sleep(5.0)
            entries = stage.books.booked()

            assert len(entries) == len(account.sent) == len(cuts)
            assert all(entry.account == "a" and entry.model == "m" for entry in entries)
            for entry in entries:
                # What was answered to the end, with or without its client, the provider has counted.
                known = entry.usage.source == "provider"
                assert known is (entry.ending is Ending.ANSWERED)
                wanted = USAGE.input_tokens + USAGE.output_tokens if known else BID_TOKENS
                assert entry.usage.input_tokens + entry.usage.output_tokens == wanted
            told = Counter(entry.ending for entry in entries)
            whos = Counter(who for who, _after in cuts)
            assert told[Ending.ANSWERED] >= whos["nobody"]
            assert told[Ending.UNKNOWN] == whos["provider"] + whos["our actor"]
            assert told[Ending.FAILED] == whos["provider, billed"]
            assert sum(entry.usage.output_tokens for entry in entries) >= account.yielded
            spent, _held_ahead, unknown = stage.books.spent("tokens/tenant:")
            assert (spent, unknown) == (sum(one.usage.input_tokens + one.usage.output_tokens for one in entries), 0)

    play(story)


async def play_one(stage: Stage, who: str, after: int) -> None:
    """Make one streaming call and cut it, after so many deltas."""
    with contextlib.suppress(UpstreamError):
        deltas, _won = await stage.attempts.open(stage.bid())
        if who == "client is cancelled":
            reading = asyncio.create_task(_drain(deltas))
            await asyncio.sleep(0.01 * after + 0.005)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        elif who == "client":
            for _ in range(after):
                await anext(deltas)
        else:
            await _drain(deltas)
        await deltas.aclose()


async def _drain(deltas: AsyncGenerator[ChatDelta, None]) -> None:
    async for _delta in deltas:
        pass

"""Streams under way whose equals wait for their answer instead of buying it again.

Who comes second gets the answer once it is whole: it is not passed on piece by piece, for the first client may leave,
which stops the provider; then one of those who wait makes the call itself. ``single_flight`` is the same of whole
answers, whose call nobody's leaving stops.
"""

from __future__ import annotations

import asyncio

from app.domain.chat import ChatDelta, ChatResult
from app.domain.gathered import Gathered


class Led:
    """A stream that others may wait for; end it exactly once."""

    def __init__(self, streams: SharedStreams, key: bytes) -> None:
        self._streams = streams
        self.key = key
        self._gathered = Gathered()
        self.answer: asyncio.Future[ChatResult | None] = asyncio.get_running_loop().create_future()

    def add(self, delta: ChatDelta) -> None:
        """Note what the client is told."""
        self._gathered.add(delta)

    def end(self, *, whole: bool) -> ChatResult | None:
        """Wake who waits, and return the answer; None where it was not read to its end."""
        answer = self._gathered.result() if whole else None
        self._streams.forget(self.key, self)
        self.answer.set_result(answer)
        return answer


class SharedStreams:
    """Those of one replica, by the key of the answer.

    Args:
        streams_max: Under way at once that others may wait for; beyond it each is bought for itself.

    Not thread-safe: the event loop is the lock.
    """

    def __init__(self, streams_max: int) -> None:
        self._streams_max = streams_max
        self._led: dict[bytes, Led] = {}

    def lead(self, key: bytes) -> Led:
        """Begin a stream; who asks for the same from now on waits for it."""
        led = Led(self, key)
        if len(self._led) < self._streams_max:
            self._led.setdefault(key, led)
        return led

    async def join(self, key: bytes, within_s: float) -> ChatResult | None:
        """Return the answer of an equal stream under way; None where there is none, or none that ended in time."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + within_s
        while (led := self._led.get(key)) is not None and (left_s := until_s - loop.time()) > 0:
            await asyncio.wait({led.answer}, timeout=left_s)
            if led.answer.done() and (answer := led.answer.result()) is not None:
                return answer
        return None

    def forget(self, key: bytes, led: Led) -> None:
        """Let nobody wait for it any more."""
        if self._led.get(key) is led:
            del self._led[key]

"""Delivers one decided answer: waits, paces, breaks as its fault says, and tells what a provider would bill.

A provider bills the prompt once it works on a request and the output it has generated: nothing for an error status, a
reset or a request that hangs; up to the break for a stream that breaks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from app.simulator.books import Outcome
from app.simulator.config import BillOnDisconnect, Fault, FaultKind
from app.simulator.connection import ClientGone, Connection
from app.simulator.exchange import Piece, Plan, Refusal, RefusalKind, StreamEncoder, Wire, pieces
from app.simulator.faults import status_of

KEEP_ALIVE_EVERY_S = 0.5
SLOW_FIRST_S = 5.0
_CLIENT_LEFT, _DROPPED = 499, 0
_REFUSED: dict[FaultKind, RefusalKind] = {"dead_key": "auth", "no_balance": "no_balance", "too_long": "context"}
"""Faults that are a provider's own refusals, in its own words."""
_MID_STREAM: frozenset[FaultKind] = frozenset({"cut_stream", "error_event", "stall", "garbage_json"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to deliver."""

    wire: Wire
    plan: Plan
    fault: Fault | None
    headers: dict[str, str]
    bill_on_disconnect: BillOnDisconnect
    body: bytes | None = None
    """A ready body, where the answer is no chat."""


class Delivery:
    """One answer on its way to one client."""

    def __init__(self, connection: Connection, order: Order) -> None:
        self._connection = connection
        self._order = order
        self._plan = order.plan
        self._kind: FaultKind | None = order.fault.kind if order.fault is not None else None
        self._status = 200
        self._input = 0
        self._generated = 0
        self._cancelled = False

    async def run(self) -> None:
        """Deliver the answer to its end, the fault's or the client's departure."""
        try:
            await self._deliver()
        except ClientGone:
            self._cancelled = True
            self._status = _CLIENT_LEFT
            if self._input and self._goes_on():
                self._generated = self._plan.output_tokens

    def outcome(self) -> Outcome:
        """Return how the delivery ended and what it is billed."""
        return Outcome(
            status=self._status,
            input_tokens=self._input,
            output_tokens=self._generated,
            cancelled=self._cancelled,
            ended_ns=time.monotonic_ns(),
        )

    async def _deliver(self) -> None:
        status = None if self._kind is None else status_of(self._kind)
        if status is not None or self._kind in _REFUSED:
            await self._fail(status)
            return
        if self._kind == "reset":
            await self._drop(reset=True)
            return
        if self._kind == "hang":
            await self._connection.pause(self._seconds(None))
        self._input = self._plan.request.input_tokens
        await self._queue()
        if self._kind in ("bill_then_500", "accept_then_drop"):
            await self._generate(self._plan.output_tokens)
            await (self._fail(500) if self._kind == "bill_then_500" else self._drop())
        elif self._plan.request.stream:
            await self._stream(self._order.wire.stream(self._plan))
        else:
            await self._whole()

    async def _queue(self) -> None:
        """Wait until the first byte is due."""
        left = self._plan.latency_s
        if self._kind == "slow_first":
            left += self._seconds(SLOW_FIRST_S) or 0.0
        if not self._plan.profile.deepseek_keepalive:
            if left > 0:
                await self._connection.pause(left)
            return
        stream = self._order.wire.stream(self._plan) if self._plan.request.stream else None
        await self._start(stream)
        until = time.monotonic() + left
        while True:
            await self._connection.write(b"\n" if stream is None else stream.keep_alive())
            left = until - time.monotonic()
            if left <= 0:
                return
            await self._connection.pause(min(left, KEEP_ALIVE_EVERY_S))

    async def _whole(self) -> None:
        await self._generate(self._plan.output_tokens)
        if self._kind == "error_event":
            self._input = self._generated = 0
            await self._fail(503)
            return
        body = self._order.body if self._order.body is not None else self._order.wire.body(self._plan)
        half = len(body) // 2
        if self._kind == "garbage_json":
            body = body[:half] + b"<html>502</html>"
        elif self._kind == "duplicate":
            body += body
        if not self._connection.started:
            await self._start(None, length=len(body))
        match self._kind:
            case "cut_before_first":
                await self._drop()
            case "cut_stream":
                await self._connection.write(body[:half])
                await self._drop()
            case "stall":
                await self._connection.write(body[:half])
                await self._connection.pause(self._seconds(None))
                await self._connection.end(body[half:])
            case "slow_drip":
                size = max(1, len(body) // 10)
                for start in range(0, len(body), size):
                    await self._connection.write(body[start : start + size])
                    await self._connection.pause(self._seconds(1.0))
                await self._connection.end()
            case _:
                await self._connection.end(body)

    async def _stream(self, encoder: StreamEncoder) -> None:
        if not self._connection.started:
            await self._start(encoder)
        if self._kind == "cut_before_first":
            await self._drop()
            return
        await self._connection.write(encoder.open())
        break_at = self._break_at()
        sent = 0
        for piece in pieces(self._plan):
            if sent == break_at and piece.kind != "tool_start":
                break_at = None
                if await self._broken(encoder):
                    return
            await self._send(encoder, piece)
            sent += 1 if piece.tokens else 0
        closing = encoder.close()
        await self._connection.end(closing * 2 if self._kind == "duplicate" else closing)

    async def _send(self, encoder: StreamEncoder, piece: Piece) -> None:
        if self._kind == "slow_drip":
            await self._connection.pause(self._seconds(1.0))
        if piece.tokens:
            await self._generate(piece.tokens)
        data = encoder.piece(piece)
        if piece.kind == "finish" and self._kind == "duplicate":
            data *= 2
        if data:
            await self._connection.write(data)

    async def _broken(self, encoder: StreamEncoder) -> bool:
        """Do what a fault does in the middle of a stream; True where the stream ends by it."""
        match self._kind:
            case "cut_stream":
                await self._drop()
            case "error_event":
                await self._connection.end(encoder.error())
            case "garbage_json":
                await self._connection.end(encoder.garbage())
            case "stall":
                await self._connection.pause(self._seconds(None))
                return False
            case _:
                return False
        return True

    def _break_at(self) -> int | None:
        """Return after how many chunks the stream breaks, if it does."""
        if self._order.fault is None or self._kind not in _MID_STREAM:
            return None
        chunks = sum(1 for piece in pieces(self._plan) if piece.tokens)
        at_chunk = self._order.fault.at_chunk
        return chunks // 2 if at_chunk is None else min(at_chunk, chunks)

    async def _generate(self, tokens: int) -> None:
        """Take the time that generating takes; what the client waited for is what was generated."""
        speed = self._plan.profile.tokens_per_s
        if speed is None:
            if self._plan.request.stream:
                await self._connection.pause(0)
            self._generated += tokens
            return
        begun = time.monotonic()
        try:
            await self._connection.pause(tokens / speed)
        except ClientGone:
            self._generated += min(tokens, int((time.monotonic() - begun) * speed))
            raise
        self._generated += tokens

    async def _start(self, stream: StreamEncoder | None, *, length: int | None = None) -> None:
        kind = "application/json" if stream is None else stream.media_type
        await self._connection.start(200, {"content-type": kind, **self._order.headers}, length=length)

    async def _fail(self, status: int | None) -> None:
        """Answer with an error; if the head is out already (keep-alives), its body comes under status 200."""
        plan, fault = self._plan, self._order.fault
        kind = "fault" if self._kind is None else _REFUSED.get(self._kind, "fault")
        refusal = Refusal(kind, f"Simulated {self._kind}.", status=status)
        if kind == "context":
            refusal.limit = max(1, plan.request.input_tokens - 1)
        if fault is not None:
            refusal.retry_after = None if fault.retry_after is None else str(fault.retry_after)
            refusal.quota_id = fault.quota_id
        answer = self._order.wire.error(
            refusal, model=plan.request.model, number=plan.number, as_array=plan.request.as_array
        )
        if self._connection.started:
            await self._connection.end(answer.body)
            return
        self._status = answer.status
        await self._connection.answer(answer)

    def _goes_on(self) -> bool:
        """Whether the provider finishes, and bills, what its client has left."""
        billed = self._order.bill_on_disconnect
        if billed == "as_provider":
            return self._order.wire.format == "gemini" or not self._plan.request.stream
        return billed == "all"

    async def _drop(self, *, reset: bool = False) -> None:
        self._status = _DROPPED
        await self._connection.drop(reset=reset)

    def _seconds(self, default: float | None) -> float | None:
        fault = self._order.fault
        return default if fault is None or fault.seconds is None else fault.seconds

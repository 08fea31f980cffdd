"""Account actors of ours without Ray: the port ``AccountHosts`` over scripted answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from app.domain.calls import Admission, CallOrder, CallOutcome, Collected
from app.domain.chat import ChatResult, Usage
from app.domain.errors import GatewayError, InternalError

Script = Callable[[CallOrder], "ChatResult | GatewayError | float"]
"""What becomes of an order: an answer, a failure, or a refusal that names the seconds until its start."""


def answered(text: str, *, input_tokens: int = 10, output_tokens: int = 5) -> ChatResult:
    """Return a plain answer."""
    return ChatResult(text=text, usage=Usage(input_tokens=input_tokens, output_tokens=output_tokens))


class FakeHosts:
    """Admits and answers as the script says; ``gone`` hosts raise as a dead actor does."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.orders: list[CallOrder] = []
        self.cancelled: list[str] = []
        self.gone: set[str] = set()
        self.incarnation = "first"
        self.held = asyncio.Event()
        self.held.set()
        self._mail: dict[str, asyncio.Queue[CallOutcome]] = {}

    async def submit(self, host: str, orders: Sequence[CallOrder]) -> Sequence[Admission]:
        self._check(host)
        admissions = []
        for order in orders:
            self.orders.append(order)
            decided = self._script(order)
            if isinstance(decided, float):
                admissions.append(Admission(call_id=order.call_id, admitted=False, start_in_s=decided, reason="rpm"))
                continue
            self._box(host).put_nowait(
                CallOutcome(
                    call_id=order.call_id,
                    account=order.account,
                    model=order.model,
                    result=None if isinstance(decided, GatewayError) else decided,
                    error=decided if isinstance(decided, GatewayError) else None,
                    queued_s=0.0,
                    ttft_s=None,
                    duration_s=0.01,
                )
            )
            admissions.append(
                Admission(call_id=order.call_id, admitted=True, start_in_s=0.0, incarnation=self.incarnation)
            )
        return admissions

    async def collect(self, host: str, owner: str, incarnation: str) -> Collected:
        self._check(host)
        await self.held.wait()
        self._check(host)
        outcomes = [] if incarnation not in ("", self.incarnation) else [await self._box(host).get()]
        return Collected(incarnation=self.incarnation, outcomes=tuple(outcomes))

    def reborn(self) -> None:
        """Die with every outcome that was not collected, and be back before anybody noticed."""
        self.incarnation += "'"
        self._mail.clear()

    async def cancel(self, host: str, owner: str, call_ids: Sequence[str]) -> None:
        self.cancelled.extend(call_ids)

    def _box(self, host: str) -> asyncio.Queue[CallOutcome]:
        return self._mail.setdefault(host, asyncio.Queue())

    def _check(self, host: str) -> None:
        if host in self.gone:
            raise InternalError(f"{host} is not running")

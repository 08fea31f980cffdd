"""Messages between a holder of permits and the account actors: one under way per host, the rest goes with the next.

Decides when to write, nothing about permits. Reports that may have been lost are told again, and what a lost message
may have been granted is given back: the host knows messages by their numbers, so both are harmless.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from app.domain.errors import GatewayError
from app.domain.leases import BundleWish, Exchange, Exchanged, PermitReport, PermitWish
from app.domain.ports import Clock, PermitHosts

WISHES_MAX = 64
"""In one message."""
REPORTS_MAX = 20_000
"""In one message. No more can wait than permits were granted, so the rest needs no bound of its own."""
REPORT_DELAY_S = 0.05
"""Reports wait this long for company while nobody waits for what they free."""
REPORTS_ENOUGH = 512
"""So many do not wait for more."""
HEARTBEAT_S = 5.0
WATCH_WAIT_S = 20.0
SLOW_S = 1.0
"""A message under way for longer than this makes its host silent."""
SILENCE_S = 2.0
LOST_PAUSE_S = 0.25
LOST_PAUSE_MAX_S = 5.0
GIVE_UP_S = 60.0
"""A host that has not answered for so long has settled by itself what we held, or is gone for good."""
IDLE_S = 60.0
"""A host that was not written to for so long is forgotten."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Letter(Generic[T]):
    """What one message asked, with whom each wish is for."""

    wishes: Sequence[tuple[T, PermitWish]]
    bundles: Sequence[BundleWish]
    asked_ns: int


class Reader(Protocol[T]):
    """Who reads the answers."""

    def on_answer(self, host: str, letter: Letter[T], answer: Exchanged) -> None:
        """Take the answer to a message."""

    def on_news(self, host: str, news: Exchanged, *, reborn: bool, refused: bool) -> None:
        """Take what any message tells: ``reborn``: the host forgot every permit; ``refused``: drop spare ones."""

    def on_lost(self, host: str, letter: Letter[T]) -> None:
        """The host did not answer."""


@dataclass(slots=True, eq=False)
class _Box(Generic[T]):
    name: str
    reports: list[PermitReport] = field(default_factory=list)
    wishes: list[tuple[T, PermitWish]] = field(default_factory=list)
    bundles: list[BundleWish] = field(default_factory=list)
    sending: bool = False
    incarnation: str = ""
    epoch: int = 0
    said_ns: int = 0
    silent_until_ns: int = 0
    lost: list[int] = field(default_factory=list)
    """Messages without an answer, since the last one that had one."""
    failing_ns: int | None = None
    """Since when nothing was answered."""
    suspecting: bool = False
    due_ns: int | None = None
    """When the reports that wait have to be sent; None where there is none."""
    timer: asyncio.TimerHandle | None = None
    watcher: asyncio.Task[None] | None = None


class HostMail(Generic[T]):
    """The mail of one holder.

    Args:
        client: The account actors.
        clock: Time.
        owner: Name of this holder; unique per life.
        reader: Reads the answers.
        on_silence: Told when a host does not answer.

    Not thread-safe: one event loop.
    """

    def __init__(
        self,
        client: PermitHosts,
        clock: Clock,
        owner: str,
        reader: Reader[T],
        on_silence: Callable[[str], Awaitable[None]],
    ) -> None:
        self._client = client
        self._clock = clock
        self._owner = owner
        self._reader = reader
        self._on_silence = on_silence
        self._boxes: dict[str, _Box[T]] = {}
        self._numbers = itertools.count(1)
        self._closed = False
        self._background: set[asyncio.Task[None]] = set()

    def report(self, host: str, report: PermitReport, *, within_s: float = 0.0) -> None:
        """Say what became of a permit, with the next message or ``within_s`` seconds; 0 where somebody waits for it."""
        box = self._box(host)
        box.reports.append(report)
        due_ns = self._clock.monotonic_ns() + int(within_s * 1e9)
        if box.due_ns is None or due_ns < box.due_ns or len(box.reports) == REPORTS_ENOUGH:
            box.due_ns = due_ns if len(box.reports) < REPORTS_ENOUGH else 0
            self._remind(box)

    def wish(self, host: str, item: T, wish: PermitWish) -> None:
        """Ask for a permit with the next message; call ``send`` when all are said."""
        self._box(host).wishes.append((item, wish))

    def ask_spares(self, host: str, wish: BundleWish) -> None:
        """Ask for spare permits at once."""
        self._box(host).bundles.append(wish)
        self.send(host)

    def send(self, host: str) -> None:
        """Send what there is, unless a message is under way: then it goes right after."""
        box = self._box(host)
        if box.wishes or box.bundles or box.reports or box.lost:
            self._start(box)

    def is_silent(self, host: str, now_ns: int) -> bool:
        """Tell whether a host did not answer a moment ago, or has been taking its time for a while."""
        box = self._boxes.get(host)
        if box is None:
            return False
        return box.silent_until_ns > now_ns or (box.sending and now_ns - box.said_ns > SLOW_S * 1e9)

    def beat(self, hosts: set[str], now_ns: int) -> None:
        """Say that we live to those of ``hosts`` that have heard nothing for a while; forget who is not used."""
        for name in hosts:
            box = self._box(name)
            if now_ns - box.said_ns > HEARTBEAT_S * 1e9:
                self._start(box)
        for name, box in list(self._boxes.items()):
            unused = not (box.sending or box.reports or box.wishes or box.bundles or box.timer or box.suspecting)
            if unused and name not in hosts and now_ns - box.said_ns > IDLE_S * 1e9:
                if box.watcher is not None:
                    box.watcher.cancel()
                del self._boxes[name]

    async def aclose(self) -> None:
        """Send the reports that are unsaid and stop."""
        self._closed = True
        background = list(self._background)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        last = []
        for box in self._boxes.values():
            if box.timer is not None:
                box.timer.cancel()
            if box.reports or box.lost:
                message = Exchange(
                    owner=self._owner,
                    number=next(self._numbers),
                    lost=tuple(box.lost),
                    reports=tuple(box.reports),
                )
                last.append(self._client.exchange(box.name, message))
        await asyncio.gather(*last, return_exceptions=True)

    def _start(self, box: _Box[T]) -> None:
        if not box.sending and not self._closed:
            box.sending = True
            self._spawn(self._send(box))

    def _remind(self, box: _Box[T]) -> None:
        """See to it that the reports are sent when they are due; a message under way looks by itself when it ends."""
        if box.timer is not None:
            box.timer.cancel()
            box.timer = None
        if box.due_ns is None or box.sending or self._closed:
            return
        left_s = (box.due_ns - self._clock.monotonic_ns()) / 1e9
        if left_s <= 0:
            self._start(box)
        else:
            box.timer = asyncio.get_running_loop().call_later(left_s, self.send, box.name)

    async def _send(self, box: _Box[T]) -> None:
        try:
            # What became due while a message was under way goes right after it; other reports wait for company.
            await self._exchange(box)
            while box.wishes or box.bundles or box.lost or self._is_due(box):
                await self._exchange(box)
        finally:
            box.sending = False
            self._remind(box)

    def _is_due(self, box: _Box[T]) -> bool:
        return box.due_ns is not None and box.due_ns <= self._clock.monotonic_ns()

    async def _exchange(self, box: _Box[T]) -> None:
        reports, box.reports = box.reports[:REPORTS_MAX], box.reports[REPORTS_MAX:]
        wishes, box.wishes = box.wishes[:WISHES_MAX], box.wishes[WISHES_MAX:]
        bundles, box.bundles = box.bundles, []
        box.due_ns = 0 if box.reports else None
        box.said_ns, number = self._clock.monotonic_ns(), next(self._numbers)
        letter = Letter(wishes, bundles, box.said_ns)
        message = Exchange(
            owner=self._owner,
            number=number,
            lost=tuple(box.lost),
            reports=tuple(reports),
            wishes=tuple(wish for _item, wish in wishes),
            bundles=tuple(bundles),
        )
        try:
            answer = await self._client.exchange(box.name, message)
        except BaseException as error:
            box.reports = [*reports, *box.reports]
            box.due_ns = 0 if box.reports else None
            box.lost.append(number)
            if not isinstance(error, Exception):
                raise  # we are being closed
            # Also what nobody foresaw: who waits must hear of it. Once a silence, not once a message.
            level = logging.WARNING if box.failing_ns is None else logging.DEBUG
            _log.log(level, "%s does not answer: %s", box.name, error, exc_info=not isinstance(error, GatewayError))
            await self._lose(box, Letter([*wishes, *box.wishes], [*bundles, *box.bundles], letter.asked_ns))
            return
        box.lost, box.failing_ns, box.silent_until_ns = [], None, 0
        if not self._hear(box, answer):
            # Granted before a refusal that we have heard of already: nothing of it may be used.
            late = [call_id for bundle in answer.bundles for call_id in bundle.call_ids()]
            for call_id in late:
                self.report(box.name, PermitReport(call_id=call_id, ending="withdrawn"))
            answer = replace(answer, bundles=())
        self._reader.on_answer(box.name, letter, answer)
        if box.watcher is None or box.watcher.done():
            box.watcher = self._spawn(self._watch(box))

    async def _lose(self, box: _Box[T], letter: Letter[T]) -> None:
        now_ns = self._clock.monotonic_ns()
        box.wishes, box.bundles = [], []
        box.silent_until_ns = now_ns + int(SILENCE_S * 1e9)
        if box.failing_ns is None:
            box.failing_ns = now_ns
        self._reader.on_lost(box.name, letter)
        if now_ns - box.failing_ns > GIVE_UP_S * 1e9:
            box.reports, box.due_ns, box.lost, box.failing_ns = [], None, [], None
        if not box.suspecting:
            box.suspecting = True
            self._spawn(self._suspect(box))
        failing_s = (now_ns - (box.failing_ns or now_ns)) / 1e9
        await asyncio.sleep(min(max(LOST_PAUSE_S, failing_s / 4), LOST_PAUSE_MAX_S))

    async def _suspect(self, box: _Box[T]) -> None:
        """Tell of a silent host; it may take long, and the host's own mail does not wait for it."""
        try:
            await self._on_silence(box.name)
        except GatewayError as error:
            _log.info("nobody could be told that %s is silent: %s", box.name, error.message)
        finally:
            box.suspecting = False

    def _hear(self, box: _Box[T], answer: Exchanged) -> bool:
        """Take the news of any answer; False where it is older than what was heard before."""
        known, epoch = box.incarnation, box.epoch
        if known == answer.incarnation and answer.epoch < epoch:
            return False
        box.incarnation, box.epoch = answer.incarnation, answer.epoch
        reborn = known not in ("", answer.incarnation)
        self._reader.on_news(box.name, answer, reborn=reborn, refused=bool(known) and answer.epoch != epoch)
        return True

    async def _watch(self, box: _Box[T]) -> None:
        """Hear at once of a refusal that another holder met; ends when this host was not used for a while."""
        while self._clock.monotonic_ns() - box.said_ns < WATCH_WAIT_S * 1e9:
            try:
                self._hear(box, await self._client.watch(box.name, box.epoch, WATCH_WAIT_S))
            except GatewayError:
                return

    def _box(self, host: str) -> _Box[T]:
        found = self._boxes.get(host)
        if found is None:
            found = self._boxes[host] = _Box(host)
        return found

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a message was not dealt with", exc_info=error)

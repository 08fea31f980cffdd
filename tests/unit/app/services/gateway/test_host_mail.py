"""One message at a time to each host; what may have been lost is told again, and nothing waits for a dead one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from app.domain.calls import Admission
from app.domain.chat import Usage
from app.domain.errors import InternalError
from app.domain.leases import Bundle, BundleWish, Exchange, Exchanged, PermitReport, PermitWish
from app.services.gateway.host_mail import GIVE_UP_S, HEARTBEAT_S, IDLE_S, REPORT_DELAY_S, HostMail, Letter
from tests.fakes.permit_world import play
from tests.fakes.virtual_time import VirtualClock


@dataclass
class Post:
    """Hosts that answer as told; also reads the answers."""

    clock: VirtualClock
    delay_s: float = 0.01
    dead: bool = False
    surprise: bool = False
    epoch: int = 0
    life: str = "one"
    bundle: int = 0
    sent: list[tuple[float, Exchange]] = field(default_factory=list)
    under_way: int = 0
    answers: list[tuple[list[str], Exchanged]] = field(default_factory=list)
    lost: list[list[str]] = field(default_factory=list)
    news: list[tuple[bool, bool]] = field(default_factory=list)
    bumped: asyncio.Event = field(default_factory=asyncio.Event)

    async def exchange(self, host: str, message: Exchange) -> Exchanged:
        assert not self.under_way, "two messages at once"
        self.under_way += 1
        self.sent.append((self.clock.now_s, message))
        epoch = self.epoch
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.under_way -= 1
        if self.surprise:
            raise ValueError("nobody foresaw this")
        if self.dead:
            raise InternalError("dead")
        bundles = tuple(
            Bundle(prefix=f"b{message.number}", account="a", model="m", count=2, input_tokens=1, output_tokens_max=1)
            for _wish in message.bundles
        )
        admissions = tuple(Admission(call_id=wish.call_id, admitted=True, start_in_s=0.0) for wish in message.wishes)
        return Exchanged(incarnation=self.life, epoch=epoch, admissions=admissions, bundles=bundles)

    async def watch(self, host: str, epoch: int, wait_s: float) -> Exchanged:
        try:
            async with asyncio.timeout(wait_s):
                while self.epoch == epoch:
                    await self.bumped.wait()
        except TimeoutError:
            pass
        return Exchanged(incarnation=self.life, epoch=self.epoch)

    def refuse(self) -> None:
        self.epoch += 1
        self.bumped.set()
        self.bumped.clear()

    def on_answer(self, host: str, letter: Letter[str], answer: Exchanged) -> None:
        self.answers.append(([item for item, _wish in letter.wishes], answer))

    def on_news(self, host: str, news: Exchanged, *, reborn: bool, refused: bool) -> None:
        self.news.append((reborn, refused))

    def on_lost(self, host: str, letter: Letter[str]) -> None:
        self.lost.append([item for item, _wish in letter.wishes])

    def told(self) -> list[str]:
        return [report.call_id for _at_s, message in self.sent for report in message.reports]


async def never_told(host: str) -> None:
    """Play a directory that does not answer."""
    await asyncio.sleep(1_000.0)


def mail_of(post: Post) -> HostMail[str]:
    return HostMail(post, post.clock, "o", post, never_told)


def a_report(call_id: str) -> PermitReport:
    return PermitReport(call_id=call_id, ending="answered", usage=Usage(input_tokens=1, output_tokens=1))


def a_wish(call_id: str) -> PermitWish:
    return PermitWish(call_id=call_id, account="a", model="m", input_tokens=1, output_tokens_max=1)


SPARES = BundleWish(account="a", model="m", count=2, input_tokens=1, output_tokens_max=1)


def test_mail_gathers_reports_for_a_while_unless_somebody_waits() -> None:
    """A message per report would cost as much as the calls."""

    async def story(clock: VirtualClock) -> None:
        post = Post(clock)
        mail, began_s = mail_of(post), clock.now_s
        mail.report("h", a_report("x"), within_s=REPORT_DELAY_S)
        mail.report("h", a_report("y"), within_s=REPORT_DELAY_S)
        await asyncio.sleep(1.0)
        mail.report("h", a_report("z"))
        await asyncio.sleep(1.0)
        await mail.aclose()

        assert [(round(at_s - began_s, 3), len(message.reports)) for at_s, message in post.sent] == [
            (REPORT_DELAY_S, 2),
            (1.0, 1),
        ]

    play(story)


def test_mail_lets_reports_that_nobody_waits_for_come_along_with_the_next_message() -> None:
    """Of a busy account that is far from its limits only the requests for spare permits make a message."""

    async def story(clock: VirtualClock) -> None:
        post = Post(clock)
        mail, began_s = mail_of(post), clock.now_s
        for number in range(20):
            mail.report("h", a_report(f"r{number}"), within_s=0.5)
            if number == 7:
                mail.ask_spares("h", SPARES)
            if number == 15:
                mail.report("h", a_report("soon"), within_s=REPORT_DELAY_S)
            await asyncio.sleep(0.02)
        await asyncio.sleep(1.0)
        await mail.aclose()

        sent = [(round(at_s - began_s, 3), len(message.reports)) for at_s, message in post.sent]
        assert [(at_s, count) for at_s, count in sent if at_s < 0.4] == [(0.14, 8), (0.35, 11)]
        assert sent[2:] == [(0.86, 2)]

    play(story)


def test_mail_sends_what_came_meanwhile_right_after_the_message_under_way() -> None:
    """One at a time, nothing forgotten, numbers in order."""

    async def story(clock: VirtualClock) -> None:
        post = Post(clock)
        mail = mail_of(post)
        for number in range(200):
            mail.wish("h", f"w{number}", a_wish(f"w{number}"))
            mail.send("h")
            mail.report("h", a_report(f"r{number}"), within_s=REPORT_DELAY_S)
            await asyncio.sleep(0.001)
        await asyncio.sleep(1.0)
        await mail.aclose()

        assert [item for items, _answer in post.answers for item in items] == [f"w{number}" for number in range(200)]
        assert sorted(post.told()) == sorted(f"r{number}" for number in range(200))
        numbers = [message.number for _at_s, message in post.sent]
        assert numbers == sorted(set(numbers))
        assert len(numbers) < 50

    play(story)


def test_mail_names_lost_messages_until_one_is_answered() -> None:
    """The host takes back what it granted in them, and hears every report."""

    async def story(clock: VirtualClock) -> None:
        post = Post(clock, dead=True)
        mail = mail_of(post)
        mail.wish("h", "w", a_wish("w"))
        mail.report("h", a_report("x"))
        await asyncio.sleep(0.7)
        assert post.lost[0] == ["w"]
        assert mail.is_silent("h", clock.monotonic_ns())
        post.dead = False
        await asyncio.sleep(3.0)
        mail.report("h", a_report("y"))
        await asyncio.sleep(1.0)
        await mail.aclose()

        *tries, healed, last = [message for _at_s, message in post.sent]
        assert tries
        assert healed.lost == tuple(message.number for message in tries)
        assert [report.call_id for report in healed.reports] == ["x"]
        assert last.lost == ()
        assert not mail.is_silent("h", clock.monotonic_ns())

    play(story)


def test_mail_stops_when_a_host_has_been_dead_for_long() -> None:
    """Its books are gone by then; a task that tries for ever would be one per host that ever was."""

    async def story(clock: VirtualClock) -> None:
        post = Post(clock, dead=True)
        mail = mail_of(post)
        mail.report("h", a_report("x"))
        await asyncio.sleep(GIVE_UP_S + 10.0)
        sent = len(post.sent)
        await asyncio.sleep(200.0)
        assert len(post.sent) == sent < 60
        mail.report("h", a_report("y"))
        await asyncio.sleep(10.0)
        post.dead = False
        await asyncio.sleep(10.0)
        await mail.aclose()

        assert post.told()[-1] == "y"

    play(story)


def test_mail_gives_spares_back_when_a_refusal_was_heard_before_their_answer() -> None:
    """They were granted before it, and must not be used after it."""

    async def story(clock: VirtualClock) -> None:
        post = Post(clock)
        mail = mail_of(post)
        mail.report("h", a_report("x"))
        await asyncio.sleep(0.1)
        post.delay_s = 0.5
        mail.ask_spares("h", SPARES)
        await asyncio.sleep(0.1)
        post.refuse()
        await asyncio.sleep(2.0)
        await mail.aclose()

        assert (False, True) in post.news
        assert all(answer.bundles == () for _items, answer in post.answers)
        number = next(message.number for _at_s, message in post.sent if message.bundles)
        assert post.told() == ["x", f"b{number}/0", f"b{number}/1"]

    play(story)


def test_mail_says_that_a_host_was_reborn() -> None:
    """Another life knows none of the permits."""

    async def story(clock: VirtualClock) -> None:
        post = Post(clock)
        mail = mail_of(post)
        mail.report("h", a_report("x"))
        await asyncio.sleep(0.1)
        post.life = "two"
        mail.report("h", a_report("y"))
        await asyncio.sleep(0.1)
        await mail.aclose()

        assert post.news == [(False, False), (True, False)]

    play(story)


def test_mail_calls_a_host_silent_when_its_answer_takes_long() -> None:
    """Waiting calls go elsewhere before it is given up."""

    async def story(clock: VirtualClock) -> None:
        post = Post(clock, delay_s=5.0)
        mail = mail_of(post)
        mail.report("h", a_report("x"))
        await asyncio.sleep(0.5)
        assert not mail.is_silent("h", clock.monotonic_ns())
        await asyncio.sleep(1.0)
        assert mail.is_silent("h", clock.monotonic_ns())
        await asyncio.sleep(5.0)
        assert not mail.is_silent("h", clock.monotonic_ns())
        await mail.aclose()

    play(story)


def test_mail_beats_while_something_is_held_and_forgets_the_host_afterwards() -> None:
    """Silence would settle what is held; a host that is not used costs nothing."""

    async def story(clock: VirtualClock) -> None:
        post = Post(clock)
        mail = mail_of(post)
        mail.report("h", a_report("x"))
        for _ in range(100):
            await asyncio.sleep(1.0)
            mail.beat({"h"}, clock.monotonic_ns())
        gaps = [later[0] - sooner[0] for sooner, later in zip(post.sent, post.sent[1:], strict=False)]
        assert max(gaps) <= HEARTBEAT_S + 1.5
        for _ in range(int(IDLE_S) + 30):
            await asyncio.sleep(1.0)
            mail.beat(set(), clock.monotonic_ns())

        assert not mail._boxes
        await mail.aclose()

    play(story)


def test_mail_goes_on_and_logs_when_a_client_fails_in_an_unforeseen_way(caplog: pytest.LogCaptureFixture) -> None:
    """The reports stay, the message counts as lost, and somebody can read why."""

    async def story(clock: VirtualClock) -> None:
        post = Post(clock, surprise=True)
        mail = mail_of(post)
        mail.wish("h", "w", a_wish("w"))
        mail.report("h", a_report("x"))
        await asyncio.sleep(0.1)
        post.surprise = False
        mail.report("h", a_report("y"))
        await asyncio.sleep(0.1)
        await mail.aclose()

        assert post.lost == [["w"]]
        assert [report.call_id for report in post.sent[-1][1].reports] == ["x", "y"]
        assert post.sent[-1][1].lost == (post.sent[0][1].number,)

    play(story)
    assert "nobody foresaw this" in caplog.text


def test_mail_says_what_was_under_way_when_it_closes() -> None:
    """The last word holds every report that nobody has confirmed."""

    async def story(clock: VirtualClock) -> None:
        post = Post(clock, delay_s=1.0)
        mail = mail_of(post)
        mail.report("h", a_report("x"))
        await asyncio.sleep(0.5)
        mail.report("h", a_report("y"), within_s=REPORT_DELAY_S)
        await mail.aclose()
        sent = len(post.sent)
        mail.report("h", a_report("z"))
        await asyncio.sleep(5.0)

        assert [report.call_id for report in post.sent[-1][1].reports] == ["x", "y"]
        assert len(post.sent) == sent

    play(story)

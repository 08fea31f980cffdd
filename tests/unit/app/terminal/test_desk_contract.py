"""The fake desk and the HTTP client pass the same contract; the actors' desk passes it in tests/integration."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
import pytest

from app.domain.errors import CapacityError, ConfigurationError, GatewayError, InternalError
from app.domain.ports import Desk
from app.domain.run import RunRequest, RunStatus
from app.http.app import build_app
from app.http.limits import HttpLimits
from app.terminal.client import HttpDesk
from tests.fakes import desk_contract
from tests.fakes.asgi import StreamingAppTransport
from tests.fakes.desk import ACCOUNTS, ASK_WORD, FakeDesk

PLAIN, ASKING = "Write a guide.", f"Write a guide for {ASK_WORD}."


@pytest.fixture
def behind() -> FakeDesk:
    return FakeDesk()


@pytest.fixture
async def client(behind: FakeDesk) -> AsyncIterator[HttpDesk]:
    app = build_app(lambda: behind, version="1.2.3", limits=HttpLimits(keepalive_s=0.02))
    client = HttpDesk("http://tutti", transport=StreamingAppTransport(app))
    yield client
    await client.aclose()


@pytest.fixture(params=["fake", "client"])
def desk(request: pytest.FixtureRequest, behind: FakeDesk, client: HttpDesk) -> Desk:
    return behind if request.param == "fake" else client


async def test_desk_plays_a_run_to_its_document(desk: Desk) -> None:
    """See the contract."""
    await desk_contract.check_run_is_played_to_its_document(desk, PLAIN)


async def test_desk_resumes_events_anywhere(desk: Desk) -> None:
    """See the contract."""
    await desk_contract.check_events_resume_anywhere(desk, PLAIN)


async def test_desk_honours_idempotency_keys(desk: Desk) -> None:
    """See the contract."""
    await desk_contract.check_idempotency_key_is_honoured(desk, PLAIN)


async def test_desk_takes_answers(desk: Desk) -> None:
    """See the contract."""
    await desk_contract.check_answers_let_a_run_go_on(desk, ASKING)


async def test_desk_cancels_once(desk: Desk) -> None:
    """See the contract."""
    await desk_contract.check_cancel_ends_a_run_once(desk, PLAIN)


async def test_desk_knows_what_it_does_not_know(desk: Desk) -> None:
    """See the contract."""
    await desk_contract.check_unknown_run_is_not_found(desk)


async def test_desk_lists_newest_first(desk: Desk) -> None:
    """See the contract."""
    await desk_contract.check_list_is_newest_first_and_paged(desk, PLAIN)


async def test_desk_refuses_an_empty_request(desk: Desk) -> None:
    """See the contract."""
    await desk_contract.check_empty_request_is_refused(desk)


async def test_desk_does_a_task_again(desk: Desk) -> None:
    """See the contract."""
    await desk_contract.check_a_task_is_done_again(desk, PLAIN)


async def test_desk_forks_a_run(desk: Desk) -> None:
    """See the contract."""
    await desk_contract.check_a_fork_leaves_its_source_alone(desk, PLAIN)


async def test_desk_exports_a_run(desk: Desk) -> None:
    """See the contract."""
    await desk_contract.check_an_export_is_one_zip(desk, PLAIN)


async def test_client_carries_a_run_unchanged(client: HttpDesk, behind: FakeDesk) -> None:
    """Every field of a record survives the way over HTTP, except the key that stays with the sender."""
    record = await client.start(RunRequest(text=ASKING, timeout_s=12.5, tokens_max=900, budget_usd="0.5"))
    behind.advance(record.run_id)
    asking = await client.get(record.run_id)
    await client.answer(record.run_id, {}, assume_rest=True)
    await desk_contract.events_to_the_end(client, record.run_id)

    assert asking.status is RunStatus.NEEDS_ANSWERS
    assert await client.get(record.run_id) == behind.runs[record.run_id]
    assert list(await client.events(record.run_id, 0, wait_s=1.0)) == behind.log[record.run_id]


async def test_client_carries_operators_views_unchanged(client: HttpDesk, behind: FakeDesk) -> None:
    """Accounts, checks, reload and readiness are the same from near and far."""
    behind.parts = {"store": "starting"}

    assert await client.accounts() == ACCOUNTS
    assert list(await client.check_live()) == behind.checks
    assert await client.reload() == await behind.reload()
    assert await client.ready() == {"store": "starting"}
    assert await client.alive() == "1.2.3"


async def test_client_raises_the_servers_errors_with_field_and_remedy(client: HttpDesk, behind: FakeDesk) -> None:
    """An error keeps its class as far as it matters to a caller, and every word that helps."""
    behind.failing["reload"] = ConfigurationError("duplicate account 'a'", param="accounts[1].name", remedy="Rename.")
    behind.failing["start"] = CapacityError("every account is full", remedy="Wait.")

    with pytest.raises(ConfigurationError) as wrong:
        await client.reload()
    with pytest.raises(InternalError) as full:
        await client.start(RunRequest(text=PLAIN))
    assert (wrong.value.param, wrong.value.remedy) == ("accounts[1].name", "Rename.")
    assert full.value.remedy == "Wait."


async def test_client_without_a_key_names_the_variable_that_takes_one() -> None:
    """The server names the header, which nobody at a command line can set."""
    body = {"error": {"type": "access_error", "message": "an API key is needed", "remedy": "send `Authorization: …`"}}
    client = HttpDesk("http://tutti", transport=httpx.MockTransport(lambda _request: httpx.Response(401, json=body)))
    with pytest.raises(GatewayError, match="an API key is needed") as caught:
        await client.accounts()
    await client.aclose()

    assert caught.value.remedy is not None
    assert "TUTTI_API_KEY" in caught.value.remedy


async def test_client_takes_up_a_broken_stream_where_it_was(behind: FakeDesk) -> None:
    """A connection that breaks after some events costs an error at most, never a line."""

    class Breaking(httpx.AsyncBaseTransport):
        """Cuts the first event stream after its first event."""

        def __init__(self) -> None:
            self.inner = StreamingAppTransport(build_app(lambda: behind, version="1"))
            self.cut = False

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await self.inner.handle_async_request(request)
            if not request.url.path.endswith("/events") or self.cut:
                return response
            self.cut = True
            return httpx.Response(200, headers=response.headers, stream=_Cut(response.stream))

    class _Cut(httpx.AsyncByteStream):
        def __init__(self, stream: object) -> None:
            assert isinstance(stream, httpx.AsyncByteStream)
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in self._stream:
                yield chunk
                if b"data:" in chunk:
                    raise httpx.ReadError("the connection broke")

        async def aclose(self) -> None:
            await self._stream.aclose()

    breaking = Breaking()
    client = HttpDesk("http://tutti", transport=breaking)
    record = await client.start(RunRequest(text=PLAIN))
    events = list(await client.events(record.run_id, 0, wait_s=1.0))
    while events[-1].kind != "run.finished":
        with suppress(InternalError):
            events.extend(await client.events(record.run_id, events[-1].seq, wait_s=1.0))
    await client.aclose()

    assert breaking.cut
    assert events == behind.log[record.run_id]


async def test_client_says_plainly_that_nobody_answers() -> None:
    """A refused connection and a stranger's answer are both our words, not a library's."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    gone = HttpDesk("http://127.0.0.1:1", transport=httpx.MockTransport(refuse))
    stranger = HttpDesk("http://tutti", transport=httpx.MockTransport(lambda _: httpx.Response(200, text="<html>")))
    with pytest.raises(InternalError, match="does not answer") as refused:
        await gone.accounts()
    with pytest.raises(InternalError, match="not Tutti's"):
        await stranger.accounts()
    await gone.aclose()
    await stranger.aclose()

    assert refused.value.remedy is not None
    assert "tutti serve" in refused.value.remedy

"""The doors of operators, health, and the OpenAPI document."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from app.domain.errors import ConfigurationError, InternalError
from app.domain.ports import Desk
from app.http.app import build_app
from app.http.schemas import AccountListOut, LiveCheckListOut, ReadyOut, ReloadOut, UnreadyOut
from tests.fakes.asgi import StreamingAppTransport
from tests.fakes.desk import FakeDesk


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk()


@pytest.fixture
async def http(desk: FakeDesk) -> AsyncIterator[httpx.AsyncClient]:
    app = build_app(lambda: desk, version="1.2.3")
    async with httpx.AsyncClient(transport=StreamingAppTransport(app), base_url="http://tutti") as client:
        yield client


async def test_accounts_checks_and_reload_have_the_documented_shape(http: httpx.AsyncClient) -> None:
    """What an operator sees over HTTP is what the desk says, field by field."""
    accounts = AccountListOut.model_validate((await http.get("/v1/accounts")).json(), strict=True)
    checks = LiveCheckListOut.model_validate((await http.post("/v1/accounts/check")).json(), strict=True)
    reloaded = ReloadOut.model_validate((await http.post("/v1/reload")).json(), strict=True)

    assert [row.account for row in accounts.data] == ["openai-a", "gemini-b", "embedded"]
    assert accounts.data[0].limits[0].used == 12
    assert checks.data[0].ok
    assert reloaded.added == ["openai-b"]


async def test_wrong_configuration_is_422_and_names_its_place(http: httpx.AsyncClient, desk: FakeDesk) -> None:
    """A wrong file changes nothing and says why."""
    desk.failing["reload"] = ConfigurationError(
        "line 4: duplicate account 'a'", param="accounts[1].name", remedy="Rename."
    )
    response = await http.post("/v1/reload")

    assert response.status_code == 422
    assert response.json()["error"]["type"] == "configuration_error"
    assert response.json()["error"]["param"] == "accounts[1].name"


async def test_health_asks_nobody(desk: FakeDesk) -> None:
    """A process is alive although everything behind it is not."""

    def no_desk() -> Desk:
        raise InternalError("there is no cluster")

    app = build_app(no_desk, version="1.2.3")
    async with httpx.AsyncClient(transport=StreamingAppTransport(app), base_url="http://tutti") as http:
        alive, ready = await http.get("/healthz"), await http.get("/readyz")

    assert alive.json() == {"status": "ok", "version": "1.2.3"}
    assert ready.status_code == 503
    assert ready.json()["error"]["message"] == "there is no cluster"


async def test_ready_names_the_part_that_is_not(http: httpx.AsyncClient, desk: FakeDesk) -> None:
    """503 until every part says ok, and which one does not."""
    good = ReadyOut.model_validate((await http.get("/readyz")).json())
    desk.parts = {**desk.parts, "store": "starting"}
    response = await http.get("/readyz")
    bad = UnreadyOut.model_validate(response.json())

    assert set(good.parts.values()) == {"ok"}
    assert response.status_code == 503
    assert bad.error.param == "store"
    assert bad.parts["store"] == "starting"


async def test_missing_account_is_named_while_the_others_serve(http: httpx.AsyncClient, desk: FakeDesk) -> None:
    """One slow or dead account of fifty is no reason to send nobody here."""
    desk.parts = {**desk.parts, "accounts": "ok; starting: account-b"}
    response = await http.get("/readyz")

    assert response.status_code == 200
    assert ReadyOut.model_validate(response.json()).parts["accounts"] == "ok; starting: account-b"


async def test_a_bug_is_500_without_a_word_of_it(desk: FakeDesk) -> None:
    """No exception text reaches a caller: it may hold anything."""

    class Broken(FakeDesk):
        async def accounts(self) -> tuple[()]:
            raise RuntimeError("the secret is 42")

    app = build_app(Broken, version="1")
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://tutti") as http:
        response = await http.get("/v1/accounts")

    assert response.status_code == 500
    assert response.json()["error"]["type"] == "internal_error"
    assert "42" not in response.text


async def test_openapi_documents_every_refusal_in_the_one_shape(http: httpx.AsyncClient) -> None:
    """Every route says what it may answer, and every status from 400 has the error's shape."""
    document = (await http.get("/openapi.json")).json()
    assert (await http.get("/docs")).status_code == 200
    operations = [(path, operation) for path, methods in document["paths"].items() for operation in methods.values()]

    assert len(operations) == 15
    for path, operation in operations:
        refused = {status: body for status, body in operation["responses"].items() if int(status) >= 400}
        assert {"500", "503"} <= set(refused), path
        for status, body in refused.items():
            name = body["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
            assert name in ("ErrorBody", "UnreadyOut"), (path, status)
        if "requestBody" in operation:
            assert {"400", "413", "415", "422"} <= set(refused), path


def test_desk_is_made_once_and_only_when_asked_for() -> None:
    """The app is built before there is a cluster to talk to, and keeps one connection to it."""
    made: list[FakeDesk] = []

    def factory() -> FakeDesk:
        made.append(FakeDesk())
        return made[-1]

    app = build_app(factory, version="1")
    assert not made
    assert app.state.desk() is app.state.desk()
    assert len(made) == 1

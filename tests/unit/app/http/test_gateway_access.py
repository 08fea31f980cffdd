"""Keys and origins before every door: who is let in, and what a browser is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import cast, get_args

import httpx
import pytest
from fastapi import FastAPI

from app import settings
from app.domain.accounts import GatewaySpec, Orchestra
from app.domain.allowance import Allowance
from app.domain.callers import CallerSpec, hash_key
from app.domain.errors import CapacityError, QuotaError
from app.domain.gateway import Caller, Served
from app.domain.load import BucketKind
from app.http.gateway.access import KeyNeeded
from app.http.gateway.answer_headers import answer_headers, limit_headers
from app.http.gateway.cors import Cors
from app.http.gateway.door import GRANTED_PERIOD_S, Keys
from app.http.gateway.wire_errors import headers_of
from app.services.gateway.gateway import Facts, Gateway
from tests.fakes.told import Told

KEY = "a-key-of-a-team"
PAGE = "https://app.example.com"


class Configured:
    """As much of a gateway as knows its configuration."""

    def __init__(self, orchestra: Orchestra, events: Told | None = None) -> None:
        self._orchestra = orchestra
        self.events = events or Told()

    def orchestra(self) -> Orchestra:
        return self._orchestra


def an_orchestra(*, keys: bool, origins: tuple[str, ...] = ()) -> Orchestra:
    plain = settings.load_mapping(
        {"accounts": [{"name": "a", "provider": "openai", "api_key": "k", "models": ["gpt-5-mini"]}]}, source="test"
    )
    callers = (CallerSpec(caller=Caller(name="team"), key_sha256=hash_key(KEY)),) if keys else ()
    return replace(plain, callers=callers, gateway=GatewaySpec(cors_origins=origins))


def a_client(orchestra: Orchestra, events: Told | None = None) -> httpx.AsyncClient:
    app = FastAPI()
    app.add_api_route("/healthz", _hello)
    app.add_api_route("/v1/projects", _hello)
    app.add_api_route("/v1/projects/{run_id}", _hello)

    async def gateway() -> Gateway:
        return cast("Gateway", Configured(orchestra, events))

    app.add_middleware(KeyNeeded, gateway=gateway, keys=Keys())
    app.add_middleware(Cors, gateway=gateway)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


async def _hello() -> str:
    return "hello"


@pytest.fixture
async def closed() -> AsyncIterator[httpx.AsyncClient]:
    """A server with a key and one origin."""
    async with a_client(an_orchestra(keys=True, origins=(PAGE,))) as client:
        yield client


async def test_with_keys_configured_every_door_but_the_open_ones_asks_for_one(closed: httpx.AsyncClient) -> None:
    """The project API is as closed as the gateway; watchers of the process need no key."""
    wrong = {"authorization": "Bearer nobody"}
    answers = [
        await closed.get("/v1/projects"),
        await closed.get("/v1/projects", headers=wrong),
        await closed.get("/v1/projects", headers={"authorization": f"Bearer {KEY}"}),
        await closed.get("/v1/projects", headers={"x-api-key": KEY}),
        await closed.get("/healthz"),
    ]

    assert [answer.status_code for answer in answers] == [401, 401, 200, 200, 200]
    assert answers[0].json()["error"]["type"] == "authentication_error"
    assert answers[0].headers["www-authenticate"] == "Bearer"
    assert KEY not in answers[1].text


async def test_without_keys_nobody_is_asked() -> None:
    """A server of one's own machine works as it is, and nobody signs in there."""
    events = Told()
    async with a_client(an_orchestra(keys=False), events) as client:
        assert (await client.get("/v1/projects")).status_code == 200
    assert events.events == []


def test_use_of_a_key_is_told_once_an_hour_by_a_replica() -> None:
    """Not with every request, and of every key for itself."""
    events, clock_s = Told(), [0.0]
    plain = an_orchestra(keys=True)
    other = CallerSpec(caller=Caller(name="other", team="red"), key_sha256=hash_key("another-key"))
    keys = Keys(lambda: clock_s[0])

    def come(key: str, orchestra: Orchestra, now_s: float) -> None:
        clock_s[0] = now_s
        keys.identify({b"x-api-key": key.encode()}, cast("Gateway", Configured(orchestra, events)))

    for now_s in (0.0, 1.0, GRANTED_PERIOD_S - 1):
        # Another copy of the configuration, as it comes with every snapshot.
        come(KEY, replace(plain, callers=(*plain.callers, other)), now_s)
    come("another-key", replace(plain, callers=(*plain.callers, other)), GRANTED_PERIOD_S - 1)
    come(KEY, plain, GRANTED_PERIOD_S)

    assert [(told["caller"], told["team"]) for told in events.values("access.granted")] == [
        ("team", None),
        ("other", "red"),
        ("team", None),
    ]


async def test_who_is_refused_is_told_by_the_route_and_not_by_a_strangers_words() -> None:
    """At every door, not at the gateway's only; the key itself is nowhere."""
    events = Told()
    async with a_client(an_orchestra(keys=True), events) as client:
        wrong = {"authorization": "Bearer sk-canary", "x-request-id": "r-1"}
        await client.get("/v1/projects/run-7", headers=wrong)
        await client.get("/canary/path", headers=wrong)
    told = events.values("access.refused")

    assert [(one["endpoint"], one["http_status"], one["reason"], one["request_id"]) for one in told] == [
        ("/v1/projects/{run_id}", 401, "unknown key", "r-1"),
        (None, 401, "unknown key", "r-1"),
    ]
    assert "canary" not in str(events.events)


async def test_a_page_of_a_configured_origin_may_read_the_answer_and_another_may_not(closed: httpx.AsyncClient) -> None:
    """What a browser needs: the preflight, the origin on errors too, and the headers that it may show."""
    asking = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": "x-tutti-user"}
    preflight = await closed.options("/v1/projects", headers=asking)
    stranger = await closed.options("/v1/projects", headers={**asking, "origin": "https://evil.example.com"})
    refused = await closed.get("/v1/projects", headers={"origin": PAGE})
    hidden = await closed.get("/healthz", headers={"origin": "https://evil.example.com"})

    assert (preflight.status_code, stranger.status_code) == (204, 403)
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert preflight.headers["access-control-allow-headers"] == "x-tutti-user"
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == PAGE
    assert "access-control-allow-origin" not in hidden.headers
    assert "access-control-allow-origin" not in stranger.headers


async def test_a_page_may_read_every_header_that_the_gateway_writes(closed: httpx.AsyncClient) -> None:
    """Who served, what it cost, what is left of the key's limits, and whether to come back."""
    served = Served(request_id="r", created_s=1, account="a", provider="openai", model="m")
    written = [
        *answer_headers(Facts(served=served, cost_usd="0.1", cached=True), 0.1),
        *limit_headers(Allowance(kind=kind, limit=1, remaining=1, reset_s=1) for kind in get_args(BucketKind)),
        *headers_of(CapacityError("full", retry_after_s=1.0), 429),
        *headers_of(QuotaError("spent", limit="usd", retry_after_s=None), 429),
    ]
    answer = await closed.get("/healthz", headers={"origin": PAGE})
    exposed = answer.headers["access-control-expose-headers"].split(", ")

    assert {name.decode() for name, _value in written} <= set(exposed)
    assert len(set(exposed)) == len(exposed)

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
from app.http.gateway.door import Keys
from app.http.gateway.wire_errors import headers_of
from app.services.gateway.gateway import Facts, Gateway

KEY = "a-key-of-a-team"
PAGE = "https://app.example.com"


class Configured:
    """As much of a gateway as knows its configuration."""

    def __init__(self, orchestra: Orchestra) -> None:
        self._orchestra = orchestra

    def orchestra(self) -> Orchestra:
        return self._orchestra


def an_orchestra(*, keys: bool, origins: tuple[str, ...] = ()) -> Orchestra:
    plain = settings.load_mapping(
        {"accounts": [{"name": "a", "provider": "openai", "api_key": "k", "models": ["gpt-5-mini"]}]}, source="test"
    )
    callers = (CallerSpec(caller=Caller(name="team"), key_sha256=hash_key(KEY)),) if keys else ()
    return replace(plain, callers=callers, gateway=GatewaySpec(cors_origins=origins))


def a_client(orchestra: Orchestra) -> httpx.AsyncClient:
    app = FastAPI()
    app.add_api_route("/healthz", _hello)
    app.add_api_route("/v1/projects", _hello)

    async def gateway() -> Gateway:
        return cast("Gateway", Configured(orchestra))

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
    """A server of one's own machine works as it is."""
    async with a_client(an_orchestra(keys=False)) as client:
        assert (await client.get("/v1/projects")).status_code == 200


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

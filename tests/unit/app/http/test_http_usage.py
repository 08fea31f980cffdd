"""The routes of the books over the real store: sums, money, live entries, budgets, and whose of it a key sees."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from actors.store import Store
from app import settings
from app.domain.accounts import Orchestra
from app.domain.books.budgets import BudgetSpec, OwnerKind, Owners, Window
from app.domain.books.entries import Correct, Ending, Expire, Hold, Settle, UsageEntry
from app.domain.books.prices import PriceRow, Rates
from app.domain.callers import CallerSpec, hash_key
from app.domain.chat import Usage
from app.domain.errors import InternalError
from app.domain.gateway import Caller
from app.http.app import build_app, build_door
from app.http.books import SettledOut, UnknownHoldListOut
from app.http.limits import HttpLimits
from app.http.usage_schemas import BudgetListOut, CostsOut, StatsOut
from app.services.events.emitter import Silence
from app.services.gateway.gateway import Gateway
from tests.fakes.asgi import StreamingAppTransport
from tests.fakes.desk import FakeDesk

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
RANGE = {"from": "2026-11-20", "to": "2026-11-23"}
BUDGETS = (
    BudgetSpec(owner_kind=OwnerKind.TEAM, owner_name="research", window=Window.DAY, limit_nano=2_500_000_000),
    BudgetSpec(owner_kind=OwnerKind.KEY, owner_name="*", window=Window.TOTAL, limit_tokens=1_000),
)


def an_entry(name: str, nano: int | None = 1_500_000_000, *, key: str = "ci", **more: Any) -> UsageEntry:
    given: dict[str, Any] = {
        "entry_id": name,
        "at_s": NOON,
        "owners": Owners(tenant="acme", team="research", user="ann", key=key),
        "model": "m",
        "account": "a",
        "provider": "openai",
        "usage": Usage(input_tokens=10, output_tokens=5, cache_read_tokens=4),
        "cost_nano": nano,
        "price_id": None if nano is None else "p1",
        "duration_s": 2.0,
    }
    return UsageEntry(**(given | more))


async def book(store: Store, *entries: UsageEntry) -> None:
    for answer in await store.apply_books([Settle(hold_id=None, entries=(entry,), at_s=NOON) for entry in entries]):
        assert answer.outcome == "done"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store(str(tmp_path), wall_s=lambda: NOON + 60.0)
    await opened.sync_books(BUDGETS, [PriceRow(price_id="p1", model="m", rates=Rates(input="1", output="1"))])
    yield opened
    await opened.close()


def a_client(store: Store, orchestra: Orchestra | None = None, key: str | None = None) -> httpx.AsyncClient:
    """Return a client of the app; with an orchestra, of the whole door with its keys."""
    if orchestra is None:
        app: Any = build_app(FakeDesk, version="1", books_factory=lambda: store, limits=HttpLimits(keepalive_s=0.02))
    else:

        async def gateway() -> Gateway:
            return cast("Gateway", _Configured(orchestra))

        app = build_door(FakeDesk, version="1", gateway=gateway, books_factory=lambda: store)
    headers = {"authorization": f"Bearer {key}"} if key else None
    return httpx.AsyncClient(transport=StreamingAppTransport(app), base_url="http://tutti", headers=headers)


class _Configured:
    """As much of a gateway as knows its configuration."""

    def __init__(self, orchestra: Orchestra) -> None:
        self._orchestra = orchestra
        self.events = Silence()

    def orchestra(self) -> Orchestra:
        return self._orchestra


@pytest.fixture
async def http(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    async with a_client(store) as client:
        yield client


async def test_costs_are_decimal_dollars_and_unknown_is_null(http: httpx.AsyncClient, store: Store) -> None:
    """A sum of nothing known is null, a sum of something known says how many calls it misses."""
    await book(
        store,
        an_entry("e1"),
        an_entry("e2", 1),
        an_entry("e3", None),
        an_entry("e4", None, model="other"),
        an_entry("e5", 0, model="cached", ending=Ending.CACHE_HIT, savings_nano=5),
    )
    response = await http.get("/api/v1/usage/costs", params={**RANGE, "group_by": "model,day"})
    body = CostsOut.model_validate(response.json(), strict=True)

    assert [(row.period, row.group["model"], row.calls, row.unpriced, row.cost_usd) for row in body.data] == [
        ("2026-11-21", "cached", 1, 0, "0"),
        ("2026-11-21", "m", 3, 1, "1.500000001"),
        ("2026-11-21", "other", 1, 1, None),
    ]
    assert (body.total.calls, body.total.unpriced, body.total.cost_usd) == (5, 2, "1.500000001")
    assert body.total.savings_usd == "0.000000005"


async def test_stats_are_filtered_and_grouped(http: httpx.AsyncClient, store: Store) -> None:
    """Filters of one dimension add up, those of several narrow down; hours are the time zone's."""
    await book(store, an_entry("e1"), an_entry("e2", key="web"), an_entry("e3", key="web", model="n"))
    params: dict[str, Any] = {
        "from": "2026-11-21T12:30",
        "to": NOON + 7_200,
        "time_zone": "Europe/Berlin",
        "key": ["web", "nobody"],
        "model": "n",
        "group_by": ["key", "hour"],
    }
    body = StatsOut.model_validate((await http.get("/api/v1/usage/stats", params=params)).json(), strict=True)

    (row,) = body.data
    assert (row.period, row.group, row.calls, row.mean_s) == ("2026-11-21T13:00:00+01:00", {"key": "web"}, 1, 2.0)
    assert (row.input_tokens, row.output_tokens, row.cache_read_tokens) == (10, 5, 4)
    assert body.group_by == ["key"]
    assert body.period == "hour"


async def test_nothing_used_is_an_empty_answer(http: httpx.AsyncClient) -> None:
    """No range at all is the last week."""
    body = StatsOut.model_validate((await http.get("/api/v1/usage/stats")).json(), strict=True)

    assert body.data == []
    assert (body.total.calls, body.total.cost_usd, body.total.mean_s) == (0, "0", None)
    assert body.to_s - body.from_s == 7 * 86_400


async def test_csv_says_the_same_and_starts_no_formula(http: httpx.AsyncClient, store: Store) -> None:
    """A user's name is whatever a client sent: a spreadsheet must not run it."""
    owners = Owners(tenant="acme", user='=HYPERLINK("http://evil")')
    await book(store, an_entry("e1", owners=owners), an_entry("e2", None, model="x"))
    params = {**RANGE, "group_by": "user,model"}
    asked = await http.get("/api/v1/usage/costs", params={**params, "format": "csv"})
    accepted = await http.get("/api/v1/usage/costs", params=params, headers={"accept": "text/csv"})
    rows = list(csv.DictReader(asked.text.splitlines()))

    assert asked.headers["content-type"] == "text/csv; charset=utf-8"
    assert accepted.text == asked.text
    assert [(row["user"], row["model"], row["cost_usd"]) for row in rows] == [
        ('\'=HYPERLINK("http://evil")', "m", "1.5"),
        ("ann", "x", ""),
    ]


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"from": "yesterday"}, "from"),
        ({"from": "1732190000000"}, "from"),
        ({"from": "9999-12-31T23:59:59-12:00"}, "from"),
        ({"from": "0001-01-01T00:00:00+14:00"}, "from"),
        ({"to": "2026-13-01"}, "to"),
        ({"from": "2026-11-22", "to": "2026-11-22"}, "to"),
        ({"time_zone": "Europe"}, "time_zone"),
        ({"time_zone": "../../etc/passwd"}, "time_zone"),
        ({"time_zone": "Mars/Base"}, "time_zone"),
        ({"time_zone": "a\0b"}, "time_zone"),
        ({"time_zone": "x" * 5_000}, "time_zone"),
        ({"group_by": "colour"}, "group_by"),
        ({"group_by": "hour,day"}, "group_by"),
        ({"from": "1990-01-01", "group_by": "hour"}, "from"),
        ({"format": "xml"}, "format"),
        ({"user": "x" * 501}, "user"),
    ],
)
async def test_bad_values_are_refused_by_name(http: httpx.AsyncClient, params: dict[str, str], param: str) -> None:
    """Never a server error, and never another question than the one asked."""
    response = await http.get("/api/v1/usage/stats", params=params)

    assert response.status_code in (400, 422)
    assert response.json()["error"]["param"] == param
    assert response.json()["error"]["remedy"]


async def test_budgets_are_burnt_down_in_their_own_units(http: httpx.AsyncClient, store: Store) -> None:
    """Held and unknown are no longer left; a budget for each key is shown for the keys that were used."""
    owners = Owners(tenant="acme", team="research", key="ci")
    hold = Hold(
        hold_id="h1", owners=owners, amount_nano=500_000_000, tokens=100, at_s=NOON, expires_s=NOON + 60.0, holder="r"
    )
    await store.apply_books([hold])
    await book(store, an_entry("e1"))
    body = BudgetListOut.model_validate((await http.get("/api/v1/budgets")).json(), strict=True)
    found = {(one.kind, one.name, one.unit): one for one in body.data}

    team, key = found["team", "research", "usd"], found["key", "ci", "tokens"]
    assert (team.limit, team.spent, team.held, team.left) == ("2.5", "1.5", "0.5", "0.5")
    assert team.resets_s == NOON + 12 * 3_600
    assert team.forecast is not None
    assert float(team.forecast) > 2.5
    assert (key.limit, key.spent, key.held, key.left, key.forecast) == ("1000", "15", "100", "885", None)


# Live.


async def messages(response: httpx.Response) -> AsyncGenerator[dict[str, str], None]:
    """Yield messages as {field: value}; comments too."""
    found: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            found[name] = value
        elif found:
            yield found
            found = {}


async def test_live_shows_entries_as_they_are_booked_and_resumes(http: httpx.AsyncClient, store: Store) -> None:
    """Nothing is lost between two connections, silence has its sign of life, and nothing comes twice."""
    path = "/api/v1/usage/live"
    async with http.stream("GET", path) as response, aclosing(messages(response)) as stream:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert (await anext(stream))["retry"] == "1000"
        assert (await anext(stream))["event"] == "ready"
        assert "" in await anext(stream)
        await book(store, an_entry("e1"))
        first = await _next_event(stream)
    await book(store, an_entry("e2", None))
    async with (
        http.stream("GET", path, headers={"last-event-id": first["id"]}) as response,
        aclosing(messages(response)) as stream,
    ):
        second = await _next_event(stream)

    assert (first["event"], json.loads(first["data"])["entry_id"]) == ("usage", "e1")
    assert json.loads(first["data"])["cost_usd"] == "1.5"
    assert (json.loads(second["data"])["entry_id"], json.loads(second["data"])["cost_usd"]) == ("e2", None)


def a_correction(name: str, entry: str, nano: int | None) -> Correct:
    usage = Usage(input_tokens=8, output_tokens=7)
    return Correct(correction_id=name, entry_id=entry, usage=usage, cost_nano=nano, price_id="p1", at_s=NOON)


async def test_live_entries_and_differences_add_up_to_the_sums(http: httpx.AsyncClient, store: Store) -> None:
    """A reader who adds what docs/http.md says has the stored figures, and may come back after a correction."""
    async with http.stream("GET", "/api/v1/usage/live") as response, aclosing(messages(response)) as stream:
        start = (await _next_event(stream))["id"]
    await book(store, an_entry("e1"), an_entry("e2", None))
    await store.apply_books(
        [a_correction("c1", "e1", None), a_correction("c2", "e2", 70), a_correction("c3", "e1", 30)]
    )
    seen: list[dict[str, str]] = []
    while len(seen) < 5:
        headers = {"last-event-id": seen[-1]["id"] if seen else start}
        async with (
            http.stream("GET", "/api/v1/usage/live", headers=headers) as response,
            aclosing(messages(response)) as stream,
        ):
            seen.append(await _next_event(stream))
    total = (await http.get("/api/v1/usage/stats", params=RANGE)).json()["total"]

    said = [json.loads(event["data"]) for event in seen]
    assert [event["event"] for event in seen] == ["usage", "usage", "correction", "correction", "correction"]
    assert [(one["correction_id"], one["entry_id"], one["cost_usd"]) for one in said[2:]] == [
        *(("c1", "e1", None), ("c2", "e2", "0.00000007"), ("c3", "e1", "0.00000003"))
    ]
    assert [(one["difference"]["unpriced"], one["difference"]["cost_usd"]) for one in said[2:]] == [
        *((1, "-1.5"), (-1, "0.00000007"), (-1, "0.00000003"))
    ]
    added = {name: sum(one.get("difference", one).get(name) or 0 for one in said) for name in _TOKENS}
    unpriced = [1 if one["cost_usd"] is None else 0 for one in said[:2]] + [
        one["difference"]["unpriced"] for one in said[2:]
    ]
    assert added == {name: total[name] for name in _TOKENS}
    assert sum(Decimal(one.get("difference", one)["cost_usd"] or 0) for one in said) == Decimal(total["cost_usd"])
    assert sum(unpriced) == total["unpriced"] == 0
    assert total["cost_usd"] == "0.0000001"


_TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


async def test_live_says_where_something_is_missing(http: httpx.AsyncClient, store: Store) -> None:
    """After a restart of the store its numbers begin anew."""
    await book(store, an_entry("e1"))
    headers = {"last-event-id": "0123abcd-77"}
    async with (
        http.stream("GET", "/api/v1/usage/live", headers=headers) as response,
        aclosing(messages(response)) as stream,
    ):
        events = [await _next_event(stream), await _next_event(stream)]

    assert [event["event"] for event in events] == ["gap", "usage"]


async def test_live_refuses_an_id_that_it_never_gave(http: httpx.AsyncClient) -> None:
    """A slip is said, not taken for "from now on"."""
    response = await http.get("/api/v1/usage/live", headers={"last-event-id": "seven"})

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "last-event-id"


async def test_live_ends_with_the_error_that_ended_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status is sent long before: the error is the last event, without an id."""

    async def broken(cursor: str | None, wait_s: float) -> object:
        raise InternalError("the store is not running")

    monkeypatch.setattr(store, "entries_after", broken)
    async with a_client(store) as http:
        response = await http.get("/api/v1/usage/live")

    assert response.text.endswith("\n\n")
    assert "event: error\n" in response.text
    assert "the store is not running" in response.text


async def _next_event(stream: AsyncIterator[dict[str, str]]) -> dict[str, str]:
    async with asyncio.timeout(20):
        async for message in stream:
            if "event" in message:
                return message
    raise AssertionError("the stream ended")


# Keys.


@pytest.fixture
def orchestra() -> Orchestra:
    accounts = [{"name": "a", "provider": "openai", "api_key": "k", "models": ["gpt-5-mini"]}]
    plain = settings.load_mapping({"accounts": accounts}, source="test")
    callers = [Caller(name="ci"), Caller(name="boss", admin=True)]
    return replace(
        plain,
        callers=tuple(CallerSpec(caller=one, key_sha256=hash_key(f"{one.name}-of-acme")) for one in callers),
    )


async def test_a_key_sees_its_own_use_and_an_admin_everybodys(store: Store, orchestra: Orchestra) -> None:
    """Sums, budgets and live entries alike; asking for somebody else's is refused, not answered with nothing."""
    await book(store, an_entry("e1"), an_entry("e2", key="web"))
    params = {**RANGE, "group_by": "key"}
    async with a_client(store, orchestra, "ci-of-acme") as own, a_client(store, orchestra, "boss-of-acme") as boss:
        mine, everybodys = [
            [row["group"]["key"] for row in (await http.get("/api/v1/usage/costs", params=params)).json()["data"]]
            for http in (own, boss)
        ]
        budgets = [
            {(one["kind"], one["name"]) for one in (await http.get("/api/v1/budgets")).json()["data"]}
            for http in (own, boss)
        ]
        refused = await own.get("/api/v1/usage/costs", params={**params, "key": "web"})
        narrowed = await own.get("/api/v1/usage/costs", params={**params, "key": ["ci", "web"]})
        allowed = await own.get("/api/v1/usage/costs", params={**params, "key": "ci"})
        async with (
            own.stream("GET", "/api/v1/usage/live", headers={"last-event-id": "abc-0"}) as response,
            aclosing(messages(response)) as stream,
        ):
            seen = [await _next_event(stream), await _next_event(stream)]
            await book(store, an_entry("e3", key="web"), an_entry("e4"))
            await store.apply_books([a_correction("c3", "e3", 1), a_correction("c4", "e4", 1)])
            seen += [await _next_event(stream), await _next_event(stream)]
    async with a_client(store, orchestra) as nobody:
        unknown = await nobody.get("/api/v1/budgets")

    assert (mine, everybodys) == (["ci"], ["ci", "web"])
    assert budgets == [{("key", "ci")}, {("key", "ci"), ("key", "web"), ("team", "research")}]
    assert (refused.status_code, narrowed.status_code, allowed.status_code) == (403, 403, 200)
    assert refused.json()["error"]["param"] == "key"
    assert unknown.status_code == 401
    assert [json.loads(one["data"]).get("entry_id") for one in seen] == [None, "e1", "e4", "e4"]
    assert [one["event"] for one in seen] == ["gap", "usage", "usage", "correction"]


async def test_unknown_holds_are_an_admins_to_see_and_settle(store: Store, orchestra: Orchestra) -> None:
    """Other keys would learn, and decide, what others spent."""
    owners = Owners(tenant="acme", team="research")
    hold = Hold(hold_id="h/1", owners=owners, amount_nano=5, tokens=9, at_s=NOON, expires_s=NOON + 60.0, holder="r")
    await store.apply_books([hold, Expire(at_s=NOON, holder="r")])
    body = {"hold_id": "h/1", "how": "void", "reason": "never sent"}
    async with a_client(store, orchestra, "ci-of-acme") as own, a_client(store, orchestra, "boss-of-acme") as boss:
        refused = [await own.get("/api/v1/books/unknown"), await own.post("/api/v1/books/settle", json=body)]
        listed = UnknownHoldListOut.model_validate((await boss.get("/api/v1/books/unknown")).json(), strict=True)
        wrong = [
            await boss.post("/api/v1/books/settle", json={**body, **more})
            for more in ({"how": "figures"}, {"usd": "1"}, {"usd": "many"}, {"hold_id": "h/2"}, {"tokens": -1})
        ]
        settled = await boss.post("/api/v1/books/settle", json=body)
        again = await boss.post("/api/v1/books/settle", json=body)
        other = await boss.post("/api/v1/books/settle", json={**body, "how": "as_spent"})
        left = (await boss.get("/api/v1/books/unknown")).json()

    assert [response.status_code for response in refused] == [403, 403]
    assert [(one.hold_id, one.usd, one.tokens, one.team) for one in listed.data] == [
        ("h/1", "0.000000005", 9, "research")
    ]
    assert [response.status_code for response in wrong] == [400, 400, 422, 404, 422]
    out = SettledOut.model_validate(settled.json(), strict=True)
    assert (out.cost_usd, out.reason, out.repeated) == ("0", "boss: never sent", False)
    assert again.json() == {**settled.json(), "repeated": True}
    assert other.status_code == 409
    assert left == {"data": []}
    assert await store.verify_books() == []


async def test_the_routes_are_in_the_document_with_what_they_refuse(store: Store) -> None:
    """Clients are made from it."""
    async with a_client(store) as http:
        paths = (await http.get("/openapi.json")).json()["paths"]

    for name in ("usage/stats", "usage/costs", "usage/live", "budgets"):
        operation = paths[f"/api/v1/{name}"]["get"]
        assert operation["tags"] == ["usage"]
        assert "401" in operation["responses"]
    names = {one["name"] for one in paths["/api/v1/usage/costs"]["get"]["parameters"]}
    assert {"from", "to", "time_zone", "group_by", "format", "user", "run"} <= names

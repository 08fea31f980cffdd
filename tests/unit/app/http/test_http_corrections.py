"""The route that corrects an entry, over the real store: for an admin, once, with what stood there before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from actors.store import Store
from app import settings
from app.domain.accounts import Orchestra
from app.domain.books.corrections import HandCorrection
from app.domain.books.prices import PriceRow, Rates
from app.domain.callers import CallerSpec, hash_key
from app.domain.errors import ConflictError, NotFoundError
from app.domain.gateway import Caller
from app.http.books import CorrectedOut
from tests.unit.app.http.test_http_usage import BUDGETS, NOON, RANGE, a_client, an_entry, book

CORRECT = "/api/v1/books/correct"
BODY = {"entry_id": "e1", "usd": "0.5", "output_tokens": 9, "reason": "invoice 11"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    moments = iter(range(100_000))
    opened = Store(str(tmp_path), wall_s=lambda: NOON + 60.0 + next(moments) / 1_000)
    await opened.sync_books(BUDGETS, [PriceRow(price_id="p1", model="m", rates=Rates(input="1", output="1"))])
    await book(opened, an_entry("e1"), an_entry("e2", None))
    yield opened
    await opened.close()


@pytest.fixture
def orchestra() -> Orchestra:
    accounts = [{"name": "a", "provider": "openai", "api_key": "k", "models": ["gpt-5-mini"]}]
    plain = settings.load_mapping({"accounts": accounts}, source="test")
    callers = [Caller(name="ci"), Caller(name="boss", admin=True)]
    specs = (CallerSpec(caller=one, key_sha256=hash_key(f"{one.name}-of-acme")) for one in callers)
    return replace(plain, callers=tuple(specs))


async def test_an_admin_corrects_an_entry_once(store: Store, orchestra: Orchestra) -> None:
    """Sums and budgets have the new figures; other keys may not touch even their own entries."""
    async with a_client(store, orchestra, "ci-of-acme") as own, a_client(store, orchestra, "boss-of-acme") as boss:
        refused = await own.post(CORRECT, json=BODY)
        corrected = await boss.post(CORRECT, json=BODY)
        again = await boss.post(CORRECT, json=BODY)
        other = await boss.post(CORRECT, json={**BODY, "usd": "0.7"})
        total = (await boss.get("/api/v1/usage/stats", params=RANGE)).json()["total"]
        budgets = (await boss.get("/api/v1/budgets")).json()["data"]
        more = await boss.post(CORRECT, json={**BODY, "usd": "0.7", "id": "invoice-12"})

    assert refused.status_code == 403
    out = CorrectedOut.model_validate(corrected.json(), strict=True)
    assert (out.correction_id, out.reason, out.repeated) == ("e1/corrected", "boss: invoice 11", False)
    assert out.before.model_dump() == {"cost_usd": "1.5", "input_tokens": 10, "output_tokens": 5}
    assert out.after.model_dump() == {"cost_usd": "0.5", "input_tokens": 10, "output_tokens": 9}
    assert again.json() == {**corrected.json(), "repeated": True}
    assert (other.status_code, other.json()["error"]["param"]) == (409, "id")
    assert (total["calls"], total["cost_usd"], total["unpriced"]) == (2, "0.5", 1)
    assert (total["input_tokens"], total["output_tokens"]) == (20, 14)
    assert {one["spent"] for one in budgets if one["kind"] == "team"} == {"0.5"}
    assert (more.status_code, more.json()["before"]) == (200, corrected.json()["after"])
    assert await store.verify_books() == []


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"entry_id": "nobody"}, 404),
        ({"usd": None, "output_tokens": None}, 400),
        ({"reason": " "}, 400),
        ({"usd": "-1"}, 422),
        ({"usd": "many"}, 422),
        ({"input_tokens": -1}, 422),
        ({"output_tokens": 10**16}, 422),
        ({"id": "a/b"}, 422),
        ({"tokens": 1}, 422),
    ],
)
async def test_what_makes_no_sense_is_refused(store: Store, more: dict[str, object], status: int) -> None:
    """And changes nothing."""
    async with a_client(store) as http:
        response = await http.post(CORRECT, json={**BODY, **more})
        total = (await http.get("/api/v1/usage/stats", params=RANGE)).json()["total"]

    assert response.status_code == status, response.text
    assert response.json()["error"]["message"]
    assert (total["cost_usd"], total["output_tokens"]) == ("1.5", 10)


async def test_the_store_corrects_and_keeps_it(store: Store) -> None:
    """What its call returned is on disk: another store on the directory repeats it."""
    said = HandCorrection(entry_id="e2", reason="r", by="olga", nano=70)
    first = await store.correct_entry(said)
    with pytest.raises(NotFoundError, match="no entry"):
        await store.correct_entry(replace(said, entry_id="e3"))
    await store.close()
    again = await store.correct_entry(said)
    with pytest.raises(ConflictError, match="corrected before"):
        await store.correct_entry(replace(said, nano=71))

    assert (first.before.cost_nano, first.after.cost_nano, first.repeated) == (None, 70, False)
    assert again == replace(first, repeated=True)
    assert await store.verify_books() == []


async def test_the_route_is_in_the_document_with_what_it_refuses(store: Store) -> None:
    """Clients are made from it."""
    async with a_client(store) as http:
        operation = (await http.get("/openapi.json")).json()["paths"][CORRECT]["post"]

    assert {"200", "400", "401", "403", "404", "409", "422"} <= set(operation["responses"])

"""Budgets and prices of the configuration arrive in the orchestra as the books take them; mistakes are refused."""

from __future__ import annotations

import pickle
from datetime import UTC, date, datetime

import pytest

from app import settings
from app.domain.accounts import Orchestra
from app.domain.books.budgets import BudgetSpec, OwnerKind, Window
from app.domain.books.prices import LongContext, PeakWindow, PriceRow, Rates, check_row, find_row, price_nano
from app.domain.chat import Usage
from app.settings import ConfigurationProblems, Problem
from app.settings.model_table import model_table

ENVIRON = {"HOME": "/h", "KEY": "correct-horse-battery"}
ACCOUNTS = """\
accounts:
  - name: a
    provider: openai
    api_key: ${KEY}
    models: [gpt-5-mini, {fast: gpt-5.4-nano}, gpt-5.6-sol]
  - name: d
    provider: deepseek
    api_key: ${KEY}2
    models: [deepseek-v4-pro, {fast: deepseek-flash}]
auth:
  keys:
    - {name: ci, key: "0123456789", team: research}
    - {name: boss, key: "9876543210", admin: true}
"""
"""Thirteen lines; what a test appends begins on line 14."""
PEAK_S = datetime(2026, 11, 23, 2, tzinfo=UTC).timestamp()
"""A Monday."""
QUIET_S = datetime(2026, 11, 22, 2, tzinfo=UTC).timestamp()
LINE = 14


def loaded(text: str) -> Orchestra:
    """Load the accounts and ``text``."""
    return settings.load_text(ACCOUNTS + text, environ=ENVIRON)


def problems_of(text: str) -> tuple[Problem, ...]:
    """Return the mistakes in the accounts and ``text``."""
    with pytest.raises(ConfigurationProblems) as caught:
        loaded(text)
    return caught.value.problems


def row_at(orchestra: Orchestra, model: str, provider: str = "openai", at_s: float = QUIET_S) -> PriceRow:
    """Return the price row in force."""
    found = find_row(orchestra.prices, model=model, provider=provider, at_s=at_s)
    assert found is not None
    return found


def test_budgets_arrive_in_nano_dollars_and_tokens() -> None:
    """Every key of a budget arrives; the tenant's has the tenant's name, and all of it crosses an actor's border."""
    orchestra = loaded("""\
tenant: acme
budgets:
  - {for: "team:research", window: month, usd: 50.00, soft: 0.9, time_zone: Europe/Berlin}
  - {for: "user: *", window: day, tokens: 5_000_000, hard: false}
  - {for: tenant, window: total, usd: "0.000000001", tokens: 7}
  - {for: "run:*", window: total, usd: 0}
""")

    assert orchestra.tenant == "acme"
    assert orchestra.budgets == (
        BudgetSpec(
            owner_kind=OwnerKind.TEAM,
            owner_name="research",
            window=Window.MONTH,
            time_zone="Europe/Berlin",
            limit_nano=50_000_000_000,
            soft_share=0.9,
        ),
        BudgetSpec(owner_kind=OwnerKind.USER, owner_name="*", window=Window.DAY, limit_tokens=5_000_000, hard=False),
        BudgetSpec(owner_kind=OwnerKind.TENANT, owner_name="acme", window=Window.TOTAL, limit_nano=1, limit_tokens=7),
        BudgetSpec(owner_kind=OwnerKind.RUN, owner_name="*", window=Window.TOTAL, limit_nano=0),
    )
    assert pickle.loads(pickle.dumps(orchestra)) == orchestra


def test_keys_know_their_team_and_who_may_see_everything() -> None:
    """Without any of it a key has no team and sees its own use only."""
    ci, boss = (spec.caller for spec in loaded("").callers)

    assert (ci.team, ci.admin) == ("research", False)
    assert (boss.team, boss.admin) == ("", True)


def test_a_budget_changes_the_configuration() -> None:
    """A reload that only changes a limit is no "nothing changed"."""
    one = loaded("budgets: [{for: tenant, window: day, usd: 1}]\n")
    two = loaded("budgets: [{for: tenant, window: day, usd: 2}]\n")

    assert one.fingerprint != two.fingerprint != loaded("tenant: other\n").fingerprint


def test_prices_come_from_the_model_table_by_public_name() -> None:
    """What the table knows beyond three figures is there; an alias that two providers serve has each one's price."""
    orchestra = loaded("")

    assert row_at(orchestra, "gpt-5-mini").rates == Rates(input="0.25", output="2", cache_read="0.025")
    sol = row_at(orchestra, "gpt-5.6-sol")
    assert (sol.rates.cache_write, sol.batch_factor) == ("6.25", "0.5")
    assert sol.tier_factors == (("flex", "0.5"), ("priority", "2"))
    assert [long.above_input_tokens for long in sol.long_contexts] == [272_000]
    assert row_at(orchestra, "fast", "openai").rates.input == "0.2"
    assert row_at(orchestra, "fast", "deepseek").rates.input == "0.15"
    assert len({row.price_id for row in orchestra.prices}) == len(orchestra.prices)


def test_deepseek_is_dearer_in_its_peak_hours() -> None:
    """On a Monday at 02:00 UTC the table's peak price holds, on a Sunday half of it."""
    row = row_at(loaded(""), "deepseek-v4-pro", "deepseek")
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000)

    assert price_nano(usage, row, at_s=PEAK_S) == 5_280_000_000
    assert price_nano(usage, row, at_s=QUIET_S) == 2_640_000_000


def test_every_row_of_the_model_table_has_a_price_that_can_be_computed() -> None:
    """A slip in the table must not become a wrong bill."""
    for name, row in model_table().rows.items():
        assert row.price is None or not check_row(row.price), name
        assert (row.price is None) == (row.info.input_usd_per_mtok is None), name


def test_a_configured_price_stands_in_for_the_table_from_its_day() -> None:
    """Before its first day the table's row holds; a provider's own row goes before everybody's."""
    orchestra = loaded("""\
prices:
  - model: gpt-5-mini
    from: 2026-11-22
    input: 0.20
    output: 1.6000
    cache_read: 0.02
    cache_write_1h: 0.5
    reasoning: 3
    batch: 0.5
    tiers: {priority: 2.50, flex: 0.5}
    long_context: [{above_tokens: 1000, input: 1, output: 2, cache_read: 0.1}]
    peak: [{hours: "22:00-4", weekdays: [sun, Monday], factor: 1.5}]
  - {model: r1, provider: deepseek, input: 0, output: 0}
""")

    assert row_at(orchestra, "gpt-5-mini", at_s=QUIET_S - 86_400).rates.input == "0.25"
    row = row_at(orchestra, "gpt-5-mini")
    assert row.price_id.startswith("configuration:gpt-5-mini:")
    assert row.effective_from == date(2026, 11, 22)
    assert row.rates == Rates(input="0.2", output="1.6", cache_read="0.02", cache_write_1h="0.5", reasoning="3")
    assert row.batch_factor == "0.5"
    assert row.tier_factors == (("flex", "0.5"), ("priority", "2.5"))
    assert row.long_contexts == (
        LongContext(above_input_tokens=1_000, rates=Rates(input="1", output="2", cache_read="0.1")),
    )
    assert row.peaks == (PeakWindow(from_hour=22, to_hour=4, factor="1.5", weekdays=(0, 6)),)
    assert not check_row(row)
    assert row_at(orchestra, "deepseek-v4-pro", "deepseek").rates.input == "0"


def test_a_configured_price_without_a_day_replaces_the_table() -> None:
    """Also where the table's own row is dated."""
    orchestra = loaded("prices: [{model: deepseek-v4-pro, input: 9, output: 9}]\n")

    assert [row.rates.input for row in orchestra.prices if row.model == "deepseek-v4-pro"] == ["9"]


def test_a_configured_price_holds_at_every_provider() -> None:
    """Also where the table tells providers apart, unless the configuration does so itself."""
    orchestra = loaded("""\
prices:
  - {model: fast, from: 2026-11-22, input: 7, output: 7}
  - {model: fast, provider: openai, input: 5, output: 5}
""")

    assert row_at(orchestra, "fast", "deepseek").rates.input == "7"
    assert row_at(orchestra, "fast", "deepseek", QUIET_S - 86_400).rates.input == "0.15"
    assert row_at(orchestra, "fast", "openai").rates.input == "5"
    assert row_at(orchestra, "fast", "custom").rates.input == "7"


def test_prices_said_under_models_are_the_whole_price() -> None:
    """Whoever negotiated a price does not get the table's tiers on top."""
    orchestra = loaded("models: {gpt-5.6-sol: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}}\n")

    row = row_at(orchestra, "gpt-5.6-sol")
    assert (row.rates.input, row.rates.output, row.long_contexts) == ("1", "2", ())


def test_a_price_that_nobody_knows_has_no_row() -> None:
    """Unknown is never zero."""
    text = "accounts: [{name: c, provider: custom, base_url: 'http://h/v1', models: [gpt-5-mini, secret-1]}]\n"

    assert settings.load_text(text, environ=ENVIRON).prices == ()


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("budgets: [{for: everyone, window: day, usd: 1}]", "budgets[0].for", "whose budget"),
        ("budgets: [{for: 'team:', window: day, usd: 1}]", "budgets[0].for", "must name the team"),
        ("budgets: [{for: 'tenant:acme', window: day, usd: 1}]", "budgets[0].for", "whose budget"),
        (
            "budgets: [{for: 'team:reserch', window: day, usd: 1}]",
            "budgets[0].for",
            "no key in `auth.keys` has that team",
        ),
        ("budgets: [{for: 'key:cj', window: day, usd: 1}]", "budgets[0].for", "no key in `auth.keys` has that name"),
        ("budgets: [{for: tenant, window: week, usd: 1}]", "budgets[0].window", "unknown window 'week'"),
        ("budgets: [{for: tenant, window: day}]", "budgets[0]", "limits nothing"),
        ("budgets: [{for: tenant, window: day, usd: -1}]", "budgets[0].usd", "amount in USD"),
        ("budgets: [{for: tenant, window: day, usd: 0.0000000001}]", "budgets[0].usd", "billionth"),
        ("budgets: [{for: tenant, window: day, usd: .nan}]", "budgets[0].usd", "amount in USD"),
        ("budgets: [{for: tenant, window: day, tokens: 1.5}]", "budgets[0].tokens", "whole number of tokens"),
        ("budgets: [{for: tenant, window: day, usd: 1, soft: 2}]", "budgets[0].soft", "from 0 to 1"),
        ("budgets: [{for: tenant, window: day, usd: 1, time_zone: Europe}]", "budgets[0].time_zone", "IANA"),
        ("budgets: [{for: tenant, window: day, usd: 1, time_zone: ../x}]", "budgets[0].time_zone", "IANA"),
        ("budgets: [{for: tenant, window: day, usd: 1, time_zone: 'Mars/Base'}]", "budgets[0].time_zone", "IANA"),
        (
            "budgets: [{for: 'user:*', window: day, usd: 1}, {for: 'user: *', window: day, tokens: 1}]",
            "budgets[1]",
            "the same budget as budgets[0]",
        ),
        ("prices: [{model: gpt-5-mini, input: 1}]", "prices[0].output", "missing"),
        ("prices: [{model: gpt-5-mini, input: null, output: 1}]", "prices[0].input", "price in USD"),
        ("prices: [{model: gpt-5-mini, input: 1, output: 1, from: soon}]", "prices[0].from", "must be a day"),
        ("prices: [{model: gpt-5-mini, input: 1, output: 1, from: 2026-02-30}]", "prices[0].from", "must be a day"),
        ("prices: [{model: gpt-5-mini, input: 1, output: 1, provider: me}]", "prices[0].provider", "unknown provider"),
        (
            "prices: [{model: gpt-5-mini, input: 1, output: 1, peak: [{hours: 1-25, factor: 2}]}]",
            "prices[0].peak[0].hours",
            "whole hours",
        ),
        (
            "prices: [{model: gpt-5-mini, input: 1, output: 1, peak: [{hours: 1-2, weekdays: [someday], factor: 2}]}]",
            "prices[0].peak[0].weekdays[0]",
            "day of the week",
        ),
        (
            "prices: [{model: gpt-5-mini, input: 1, output: 1}, {model: gpt-5-mini, input: 2, output: 2}]",
            "prices[1]",
            "the same model, provider and day as prices[0]",
        ),
        (
            "prices: [{model: gpt-5-mini, input: 1, output: 1, tiers: {default: 1}}]",
            "prices[0].tiers.default",
            "the standard tier",
        ),
        (
            "prices: [{model: gpt-5-mini, input: 1, output: 1, tiers: {priority: double}}]",
            "prices[0].tiers.priority",
            "factor from 0 to 100",
        ),
        ("prices: [{model: gpt-5-mini, input: 1, output: 1, cache: 1}]", "prices[0].cache", "unknown key"),
        ("auth2: {}\ntenant: two words", "tenant", "must be a name"),
    ],
)
def test_mistakes_are_refused_with_line_and_remedy(text: str, path: str, words: str) -> None:
    """Every mistake names its field and line and says what to write."""
    found = {problem.path: problem for problem in problems_of(text + "\n")}

    assert words in found[path].message
    assert found[path].remedy
    assert (found[path].line or 0) >= LINE


def test_a_price_of_a_model_that_nobody_serves_is_a_note() -> None:
    """As under `models`: one file may serve several installations."""
    orchestra = loaded("prices: [{model: gpt-9, input: 1, output: 1}]\n")

    assert any("'gpt-9', priced under `prices`" in note for note in orchestra.notes)
    assert not any(row.model == "gpt-9" for row in orchestra.prices)


def test_defaults_that_only_a_provider_sees_are_a_note_where_money_relies_on_prices() -> None:
    """A project whose default is priority is billed twice what the books say: whoever sets a ceiling is told so."""
    budget = "budgets: [{for: tenant, window: day, usd: 1}]\n"
    told = [note for note in loaded(budget).notes if "has another default" in note]

    assert told == [
        "Calls at 'a' that name no `service_tier` are held and booked at the standard price; where the provider's "
        "project has another default, write its prices under `prices`."
    ]
    for quiet in ("", "budgets: [{for: tenant, window: day, tokens: 1}]\n"):
        assert not any("has another default" in note for note in loaded(quiet).notes)
    claude = ACCOUNTS.replace("openai", "anthropic").replace("[gpt-5-mini, {fast: gpt-5.4-nano}, gpt-5.6-sol]", "[x]")
    notes = settings.load_text(claude + budget, environ=ENVIRON).notes
    assert any("no `inference_geo`" in note and "workspace" in note for note in notes)

"""A call goes to a model that may serve it, in the order that configuration, wishes and load give."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.accounts import (
    AccountSpec,
    AccountState,
    CoordinatorSpec,
    GatewaySpec,
    ModelInfo,
    Orchestra,
    Provider,
    RouteSpec,
    StructuredOutput,
    Tier,
)
from app.domain.books.prices import PeakWindow, PriceRow, Rates, find_row
from app.domain.chat import Usage
from app.domain.cost import cost_usd, row_of_model
from app.domain.errors import CapacityError, NotFoundError, RequestError
from app.domain.gateway import ANONYMOUS, Caller, RoutingWish
from app.domain.load import BucketLevel, LoadRow
from app.domain.model_list import describe_models
from app.domain.outlook import expected_finish_s, expected_start_s
from app.domain.placement import NEVER_S, Choice, ReadyCall, place
from app.domain.route_explanation import explain
from app.domain.routed import Needs, Routed
from app.domain.routing import PriceOf, RoutingTable

SMALL = Needs(input_tokens=100, output_tokens_max=100)
ANY = RoutingWish()


def info(name: str, **fields: object) -> ModelInfo:
    """Return a model that takes everything and costs 1 and 2 dollars a million."""
    given = {"family": "f", "images": True, "tools": True, "input_usd_per_mtok": "1", "output_usd_per_mtok": "2"}
    return ModelInfo(name=name, **{**given, **fields})  # type: ignore[arg-type]


MODELS = (
    info("flash", tier=Tier.CHEAP, context_tokens=8_000),
    info("mini", tier=Tier.STANDARD, input_usd_per_mtok="5", output_usd_per_mtok="20"),
    info("blind", images=False, tools=False, structured=StructuredOutput.NONE),
    info("dear", input_usd_per_mtok="100", output_usd_per_mtok="500"),
    info("secret", input_usd_per_mtok=None, output_usd_per_mtok=None),
    info("tiny", tier=Tier.TINY, input_usd_per_mtok="0", output_usd_per_mtok="0", context_tokens=4_096),
    info("embed", kind="embedding"),
)
SERVED = {
    "one": (Provider.OPENAI, ("flash", "mini", "embed")),
    "two": (Provider.OPENAI, ("flash", "dear")),
    "three": (Provider.DEEPSEEK, ("flash", "blind", "secret")),
    "four": (Provider.LOCAL, ("tiny",)),
}
NAMES = [model.name for model in MODELS]
ROUTES = (
    RouteSpec(task_type="general", primary=("mini", "dear"), fallback=("flash", "embed")),
    RouteSpec(task_type="translation", primary=("flash",)),
)


def orchestra(**gateway: object) -> Orchestra:
    """Return four accounts with seven models; fields of the gateway by name."""
    accounts = tuple(
        AccountSpec(name=name, provider=provider, models=tuple((model, f"up-{model}") for model in models))
        for name, (provider, models) in SERVED.items()
    )
    parts = dict.fromkeys(("model", "requested_model", "judge_model", "clarify_model", "transcribe_model"), "mini")
    return Orchestra(
        version=1,
        accounts=accounts,
        models=MODELS,
        routes=ROUTES,
        coordinator=CoordinatorSpec(**parts),  # type: ignore[arg-type]
        data_dir="data",
        aliases=(("quick", "flash"), ("gone", "nobody-serves-this")),
        gateway=GatewaySpec(**gateway),  # type: ignore[arg-type]
    )


def price_of(*more: PriceRow) -> PriceOf:
    """Return the prices of the models above, and of these rows, which stand before them."""
    rows = (*(row for model in MODELS if (row := row_of_model(model)) is not None), *more)
    return lambda model, provider: find_row(rows, model=model, provider=provider or None, at_s=0.0)


TABLE = RoutingTable(orchestra(), price_of())


def row(account: str, model: str, **fields: object) -> LoadRow:
    """Return the row of an idle account."""
    given: dict[str, object] = {
        "scope": f"account:{account}", "state": "healthy", "in_flight": 0, "concurrency": 4, "buckets": (),
        "cooldown_s": 0.0, "call_s": 1.0, "call_output_tokens": 100.0, "error_rate": 0.0, "context_tokens": 100_000,
        "observed_at_s": 50.0,
    }  # fmt: skip
    return LoadRow(account=account, model=model, **{**given, **fields})  # type: ignore[arg-type]


def models_of(routed: Routed) -> list[str]:
    """Return the candidates' names."""
    return [candidate.model for candidate in routed.candidates]


def routed(wanted: str, wish: RoutingWish = ANY, *, caller: Caller = ANONYMOUS, needs: Needs = SMALL) -> Routed:
    """Route on the common table."""
    return TABLE.route(wanted, wish, caller=caller, needs=needs)


def test_route_takes_only_the_named_model() -> None:
    """Nothing stands in for a model that the client named, unless the configuration says so."""
    for name in ("flash", "quick"):
        found = routed(name)
        assert models_of(found) == ["flash"]
        assert found.candidates[0].accounts == ("one", "two", "three")
        assert (found.wanted, found.task_type, found.groups) == (name, None, ("named",))
        assert routed(name) is found


def test_route_appends_the_configured_stand_ins() -> None:
    """`gateway.fallbacks` holds for named models, and what cannot serve the call stays out of it."""
    table = RoutingTable(orchestra(fallbacks=(("flash", ("blind", "mini", "embed")),)), price_of())

    plain = table.route("flash", ANY, caller=ANONYMOUS, needs=SMALL)
    seeing = table.route("flash", ANY, caller=ANONYMOUS, needs=Needs(input_tokens=1, images=True))
    long = table.route("quick", ANY, caller=ANONYMOUS, needs=Needs(input_tokens=50_000))

    assert models_of(plain) == ["flash", "blind", "mini"]
    assert plain.groups == ("named", "fallback of the model", "fallback of the model")
    assert models_of(seeing) == ["flash", "mini"]
    assert models_of(long) == ["blind", "mini"]
    assert [(item.model, item.cause) for item in long.excluded] == [("flash", "context"), ("embed", "kind")]


@pytest.mark.parametrize("wanted", ["gpt-9", "gone", "flsh", "x" * 100_000])
def test_route_names_what_there_is_for_an_unknown_model(wanted: str) -> None:
    """The error helps, stays short, and names only what this caller may use."""
    caller = Caller(name="limited", allowed_models=("flash", "mini"))

    with pytest.raises(NotFoundError) as caught:
        routed(wanted, caller=caller)

    assert caught.value.param == "model"
    assert "flash, mini" in caught.value.message
    assert "dear" not in caught.value.message
    assert len(caught.value.message) < 1_000
    assert ("did you mean 'flash'" in caught.value.message) == (wanted == "flsh")


def test_route_hides_models_that_the_caller_may_not_use() -> None:
    """A model that is not allowed does not exist for this caller, by whatever name; auto keeps off it too."""
    caller = Caller(name="limited", allowed_models=("flash",))

    with pytest.raises(NotFoundError):
        routed("mini", caller=caller)
    assert models_of(routed("quick", caller=caller)) == ["flash"]
    auto = routed("auto", caller=caller)
    assert models_of(auto) == ["flash"]
    assert {item.model for item in auto.excluded if item.cause == "not allowed"} == set(NAMES) - {"flash", "embed"}
    assert models_of(routed("mini")) == ["mini"], "what one caller may not do says nothing about another"


def test_route_auto_goes_primary_fallback_any() -> None:
    """The order of the configuration, then everything else that chats, the embedded model last."""
    found = routed("auto")

    assert models_of(found)[:3] == ["mini", "dear", "flash"]
    assert set(models_of(found)[3:-1]) == {"blind", "secret"}
    assert models_of(found)[-1] == "tiny"
    assert found.groups[:3] == ("primary", "primary", "fallback")
    assert found.task_type == "general"
    assert models_of(routed("", RoutingWish(task_type="translation")))[0] == "flash"


def test_route_auto_looks_at_the_load() -> None:
    """A model that cannot start soon, fails often, or whose keys are all refused gives way."""
    cooling = row("one", "mini", state="cooling_minute", cooldown_s=30.0)
    failing = row("two", "dear", error_rate=0.6)
    dead = row("four", "tiny", state="dead")

    found = TABLE.route("auto", ANY, caller=ANONYMOUS, needs=SMALL, rows=[cooling, failing, dead])
    later = TABLE.route("auto", ANY, caller=ANONYMOUS, needs=SMALL, rows=[cooling], now_s=78.0)

    assert models_of(found)[0] == "flash"
    assert models_of(found)[-2:] == ["mini", "dear"]
    assert ("tiny", "four", "dead key") in {(item.model, item.account, item.cause) for item in found.excluded}
    assert models_of(later)[0] == "mini", "two seconds of its cooldown are left"


def test_route_auto_prefers_models_that_do_what_is_asked() -> None:
    """Enforcing a schema, taking images, room for the answer: who surely can goes first."""
    strict = models_of(routed("auto", needs=Needs(input_tokens=10, schema=True)))
    seeing = models_of(routed("auto", needs=Needs(input_tokens=10, images=True)))
    wish = RoutingWish(task_type="translation")
    long = models_of(routed("auto", wish, needs=Needs(input_tokens=7_990, output_tokens_max=500)))

    assert strict[-1] == "blind"
    assert "blind" not in seeing
    assert long[-1] == "flash"
    assert "tiny" not in long


def test_route_says_unavailable_where_every_key_is_refused() -> None:
    """Nothing the client could change helps."""
    rows = [row(name, model, state="dead") for name, (_, models) in SERVED.items() for model in models]

    with pytest.raises(CapacityError, match="key is refused"):
        TABLE.route("auto", ANY, caller=ANONYMOUS, needs=SMALL, rows=rows)


@pytest.mark.parametrize(
    ("wanted", "wish", "needs", "param"),
    [
        ("embed", ANY, SMALL, "model"),
        ("flash", ANY, Needs(input_tokens=1, kind="embedding"), "model"),
        ("flash", ANY, Needs(input_tokens=8_001), "messages"),
        ("blind", ANY, Needs(input_tokens=1, images=True), "messages"),
        ("blind", ANY, Needs(input_tokens=1, tools=True), "tools"),
        ("flash", RoutingWish(providers=("anthropic",)), SMALL, "x-tutti-providers"),
        ("flash", RoutingWish(providers=("opnai",)), SMALL, "x-tutti-providers"),
        ("flash", RoutingWish(order=("nobody",)), SMALL, "x-tutti-order"),
        ("dear", RoutingWish(cost_usd_max="0.01"), SMALL, "x-tutti-max-cost"),
        ("secret", RoutingWish(cost_usd_max="1000"), SMALL, "x-tutti-max-cost"),
        ("flash", RoutingWish(cost_usd_max="cheap"), SMALL, "x-tutti-max-cost"),
        ("flash", RoutingWish(cost_usd_max="NaN"), SMALL, "x-tutti-max-cost"),
        ("flash", RoutingWish(cost_usd_max="-1"), SMALL, "x-tutti-max-cost"),
        ("flash", RoutingWish(task_type="poetry"), SMALL, "task_type"),
    ],
)
def test_route_refuses_by_field(wanted: str, wish: RoutingWish, needs: Needs, param: str) -> None:
    """Every refusal names the field that the client would change."""
    with pytest.raises(RequestError) as caught:
        routed(wanted, wish, needs=needs)

    assert caught.value.param == param


def test_ceiling_of_cost_is_kept_by_the_prices_of_the_books() -> None:
    """By each provider's own row, at its dearest hour, and not by what the table of models says."""
    peak = PeakWindow(from_hour=1, to_hour=2, factor="4")
    own = PriceRow(
        price_id="own", model="flash", provider="deepseek", rates=Rates(input="1", output="2"), peaks=(peak,)
    )
    known = PriceRow(price_id="known", model="secret", rates=Rates(input="1", output="2"))
    table = RoutingTable(orchestra(), price_of(own, known))
    wish = RoutingWish(cost_usd_max="0.0003")

    flash = table.survey("flash", wish, caller=ANONYMOUS, needs=SMALL)
    secret = table.survey("secret", wish, caller=ANONYMOUS, needs=SMALL)
    freely = table.survey("flash", ANY, caller=ANONYMOUS, needs=SMALL)

    assert flash.candidates[0].accounts == ("one", "two")
    assert [(item.account, item.cause) for item in flash.excluded] == [("three", "cost")]
    assert "may cost 0.0012 USD, the ceiling is 0.0003" in flash.excluded[0].reason
    assert models_of(secret) == ["secret"]
    assert table.cost_max(flash.candidates[0], SMALL) == Decimal("0.0003")
    assert table.cost_max(freely.candidates[0], SMALL) == Decimal("0.0012")


def test_route_keeps_the_clients_order() -> None:
    """Providers and accounts that the client names go first, in that order, and the answer says that it is one."""
    found = routed("flash", RoutingWish(order=("deepseek", "two")))
    auto = routed("auto", RoutingWish(order=("local", "three")))

    assert found.candidates[0].accounts == ("three", "two", "one")
    assert found.ordered
    assert models_of(auto)[0] == "tiny"
    assert not routed("flash").ordered


def test_route_finds_embedding_models_for_embeddings_only() -> None:
    """Auto means any embedding model there."""
    assert models_of(routed("auto", needs=Needs(input_tokens=5, kind="embedding"))) == ["embed"]
    assert models_of(routed("embed", needs=Needs(input_tokens=5, kind="embedding"))) == ["embed"]


WISHES = st.builds(
    RoutingWish,
    task_type=st.sampled_from([None, "general", "translation"]),
    providers=st.lists(st.sampled_from(["openai", "deepseek", "local"]), max_size=2).map(tuple),
    order=st.lists(st.sampled_from(["openai", "local", "three", "two"]), max_size=3).map(tuple),
    cost_usd_max=st.sampled_from([None, "0", "0.001", "0.01", "1", "1000"]),
)
NEEDS = st.builds(
    Needs,
    input_tokens=st.integers(0, 200_000),
    output_tokens_max=st.none() | st.integers(1, 20_000),
    kind=st.sampled_from(["chat", "chat", "embedding"]),
    images=st.booleans(),
    tools=st.booleans(),
    schema=st.booleans(),
)
CALLERS = st.lists(st.sampled_from(NAMES), max_size=3, unique=True).map(
    lambda names: Caller(name="someone", allowed_models=tuple(names))
)
STATES: list[AccountState] = ["healthy", "cooling_minute", "dead", "half_open"]
ROWS = st.lists(
    st.builds(
        lambda place, state, cooldown_s, error_rate: row(
            *place, state=state, cooldown_s=cooldown_s, error_rate=error_rate
        ),
        st.sampled_from([(name, model) for name, (_, models) in SERVED.items() for model in models]),
        st.sampled_from(STATES),
        st.floats(0, 100),
        st.floats(0, 1),
    ),
    max_size=8,
)


@given(wanted=st.sampled_from([*NAMES, "quick", "auto", ""]), wish=WISHES, needs=NEEDS, caller=CALLERS, rows=ROWS)
def test_route_never_offers_what_is_excluded(
    wanted: str, wish: RoutingWish, needs: Needs, caller: Caller, rows: list[LoadRow]
) -> None:
    """Whatever is asked: no candidate breaks a rule, none comes twice, and no model disappears without a reason."""
    try:
        found = TABLE.survey(wanted, wish, caller=caller, needs=needs, rows=rows)
    except NotFoundError:
        assert caller.allowed_models
        return
    served = {name: set(models) for name, (_, models) in SERVED.items()}

    assert len(set(models_of(found))) == len(found.candidates) == len(found.groups)
    for candidate in found.candidates:
        known = TABLE.model(candidate.model)
        assert known.kind == needs.kind
        assert not caller.allowed_models or candidate.model in caller.allowed_models
        assert needs.input_tokens <= known.context_tokens
        assert not (needs.images and known.images is False)
        assert candidate.accounts
        assert len(set(candidate.accounts)) == len(candidate.accounts)
        for name in candidate.accounts:
            assert candidate.model in served[name]
            assert not wish.providers or SERVED[name][0].value in wish.providers
        if wish.cost_usd_max is not None:
            output = known.output_tokens_max if needs.output_tokens_max is None else needs.output_tokens_max
            cost = cost_usd(Usage(input_tokens=needs.input_tokens, output_tokens=output), known)
            assert cost is not None
            assert Decimal(cost) <= Decimal(wish.cost_usd_max)
    asked = {TABLE.find(wanted)} - {None} or {name for name in NAMES if TABLE.model(name).kind == needs.kind}
    assert asked <= {*models_of(found), *(item.model for item in found.excluded)}


@given(wanted=st.sampled_from([*NAMES, "quick"]), needs=NEEDS, caller=CALLERS)
def test_route_remembers_what_it_would_find_again(wanted: str, needs: Needs, caller: Caller) -> None:
    """The cached answer for plain calls is the one that the long way gives."""

    def answer(fast: bool) -> object:
        try:
            found = (
                TABLE.route(wanted, ANY, caller=caller, needs=needs)
                if fast
                else TABLE.survey(wanted, ANY, caller=caller, needs=needs)
            )
        except RequestError as error:
            return "refused" if not isinstance(error, NotFoundError) else error.message
        return (found.candidates, found.groups) if found.candidates else "refused"

    assert answer(fast=True) == answer(fast=False)


BUCKETS = st.lists(
    st.builds(
        BucketLevel,
        kind=st.sampled_from(["requests", "tokens", "input_tokens", "output_tokens"]),
        level=st.floats(-100, 2_000),
        capacity=st.floats(1, 2_000),
        rate_per_s=st.sampled_from([0.0, 0.5, 10.0]),
    ),
    max_size=3,
).map(tuple)


@given(
    buckets=BUCKETS,
    state=st.sampled_from(STATES),
    in_flight=st.integers(0, 6),
    times=st.tuples(st.floats(0, 60), st.floats(0, 60), st.floats(0, 30), st.floats(0, 1)),
    sizes=st.tuples(st.integers(0, 2_000), st.integers(1, 2_000)),
)
def test_outlook_agrees_with_placement(
    buckets: tuple[BucketLevel, ...],
    state: AccountState,
    in_flight: int,
    times: tuple[float, float, float, float],
    sizes: tuple[int, int],
) -> None:
    """Two estimates of one thing: the dispatcher's, and the cheap one for routing."""
    cooldown_s, closed_s, age_s, error_rate = times
    only = row(
        "one", "mini", state=state, in_flight=in_flight, buckets=buckets, cooldown_s=cooldown_s, closed_s=closed_s,
        error_rate=error_rate, context_tokens=1_500,
    )  # fmt: skip
    call = ReadyCall(call_id="c", models=("mini",), input_tokens=sizes[0], output_tokens_max=sizes[1])
    (decision,) = place([call], [only], 50.0 + age_s)

    assert expected_start_s(only, *sizes, 50.0 + age_s) == pytest.approx(decision.start_in_s)
    if isinstance(decision, Choice):
        assert expected_finish_s(only, *sizes, 50.0 + age_s) == pytest.approx(decision.finish_in_s)
    else:
        assert expected_finish_s(only, *sizes, 50.0 + age_s) == NEVER_S


def test_auto_prefers_the_quicker_of_two_models_that_no_route_names() -> None:
    """Of equal price: the one that answers this call first, by first token and speed; an untried one is tried."""
    accounts = tuple(
        AccountSpec(name=name, provider=Provider.OPENAI, models=((model, model),))
        for name, model in (("one", "a"), ("two", "b"))
    )
    table = RoutingTable(replace(orchestra(), models=(info("a"), info("b")), accounts=accounts, routes=()), price_of())
    slow = row("one", "a", ttft_s=0.2, tokens_per_s=10.0, output_tokens=100.0)
    quick = row("two", "b", ttft_s=1.0, tokens_per_s=100.0, output_tokens=100.0)

    def first(*rows: LoadRow) -> str:
        return models_of(table.route("auto", ANY, caller=ANONYMOUS, needs=SMALL, rows=rows))[0]

    assert first(slow, quick) == "b"
    assert first(replace(slow, measured=False), quick) == "a"
    assert first(replace(slow, measured=False, in_flight=1), quick) == "b"


def test_explain_and_the_list_of_models_show_measured_speeds() -> None:
    """What is not measured is null, never a number."""
    quick = row("one", "flash", ttft_s=0.25, tokens_per_s=80.0, output_tokens=100.0)
    rows = [quick, row("two", "flash", measured=False)]
    found = TABLE.survey("flash", ANY, caller=ANONYMOUS, needs=SMALL, rows=rows)
    candidates = explain(TABLE, found, rows, SMALL)["candidates"]

    assert isinstance(candidates, list)
    assert isinstance(candidates[0], dict)
    accounts = candidates[0]["accounts"]
    assert isinstance(accounts, list)
    shown = {each["account"]: each for each in accounts if isinstance(each, dict)}
    assert (shown["one"]["ttft_s"], shown["one"]["tokens_per_s"], shown["one"]["expected_finish_s"]) == (
        0.25,
        80.0,
        1.5,
    )
    assert (shown["two"]["ttft_s"], shown["two"]["tokens_per_s"], shown["two"]["latency_s"]) == (None, None, None)
    entries = {entry["id"]: entry for entry in describe_models(orchestra(), rows, ANONYMOUS)}
    assert (entries["flash"]["ttft_s"], entries["flash"]["tokens_per_s"]) == (0.25, 80.0)
    assert (entries["mini"]["ttft_s"], entries["mini"]["tokens_per_s"]) == (None, None)


def test_explain_says_who_and_why() -> None:
    """Candidates in order with what is expected of each account, the excluded with reasons, and one choice."""
    rows = [row("one", "flash", in_flight=4), row("two", "flash"), row("three", "flash", state="dead")]
    wish = RoutingWish(task_type="translation", cost_usd_max="0.01")
    found = TABLE.survey("auto", wish, caller=ANONYMOUS, needs=SMALL, rows=rows)

    said = explain(TABLE, found, rows, SMALL)

    assert said["chosen"] == {"model": "flash", "account": "two", "provider": "openai"}
    candidates = said["candidates"]
    assert isinstance(candidates, list)
    first = candidates[0]
    assert isinstance(first, dict)
    assert (first["model"], first["because"], first["cost_usd_max"]) == ("flash", "primary", "0.0003")
    accounts = first["accounts"]
    assert isinstance(accounts, list)
    assert [each["account"] for each in accounts if isinstance(each, dict)] == ["two", "one"]
    excluded = said["excluded"]
    assert isinstance(excluded, list)
    causes = {(each["model"], each["cause"]) for each in excluded if isinstance(each, dict)}
    assert {("flash", "dead key"), ("dear", "cost"), ("secret", "cost")} <= causes


def test_explain_chooses_nobody_where_nobody_can() -> None:
    """A model whose only key is refused is routed to when named, and explained as it is."""
    rows = [row("one", "mini", state="dead")]
    found = TABLE.survey("mini", ANY, caller=ANONYMOUS, needs=SMALL, rows=rows)

    assert explain(TABLE, found, rows, SMALL)["chosen"] is None


def test_describe_models_shows_what_the_caller_may_use() -> None:
    """Capabilities, prices and health of every allowed model, and of no other."""
    rows = [row("one", "flash", state="cooling_minute"), row("one", "mini", state="dead")]
    flash, mini = describe_models(orchestra(), rows, Caller(name="c", allowed_models=("flash", "mini")))

    assert (flash["id"], flash["health"], flash["accounts"], flash["accounts_healthy"]) == ("flash", "degraded", 3, 2)
    assert flash["aliases"] == ["quick"]
    assert flash["routed_for"] == ["translation"]
    assert flash["capabilities"] == ["chat", "streaming", "tools", "images", "json_schema", "json_object"]
    assert mini["health"] == "unavailable"
    assert mini["prices"] == {
        "input_usd_per_mtok": "5", "output_usd_per_mtok": "20", "cache_read_usd_per_mtok": None, "source": None,
    }  # fmt: skip
    every = {each["id"]: each for each in describe_models(orchestra(), [], ANONYMOUS)}
    assert list(every) == NAMES
    assert every["embed"]["capabilities"] == ["embeddings"]
    assert every["secret"]["health"] == "healthy"

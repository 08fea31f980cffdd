"""An answer's length, content and cost are decided before its first byte, by rules anybody can recompute."""

from __future__ import annotations

import random

import pytest

from app.simulator.compose import Composer, Stamp, draw, fit
from app.simulator.config import Distribution, FaultKind, SimulatorConfig, parse_config
from app.simulator.exchange import ChatRequest, Choice, Plan, Tool, ToolCall, pieces
from app.simulator.faults import FaultBox, altered
from app.simulator.templates import Script
from app.simulator.tokens import count_tokens, filler_text

STAMP = Stamp(number=1, created_s=0, key="k")


def asked(text: str = "hello", **fields: object) -> ChatRequest:
    return ChatRequest(format="openai", model="m", text=text, last_text=text, **fields)  # type: ignore[arg-type]


def composed(request: ChatRequest, **fields: object) -> Plan:
    config: SimulatorConfig = parse_config(fields, source="test")
    return Composer(config, Script(config.replies)).compose(request, STAMP)


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("báo cáo", 2)])
def test_tokens_are_characters_over_four_rounded_up(text: str, tokens: int) -> None:
    """The whole rule."""
    assert count_tokens(text) == tokens


@pytest.mark.parametrize("tokens", [1, 60, 20_000])
def test_filler_has_exactly_the_tokens_asked_for(tokens: int) -> None:
    """Longer than the buffer it is cut from, too."""
    assert count_tokens(filler_text(tokens, random.Random(1))) == tokens


def test_fit_cuts_reasoning_first_then_text_and_says_length() -> None:
    """As providers do: thinking can leave nothing for the answer."""
    choice = Choice(reasoning="r" * 8, text="t" * 8)

    assert fit(choice, 3) == Choice(reasoning="r" * 8, text="tttt", finish="length")
    assert fit(choice, 2) == Choice(reasoning="r" * 8, text="", finish="length")
    assert fit(choice, 4) is choice


def test_scripted_json_is_the_arguments_of_a_forced_tool_and_text_otherwise() -> None:
    """It goes where the request wants it."""
    tool = Tool(name="f", schema={"type": "object"})
    replies = [{"match": {"regex": "x(?P<rest>.*)"}, "json": {"a": "{rest}"}}]

    forced = composed(asked("xy", tools=(tool,), tool_choice="f"), replies=replies).choices[0]
    free = composed(asked("xy", tools=(tool,)), replies=replies).choices[0]

    assert (forced.text, forced.tool_calls, forced.finish) == (
        "",
        (ToolCall(name="f", arguments='{"a":"y"}'),),
        "tool_calls",
    )
    assert (free.text, free.tool_calls, free.finish) == ('{"a":"y"}', (), "stop")


def test_generated_tool_call_waits_for_nothing_once_its_result_is_there() -> None:
    """A tool loop against the simulator ends: the second turn is text."""
    tool = Tool(name="f", schema={"type": "object", "properties": {"a": {"type": "integer"}}})

    assert composed(asked(tools=(tool,))).choices[0].finish == "tool_calls"
    assert composed(asked(tools=(tool,), answers_tool=True)).choices[0].finish == "stop"


def test_composer_repeats_itself_for_the_same_seed_and_text() -> None:
    """And says something else for another text."""
    assert composed(asked("a")).choices == composed(asked("a")).choices
    assert composed(asked("a")).choices != composed(asked("b")).choices


def test_pieces_carry_the_whole_answer_and_its_tokens() -> None:
    """What a stream bills is what a whole answer bills."""
    plan = composed(asked(n=2), profile={"reasoning_tokens": 7, "chunk_tokens": 3})

    parts = list(pieces(plan))

    assert "".join(part.text for part in parts if part.kind == "text") == "".join(c.text for c in plan.choices)
    assert sum(part.tokens for part in parts) == plan.output_tokens == 2 * 67


def test_draw_has_the_mean_it_was_given() -> None:
    """A lognormal's mean is not its median."""
    kinds: tuple[Distribution, ...] = ("lognormal", "exponential")
    for kind in kinds:
        chance = random.Random(5)
        drawn = [draw(kind, 2.0, 0.5, (0, 100), chance) for _ in range(20_000)]

        assert sum(drawn) / len(drawn) == pytest.approx(2.0, rel=0.05)


def test_model_overrides_only_the_fields_it_gives() -> None:
    """Also inside latency."""
    config = parse_config(
        {
            "profile": {"latency": {"kind": "uniform", "min_s": 1, "max_s": 2}},
            "models": {"m": {"latency": {"min_s": 1.5}}},
        },
        source="test",
    )

    assert config.profile_of("m").latency.model_dump(include={"kind", "min_s", "max_s"}) == {
        "kind": "uniform", "min_s": 1.5, "max_s": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("schedule", "hit"),
    [({"every": 3}, [3, 6]), ({"first": 2}, [1, 2]), ({"between_s": [2, 4]}, [2, 3]), ({"probability": 0}, [])],
)
def test_faults_keep_their_schedule(schedule: dict[str, object], hit: list[int]) -> None:
    """Counted over matching requests only; the n-th request comes at second n."""
    config = parse_config({"faults": [{"match": {"contains": "x"}, "kind": "http_500", **schedule}]}, source="test")
    box = FaultBox(config.faults, seed=1)

    found = [
        second
        for second in range(1, 7)
        if box.choose(asked("x"), "k", second) and not box.choose(asked("y"), "k", second)
    ]

    assert found == hit


def test_fault_that_is_not_due_lets_the_next_one_try() -> None:
    """The first that matches and is due wins."""
    config = parse_config({"faults": [{"kind": "http_500", "every": 2}, {"kind": "http_429"}]}, source="test")
    box = FaultBox(config.faults, seed=1)

    assert [fault.kind for fault in (box.choose(asked(), "k", 0) for _ in range(4)) if fault] == [
        "http_429", "http_500", "http_429", "http_500",
    ]  # fmt: skip


def test_content_faults_change_what_is_said_and_billed() -> None:
    """They arrive with status 200, so only the content shows them."""
    plan = composed(asked("x"), replies=[{"match": {"contains": "x"}, "json": {"answer": "yes"}, "reasoning": "hmm"}])

    assert altered(plan, "blank_content").choices[0].text == ""
    assert altered(plan, "truncated_json").choices[0].text == '{"answer'
    assert altered(plan, "think_tags").choices[0].text == '<think>\nhmm\n</think>\n\n{"answer":"yes"}'
    assert "```json" in altered(plan, "prose_json").choices[0].text
    assert altered(plan, "cut_stream") is plan


def test_content_faults_never_exceed_the_largest_output() -> None:
    """What they add would be output that the request did not allow and its limits did not count."""
    plan = composed(asked("x", max_tokens=10))

    kinds: tuple[FaultKind, ...] = ("think_tags", "prose_json")
    for kind in kinds:
        changed = altered(plan, kind)

        assert (changed.output_tokens, changed.choices[0].finish) == (10, "length")

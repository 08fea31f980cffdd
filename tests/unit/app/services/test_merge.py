"""The merger with scripted models: references, gaps, numbers, languages, groups, fallback, the tiny model's picks."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from app.domain.calls import ModelCall
from app.domain.errors import UpstreamError, UpstreamKind
from app.domain.plan import MergePlan, Plan, PlannedTask
from app.services.merge import Merged, Merger
from app.services.prompts import Prompts
from tests.fakes.models import STRICT, TINY, ScriptedCaller, context, orchestra

PROMPTS = Prompts.load()
ARTIFACTS = {"t1": "Cups fill 40 bags a week. Lids too.", "t2": "Order less milk. Sell small portions."}


def plan(*names: str, **merge: Any) -> Plan:
    """Return a plan of these tasks."""
    tasks = tuple(PlannedTask(id=name, title=f"Title {name}", instruction=f"Do {name}.") for name in names)
    return Plan(goal="Less waste", tasks=tasks, merge=MergePlan(**merge))


def answer(text: str, *, gaps: tuple[str, ...] = (), conflicts: tuple[str, ...] = ()) -> str:
    """Return a merger's answer."""
    return json.dumps({"answer": text, "coverage": [], "conflicts": list(conflicts), "gaps": list(gaps)})


async def merged(
    caller: ScriptedCaller,
    *,
    model: Any = STRICT,
    request: str = "Write a guide",
    made: Plan | None = None,
    artifacts: dict[str, str] | None = None,
    missing: dict[str, str] | None = None,
) -> Merged:
    """Merge the usual artifacts."""
    merger = Merger(caller, orchestra(model), PROMPTS)
    return await merger.merge(
        context(request), made or plan("t1", "t2"), ARTIFACTS if artifacts is None else artifacts, missing or {}
    )


async def test_answer_with_good_references_is_taken_as_it_is() -> None:
    """Every paragraph refers to the results it rests on."""
    caller = ScriptedCaller([answer("Cups fill 40 bags [t1].\n\nOrder less milk [t2].")])
    made = await merged(caller)

    assert made.produced_by == "model"
    assert made.answer.endswith("[t2].")
    assert made.notes == ()
    assert caller.prompt(0).startswith("ROLE: merger v1\n")


async def test_reference_to_nothing_is_repaired() -> None:
    """[t7] does not exist; the repair call may touch the answer only."""
    caller = ScriptedCaller([answer("Cups [t1], milk [t2], beans [t7]."), answer("Cups [t1], milk [t2].")])
    made = await merged(caller)

    assert made.produced_by == "repaired"
    assert "[t7]" not in made.answer
    assert "refers to [t7]" in caller.prompt(1)


async def test_unused_result_must_be_named_as_a_gap() -> None:
    """No accepted result disappears in silence."""
    silent, honest = answer("Cups [t1]."), answer("Cups [t1].", gaps=("t2: nothing of it was needed",))

    assert (await merged(ScriptedCaller([silent, silent]))).produced_by == "fallback"
    made = await merged(ScriptedCaller([honest]))
    assert made.produced_by == "model"
    assert made.gaps == ("t2: nothing of it was needed",)


async def test_merger_that_cannot_be_read_leads_to_concatenation() -> None:
    """There is always an answer, with headings and references."""
    made = await merged(ScriptedCaller(["no json", "none either"]))

    assert made.produced_by == "fallback"
    assert made.answer == (
        "## Title t1\n\nCups fill 40 bags a week. Lids too. [t1]\n\n"
        "## Title t2\n\nOrder less milk. Sell small portions. [t2]"
    )


async def test_merger_without_any_model_leads_to_concatenation_that_says_what_is_missing() -> None:
    """A provider's failure at the last step does not lose the results."""
    made = await merged(
        ScriptedCaller([UpstreamError("down", kind=UpstreamKind.OVERLOADED)]),
        made=plan("t1", "t2", "t3"),
        missing={"t3": "refused"},
        request="Lập kế hoạch giảm rác thải cho quán cà phê của tôi",
    )

    assert made.produced_by == "fallback"
    assert "## Còn thiếu\n\n- Title t3 (lý do: refused)" in made.answer


async def test_missing_part_is_appended_where_the_answer_is_silent_about_it() -> None:
    """A partial answer says what is missing."""
    made = await merged(
        ScriptedCaller([answer("Cups [t1], milk [t2].")]), made=plan("t1", "t2", "t3"), missing={"t3": "timed out"}
    )

    assert made.answer.endswith("## What is missing\n\n- Title t3 (reason: timed out)")


async def test_number_that_no_result_contains_is_flagged() -> None:
    """Numbers are where invention hurts most."""
    made = await merged(ScriptedCaller([answer("1. Cups fill 40 bags [t1].\n2. Save 35 % on milk [t2].")]))

    assert any("35" in note and "40" not in note for note in made.notes)


async def test_wrong_language_is_asked_again_once() -> None:
    """The answer comes in the language of the request."""
    english = answer("The cups fill forty bags a week, which is too much [t1]. Order less milk every day [t2].")
    chinese = answer("杯子每周装满四十个袋子 [t1]。少订牛奶 [t2]。")
    caller = ScriptedCaller([english, chinese])
    made = await merged(caller, request="写一份减少浪费的指南")

    assert "杯子" in made.answer
    assert "not written in Chinese" in caller.prompt(1)
    assert len(made.answers) == 2


async def test_single_result_is_the_answer_without_a_call() -> None:
    """Nothing to merge costs nothing."""
    caller = ScriptedCaller([])
    made = await merged(caller, made=plan("t1"), artifacts={"t1": "Bonjour"})

    assert made.answer == "Bonjour"
    assert made.produced_by == "model"


async def test_json_results_are_joined_by_code_where_the_plan_says_so() -> None:
    """A deterministic join needs no model."""
    made = await merged(
        ScriptedCaller([]), made=plan("t1", "t2", strategy="code"), artifacts={"t1": '{"a": 1}', "t2": "[2]"}
    )

    assert json.loads(made.answer) == {"t1": {"a": 1}, "t2": [2]}


async def test_results_that_do_not_fit_are_merged_in_groups() -> None:
    """Tree merge: every reference survives every level."""
    small = replace(STRICT, context_tokens=12_000)
    names = [f"t{number}" for number in range(1, 21)]
    artifacts = {name: f"Fact of {name}. " + "Some words follow here. " * 60 for name in names}

    def merge_group(call: ModelCall) -> str:
        shown = call.request.messages[-1].text
        owed = sorted(set(re.findall(r"\bt\d+\b", shown.split("RESULTS:")[1].split("Return answer")[0])))
        return answer(" ".join(f"Fact [{name}]." for name in owed))

    caller = ScriptedCaller(merge_group)
    made = await merged(caller, model=small, made=plan(*names), artifacts=artifacts)

    assert len(caller.calls) > 2
    assert all(f"[{name}]" in made.answer for name in names)
    assert made.produced_by == "model"
    assert len({call.call_id for call in caller.calls}) == len(caller.calls)


async def test_embedded_model_picks_sentences_of_the_results() -> None:
    """It cannot invent: the grammar offers each result's own sentences, code adds the references."""

    def pick(call: ModelCall) -> str:
        output = call.request.output
        assert output is not None
        assert not isinstance(output, str)
        offered: Any = output.schema["properties"]
        return json.dumps({name: [field["items"]["enum"][0]] for name, field in offered.items()})

    made = await merged(ScriptedCaller(pick), model=TINY)

    assert made.answer == "Cups fill 40 bags a week. [t1]\n\nOrder less milk. [t2]"
    assert made.produced_by == "model"
    assert any("picked sentences" in note for note in made.notes)


async def test_many_results_reach_the_embedded_model_in_parts() -> None:
    """Its context is small; every result is referred to all the same."""
    names = [f"t{number}" for number in range(1, 25)]
    artifacts = {
        name: " ".join(f"Sentence {number} of {name} says one thing about the matter." for number in range(6))
        for name in names
    }

    def pick(call: ModelCall) -> str:
        schema: Any = call.request.output
        offered = schema.schema["properties"]
        return json.dumps({name: [field["items"]["enum"][0]] for name, field in offered.items()})

    caller = ScriptedCaller(pick)
    made = await merged(caller, model=TINY, made=plan(*names), artifacts=artifacts)

    assert len(caller.calls) > 1
    assert all(len(caller.prompt(index)) < 5_000 for index in range(len(caller.calls)))
    assert [f"[{name}]" in made.answer for name in names] == [True] * 24

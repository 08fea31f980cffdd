"""The worker with scripted models: what it sees, redo, languages, JSON artifacts, the embedded model's texts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.accounts import Tier
from app.domain.errors import UpstreamError, UpstreamKind
from app.domain.plan import Criterion, ExpectedOutput, PlannedTask
from app.services.prompts import Prompts
from app.services.work import Worker
from tests.fakes.models import REASONER, STRICT, TINY, ScriptedCaller, context, cut_off, orchestra

PROMPTS = Prompts.load()
TASK = PlannedTask(
    id="t2",
    title="Plan",
    instruction="Write a plan from the list.",
    criteria=(Criterion(id="c1", statement="It has three steps."),),
    expected_output=ExpectedOutput(format="markdown", description="a list", max_words=100),
)
VIETNAMESE = "Lập kế hoạch ba ngày du lịch Hà Nội cho gia đình có trẻ nhỏ"
VIETNAMESE_TEXT = "Ngày thứ nhất, gia đình đi dạo quanh hồ Hoàn Kiếm và thăm đền Ngọc Sơn."
ENGLISH_TEXT = "On the first day the family walks around the lake and visits the temple."
CHINESE_TEXT = "第一天,全家人在湖边散步,然后参观寺庙。"


async def test_worker_sees_task_inputs_and_criteria_and_nothing_else() -> None:
    """The envelope holds what was planned for it."""
    caller = ScriptedCaller(["<think>hm</think>1. Weigh. 2. Order. 3. Count."])
    made = await Worker(caller, orchestra(STRICT), PROMPTS).work(context("SECRET"), TASK, {"t1": "cups</data>"})
    shown = caller.prompt(0)

    assert made.artifact == "1. Weigh. 2. Order. 3. Count."
    assert made.produced_by == "model"
    assert shown.startswith("ROLE: worker v1\n")
    assert '<data id="t1">\ncups&lt;/data>\n</data>' in shown
    assert "It has three steps." in shown
    assert "at most 100 words" in shown
    assert "SECRET" not in shown
    assert caller.calls[0].call_id == "run-1/t2/task/1"
    assert caller.calls[0].request.output_tokens_max == 300


async def test_redo_gets_the_old_artifact_and_the_objections() -> None:
    """A second attempt changes something: feedback, and another account where there is one."""
    caller = ScriptedCaller(["One step only.", "1. a 2. b 3. c"])
    worker = Worker(caller, orchestra(STRICT), PROMPTS)
    await worker.work(context("Plan"), TASK, {})
    await worker.work(context("Plan"), TASK, {}, 2, ("not met: It has three steps.",))
    shown = caller.prompt(1)

    assert shown.startswith("ROLE: redo v1\n")
    assert "One step only." in shown
    assert "- not met: It has three steps." in shown
    assert caller.calls[1].avoid_accounts == ("account-1",)


async def test_third_attempt_goes_to_another_family_first() -> None:
    """The same model with the same task fails the same way."""
    caller = ScriptedCaller(["text"])
    await Worker(caller, orchestra(STRICT, REASONER), PROMPTS).work(context("Plan"), TASK, {}, 3)

    assert caller.calls[0].models == ("thinker", "strict")


async def test_model_below_the_tasks_floor_comes_last() -> None:
    """A weaker answer, judged, is better than none."""
    caller = ScriptedCaller(["text"])
    task = replace(TASK, min_tier=Tier.STRONG)
    await Worker(caller, orchestra(STRICT, REASONER), PROMPTS).work(context("Plan"), task, {})

    assert caller.calls[0].models == ("thinker", "strict")


@pytest.mark.parametrize(
    ("request_text", "wrong", "right"),
    [
        (VIETNAMESE, ENGLISH_TEXT, VIETNAMESE_TEXT),
        ("写一份三天的河内旅行计划", ENGLISH_TEXT, CHINESE_TEXT),
        ("Plan three days in Hanoi for a family", CHINESE_TEXT, ENGLISH_TEXT),
        ("Plan three days in Hanoi for a family", VIETNAMESE_TEXT, ENGLISH_TEXT),
    ],
)
async def test_wrong_language_is_asked_again_once(request_text: str, wrong: str, right: str) -> None:
    """The answer comes in the language of the request."""
    caller = ScriptedCaller([wrong, right])
    made = await Worker(caller, orchestra(STRICT), PROMPTS).work(context(request_text), TASK, {"t1": "the input"})

    assert made.artifact == right
    assert len(made.answers) == 2
    assert "it is not written in" in caller.prompt(1)
    assert "the input" in caller.prompt(1)


async def test_language_stays_wrong_with_a_note() -> None:
    """One more try, then the text is taken as it is and said so."""
    caller = ScriptedCaller([ENGLISH_TEXT, ENGLISH_TEXT])
    made = await Worker(caller, orchestra(STRICT), PROMPTS).work(context(VIETNAMESE), TASK, {})

    assert made.artifact == ENGLISH_TEXT
    assert any("also after a second try" in note for note in made.notes)


async def test_failed_second_try_keeps_the_first_text() -> None:
    """What was paid for is not thrown away."""
    caller = ScriptedCaller([ENGLISH_TEXT, UpstreamError("down", kind=UpstreamKind.OVERLOADED)])
    made = await Worker(caller, orchestra(STRICT), PROMPTS).work(context(VIETNAMESE), TASK, {})

    assert made.artifact == ENGLISH_TEXT
    assert any("failed: down" in note for note in made.notes)


@pytest.mark.parametrize(
    ("request_text", "task"),
    [
        ("Translate this letter to Chinese", TASK),
        ("Plan a trip", replace(TASK, task_type="translation")),
        ("Plan a trip", replace(TASK, expected_output=ExpectedOutput(format="code"))),
    ],
)
async def test_language_is_free_where_the_work_is_about_languages(request_text: str, task: PlannedTask) -> None:
    """A translation is not held against its source's language."""
    caller = ScriptedCaller([CHINESE_TEXT])
    made = await Worker(caller, orchestra(STRICT), PROMPTS).work(context(request_text), task, {})

    assert made.artifact == CHINESE_TEXT


async def test_json_artifact_is_repaired_and_marked() -> None:
    """A JSON artifact comes out as JSON, talk and trailing commas removed."""
    task = replace(TASK, expected_output=ExpectedOutput(format="json"))
    caller = ScriptedCaller(['Here: ```json\n{"steps": ["a", "b",]}\n```'])
    made = await Worker(caller, orchestra(STRICT), PROMPTS).work(context("Plan"), task, {})

    assert made.artifact == '{\n  "steps": [\n    "a",\n    "b"\n  ]\n}'
    assert made.produced_by == "repaired"
    assert caller.calls[0].request.output == "json_object"


async def test_upstream_error_goes_to_the_task_flow() -> None:
    """A worker that cannot be asked is the flow's business."""
    caller = ScriptedCaller([UpstreamError("down", kind=UpstreamKind.OVERLOADED)])
    with pytest.raises(UpstreamError):
        await Worker(caller, orchestra(STRICT), PROMPTS).work(context("Plan"), TASK, {})


async def test_embedded_model_gets_a_short_prompt_and_loses_its_cut_end() -> None:
    """Two sentences of each input, no envelope; a cut sentence at the end is dropped."""
    caller = ScriptedCaller([cut_off("Weigh the waste on Monday. Order less milk. Then you sh")])
    inputs = {"t1": "Paper cups fill the bins. Milk goes sour fast. Bread gets too old."}
    made = await Worker(caller, orchestra(TINY), PROMPTS).work(context("Plan a week"), TASK, inputs)

    assert made.artifact == "Weigh the waste on Monday. Order less milk."
    assert made.notes == ()
    assert "Notes:\nPaper cups fill the bins. Milk goes sour fast.\n\n" in caller.prompt(0)
    assert "Bread" not in caller.prompt(0)
    assert dict(caller.calls[0].request.extra)["repeat_penalty"] == "1.1"


async def test_embedded_model_that_goes_round_in_circles_is_asked_with_another_seed() -> None:
    """Loops are the one defect a different seed mends."""
    caller = ScriptedCaller(["Sell less of the food. " * 8, "Order less milk and bread."])
    made = await Worker(caller, orchestra(TINY), PROMPTS).work(context("Plan a week"), TASK, {})

    assert made.artifact == "Order less milk and bread."
    assert caller.calls[0].request.seed != caller.calls[1].request.seed


async def test_inputs_are_shortened_to_the_models_context() -> None:
    """A long input loses its middle rather than the call."""
    small = replace(STRICT, context_tokens=4_000)
    caller = ScriptedCaller(["fine"])
    inputs = {"t1": "short", "t3": "word " * 20_000}
    await Worker(caller, orchestra(small), PROMPTS).work(context("Plan"), TASK, inputs)

    assert len(caller.prompt(0)) < 12_000
    assert "characters left out" in caller.prompt(0)
    assert ">\nshort\n<" in caller.prompt(0)

"""Simulator replies that play every role of the standard prompts, in English, Vietnamese and Chinese.

Roles are recognised by their prompts' first line; which story is played follows from words of the request, and later
from the plan's own titles. Each story has two independent tasks, a third that needs both, and a fourth that needs it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

WORK_S = 0.3
"""How long a simulated worker takes: long enough that two at once can be told from two in a row."""

Rule = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One task of a story, with the result that the simulated worker gives."""

    id: str
    title: str
    instruction: str
    result: str
    needs: tuple[str, ...] = ()
    criterion: str = "It does what the title says."


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One request and how it is played."""

    marker: str
    """Words of the request by which the simulated models know the story."""
    request: str
    goal: str
    steps: tuple[Step, ...]
    answer: str

    def step(self, task_id: str) -> Step:
        """Return the step of that id."""
        return next(step for step in self.steps if step.id == task_id)


ENGLISH = Story(
    marker="tea and coffee",
    request="Compare tea and coffee for our office and recommend one of them to the team.",
    goal="Recommend tea or coffee to the team",
    steps=(
        Step(
            id="t1",
            title="Describe tea",
            instruction="Describe what tea offers in an office: cost, effort, effect.",
            result="Tea is cheap and keeps people calm. It needs little more than a kettle.",
        ),
        Step(
            id="t2",
            title="Describe coffee",
            instruction="Describe what coffee offers in an office: price, work, wakefulness.",
            result="Coffee wakes people quickly. Its machine wants cleaning every day.",
        ),
        Step(
            id="t3",
            title="Compare both drinks",
            instruction="Weigh the two descriptions that you are given against each other.",
            result="Tea wins on cost and on effort, while coffee wins on speed.",
            needs=("t1", "t2"),
        ),
        Step(
            id="t4",
            title="Recommend one drink",
            instruction="Say from the comparison which drink the team should take, and why.",
            result="The team should take tea, because it costs less and needs no cleaning.",
            needs=("t3",),
        ),
    ),
    answer="Tea is cheap and calm [t1]. Coffee wakes quickly [t2].\n\nTea wins on cost [t3].\n\nTake tea [t4].",
)
VIETNAMESE = Story(
    marker="trà và cà phê",
    request="Hãy so sánh trà và cà phê cho văn phòng của chúng tôi rồi đề xuất một loại cho cả nhóm.",
    goal="Đề xuất trà hoặc cà phê cho cả nhóm",
    steps=(
        Step(
            id="t1",
            title="Mô tả trà",
            instruction="Mô tả những gì trà mang lại trong văn phòng: giá, công sức, tác dụng.",
            result="Trà rẻ và giúp mọi người bình tĩnh. Chỉ cần một ấm đun nước.",
            criterion="Kết quả đúng với tiêu đề.",
        ),
        Step(
            id="t2",
            title="Mô tả cà phê",
            instruction="Mô tả những gì cà phê đem đến nơi làm việc: chi phí, việc pha, sự tỉnh táo.",
            result="Cà phê giúp tỉnh táo rất nhanh. Máy pha phải được rửa mỗi ngày.",
            criterion="Kết quả đúng với tiêu đề.",
        ),
        Step(
            id="t3",
            title="So sánh hai loại",
            instruction="Đặt hai bản mô tả đã nhận cạnh nhau và cân nhắc.",
            result="Trà hơn về giá và công sức, còn cà phê hơn về tốc độ.",
            needs=("t1", "t2"),
            criterion="Kết quả đúng với tiêu đề.",
        ),
        Step(
            id="t4",
            title="Đề xuất một loại",
            instruction="Từ bản so sánh, hãy nói nhóm nên chọn loại nào và vì sao.",
            result="Cả nhóm nên chọn trà vì giá thấp hơn và không phải rửa máy.",
            needs=("t3",),
            criterion="Kết quả đúng với tiêu đề.",
        ),
    ),
    answer="Trà rẻ và giúp bình tĩnh [t1]. Cà phê giúp tỉnh táo [t2].\n\nTrà hơn về giá [t3].\n\nNên chọn trà [t4].",
)
CHINESE = Story(
    marker="茶和咖啡",
    request="请为我们的办公室比较茶和咖啡,并向团队推荐其中一种。",
    goal="向团队推荐茶或咖啡",
    steps=(
        Step(
            id="t1",
            title="描述茶叶",
            instruction="描述茶叶在办公室的价格、工作量和效果。",
            result="茶叶价格便宜,让人平静。只需要一个烧水壶。",
            criterion="结果符合标题。",
        ),
        Step(
            id="t2",
            title="描述咖啡",
            instruction="说明办公场所里喝咖啡要花多少钱、怎样冲泡、是否提神。",
            result="咖啡提神很快,但是机器每天都要清洗。",
            criterion="结果符合标题。",
        ),
        Step(
            id="t3",
            title="比较两种饮料",
            instruction="把得到的两份材料放在一起权衡。",
            result="茶叶在价格和工作量上胜出,咖啡在速度上胜出。",
            needs=("t1", "t2"),
            criterion="结果符合标题。",
        ),
        Step(
            id="t4",
            title="推荐一种饮料",
            instruction="根据权衡的结论告诉团队应当选哪一种以及理由。",
            result="团队应该选择茶叶,因为它更便宜,也不用清洗机器。",
            needs=("t3",),
            criterion="结果符合标题。",
        ),
    ),
    answer="茶叶便宜,让人平静[t1]。咖啡提神很快[t2]。\n\n茶叶在价格上胜出[t3]。\n\n团队应该选择茶叶[t4]。",
)
OTHER = Story(
    marker="",
    request="Look into two ways of heating the hall and say which of them we should take.",
    goal="Say which way to take",
    steps=(
        Step(
            id="t1",
            title="Look into the first way",
            instruction="Collect what speaks for the first way and what speaks against it.",
            result="The first way is simple and quick to set up.",
        ),
        Step(
            id="t2",
            title="Look into the second way",
            instruction="Find out how the other possibility works and where it fails.",
            result="The second way is dearer but lasts much longer.",
        ),
        Step(
            id="t3",
            title="Hold them against each other",
            instruction="Weigh the two results that you are given.",
            result="The first way costs less, the second one lasts.",
            needs=("t1", "t2"),
        ),
        Step(
            id="t4",
            title="Choose",
            instruction="Say which way is to be taken, and why.",
            result="Take the second way, because it lasts.",
            needs=("t3",),
        ),
    ),
    answer="The first way is simple [t1]. The second lasts [t2].\n\nThey differ in cost [t3].\n\nTake the second [t4].",
)
"""Played for every request that no other story claims."""
STORIES = (ENGLISH, VIETNAMESE, CHINESE, OTHER)
VAGUE = "Plan a journey to somewhere warm for two people and say what it costs."
"""A request that the simulated clarifier asks back about."""
QUESTION = "Which place should the journey go to?"
ASSUMED = "Hanoi in spring"


def replies(*first: Rule) -> list[Rule]:
    """Return the rules that play all stories; ``first`` are tried before them."""
    rules = [*first, *_clarifier(), _judge(), _evaluator()]
    for story in STORIES:
        rules += [_planner(story), _transcriber(story), _merger(story), *(_worker(step) for step in story.steps)]
    return rules


def planner_rules(story: Story, plan: dict[str, Any]) -> list[Rule]:
    """Return rules that make the planner and the transcriber give ``plan`` for ``story``."""
    return [
        {"match": {"regex": rf"\AROLE: planner v1.*{re.escape(story.marker)}"}, "text": prose_of(plan)},
        {"match": {"regex": r"\AROLE: transcriber v1"}, "json": plan},
    ]


def judge_rule(step: Step, *verdicts: str) -> Rule:
    """Return a rule that judges ``step`` with these verdicts, one after the other."""
    return {"match": _role("judge", step.title), "sequence": [{"json": _verdicts(verdict)} for verdict in verdicts]}


def worker_rule(step: Step, **reply: Any) -> Rule:
    """Return a rule that answers the worker of ``step`` with ``reply``."""
    return {"match": _work(step), **reply}


def plan_of(story: Story) -> dict[str, Any]:
    """Return the plan of a story, as the schema wants it."""
    return {
        "goal_restated": story.goal,
        "assumptions": [],
        "decomposition_reason": "Two parts can be done at once.",
        "tasks": [task_of(step) for step in story.steps],
        "merge": {"strategy": "synthesise", "instruction": "One coherent answer.", "covers": [story.goal]},
    }


def task_of(step: Step) -> dict[str, Any]:
    """Return one task, as the schema wants it."""
    return {
        "id": step.id,
        "title": step.title,
        "instruction": step.instruction,
        "out_of_scope": "",
        "depends_on": [{"task_id": name, "uses": "its result"} for name in step.needs],
        "capability": "general",
        "min_tier": "cheap",
        "expected_output": {"format": "text", "description": "", "max_words": None},
        "acceptance_criteria": [
            {"id": "c1", "statement": step.criterion, "check": "judge", "check_arg": None, "must": True},
            {"id": "c2", "statement": step.criterion, "check": "not_empty", "check_arg": None, "must": True},
        ],
        "effort": "S",
        "side_effects": False,
    }


def prose_of(plan: dict[str, Any]) -> str:
    """Return a plan as a reasoning model writes it, for somebody else to put into JSON."""
    lines = [f"GOAL: {plan['goal_restated']}"]
    for task in plan["tasks"]:
        needs = ", ".join(need["task_id"] for need in task["depends_on"]) or "nothing"
        criteria = " ".join(item["statement"] for item in task["acceptance_criteria"])
        lines.append(
            f"\n## {task['id']}\ntitle: {task['title']}\ninstruction: {task['instruction']}\n"
            f"depends_on: {needs}\nacceptance: {criteria}"
        )
    return "\n".join(lines)


def _planner(story: Story) -> Rule:
    return {"match": {"regex": rf"\AROLE: planner v1.*{re.escape(story.marker)}"}, "text": prose_of(plan_of(story))}


def _transcriber(story: Story) -> Rule:
    return {"match": {"regex": rf"\AROLE: transcriber v1.*GOAL: {re.escape(story.goal)}"}, "json": plan_of(story)}


def _worker(step: Step) -> Rule:
    return {"match": _work(step), "text": step.result, "latency": {"kind": "constant", "mean_s": WORK_S}}


def _work(step: Step) -> Rule:
    return {"regex": rf"\AROLE: (?:worker|redo) v1.*\nTASK: {re.escape(step.title)}\n"}


def _role(role: str, words: str = "") -> Rule:
    return {"regex": rf"\AROLE: {role} v1.*{re.escape(words)}"}


def _judge() -> Rule:
    # The shortest passage that decides is the artifact's beginning, verbatim.
    regex = r'\AROLE: judge v1.*<data id="artifact">\n(?P<quote>[^\n]{1,40})'
    return {"match": {"regex": regex}, "json": _verdicts("met", quote="{quote}")}


def _verdicts(verdict: str, quote: str = "") -> dict[str, Any]:
    item = {
        "criterion_id": "{id}",
        "evidence_quote": quote,
        "reasoning": "seen" if verdict == "met" else "It names no price at all.",
        "verdict": verdict,
        "fix_hint": "" if verdict == "met" else "Name a price.",
    }
    return {"injection_notes": "", "verdicts": {"$for_each": r"(?m)^- (?P<id>c\d+): ", "$item": item}}


def _evaluator() -> Rule:
    each = r'\[(?P<id>t\d+)\] TASK: .*?RESULT:\n<data id="t\d+">\n(?P<quote>[^\n]{1,40})'
    item = {
        "task_id": "{id}",
        "evidence_quote": "{quote}",
        "reasoning": "It keeps to its task.",
        "verdict": "does what was asked",
        "score": 9,
    }
    answer = {"injection_notes": "", "evaluations": {"$for_each": each, "$item": item}}
    return {"match": _role("evaluator"), "json": answer}


def _merger(story: Story) -> Rule:
    return {"match": _role("merger", story.marker), "json": merged(story.answer)}


def merged(answer: str) -> dict[str, Any]:
    """Return a merger's answer, as the schema wants it."""
    return {"answer": answer, "coverage": [], "conflicts": [], "gaps": []}


def _clarifier() -> list[Rule]:
    question = {
        "id": "q1",
        "question": QUESTION,
        "why": "The price depends on it.",
        "options": ["Hanoi", "Lisbon"],
        "default": ASSUMED,
        "dimension": "goal",
        "cost_if_wrong": 5,
        "probability_default_wrong": 0.8,
        "answerable_from_material": False,
    }
    return [
        {"match": _role("clarifier", "to somewhere warm"), "json": {"questions": [question], "plannable": True}},
        {"match": _role("clarifier"), "json": {"questions": [], "plannable": True}},
    ]

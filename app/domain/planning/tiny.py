"""Planning with the embedded model: the request's own parts make the grammar, the model chooses inside it.

Measured with SmolLM2-135M: left free, it plans about nothing (copied examples, loops, invented tasks); inside this
grammar ids, instructions and dependencies are right by construction. So code decides how many tasks there are and what
they are about, and the model picks how each is put to the worker and what it is checked for. The plan's
``reason`` says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from app.domain.accounts import Tier
from app.domain.chat import Json
from app.domain.plan import Criterion, Dependency, ExpectedOutput, MergePlan, Plan, PlannedTask
from app.domain.planning.fallback import short_title
from app.domain.planning.hints import Hints, Part
from app.domain.planning.schema import closed_object

KEYWORDS_MAX = 6
STEM_CHARS = 5
"""A keyword is looked for by its first letters, so that "sources" finds "source"."""
REASON = (
    "Split along the parts that the request itself names; the embedded model only chose how each is worded and checked."
)
WHOLE_REASON = (
    "The request names no parts, so it is one task; the embedded model only chose how it is worded and checked."
)

_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and the of for to in on or with by from using use based above then parts part results write list suggest "
        "make describe explain give name create compare recommend plan short one two three four five each every that "
        "this it them is are be do what how why who when about into your my our their some way ways good best new",
    )
)
_CRITERIA = {
    "vi": ("Văn bản làm đúng yêu cầu: {part}.", "Văn bản nêu những điều cụ thể về: {part}."),
    "zh": ("文本完成了要求:{part}。", "文本给出了具体内容:{part}。"),
    "en": ("The text does this: {part}.", "The text gives concrete points on this: {part}."),
}
_NOT_EMPTY = {"vi": "Có văn bản.", "zh": "有文本。", "en": "There is a text."}
_ON_TOPIC = {"vi": "Văn bản nói về chủ đề.", "zh": "文本切题。", "en": "The text is about its topic."}


def tiny_tokens(text: str) -> int:
    """Return at least as many tokens as the embedded model's English vocabulary needs for ``text``."""
    plain = sum(letter.isascii() for letter in text)
    # Other letters fall apart into bytes.
    return int(plain / 3 + (len(text.encode()) - plain) * 0.9) + 1


def grouped(hints: Hints, tasks_max: int) -> tuple[Hints, tuple[str, ...]]:
    """Return ``hints`` with at most ``tasks_max`` parts: neighbours are joined, nothing is lost; and a note if so."""
    parts = hints.parts
    if len(parts) <= tasks_max:
        return hints, ()
    if tasks_max < 2:
        return replace(hints, parts=()), (f"{len(parts)} parts were joined into one task, the limit",)
    group_of = [index * tasks_max // len(parts) for index in range(len(parts))]
    joined = []
    for group in range(tasks_max):
        members = [index for index, of in enumerate(group_of) if of == group]
        needed = {group_of[name] for index in members for name in parts[index].builds_on} - {group}
        text = "; ".join(parts[index].text for index in members)
        joined.append(Part(text=text, builds_on=tuple(sorted(needed))))
    note = f"the request names {len(parts)} parts; they were joined into {tasks_max} tasks, the limit"
    return replace(hints, parts=tuple(joined)), (note,)


def tiny_plan_schema(hints: Hints) -> dict[str, Json]:
    """Return the grammar of the plan: one object per part, every field a constant or a choice."""
    pieces = hints.pieces
    tasks: list[Json] = [
        closed_object(
            {
                "id": {"const": f"t{index + 1}"},
                "instruction": {"enum": list(_instructions(part, hints))},
                "depends_on": {"const": [f"t{name + 1}" for name in part.builds_on]},
                "criterion": {"enum": list(_criteria(part, hints))},
            }
        )
        for index, part in enumerate(pieces)
    ]
    count = len(tasks)
    return closed_object({"tasks": {"type": "array", "prefixItems": tasks, "minItems": count, "maxItems": count}})


def tiny_plan(value: Json, hints: Hints) -> Plan:
    """Return the plan that a value of ``tiny_plan_schema(hints)`` describes; None takes the first of every choice."""
    pieces = hints.pieces
    chosen: Sequence[dict[str, Json]]
    if value is None:
        chosen = [
            {"instruction": _instructions(part, hints)[0], "criterion": _criteria(part, hints)[0]} for part in pieces
        ]
    else:
        chosen = cast("list[dict[str, Json]]", cast("dict[str, Json]", value)["tasks"])
    return Plan(
        goal=short_title(hints.goal, 300),
        tasks=tuple(
            _task(index, part, choice, hints) for index, (part, choice) in enumerate(zip(pieces, chosen, strict=True))
        ),
        merge=MergePlan(covers=tuple(short_title(part.text) for part in pieces)),
        reason=REASON if hints.parts else WHOLE_REASON,
        produced_by="model" if value is not None else "fallback",
    )


def keywords(part: str, language: str) -> tuple[str, ...]:
    """Return the words that a text on ``part`` can hardly avoid; none where the language is not English."""
    if language != "en":
        return ()
    words = [word.casefold() for word in re.findall(r"[A-Za-z][A-Za-z'-]{3,}", part)]
    telling = dict.fromkeys(word for word in words if word not in _STOP_WORDS)
    return tuple(telling)[-KEYWORDS_MAX:]


def _task(index: int, part: Part, choice: dict[str, Json], hints: Hints) -> PlannedTask:
    criteria = [Criterion(id="c1", statement=_worded(_NOT_EMPTY, hints), check="not_empty")]
    words = keywords(part.text, hints.language)
    # A translation or a table of numbers need not repeat the request's words.
    if words and not part.builds_on and not re.search(r"translat|calculat|comput", part.text, re.IGNORECASE):
        pattern = "(?i)" + "|".join(re.escape(word[:STEM_CHARS]) for word in words)
        criteria.append(Criterion(id="c2", statement=_worded(_ON_TOPIC, hints), check="regex", check_arg=pattern))
    criteria.append(
        Criterion(id=f"c{len(criteria) + 1}", statement=str(choice["criterion"]), check="judge", must=False)
    )
    return PlannedTask(
        id=f"t{index + 1}",
        title=short_title(part.text, 60),
        instruction=str(choice["instruction"]),
        depends_on=tuple(Dependency(task_id=f"t{name + 1}", uses="its text") for name in part.builds_on),
        min_tier=Tier.TINY,
        expected_output=ExpectedOutput(format="text"),
        criteria=tuple(criteria),
        effort="S",
    )


def _instructions(part: Part, hints: Hints) -> tuple[str, ...]:
    stop = "。" if hints.language in ("zh", "ja") else "."
    plain = part.text if re.search(r"[.!?。!?]$", part.text) else part.text + stop
    if not hints.parts or hints.goal.startswith(part.text) or part.text in hints.goal:
        return (plain,)
    return (f"{part.text} ({short_title(hints.goal, 160)}){stop}", plain)


def _criteria(part: Part, hints: Hints) -> tuple[str, ...]:
    forms = _CRITERIA.get(hints.language, _CRITERIA["en"])
    return tuple(form.format(part=short_title(part.text, 120)) for form in forms)


def _worded(forms: dict[str, str], hints: Hints) -> str:
    return forms.get(hints.language, forms["en"])

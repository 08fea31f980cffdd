"""Checks and makes the merged answer: references [t1], numbers that nobody wrote, concatenation, groups of results.

The merger may use accepted results only; here is decided whether it did as far as code can see. Pure.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from app.domain.chat import Json
from app.domain.language import normalised, sentences, words_of
from app.domain.plan import Plan
from app.domain.planning.schema import array_of, closed_object, one_of
from app.domain.schema_check import Problem

FAN_IN = 8
"""Results joined by one call where they do not fit together (tree merge)."""
NUMBERS_FLAGGED_MAX = 10
PICKED_MIN = 1
PICKED_MAX = 2
"""Sentences the embedded model picks of each result."""
SENTENCE_WORDS_MIN = 3
SENTENCE_WORDS_MAX = 25
SENTENCES_MAX = 6

_REFERENCE = re.compile(r"\[(t\d+[A-Za-z0-9_-]*|[A-Za-z][\w-]*)((?:\s*[,;]\s*[A-Za-z][\w-]*)*)\](?!\()")
_NUMBER = re.compile(r"\d+(?:[.,'\u00a0\u202f]\d+)*")
_LIST_MARK = re.compile(r"^[ \t>#*-]*\d{1,3}[.)、](?=\s|\S)", re.MULTILINE)

Item = TypeVar("Item")

_WORDS = {
    "vi": {"missing": "Còn thiếu", "reason": "lý do"},
    "zh": {"missing": "缺少的部分", "reason": "原因"},
    "fr": {"missing": "Ce qui manque", "reason": "raison"},
    "de": {"missing": "Was fehlt", "reason": "Grund"},
    "es": {"missing": "Lo que falta", "reason": "motivo"},
    "en": {"missing": "What is missing", "reason": "reason"},
}


def references(answer: str, known: Collection[str]) -> tuple[set[str], set[str]]:
    """Return the task ids that ``answer`` refers to: those that exist, and those that look like ids and do not.

    Only ``[t7]`` looks like an id where no task is called so; other words in brackets are text.
    """
    found: set[str] = set()
    for first, more in _REFERENCE.findall(answer):
        found.update(name for name in (first, *re.split(r"[,;\s]+", more)) if name)
    real = found & set(known)
    return real, {name for name in found - real if re.fullmatch(r"t\d{1,4}", name)}


def merge_problems(
    answer: str, gaps: Sequence[str], artifacts: Mapping[str, str], *, path: str = "answer"
) -> list[Problem]:
    """Return what a merger must put right: references to nothing, results neither used nor named as gaps."""
    problems = []
    if not answer.strip():
        problems.append(Problem(path=path, message="is empty"))
    used, unknown = references(answer, artifacts)
    problems.extend(
        Problem(path=path, message=f"refers to [{name}], but there is no such result") for name in sorted(unknown)
    )
    named = set(re.findall(r"[A-Za-z][\w-]*", " ".join(gaps)))
    for name in artifacts:
        if name not in used and name not in named:
            message = f"the result [{name}] is not referred to; use it, or name it in gaps"
            problems.append(Problem(path=path, message=message))
            problems.append(Problem(path="gaps", message=f"or name {name} here"))
    return problems


def numbers_from_nowhere(answer: str, sources: Sequence[str]) -> list[str]:
    """Return numbers of ``answer`` that no source contains; list numbering, references and 0 to 10 do not count."""
    plain = _REFERENCE.sub(" ", _LIST_MARK.sub(" ", answer))
    known = {number for source in sources for number in _numbers(source)}
    strange = [number for number in dict.fromkeys(_numbers(plain)) if number not in known]
    return [number for number in strange if not re.fullmatch(r"\d|10", number)][:NUMBERS_FLAGGED_MAX]


def concatenated(plan: Plan, artifacts: Mapping[str, str], missing: Mapping[str, str], language: str) -> str:
    """Return the results one after the other, under the titles of their tasks, with what is missing at the end."""
    order = [task for task in plan.tasks if task.id in artifacts]
    pieces = [f"## {task.title}\n\n{artifacts[task.id].strip()} [{task.id}]" for task in order]
    missing_text = missing_section(plan, missing, language)
    return "\n\n".join([*pieces, missing_text] if missing_text else pieces)


def missing_section(plan: Plan, missing: Mapping[str, str], language: str) -> str:
    """Return the section that says which parts are missing and why; empty where none is."""
    if not missing:
        return ""
    words = _WORDS.get(language, _WORDS["en"])
    titles = {task.id: task.title for task in plan.tasks}
    lines = [f"- {titles.get(name, name)} ({words['reason']}: {reason})" for name, reason in missing.items()]
    return f"## {words['missing']}\n\n" + "\n".join(lines)


def names_missing(answer: str, plan: Plan, missing: Mapping[str, str]) -> bool:
    """Tell whether ``answer`` itself says what is missing: by id or title of every missing task."""
    text = normalised(answer)
    titles = {task.id: normalised(task.title) for task in plan.tasks}
    return all(
        titles.get(name, name) in text or re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in missing
    )


def groups(items: Sequence[Item], fan_in: int = FAN_IN) -> list[list[Item]]:
    """Return ``items`` in order, in as few groups of at most ``fan_in`` as possible, of nearly equal size."""
    count = -(-len(items) // fan_in)
    bounds = [len(items) * index // count for index in range(count + 1)] if count else []
    return [list(items[first:last]) for first, last in itertools.pairwise(bounds)]


def merge_schema() -> dict[str, Json]:
    """Return the strict schema of a merger's answer."""
    text: Json = {"type": "string"}
    texts: Json = array_of(text)
    part = closed_object({"goal_part": text, "task_ids": texts, "status": one_of(["covered", "partly", "missing"])})
    return closed_object({"answer": text, "coverage": array_of(part), "conflicts": texts, "gaps": texts})


def pickable(artifact: str) -> list[str]:
    """Return the whole sentences of a result that the embedded model may pick; short and cut ones are left out."""
    found = []
    for listed in sentences(artifact):
        sentence = re.sub(r"^(?:[-*•–]|\d{1,3}[.)、])\s*", "", listed)
        words = words_of(sentence)
        announces = sentence.rstrip().endswith((":", ":"))
        if SENTENCE_WORDS_MIN <= len(words) <= SENTENCE_WORDS_MAX and not announces and _plain(sentence):
            found.append(sentence)
    return list(dict.fromkeys(found))[:SENTENCES_MAX]


def pick_schema(offered: Mapping[str, Sequence[str]]) -> dict[str, Json]:
    """Return the grammar of the embedded model's merge: of every result, some of its own sentences."""
    return closed_object(
        {
            name: {
                "type": "array",
                "items": {"enum": list(choices)},
                "minItems": min(PICKED_MIN, len(choices)),
                "maxItems": min(PICKED_MAX, len(choices)),
            }
            for name, choices in offered.items()
        }
    )


def answer_of_picks(picks: Mapping[str, Sequence[str]]) -> str:
    """Return one paragraph per result, made of its picked sentences, each ending with its reference."""
    seen: set[str] = set()
    paragraphs = []
    for name, chosen in picks.items():
        fresh = [sentence for sentence in dict.fromkeys(chosen) if sentence not in seen]
        # A result whose only sentence was picked before still needs its reference.
        fresh = fresh or list(dict.fromkeys(chosen))
        seen.update(fresh)
        joint = "" if any(re.search(r"[\u3040-\u30ff\u3400-\u9fff]", sentence) for sentence in fresh) else " "
        paragraphs.append(f"{joint.join(fresh)} [{name}]")
    return "\n\n".join(paragraphs)


def _plain(sentence: str) -> bool:
    """Tell whether a grammar can hold the sentence: no quotes, escapes or broken characters."""
    return sentence.isprintable() and not re.search(r'["\\\ufffd]', sentence)


def _numbers(text: str) -> list[str]:
    found = []
    for match in _NUMBER.findall(text):
        digits = re.sub(r"['\u00a0\u202f]", "", match)
        # 1,000 and 1.000 are a thousand; 3.5 and 3,5 are three and a half.
        digits = re.sub(r"[.,](?=\d{3}(?:\D|$))", "", digits)
        found.append(digits.replace(",", "."))
    return found

"""Decides whether an artifact meets its criteria: checks by code, verification of quotes, and what counts as passed.

A model gives verdicts only on what no program can check, and only with a quote that is found in the artifact; code, not
the judge, computes the pass. Policy for ``cannot_tell``: it does not fail a task, because a redo cannot mend a judge;
it is shown, and lowers the task's score.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import assert_never

from app.domain.chat import Json
from app.domain.language import language_problem, names_a_language, normalised, sentences, words_of
from app.domain.plan import Criterion, CriterionVerdict, PlannedTask
from app.domain.planning.schema import array_of, closed_object, one_of
from app.domain.safe_regex import TEXT_CHARS_MAX, compile_safe
from app.domain.structured import is_blank

QUOTE_CHARS_MAX = 300
SENTENCES_MAX = 6
"""The embedded model sees so many numbered sentences."""
SENTENCE_WORDS_MAX = 25
BLOCKED = "BLOCKED:"
"""A worker's word for "it cannot be done with what I was given"."""
CANNOT_TELL_COST = 0.25
"""Share of a score that is lost where the judge could tell nothing at all."""
VERDICTS = ("met", "not_met", "cannot_tell")
NO_SENTENCE = "none"
LANGUAGE_CRITERION = Criterion(id="language", statement="It is in the language of the request.", must=False)
"""Joins a task's criteria where it is not met: the worker has then already tried twice."""

_FENCE = re.compile(r"\A\s*```[\w+-]*[ \t]*\n(.*?)\n?```\s*\Z", re.DOTALL)
_LIST_ITEM = re.compile(r"^[ \t]*(?:[-*•–]|\d{1,3}[.)、]|[(\uff08]\d{1,3}[)\uff09])[ \t]*\S", re.MULTILINE)
_REFERENCE = re.compile(r"\[([A-Za-z][A-Za-z0-9_-]*(?:\s*,\s*[A-Za-z][A-Za-z0-9_-]*)*)\]")


def check_by_code(criterion: Criterion, artifact: str, input_ids: Collection[str]) -> CriterionVerdict | None:
    """Return the verdict of a criterion that a program can check; None for one that a judge must see.

    Args:
        criterion: Valid, see ``planning.validate``; one that is not gives ``cannot_tell``.
        artifact: The work.
        input_ids: Tasks whose results the work was given.
    """
    match criterion.check:
        case "judge":
            return None
        case "not_empty":
            return _verdict(criterion, not is_blank(artifact), f"{len(artifact.split())} words", "write the result")
        case "json_valid":
            return _json_valid(criterion, artifact)
        case "contains":
            wanted = criterion.check_arg or ""
            found = bool(wanted) and normalised(wanted) in normalised(artifact)
            return _verdict(criterion, found, f"contains {wanted!r}: {_yes(found)}", f"mention {wanted!r}")
        case "regex":
            return _regex(criterion, artifact)
        case "min_items":
            count = _items(artifact)
            return _counted(criterion, count, "list items", at_least=True)
        case "max_words":
            return _counted(criterion, len(words_of(artifact)), "words", at_least=False)
        case "cites_inputs":
            return _cites(criterion, artifact, input_ids)
        case _:
            assert_never(criterion.check)


def blocked_reason(artifact: str) -> str | None:
    """Return why the worker could not do its task, where it said so; an empty reason is one."""
    first = artifact.strip().splitlines()[0] if artifact.strip() else ""
    return first[len(BLOCKED) :].strip() if first.startswith(BLOCKED) else None


def language_objection(task: PlannedTask, artifact: str, *, request: str, language: str) -> str | None:
    """Say that ``artifact`` is not in the language of the request, or return None.

    Code, JSON, translations and whatever is about languages may be in any.
    """
    if task.expected_output.format in ("json", "code") or task.task_type in ("translation", "code_generation"):
        return None
    if blocked_reason(artifact) is not None or names_a_language(request, task.instruction):
        return None
    return language_problem(artifact, language)


def language_verdict(objection: str) -> CriterionVerdict:
    """Return the verdict that shows a wrong language; no criterion asked for it, so it fails nothing by itself."""
    return CriterionVerdict(
        criterion_id=LANGUAGE_CRITERION.id, verdict="not_met", evidence=objection, fix_hint="write all of it anew"
    )


def find_quote(quote: str, text: str) -> bool:
    """Tell whether ``quote`` stands in ``text``, apart from case, spaces, quotation marks and markup.

    A quote with an ellipsis must be found piece by piece, in order.
    """
    haystack, at = normalised(text), 0
    pieces = [
        re.sub(r"^[\s.,;:。,]+|[\s.,;:。,]+$", "", normalised(piece)) for piece in re.split(r"…|\.\.\.|\[…\]", quote)
    ]
    pieces = [piece for piece in pieces if piece]
    for piece in pieces:
        found = haystack.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return bool(pieces)


def verified(verdict: CriterionVerdict, artifact: str) -> CriterionVerdict:
    """Return ``verdict`` if its quote is found, else ``cannot_tell``: evidence that is not there proves nothing.

    Only ``not_met`` may come without a quote, since what is missing cannot be quoted; it then needs a reason.
    """
    quote = verdict.evidence.strip()
    if quote and find_quote(quote, artifact):
        return verdict
    if verdict.verdict == "cannot_tell" or (not quote and verdict.verdict == "not_met" and verdict.reasoning.strip()):
        return CriterionVerdict(
            criterion_id=verdict.criterion_id,
            verdict=verdict.verdict,
            reasoning=verdict.reasoning,
            fix_hint=verdict.fix_hint,
        )
    why = "its quote is not in the artifact" if quote else "it gave no quote"
    return CriterionVerdict(
        criterion_id=verdict.criterion_id,
        verdict="cannot_tell",
        reasoning=f"the judge said {verdict.verdict}, but {why}",
    )


def unjudged(criterion: Criterion, why: str) -> CriterionVerdict:
    """Return the verdict of a criterion that nobody could judge."""
    return CriterionVerdict(criterion_id=criterion.id, verdict="cannot_tell", reasoning=why)


def passed(criteria: Sequence[Criterion], verdicts: Sequence[CriterionVerdict]) -> bool:
    """Tell whether no ``must`` criterion is ``not_met``."""
    failing = {verdict.criterion_id for verdict in verdicts if verdict.verdict == "not_met"}
    return not any(criterion.must and criterion.id in failing for criterion in criteria)


def feedback(criteria: Sequence[Criterion], verdicts: Sequence[CriterionVerdict]) -> tuple[str, ...]:
    """Return what a redo is told: each failing criterion with its evidence and hint, musts first."""
    statements = {criterion.id: criterion for criterion in criteria}
    failing = [verdict for verdict in verdicts if verdict.verdict == "not_met" and verdict.criterion_id in statements]
    failing.sort(key=lambda verdict: not statements[verdict.criterion_id].must)
    lines = []
    for verdict in failing:
        line = f"not met: {statements[verdict.criterion_id].statement or verdict.criterion_id}"
        if verdict.evidence:
            line += f" Evidence: {verdict.evidence!r}."
        if verdict.reasoning:
            line += f" {verdict.reasoning}"
        if verdict.fix_hint:
            line += f" To do: {verdict.fix_hint}"
        lines.append(line)
    return tuple(lines)


def met_share(verdicts: Sequence[CriterionVerdict]) -> float:
    """Return the share of criteria that are met; 0.5 for each that nobody could tell."""
    worth = {"met": 1.0, "not_met": 0.0, "cannot_tell": 0.5}
    return sum(worth[verdict.verdict] for verdict in verdicts) / len(verdicts) if verdicts else 0.5


def lowered(score: float, verdicts: Sequence[CriterionVerdict]) -> float:
    """Return ``score`` (0 to 1) less what ``cannot_tell`` costs it, rounded to two places."""
    unknown = sum(verdict.verdict == "cannot_tell" for verdict in verdicts)
    share = unknown / len(verdicts) if verdicts else 0.0
    return round(min(1.0, max(0.0, score)) * (1.0 - CANNOT_TELL_COST * share), 2)


def judge_schema(criteria: Sequence[Criterion]) -> dict[str, Json]:
    """Return the strict schema of a judge's answer; the evidence comes before the verdict."""
    text: Json = {"type": "string"}
    verdict = closed_object(
        {
            "criterion_id": one_of([criterion.id for criterion in criteria]),
            "evidence_quote": text,
            "reasoning": text,
            "verdict": one_of(VERDICTS),
            "fix_hint": text,
        }
    )
    return closed_object({"injection_notes": text, "verdicts": array_of(verdict)})


def numbered_sentences(artifact: str) -> list[str]:
    """Return the sentences that the embedded model is shown, numbered from s1 by their place."""
    found = [" ".join(piece.split()[:SENTENCE_WORDS_MAX]) for piece in sentences(artifact)]
    return [piece for piece in found if len(words_of(piece)) >= 3][:SENTENCES_MAX]


def tiny_judge_schema(count: int) -> dict[str, Json]:
    """Return the grammar of the embedded model's verdict on one criterion: a pointer to a sentence, and the verdict."""
    pointers = [f"s{number}" for number in range(1, count + 1)]
    return closed_object({"sentence": one_of([*pointers, NO_SENTENCE]), "verdict": one_of(VERDICTS)})


def advice(criterion: Criterion, answer: Mapping[str, Json], shown: Sequence[str]) -> CriterionVerdict:
    """Return the embedded model's verdict as advice.

    Measured, its verdicts do not depend on the text: they may not fail a task nor praise one, so this is always
    ``cannot_tell``, with what the model said.
    """
    pointer = str(answer.get("sentence", NO_SENTENCE))
    index = int(pointer[1:]) - 1 if re.fullmatch(r"s\d{1,2}", pointer) else -1
    return CriterionVerdict(
        criterion_id=criterion.id,
        verdict="cannot_tell",
        evidence=shown[index] if 0 <= index < len(shown) else "",
        reasoning=f"the embedded model says {answer.get('verdict')}; a model of its size cannot judge: advice only",
    )


def fenced_content(artifact: str) -> str:
    """Return what stands inside the one code fence around ``artifact``, or ``artifact``."""
    found = _FENCE.match(artifact)
    return found.group(1) if found else artifact


def _json_valid(criterion: Criterion, artifact: str) -> CriterionVerdict:
    try:
        json.loads(fenced_content(artifact))
    except (ValueError, RecursionError) as error:
        place = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        return _verdict(criterion, False, f"no valid JSON{place}", "return valid JSON and nothing else")
    return _verdict(criterion, True, "valid JSON", "")


def _regex(criterion: Criterion, artifact: str) -> CriterionVerdict:
    try:
        pattern = compile_safe(criterion.check_arg or "")
    except ValueError as error:
        return unjudged(criterion, f"the pattern cannot be used: {error}")
    found = pattern.search(artifact)
    if not found and len(artifact) > TEXT_CHARS_MAX:
        return unjudged(criterion, f"the pattern was not found in the first {TEXT_CHARS_MAX} characters")
    shown = f"matches {criterion.check_arg!r}: {_yes(found)}"
    return _verdict(criterion, found, shown, f"the text must match {criterion.check_arg!r}")


def _counted(criterion: Criterion, count: int, what: str, *, at_least: bool) -> CriterionVerdict:
    argument = (criterion.check_arg or "").strip()
    if not re.fullmatch(r"\d{1,6}", argument):
        return unjudged(criterion, "the check names no number")
    limit = int(argument)
    met = count >= limit if at_least else count <= limit
    bound = "at least" if at_least else "at most"
    return _verdict(criterion, met, f"{count} {what}, {bound} {limit} asked for", f"{bound} {limit} {what}")


def _items(artifact: str) -> int:
    try:
        value = json.loads(fenced_content(artifact))
    except (ValueError, RecursionError):
        return len(_LIST_ITEM.findall(artifact))
    if isinstance(value, dict):
        # {"items": […]}: the list is what was meant, not the one key around it.
        return max((len(item) for item in value.values() if isinstance(item, list)), default=len(value))
    return len(value) if isinstance(value, list) else 1


def _cites(criterion: Criterion, artifact: str, input_ids: Collection[str]) -> CriterionVerdict:
    cited = {name.strip() for group in _REFERENCE.findall(artifact) for name in group.split(",")}
    asked = {name for name in re.findall(r"[\w-]+", criterion.check_arg or "") if name in input_ids}
    missing = sorted((asked or set(input_ids)) - cited)
    shown = f"cites {', '.join(sorted(cited & set(input_ids))) or 'no input'}"
    return _verdict(criterion, not missing, shown, f"refer to {' '.join(f'[{name}]' for name in missing)}")


def _verdict(criterion: Criterion, met: bool, evidence: str, hint: str) -> CriterionVerdict:
    return CriterionVerdict(
        criterion_id=criterion.id,
        verdict="met" if met else "not_met",
        evidence=evidence,
        fix_hint="" if met else hint,
    )


def _yes(found: bool) -> str:
    return "yes" if found else "no"

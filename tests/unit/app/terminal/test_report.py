"""The report of a run, of a plan, and of accounts."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from app.domain.run import ResultDocument, RunStatus
from app.domain.views import LiveCheck
from app.http.wire import plain
from app.terminal.accounts_table import NOBODY, render_accounts, render_checks
from app.terminal.report import BAR_CHARS, bar_of, print_report, render_questions
from app.terminal.words import money, number, one_line, printable, seconds
from tests.fakes.desk import ACCOUNTS
from tests.fakes.runs import QUESTION, sample_document


def _printed(*what: RenderableType) -> str:
    console = Console(record=True, width=170, file=io.StringIO(), color_system=None)
    console.print(*what)
    return console.export_text()


def _report(document: ResultDocument) -> str:
    console = Console(record=True, width=150, file=io.StringIO(), color_system=None)
    print_report(console, json.loads(json.dumps(document.to_json())))
    return console.export_text()


def test_report_holds_answer_evaluation_and_where_the_time_went() -> None:
    """Everything `make run` promises to show at the end."""
    text = _report(sample_document("run-1"))

    assert text.startswith("Waste less: weigh what you throw away, every day. [t1] [t4]")
    evaluated = next(line for line in text.splitlines() if "t4 Action plan" in line)
    assert "0.80" in evaluated
    assert "good" in evaluated
    assert "makespan 10.0 s, lower bound 8.0 s (1.25 times the bound), bound by critical path" in text
    assert "900 → 600 tokens, free" in text
    assert "note: small model" in text
    bars = [
        line for line in text.splitlines() if "━" in line and line.split()[0] in ("clarify", "plan", "t1", "evaluate")
    ]
    assert [line.split()[0] for line in bars] == ["clarify", "plan", "t1", "evaluate"]


def test_report_of_a_run_without_tasks_says_why() -> None:
    """A failed run still reports: its status and its error."""
    failed = ResultDocument(run_id="run-1", status=RunStatus.FAILED, error="every account failed")
    text = _report(failed)

    assert "run-1 failed" in text
    assert "every account failed" in text


def test_report_shows_tasks_that_were_not_evaluated() -> None:
    """A missing evaluation is visible, not a row less."""
    document = replace(sample_document("run-1"), evaluation=())

    assert _report(document).count("not evaluated") == 4


@pytest.mark.parametrize(("start_s", "finish_s"), [(0, 0), (0, 10), (9.99, 10), (10, 10), (5, 5.001)])
def test_bar_is_always_visible_and_never_too_wide(start_s: float, finish_s: float) -> None:
    """The shortest stage has a mark, and no bar leaves its column."""
    bar = bar_of(start_s, finish_s, 10.0)

    assert "━" in bar
    assert len(bar) <= BAR_CHARS


def test_questions_show_options_and_default() -> None:
    """What a person needs to answer stands next to the question."""
    text = _printed(render_questions({"questions": [plain(QUESTION)]}))

    for words in ("q1  Which city is it for?", "why: Rules", "options: Hanoi | Lisbon", "default: Lisbon"):
        assert words in text


def test_accounts_show_state_limits_and_last_error() -> None:
    """One row per account and model."""
    text = _printed(render_accounts(ACCOUNTS, by_identity=False))

    healthy = next(line for line in text.splitlines() if "openai-a" in line)
    cooling = next(line for line in text.splitlines() if "gemini-b" in line)
    assert "rpm 12/500" in healthy
    assert "tpm 4,096/200,000" in text
    assert "in acme" in text
    assert "cooling_minute 21.5 s" in cooling
    assert "429: minute limit" in cooling


def test_accounts_by_identity_are_grouped_with_totals() -> None:
    """Whose accounts they are comes first; accounts of nobody come last."""
    lines = _printed(render_accounts(ACCOUNTS, by_identity=True)).splitlines()
    heads = [line for line in lines if "@" in line or NOBODY in line]

    assert ["lab@" in heads[0], "ops@" in heads[1], NOBODY in heads[2]] == [True, True, True]
    assert "0 of 1 healthy" in heads[0]


def test_checks_say_which_account_fails_and_why() -> None:
    """A revoked key is found by name."""
    row = LiveCheck(account="a", provider="openai", model="m", ok=False, seconds=0.3, message="the key is refused")
    text = _printed(render_checks([row]))

    assert "✗ fails" in text
    assert "the key is refused" in text


def test_words_are_exact() -> None:
    """Durations, numbers, money and foreign text, at their edges."""
    assert [seconds(value) for value in (-1, 0.04, 59.94, 125)] == ["0.0 s", "0.0 s", "59.9 s", "2 min 05 s"]
    assert [number(value) for value in (0, 999, 1234567, None)] == ["0", "999", "1,234,567", "?"]
    assert [money(value) for value in ("0", "0.00", None, "1.5", "0.0012", "0.00000001", "x")] == [
        "free",
        "free",
        "cost unknown",
        "$1.5000",
        "$0.0012",
        "<$0.000001",
        "cost unknown",
    ]
    assert printable("a\x1b[31mb\u202ec\n") == "a[31mbc\n"
    assert one_line("a\n  b\tc", 10) == "a b c"
    assert one_line("x" * 20, 10) == "x" * 9 + "…"

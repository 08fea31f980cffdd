"""The live tree, the plain lines and the heartbeat, from a recorded run."""

from __future__ import annotations

import io
import threading
from dataclasses import replace

import pytest
from rich.console import Console

from app.domain.run import RunEvent
from app.terminal.board import RunBoard
from app.terminal.display import SILENCE_S, Heartbeat, LiveDisplay, PlainDisplay, display_on
from app.terminal.lines import line_of
from app.terminal.tree import render_tree
from tests.fakes.runs import BEGAN_S, asking_batch, event, finished_batch, plan_batch, stage_events, task_batch

RUN = "run-1"


def _drawn(board: RunBoard, now_s: float) -> str:
    console = Console(record=True, width=150, file=io.StringIO(), color_system=None)
    console.print(render_tree(board, BEGAN_S + now_s))
    return console.export_text()


def _board(*events: RunEvent) -> RunBoard:
    board = RunBoard()
    for item in events:
        board.apply(item)
    return board


def _line(drawn: str, word: str) -> str:
    return next(line for line in drawn.splitlines() if word in line)


def test_tree_shows_state_account_model_seconds_tokens_and_cost_of_every_task() -> None:
    """What the issue promises of the live tree, while one task is done, one runs and one waits."""
    drawn = _drawn(
        _board(
            event(RUN, "run.accepted", 0.0, text="a guide"),
            *plan_batch(RUN),
            *task_batch(RUN, "t1"),
            event(RUN, "task.started", 2.0, "t2", account="embedded", model="smollm2-135m", queued_s=0.0),
        ),
        now_s=5.5,
    )

    done, running, waiting = _line(drawn, "t1"), _line(drawn, "t2 Food"), _line(drawn, "t4 Action")
    for word in ("✓", "completed", "embedded", "smollm2-135m", "3.0 s", "120 → 80", "free"):
        assert word in done
    for word in ("●", "running", "embedded", "3.5 s"):
        assert word in running
    for word in ("○", "pending", "needs t1 t2 t3"):
        assert word in waiting
    assert "free" not in running
    assert _line(drawn, "✓ plan").startswith("├─")


def test_tree_says_what_went_wrong_where() -> None:
    """Failures, redone attempts and fallbacks stand at the task they belong to."""
    drawn = _drawn(
        _board(
            *plan_batch(RUN),
            event(RUN, "task.started", 2.0, "t1", account="a", model="m"),
            event(RUN, "call.failed", 2.5, "t1", purpose="task", account="a", message="minute limit", next="elsewhere"),
            event(RUN, "task.redo", 3.0, "t2", attempt=2, feedback=["name three sources"]),
            event(RUN, "task.finished", 4.0, "t3", status="failed", attempts=3, seconds=2.0, error="refused"),
            event(RUN, "stage.finished", 5.0, stage="merge", seconds=1.0, produced_by="fallback", error=None),
        ),
        now_s=5.0,
    )

    assert "a failed: minute limit" in _line(drawn, "t1")
    assert "(attempt 2)" in _line(drawn, "t2")
    assert "name three sources" in _line(drawn, "t2")
    assert "failed" in _line(drawn, "t3")
    assert "refused" in _line(drawn, "t3")
    assert "(fallback)" in _line(drawn, "merge")


def test_tree_never_lets_an_escape_sequence_through() -> None:
    """Titles come from a model: they must not steer the terminal."""
    board = _board(*plan_batch(RUN))
    board.tasks["t1"].title = "\x1b[2J\x1b]0;owned\x07title"

    assert "\x1b" not in _drawn(board, 3.0)
    assert "\x07" not in _drawn(board, 3.0)


def test_board_ignores_what_it_does_not_know() -> None:
    """A newer server may send kinds, fields and tasks that this client has never heard of."""
    board = _board(
        event(RUN, "task.levitated", 1.0, "t1", height="3 m"),
        event(RUN, "plan.ready", 1.0, tasks="none", goal=7),
        event(RUN, "task.finished", 2.0, "t9", status="completed"),
        event(RUN, "stage.finished", 2.0, usage=[], seconds="x"),
    )

    assert board.tasks["t9"].state == "completed"
    assert _drawn(board, 3.0)


def test_board_of_a_finished_run_stops_its_clock() -> None:
    """Nothing counts on after the end."""
    board = _board(event(RUN, "run.accepted", 0.0), *plan_batch(RUN), *finished_batch(RUN))

    assert board.status == "completed"
    assert _drawn(board, 100.0).splitlines()[0] == _drawn(board, 999.0).splitlines()[0]
    assert "15.5 s" in _drawn(board, 999.0)


def test_lines_say_each_event_in_one_line() -> None:
    """Without a terminal the same story is told in lines."""
    events = [*asking_batch(RUN), *plan_batch(RUN), *task_batch(RUN, "t1"), *finished_batch(RUN)]
    said = [line for line in map(line_of, events) if line is not None]

    assert "needs answers: Which city is it for?" in said
    assert any(line.startswith("plan with 4 tasks: t1") and "t4 Action plan after t1 t2 t3" in line for line in said)
    assert "t1 started on embedded (smollm2-135m)" in said
    assert "t1 judged: passed, 1 of 1 criteria met" in said
    assert "t1 completed in 3.0 s on embedded (smollm2-135m), 120 → 80 tokens, free" in said
    assert "run completed in 15.5 s, 900 → 600 tokens, free, lower bound 8.0 s" in said
    assert not any("\n" in line for line in said)


class _Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _plain() -> tuple[PlainDisplay, io.StringIO, _Clock]:
    clock, out = _Clock(), io.StringIO()
    display = PlainDisplay(Console(file=out, width=200), clock=clock, wall=lambda: BEGAN_S + clock.now_s - 100.0)
    return display, out, clock


def test_plain_display_is_never_silent_for_two_seconds() -> None:
    """Whatever blocks, a line comes before two seconds are over, and says what is being waited for."""
    display, out, clock = _plain()
    display.note("starting Ray")
    clock.now_s += SILENCE_S
    display.heartbeat.beat()
    display.show([*stage_events(RUN, "plan", 0.0, 1.0)[:1]])
    clock.now_s += SILENCE_S - 0.1
    display.heartbeat.beat()
    clock.now_s += 0.2
    display.heartbeat.beat()
    lines = out.getvalue().splitlines()

    assert SILENCE_S + 0.1 < 2.0
    assert [line.split("] ", 1)[1] for line in lines] == [
        "starting Ray",
        "… still starting Ray",
        "plan started",
        "… plan running 4 s",
    ]


def test_plain_display_is_quiet_while_a_person_is_asked() -> None:
    """A heartbeat would scroll the question away."""
    display, out, clock = _plain()
    with display.paused():
        clock.now_s += 60
        display.heartbeat.beat()
    display.heartbeat.beat()

    assert out.getvalue() == ""


def test_heartbeat_speaks_from_a_thread_of_its_own() -> None:
    """The event loop may be blocked by an import; the heartbeat must not depend on it."""
    spoke = threading.Event()
    heartbeat = Heartbeat(spoke.set, silence_s=0.0, clock=lambda: 0.0)
    heartbeat.start()
    try:
        assert spoke.wait(5.0)
    finally:
        heartbeat.stop()


def test_live_display_draws_the_tree_with_its_notes() -> None:
    """On a terminal the notes of the start stand above the tree."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    display = display_on(console)
    assert isinstance(display, LiveDisplay)
    with display:
        display.note("starting Ray")
        display.show([*plan_batch(RUN)])
        with display.paused():
            pass

    assert "starting Ray" in out.getvalue()
    assert "Action plan" in out.getvalue()


def test_display_is_plain_without_a_terminal() -> None:
    """A pipe gets lines, not redrawn trees."""
    assert isinstance(display_on(Console(file=io.StringIO())), PlainDisplay)


@pytest.mark.parametrize("seconds_back", [0.0, 5.0])
def test_tree_survives_a_clock_that_is_behind_the_server(seconds_back: float) -> None:
    """Server and terminal have clocks of their own: no negative seconds."""
    started = replace(event(RUN, "task.started", 10.0, "t1", account="a", model="m"), seq=1)

    assert "-" not in _line(_drawn(_board(started), 10.0 - seconds_back), "t1")

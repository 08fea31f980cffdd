"""The command line over a desk of ours: output, exit status, purity of --json, refusals."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app import cli
from app.domain.errors import CapacityError, ConfigurationError, GatewayError, InternalError
from app.domain.ports import Desk
from app.domain.run import CallRecord, CallState, RunEvent, RunStatus
from app.domain.views import LiveCheck
from app.http.schemas import ResultDocumentOut
from app.services.held_calls import question_of
from app.terminal.connect import Progress, Target, open_desk
from app.terminal.execute import Doors
from tests.fakes.desk import ASK_WORD, FAIL_WORD, FakeDesk

TEXT = "Write a guide for a cafe."
ASKING = f"Write a guide for {ASK_WORD}."
CONFIGURATION = """\
accounts:
  - {name: embedded, provider: local, models: [smollm2-135m], limits: {concurrency: 2}}
"""


class Stage:
    """A command line whose desk is ours."""

    def __init__(self) -> None:
        self.desk: FakeDesk = FakeDesk()
        self.targets: list[Target] = []
        self.refusal: GatewayError | None = None
        self.person: Callable[[], str] | None = None

    @asynccontextmanager
    async def open_desk(self, target: Target, on_progress: Progress) -> AsyncIterator[Desk]:
        self.targets.append(target)
        on_progress("connecting")
        if self.refusal is not None:
            raise self.refusal
        yield self.desk

    def play(self, *arguments: str, stdin: bytes = b"") -> Result:
        doors = Doors(
            open_desk=self.open_desk,
            interactive=lambda: self.person is not None,
            read_line=self.person or input,
        )
        return CliRunner().invoke(cli.app, list(arguments), input=stdin, obj=doors)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def _document(result: Result) -> ResultDocumentOut:
    return ResultDocumentOut.model_validate_json(result.stdout)


def test_run_prints_answer_evaluation_and_time(stage: Stage) -> None:
    """The answer and the report on standard output, progress on standard error, status 0."""
    result = stage.play("run", TEXT)

    assert result.exit_code == 0
    assert result.stdout.startswith("Waste less")
    assert "Evaluation" in result.stdout
    assert "lower bound 8.0 s" in result.stdout
    assert "t1 started on embedded" in result.stderr
    assert "t1 started" not in result.stdout
    assert stage.targets[0].own_cluster


def test_run_json_prints_one_document_and_nothing_else_on_stdout(stage: Stage, tmp_path: Path) -> None:
    """A script can parse standard output whole; --out holds the same document."""
    out = tmp_path / "run.json"
    result = stage.play("run", TEXT, "--json", "--out", str(out))

    assert result.exit_code == 0
    assert _document(result).status == "completed"
    assert json.loads(out.read_text()) == json.loads(result.stdout)
    assert "run completed" in result.stderr


def test_run_passes_its_options_on(stage: Stage) -> None:
    """Every option reaches the desk or the connection."""
    stage.play(
        *("run", TEXT, "--assume-defaults", "--timeout", "30", "--max-tokens-total", "5000"),
        *("--budget-usd", "2.50", "--server", "http://tutti:8000", "--config", "x.yaml"),
    )

    request = stage.desk.requests[0]
    assert (request.assume_defaults, request.timeout_s, request.tokens_max) == (True, 30.0, 5000)
    assert request.budget_usd == "2.50"
    assert stage.targets == [Target(server="http://tutti:8000", config=Path("x.yaml"), own_cluster=True)]


def test_run_takes_its_text_from_file_and_standard_input(stage: Stage, tmp_path: Path) -> None:
    """--file and - mean what they say."""
    file = tmp_path / "request.txt"
    file.write_text("Lập kế hoạch", encoding="utf-8")
    stage.play("run", "--file", str(file))
    stage.play("run", "-", stdin="写一份指南".encode())

    assert [request.text for request in stage.desk.requests] == ["Lập kế hoạch", "写一份指南"]


def test_run_without_a_person_exits_3_with_the_questions(stage: Stage) -> None:
    """Without a terminal it never asks, and says how to answer."""
    plain, as_json = stage.play("run", ASKING), stage.play("run", ASKING, "--json")

    assert plain.exit_code == as_json.exit_code == 3
    assert plain.stdout == ""
    assert "Which city is it for?" in plain.stderr
    assert "tutti projects answer run-1 q1=" in plain.stderr
    assert _document(as_json).questions[0].id == "q1"


def test_run_asks_a_person_and_goes_on(stage: Stage) -> None:
    """With a terminal the question is asked, with options and default, and the run completes."""
    stage.person = lambda: "1"
    result = stage.play("run", ASKING)

    assert result.exit_code == 0
    assert "1) Hanoi" in result.stderr
    assert dict(stage.desk.runs["run-1"].answers) == {"q1": "Hanoi"}


def test_run_of_a_person_who_leaves_the_question_exits_3(stage: Stage) -> None:
    """Ctrl-D is no answer, and the run waits on."""

    def leave() -> str:
        raise EOFError

    stage.person = leave

    assert stage.play("run", ASKING).exit_code == 3
    assert stage.desk.runs["run-1"].status is RunStatus.NEEDS_ANSWERS


def test_run_with_assume_defaults_never_asks(stage: Stage) -> None:
    """The option reaches the clarifier; nothing is asked even with a terminal."""
    stage.person = lambda: pytest.fail("asked")

    assert stage.play("run", ASKING, "--assume-defaults").exit_code == 0


def test_run_without_an_answer_exits_4(stage: Stage) -> None:
    """A failed run still prints its document."""
    plain, as_json = stage.play("run", f"An {FAIL_WORD} guide."), stage.play("run", f"An {FAIL_WORD} guide.", "--json")

    assert plain.exit_code == as_json.exit_code == 4
    assert "every account failed" in plain.stdout
    assert _document(as_json).status == "failed"


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (["run"], b"", "There is no request"),
        (["run", "x", "--file", "y"], b"", "Give the request once"),
        (["run", ""], b"", "is empty"),
        (["run", "-"], b"caf\xe9", "not UTF-8"),
        (["run", "-"], b"x" * 1_000_000, "larger than 256 KiB"),
        (["run", "--file", "/no/such/file"], b"", "cannot be read: No such file"),
        (["run", "x", "--out", "/no/such/folder/run.json"], b"", "cannot be written"),
        (["run", "x", "--timeout", "0"], b"", "--timeout"),
        (["run", "x", "--max-tokens-total", "0"], b"", "--max-tokens-total"),
        (["plan"], b"", "There is no request"),
        (["projects", "answer", "run-1", "q1"], b"", "ID=TEXT"),
        (["accounts", "--by", "colour"], b"", "--by"),
        (["nonsense"], b"", "nonsense"),
    ],
)
def test_bad_input_exits_2_before_anything_is_started(
    stage: Stage, arguments: Sequence[str], stdin: bytes, words: str
) -> None:
    """A clear message on standard error, no traceback, and nothing was spent."""
    result = stage.play(*arguments, stdin=stdin)

    assert result.exit_code == 2
    assert words in re.sub(r"\s+", " ", result.stderr)
    assert "Traceback" not in result.stderr
    assert not stage.desk.runs


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigurationError("line 3: duplicate account 'a'", param="accounts[1].name", remedy="Rename one."), 2),
        (InternalError("the cluster does not answer"), 4),
        (CapacityError("every account is full"), 4),
    ],
)
def test_errors_have_words_a_status_and_a_json_shape(stage: Stage, error: GatewayError, status: int) -> None:
    """What the user can change exits 2, the rest 4; with --json the error is the one document."""
    stage.refusal = error
    plain, as_json = stage.play("run", TEXT), stage.play("run", TEXT, "--json")

    assert plain.exit_code == as_json.exit_code == status
    assert error.message in plain.stderr
    assert plain.stdout == ""
    assert json.loads(as_json.stdout)["error"]["message"] == error.message
    if error.remedy:
        assert error.remedy in plain.stderr


def test_run_is_cancelled_when_it_is_interrupted(stage: Stage) -> None:
    """Ctrl-C stops the run, not just the looking on, and exits 130."""

    class Interrupted(FakeDesk):
        async def events(self, run_id: str, after_seq: int, *, wait_s: float) -> Sequence[RunEvent]:
            if after_seq >= 4:
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.Event().wait()
            return await super().events(run_id, after_seq, wait_s=wait_s)

    stage.desk = Interrupted()
    result = stage.play("run", TEXT)

    assert result.exit_code == 130
    assert stage.desk.runs["run-1"].status is RunStatus.CANCELLED
    assert "Traceback" not in result.stderr


def test_watch_leaves_the_run_alone_when_it_is_interrupted(stage: Stage) -> None:
    """Looking away does not stop the work."""
    stage.play("plan", TEXT)

    class Interrupted(FakeDesk):
        async def events(self, run_id: str, after_seq: int, *, wait_s: float) -> Sequence[RunEvent]:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
            raise AssertionError("the wait is interrupted")

    desk = Interrupted()
    desk.runs, desk.log, desk.to_come = stage.desk.runs, stage.desk.log, stage.desk.to_come
    stage.desk = desk
    before = stage.desk.runs["run-1"]

    assert stage.play("projects", "watch", "run-1").exit_code == 130
    assert stage.desk.runs["run-1"] == before


def test_plan_shows_the_dag_and_its_estimate_and_works_none_of_it(stage: Stage) -> None:
    """Only the planning is asked for."""
    result = stage.play("plan", TEXT)

    assert result.exit_code == 0
    assert stage.desk.requests[0].plan_only
    for words in ("t4", "Action plan", "t1 t2 t3", "2,000 input and 900 output tokens, free", "lower bound 7.5 s"):
        assert words in result.stdout


def test_plan_json_holds_every_task_in_full(stage: Stage) -> None:
    """A script sees what would be done, by which models, for how much."""
    document = json.loads(stage.play("plan", TEXT, "--json").stdout)

    assert [task["id"] for task in document["tasks"]] == ["t1", "t2", "t3", "t4"]
    assert document["tasks"][3]["depends_on"] == ["t1", "t2", "t3"]
    assert document["tasks"][0]["models"] == ["smollm2-135m"]
    assert document["tasks"][0]["instruction"]
    assert document["estimate"]["binding"] == "critical path"


def test_plan_that_cannot_be_made_exits_3_or_4(stage: Stage) -> None:
    """Questions first; a failure otherwise."""
    assert stage.play("plan", ASKING).exit_code == 3
    assert stage.play("plan", f"An {FAIL_WORD} guide.").exit_code == 4


def test_projects_are_listed_shown_watched_and_cancelled(stage: Stage) -> None:
    """The commands about runs that exist; none of them starts a cluster."""
    stage.play("run", TEXT)
    listed, rows = stage.play("projects", "list"), json.loads(stage.play("projects", "list", "--json").stdout)
    shown, record = (
        stage.play("projects", "show", "run-1"),
        json.loads(stage.play("projects", "show", "run-1", "--json").stdout),
    )
    watched = stage.play("projects", "watch", "run-1", "--json")
    cancelled = stage.play("projects", "cancel", "run-1")

    assert "run-1" in listed.stdout
    assert [row["run_id"] for row in rows] == ["run-1"]
    assert "Waste less" in shown.stdout
    assert record["document"]["status"] == "completed"
    assert _document(watched).status == "completed"
    assert "t1 started" in watched.stderr
    assert "run-1 is completed" in cancelled.stdout
    assert not any(target.own_cluster for target in stage.targets[1:])


def test_project_is_answered_by_arguments_or_by_asking(stage: Stage) -> None:
    """Both ways let it go on; without either it says what is missing."""
    for _ in range(3):
        stage.play("run", ASKING)
    by_argument = stage.play("projects", "answer", "run-1", "q1=Da Nang = city")
    unasked = stage.play("projects", "answer", "run-2")
    stage.person = lambda: ""
    by_asking = stage.play("projects", "answer", "run-2", "--json")
    assumed = stage.play("projects", "answer", "run-3", "--assume-defaults")

    assert (by_argument.exit_code, unasked.exit_code, by_asking.exit_code, assumed.exit_code) == (0, 3, 0, 0)
    assert dict(stage.desk.runs["run-1"].answers) == {"q1": "Da Nang = city"}
    assert json.loads(by_asking.stdout)["answers"] == {"q1": "Lisbon"}
    assert stage.desk.runs["run-3"].assumptions


def test_unknown_project_and_late_answer_exit_2(stage: Stage) -> None:
    """The id or the moment is the user's to change."""
    stage.play("run", TEXT)

    for arguments in (["show", "run-9"], ["watch", "run-9"], ["cancel", "run-9"], ["answer", "run-1", "q1=x"]):
        result = stage.play("projects", *arguments)
        assert (result.exit_code, result.stdout) == (2, ""), arguments
        assert "run" in result.stderr


def test_accounts_print_once_without_a_terminal(stage: Stage) -> None:
    """The live table is for terminals; a pipe gets one picture, a script one document."""
    table, grouped = stage.play("accounts"), stage.play("accounts", "--by", "identity")
    rows = json.loads(stage.play("accounts", "--json").stdout)

    assert table.exit_code == grouped.exit_code == 0
    assert "openai/gpt-5-mini" in table.stdout
    assert "(no identity)" in grouped.stdout
    assert [row["account"] for row in rows] == ["openai-a", "gemini-b", "embedded"]


def test_reload_says_what_changed(stage: Stage) -> None:
    """By name, and what of it matters."""
    result = stage.play("reload")

    assert result.exit_code == 0
    assert "added: openai-b" in result.stdout
    assert json.loads(stage.play("reload", "--json").stdout)["version"] == 2


def test_init_writes_a_configuration_that_check_accepts(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of a new user: init, check; init again does not overwrite."""
    path = tmp_path / "tutti.yaml"
    first, again = stage.play("init", str(path)), stage.play("init", str(path))
    forced = stage.play("init", str(path), "--force")

    assert (first.exit_code, again.exit_code, forced.exit_code) == (0, 2, 0)
    assert "exists" in again.stderr
    assert "accounts" in path.read_text()


def test_check_accepts_a_good_configuration_and_calls_accounts_only_when_asked(stage: Stage, tmp_path: Path) -> None:
    """Validation needs no server; --live does, and fails where an account does."""
    path = tmp_path / "tutti.yaml"
    path.write_text(CONFIGURATION + f"data_dir: {tmp_path / 'data'}\n")
    good = stage.play("check", "--config", str(path), "--json")
    assert not stage.targets
    live = stage.play("check", "--config", str(path), "--live")
    stage.desk.checks = [
        LiveCheck(account="embedded", provider="local", model="m", ok=False, seconds=0.1, message="the key is refused")
    ]
    dead = stage.play("check", "--config", str(path), "--live", "--json")

    assert good.exit_code == 0, good.output
    assert json.loads(good.stdout)["accounts"][0]["name"] == "embedded"
    assert live.exit_code == 0
    assert "answers" in live.stdout
    assert dead.exit_code == 2
    assert json.loads(dead.stdout)["ok"] is False


def test_check_names_every_mistake_with_its_line(stage: Stage, tmp_path: Path) -> None:
    """All at once, not one a try."""
    path = tmp_path / "tutti.yaml"
    path.write_text("accounts:\n  - {name: a, provider: nonsense, models: [m]}\ncolour: red\n")
    result = stage.play("check", "--config", str(path))

    assert result.exit_code == 2
    assert "2" in result.stderr
    assert "nonsense" in result.stderr
    assert "colour" in result.stderr
    assert "Traceback" not in result.stderr


def test_commands_without_a_server_say_how_to_start_one(tmp_path: Path) -> None:
    """Only run and plan start a cluster of their own."""
    path = tmp_path / "tutti.yaml"
    path.write_text(CONFIGURATION + f"data_dir: {tmp_path / 'data'}\n")
    result = CliRunner().invoke(cli.app, ["projects", "list", "--config", str(path)])

    assert result.exit_code == 2
    assert "No Tutti server runs" in result.stderr
    assert "tutti serve" in result.stderr


async def test_server_address_must_be_one() -> None:
    """A host without a scheme would fail later and less clearly."""
    with pytest.raises(ConfigurationError, match="http://"):
        async with open_desk(Target(server="localhost:8000"), lambda _: None):
            pass


def test_version_is_the_packages() -> None:
    """`tutti --version` names the program and its version."""
    result = CliRunner().invoke(cli.app, ["--version"])

    assert result.exit_code == 0
    assert re.fullmatch(r"tutti \d+\.\d+\.\d+\n", result.stdout)


@pytest.mark.parametrize(
    "command",
    [
        *(["run"], ["plan"], ["serve"], ["init"], ["check"], ["reload"], ["accounts"], ["simulate"]),
        *(["projects", name] for name in ("list", "show", "watch", "answer", "cancel", "retry", "resume", "fork")),
        *(["usage"], ["budgets"], ["projects", "export"]),
        *(["books", name] for name in ("verify", "reconcile", "unknown", "settle", "correct")),
        *(["db", name] for name in ("status", "migrate", "backup", "restore")),
    ],
)
def test_help_teaches_by_example(command: list[str]) -> None:
    """Every command shows one example of itself."""
    result = CliRunner().invoke(cli.app, [*command, "--help"])

    assert result.exit_code == 0
    assert f"Example: tutti {' '.join(command)}" in re.sub(r"\s+", " ", result.stdout)


def test_a_bug_shows_no_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The outermost handler: one line, status 4; TUTTI_DEBUG shows where."""

    class Broken(FakeDesk):
        async def list_runs(self, *, limit: int, before_s: float | None = None) -> tuple[()]:
            raise RuntimeError("the secret is 42")

    stage = Stage()
    stage.desk = Broken()
    monkeypatch.delenv("TUTTI_DEBUG", raising=False)
    status = cli.main(["projects", "list"], Doors(open_desk=stage.open_desk))
    said = capsys.readouterr()
    monkeypatch.setenv("TUTTI_DEBUG", "1")

    assert status == 4
    assert "RuntimeError inside Tutti" in said.err
    assert "42" not in said.err
    assert said.out == ""
    with pytest.raises(RuntimeError):
        cli.main(["projects", "list"], Doors(open_desk=stage.open_desk))


def test_a_project_goes_on_from_what_it_has(stage: Stage, tmp_path: Path) -> None:
    """Doing a task again and forking return at once and say where to look."""
    stage.play("run", TEXT, "--json")

    forked = stage.play("projects", "fork", "run-1", "--from", "t4", "--input", "Be brief.")
    unknown = stage.play("projects", "retry", "run-1", "t9", "--json")
    retried = stage.play("projects", "retry", "run-1", "t4")

    saved = stage.play("projects", "export", "run-1", str(tmp_path / "run.zip"))

    assert saved.exit_code == 0
    assert zipfile.ZipFile(tmp_path / "run.zip").namelist() == ["run-1/run.json"]
    assert stage.play("projects", "export", "nobody", str(tmp_path / "no.zip")).exit_code == 2
    assert not (tmp_path / "no.zip").exists()
    assert "run-2 takes over 0 results of run-1" in forked.stdout
    assert stage.desk.runs["run-2"].forked_from == "run-1"
    assert "run-1 does t4 again" in retried.stdout
    assert unknown.exit_code == 2
    assert "t9" in unknown.stdout


@pytest.mark.parametrize(("option", "answer"), [("--buy-again", "buy again"), ("--give-up", "give up")])
def test_a_project_that_lost_calls_goes_on_as_its_owner_decides(stage: Stage, option: str, answer: str) -> None:
    """One word decides on all of them; a project that asks for something else is left alone."""
    asks = stage.play("run", f"A guide for {ASK_WORD}", "--json")
    refused = stage.play("projects", "resume", "run-1", option)
    held = question_of(
        CallRecord(key="run-1/t1/task/1", run_id="run-1", task_id="t1", purpose="task", attempt=1, state=CallState.HELD)
    )
    waiting = stage.desk.runs["run-1"]
    stage.desk.runs["run-1"] = replace(waiting, questions=(*waiting.questions, held))

    resumed = stage.play("projects", "resume", "run-1", option)

    assert asks.exit_code == 3
    assert refused.exit_code == 2
    assert resumed.exit_code == 0
    assert dict(stage.desk.runs["run-1"].answers) == {held.id: answer}

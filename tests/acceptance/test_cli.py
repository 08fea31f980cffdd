"""The `tutti` command as a user without a terminal runs it: statuses, documents, mistakes, and nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import (
    ServeIt,
    Server,
    environment,
    free_port,
    gone_within,
    run_tutti,
    watch_tutti,
    write_config,
)
from tests.fakes import pool
from tests.fakes.scripted import ASSUMED, ENGLISH, QUESTION, VAGUE, VIETNAMESE
from tests.fakes.simulated import Simulator

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def shared_server(serve_it: ServeIt, simulator: Simulator) -> Server:
    """A running server for commands that need no cluster of their own."""
    return serve_it(pool.three_accounts(simulator.url))


@pytest.fixture
def server(shared_server: Server, simulator: Simulator) -> Server:
    """The running server, its simulator as new."""
    simulator.reset()
    return shared_server


def configured(folder: Path, configuration: dict[str, Any]) -> Path:
    """Write a configuration with a data directory of its own."""
    return write_config(folder / "tutti.yaml", {"data_dir": str(folder / "data"), **configuration})


def test_run_answers_on_a_cluster_of_its_own_and_leaves_nothing(tmp_path: Path, simulator: Simulator) -> None:
    """One command, no server: one JSON document on stdout and in the file, all else on stderr, no process left."""
    simulator.reset()
    config = configured(tmp_path, pool.three_accounts(simulator.url))
    out = tmp_path / "run.json"
    ran = watch_tutti(tmp_path, "run", VIETNAMESE.request, "--config", str(config), "--json", "--out", str(out))
    document = json.loads(ran.stdout)

    assert ran.status == 0, ran.stderr
    assert document["status"] == "completed"
    assert document["answer"] == VIETNAMESE.answer
    assert json.loads(out.read_text(encoding="utf-8")) == document
    assert "t4" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(ran.started) > 5
    assert gone_within(ran.started, 15) == []


def test_run_without_any_key_plays_the_embedded_model(tmp_path: Path) -> None:
    """Without file and keys the embedded model does the work, and the output says so plainly."""
    ran = watch_tutti(
        tmp_path,
        "run",
        "1) List two uses of tea. 2) List two uses of coffee.",
        "--json",
        timeout_s=200,
    )
    document = json.loads(ran.stdout)

    assert ran.status == 0, ran.stderr
    assert document["status"] == "completed"
    assert document["answer"]
    assert {task["model"] for task in document["tasks"]} == {"smollm2-135m"}
    assert {task["status"] for task in document["tasks"]} == {"completed"}
    assert len(document["evaluation"]) == len(document["tasks"]) == 2
    assert any("embedded" in note for note in document["notes"])
    assert "add a key" in ran.stderr
    assert document["usage"]["cost_usd"] == "0"
    assert gone_within(ran.started, 15) == []


def test_revoked_keys_end_without_an_answer_and_without_a_traceback(tmp_path: Path, simulator: Simulator) -> None:
    """Where no account may be asked the command says whose key is refused, exits 4, and leaves nothing."""
    simulator.reset()
    accounts = [
        pool.account(simulator.url, "gone-a", "hand"),
        pool.account(simulator.url, "gone-b", "hand"),
        pool.account(simulator.url, "gone-c", "chief", "critic"),
    ]
    config = configured(tmp_path, pool.orchestra(*accounts))
    ran = watch_tutti(tmp_path, "run", ENGLISH.request, "--config", str(config))

    assert ran.status == 4
    assert ran.stdout.count("Traceback") + ran.stderr.count("Traceback") == 0
    assert "gone-c" in ran.stdout + ran.stderr
    assert gone_within(ran.started, 15) == []


def test_unreachable_address_ends_without_an_answer(tmp_path: Path) -> None:
    """A provider that nobody can reach is named; the command gives up by itself."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    config = configured(tmp_path, pool.orchestra(pool.account(nowhere, "lost", "hand", "chief")))
    ran = watch_tutti(tmp_path, "run", ENGLISH.request, "--config", str(config), "--timeout", "10", "--json")

    assert ran.status == 4
    assert json.loads(ran.stdout)["status"] == "failed"
    assert "lost" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_run_without_terminal_never_asks(server: Server) -> None:
    """A request that needs answers exits 3 with its questions; with --assume-defaults it is answered."""
    asking = server.tutti("run", VAGUE, "--json")
    assumed = server.tutti("run", VAGUE, "--json", "--assume-defaults")

    assert asking.returncode == 3
    assert json.loads(asking.stdout)["status"] == "needs_answers"
    assert QUESTION in asking.stderr
    assert "tutti projects answer" in asking.stderr
    assert assumed.returncode == 0
    assert any(ASSUMED in text for text in json.loads(assumed.stdout)["assumptions"])


def test_run_shows_a_person_the_answer_and_where_the_time_went(server: Server) -> None:
    """Without --json the report has the answer, every task with its score, and the bound."""
    ran = server.tutti("run", ENGLISH.request)

    assert ran.returncode == 0
    for words in ("Take tea", "Describe coffee", "0.9", "lower bound"):
        assert words in ran.stdout


def test_request_comes_from_a_file(server: Server, tmp_path: Path) -> None:
    """A file in UTF-8 is read as it is; one that is not, or has a megabyte, is refused with words."""
    good, bad, long = tmp_path / "good.txt", tmp_path / "bad.txt", tmp_path / "long.txt"
    long.write_text("word " * 200_000, encoding="utf-8")
    good.write_text(ENGLISH.request, encoding="utf-8")
    bad.write_bytes(b"Compare caf\xe9s")
    ran = server.tutti("run", "--file", str(good), "--json")
    refused, too_long = server.tutti("run", "--file", str(bad)), server.tutti("run", "--file", str(long))

    assert json.loads(ran.stdout)["answer"] == ENGLISH.answer
    assert (refused.returncode, too_long.returncode) == (2, 2)
    assert "UTF-8" in refused.stderr
    assert "256 KiB" in too_long.stderr


def test_plan_spends_only_the_planning(server: Server, simulator: Simulator) -> None:
    """`tutti plan` shows tasks with tokens, cost and bound; no task is worked on."""
    planned = server.tutti("plan", ENGLISH.request, "--json")
    shown = server.tutti("plan", ENGLISH.request)
    document = json.loads(planned.stdout)

    assert planned.returncode == shown.returncode == 0
    assert [task["depends_on"] for task in document["tasks"]] == [[], [], ["t1", "t2"], ["t3"]]
    assert document["estimate"]["lower_bound_s"] > 0
    assert "Describe tea" in shown.stdout
    assert simulator.asked("worker") == 0


def test_token_ceiling_ends_a_run_with_status_4(server: Server) -> None:
    """A ceiling that leaves no room for planning gives no answer, and says which setting it was."""
    ran = server.tutti("run", ENGLISH.request, "--max-tokens-total", "500", "--json")

    assert ran.returncode == 4
    assert "500 tokens" in json.loads(ran.stdout)["error"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run",), "no request"),
        (("run", "   "), "empty"),
        (("run", "x", "--file", "also.txt"), "once"),
        (("run", "--file", "/nowhere/request.txt"), "/nowhere/request.txt"),
        (("run", "x", "--out", "/nowhere/run.json"), "--out"),
        (("run", "x", "--server", "nonsense"), "http://"),
        (("projects", "answer", "run-1", "nonsense"), "ID=TEXT"),
        (("simulate", "--config", "/nowhere/sim.yaml"), "/nowhere/sim.yaml"),
    ],
    ids=["nothing", "blank", "twice", "no file", "no folder", "server", "answer", "simulate"],
)
def test_bad_input_exits_2_with_words(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """A mistake in the command line is named before anything is started."""
    ran = run_tutti(tmp_path, *arguments, timeout_s=30)

    assert ran.returncode == 2
    assert words in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""


def test_init_writes_what_check_accepts(tmp_path: Path) -> None:
    """The written configuration loads as it is, with the keys that are there; it is not overwritten by accident."""
    path = tmp_path / "tutti.yaml"
    key = "sk-test-of-init"
    written = run_tutti(tmp_path, "init", str(path), OPENAI_API_KEY=key)
    again = run_tutti(tmp_path, "init", str(path), OPENAI_API_KEY=key)
    checked = run_tutti(tmp_path, "check", "--config", str(path), "--json", OPENAI_API_KEY=key)

    assert (written.returncode, again.returncode, checked.returncode) == (0, 2, 0), checked.stderr
    assert [row["provider"] for row in json.loads(checked.stdout)["accounts"]] == ["openai"]
    assert key not in path.read_text(encoding="utf-8") + checked.stdout + checked.stderr


def test_check_names_every_mistake_with_its_line(tmp_path: Path) -> None:
    """All mistakes at once, each with line and remedy, and no key in sight."""
    text = """\
accounts:
  - name: a
    provider: openai
    api_key: ${NO_SUCH_VARIABLE}
    models: [gpt-5-mini]
  - name: a
    provider: openai
    api_key: sk-secret-of-check
    models: [gpt-5-mini]
    colour: green
  - name: c
    provider: custom
    models: [m]
    limits: {rpm: many}
"""
    path = tmp_path / "tutti.yaml"
    path.write_text(text, encoding="utf-8")
    checked = run_tutti(tmp_path, "check", "--config", str(path))
    said = checked.stderr + checked.stdout

    assert checked.returncode == 2
    for line, words in ((4, "NO_SUCH_VARIABLE"), (6, "'a'"), (10, "colour"), (11, "base_url"), (14, "rpm")):
        assert any(f"line {line}" in row and words in row for row in said.splitlines()), (line, words, said)
    assert "sk-secret-of-check" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"accounts: [", "line 1"), (b"accounts: caf\xe9", "UTF-8"), (b"", "accounts"), (b"- a list", "mapping")],
    ids=["not YAML", "not UTF-8", "empty", "list"],
)
def test_unreadable_configuration_is_explained(tmp_path: Path, content: bytes, words: str) -> None:
    """A file that is no configuration at all is named."""
    path = tmp_path / "tutti.yaml"
    path.write_bytes(content)
    ran = run_tutti(tmp_path, "check", "--config", str(path), timeout_s=30)

    assert ran.returncode == 2
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("command", [("run", "x"), ("plan", "x"), ("serve",)], ids=["run", "plan", "serve"])
def test_command_refuses_a_wrong_configuration_before_starting_anything(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Whatever would start a cluster looks at the file first, and says what `check` says."""
    path = tmp_path / "tutti.yaml"
    path.write_bytes(b"- a list")
    ran = watch_tutti(tmp_path, *command, "--config", str(path), timeout_s=30)

    assert ran.status == 2
    assert "mapping" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.started == []


def test_commands_for_a_server_say_that_none_runs(tmp_path: Path) -> None:
    """Without a server these commands say how to start one; they never start a cluster."""
    config = configured(tmp_path, pool.orchestra(pool.account("http://127.0.0.1:9", "a", "hand", "chief")))
    for command in (("accounts",), ("reload",), ("projects", "list"), ("check", "--live")):
        ran = run_tutti(tmp_path, *command, "--config", str(config), timeout_s=30)

        assert ran.returncode == 2
        assert "tutti serve" in ran.stderr


def test_simulate_says_where_it_listens_and_ends_at_sigterm(tmp_path: Path) -> None:
    """The example of the simulator runs as it stands, under the command that README shows."""
    example = Path(__file__).parents[2] / "examples" / "sim.yaml"
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "simulate", "--config", str(example), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(tmp_path),
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    stats = httpx.get(f"{line.split()[1]}/__stats", timeout=10).json()
    process.terminate()

    assert process.wait(10) in (0, -15)
    assert line.startswith("ready http://127.0.0.1:")
    assert stats["total"]["requests"] == 0


def test_version_is_told(tmp_path: Path) -> None:
    """The version is that of the installed package."""
    assert run_tutti(tmp_path, "--version").stdout == f"tutti {version('tutti')}\n"

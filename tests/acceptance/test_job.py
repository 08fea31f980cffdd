"""Ray's own ways in: the job, `serve run` and `serve deploy` on a real head with tokens, and the cluster files.

Models are simulated. The head runs on free ports with a home and a temporary directory of its own, and is ended by its
processes: a cluster that somebody else runs on this machine is never touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.acceptance.conftest import ROOT, environment, gone_within, write_config
from tests.fakes import pool, scripted
from tests.fakes.scripted import CHINESE, ENGLISH, OTHER, VIETNAMESE, Story, worker_rule
from tests.fakes.simulated import Simulator

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
BIN = Path(sys.executable).parent
CONCURRENCY = 2
"""Calls that each simulated account allows at once on the shared head."""
RAY_FOLDER = "RAY_TMPDIR"
"""Ray's variable for where it keeps sessions, and the record of the cluster that `ray start` started last."""
COMMAND_WITHIN_S = 150.0
"""Ray's dashboard and its commands are slow on a small busy machine."""


def requests_file(path: Path, *stories: Story) -> Path:
    """Write one request a line."""
    lines = [json.dumps({"request_text": story.request}, ensure_ascii=False) for story in stories]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def documents(out: Path) -> list[dict[str, Any]]:
    """Return what the job has written."""
    return [json.loads(line) for line in out.read_bytes().splitlines()] if out.exists() else []


@pytest.fixture(scope="module", autouse=True)
def ray_folder() -> Iterator[Path]:
    """Ray's directory of these tests: what somebody else's `ray start` recorded on this machine is not in it."""
    # Ray's socket names must stay short, and pytest's directories are long.
    with tempfile.TemporaryDirectory(prefix="tutti-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        (Path(temporary) / "ray").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(RAY_FOLDER, temporary)
            yield Path(temporary)


def variables_of(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a job, which knows of no cluster but those of these tests."""
    named = {RAY_FOLDER: os.environ[RAY_FOLDER], "PYTHONPATH": str(ROOT), "TUTTI_CONFIG": str(folder / "tutti.yaml")}
    return environment(folder, **{**named, **more})


def start_job(folder: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    """Start the job on a private cluster, with the configuration in ``folder``."""
    return subprocess.Popen(
        [sys.executable, "-m", "app.batch", "--in", "requests.jsonl", "--out", "results.jsonl", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables_of(folder, **more),
        cwd=folder,
    )


def run_job(folder: Path, *arguments: str, timeout_s: float = 90.0, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the job to its end."""
    process = start_job(folder, *arguments, **more)
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    finally:
        if process.poll() is None:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def configured(folder: Path, simulator: Simulator) -> Path:
    """Write a configuration with a data directory of its own."""
    return write_config(folder / "tutti.yaml", {"data_dir": str(folder / "data"), **pool.three_accounts(simulator.url)})


def roles(simulator: Simulator) -> Counter[str]:
    """Count the simulator's requests by role."""
    return Counter(row["text"].split()[1] for row in simulator.stats(log=True)["log"])


def wait_for(holds: Callable[[], object], *, within_s: float, process: subprocess.Popen[Any] | None = None) -> None:
    """Wait until ``holds``; fail at once when ``process`` ends first."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert process is None or process.poll() is None, f"{process!r} ended"
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.2)


def test_job_answers_each_line_and_names_the_wrong_ones(tmp_path: Path, simulator: Simulator) -> None:
    """One document a line with the number of its line; a wrong line is named, costs nothing and stops nothing."""
    simulator.reset()
    configured(tmp_path, simulator)
    requests_file(tmp_path / "requests.jsonl", VIETNAMESE, CHINESE)
    with (tmp_path / "requests.jsonl").open("ab") as file:
        file.writelines([b"not json\n", b"\n", b'{"request_text": "x", "colour": 1}\n'])
        file.writelines([b'{"request_text": "caf\xe9"}\n', b'{"request_text": " "}\n'])
        file.writelines([b'{"request_text": "x", "timeout_s": "soon"}\n'])
    ran = run_job(tmp_path)
    found = {document["line"]: document for document in documents(tmp_path / "results.jsonl")}

    assert ran.returncode == 4, ran.stderr
    assert sorted(found) == [1, 2, 3, 5, 6, 7, 8]
    assert (found[1]["status"], found[1]["answer"]) == ("completed", VIETNAMESE.answer)
    assert (found[2]["status"], found[2]["answer"]) == ("completed", CHINESE.answer)
    assert set(found[1]) >= {"run_id", "tasks", "results", "evaluation", "usage", "schedule"}
    for number, words in ((3, "JSON"), (5, "'colour'"), (6, "UTF-8"), (7, "request_text"), (8, "timeout_s")):
        assert found[number]["status"] == "failed"
        assert found[number]["error"].startswith(f"line {number}: ")
        assert words in found[number]["error"]
    assert "Traceback" not in ran.stderr
    assert roles(simulator)["planner"] == 2


def test_killed_job_goes_on_and_asks_nothing_again(tmp_path: Path, simulator: Simulator) -> None:
    """SIGKILL with two requests answered, two in their third task and two untouched: each is answered once."""
    hangs = worker_rule(ENGLISH.step("t3"), text="too late", latency={"kind": "constant", "mean_s": 120})
    simulator.reset(hangs)
    configured(tmp_path, simulator)
    stories = [VIETNAMESE, CHINESE, ENGLISH, ENGLISH, OTHER, OTHER]
    requests_file(tmp_path / "requests.jsonl", *stories)
    out = tmp_path / "results.jsonl"
    first = start_job(tmp_path, "--concurrency", "2")
    try:
        wait_for(lambda: len(documents(out)) == 2, within_s=60, process=first)
        wait_for(lambda: _stands_still(simulator, in_flight=2), within_s=30, process=first)
        started = psutil.Process(first.pid).children(recursive=True)
        before = roles(simulator)
    finally:
        first.kill()
    first.communicate()
    left = gone_within(started, 30)
    simulator.control({"replies": scripted.replies()})
    second = run_job(tmp_path, "--concurrency", "2")
    found = documents(out)
    after = roles(simulator)

    assert left == []
    assert before["worker"] == 4 + 4 + 3 + 3
    assert second.returncode == 0, second.stderr
    assert "2 done before, 4 to do" in second.stderr
    assert {document["line"]: document["answer"] for document in found} == {
        number: story.answer for number, story in enumerate(stories, start=1)
    }
    assert len({document["batch_key"] for document in found}) == len({d["run_id"] for d in found}) == len(found) == 6
    # Everything once; only the two calls that were cut off are made again.
    assert {role: after[role] for role in ("clarifier", "planner", "transcriber", "merger", "evaluator")} == {
        "clarifier": 6,
        "planner": 6,
        "transcriber": 6,
        "merger": 6,
        "evaluator": 6,
    }
    assert after["worker"] == 4 * 6 + 2
    assert simulator.stats()["total"]["cancelled_by_client"] == 2

    third = run_job(tmp_path)

    assert third.returncode == 0
    assert "6 done before, 0 to do" in third.stderr
    assert roles(simulator) == after


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"tutti.yaml": "accounts: []\n"}, "requests.jsonl"),
        ({"requests.jsonl": '{"request_text": "x"}\n'}, "tutti.yaml"),
        ({"requests.jsonl": '{"request_text": "x"}\n', "tutti.yaml": "accounts: [{name: a}]\n"}, "provider"),
    ],
    ids=["no requests", "no configuration", "wrong configuration"],
)
def test_job_that_cannot_start_exits_2_with_words(tmp_path: Path, files: dict[str, str], words: str) -> None:
    """What is missing or wrong is named before anything is started."""
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    ran = run_job(tmp_path, timeout_s=30)

    assert ran.returncode == 2
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "results.jsonl").exists()


@dataclass(frozen=True, kw_only=True)
class Head:
    """A running `ray start --head` with token authentication."""

    folder: Path
    """Where it was started: the working directory of its jobs."""
    configuration: dict[str, Any]
    dashboard: str
    url: str
    """Where Serve answers once an application runs."""
    variables: dict[str, str]

    def popen(self, *command: str) -> subprocess.Popen[str]:
        """Start one of Ray's commands on it."""
        return _popen(self.folder, self.variables, *command)

    def run(self, *command: str) -> str:
        """Run one of Ray's commands on it; return what it said."""
        process = self.popen(*command)
        try:
            said, _ = process.communicate(timeout=COMMAND_WITHIN_S)
        finally:
            if process.poll() is None:
                process.kill()
        assert process.returncode == 0, said
        return said

    def actors(self) -> dict[str, str]:
        """Return the living actors of Tutti by name, with their ids."""
        said = self.run("ray", "list", "actors", "--address", self.dashboard, "--format", "json")
        rows = json.loads(said[said.index("[") :])
        ours = [row for row in rows if row["ray_namespace"] == "tutti" and row["state"] == "ALIVE"]
        found = {row["name"]: row["actor_id"] for row in ours}
        assert len(found) == len(ours)
        return found

    def serve_file(self, **door: Any) -> str:
        """Write serve_config.yaml with this head's port; ``door`` goes to the deployment."""
        document = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
        document["http_options"]["port"] = int(self.url.rpartition(":")[2])
        document["applications"][0]["deployments"][0].update(door)
        return str(write_config(self.folder / "serve_config.yaml", document))

    def is_ready(self) -> bool:
        """Return whether the HTTP application answers that it is ready."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        return False


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, simulator: Simulator) -> Iterator[Head]:
    """A head started as README shows, shared by the tests of this module."""
    folder = tmp_path_factory.mktemp("head")
    configuration = pool.three_accounts(simulator.url)
    for account in configuration["accounts"]:
        account["limits"] = {"concurrency": CONCURRENCY}
    configuration["data_dir"] = str(folder / "data")
    gcs, dashboard, client, agent, http = free_ports(5)
    # Ray's socket names must stay short, and pytest's directories are long.
    with tempfile.TemporaryDirectory(prefix="tutti-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        variables = environment(
            folder,
            PYTHONPATH=str(ROOT),
            PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}",
            RAY_AUTH_MODE="token",
            RAY_USAGE_STATS_ENABLED="0",
            TUTTI_CONFIG=str(write_config(folder / "tutti.yaml", configuration)),
        )
        options = {
            "port": gcs,
            "dashboard-host": "127.0.0.1",
            "dashboard-port": dashboard,
            "ray-client-server-port": client,
            "dashboard-agent-listen-port": agent,
            "temp-dir": temporary,
            "num-cpus": 2,
            "object-store-memory": 150 * 1024 * 1024,
        }
        subprocess.run(
            [str(BIN / "ray"), "get-auth-token", "--generate"],
            env=variables,
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=60,
        )
        arguments = [f"--{name}={value}" for name, value in options.items()]
        process = subprocess.Popen(
            [str(BIN / "ray"), "start", "--head", "--block", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=variables,
            cwd=folder,
        )
        address = f"http://127.0.0.1:{dashboard}"
        try:
            wait_for(lambda: _answers(address), within_s=90, process=process)
            yield Head(
                folder=folder,
                configuration=configuration,
                dashboard=address,
                url=f"http://127.0.0.1:{http}",
                variables={**variables, "RAY_ADDRESS": f"127.0.0.1:{gcs}"},
            )
        finally:
            _end_with_descendants(process)


def test_serve_run_and_the_job_share_the_account_actors(head: Head, simulator: Simulator) -> None:
    """The server and the job at once on one cluster: one set of actors, one journal, and no limit is doubled."""
    simulator.reset()
    requests_file(head.folder / "requests.jsonl", ENGLISH, VIETNAMESE, CHINESE, OTHER)
    server = head.popen("serve", "run", head.serve_file())
    try:
        wait_for(head.is_ready, within_s=120, process=server)
        before = head.actors()
        with ThreadPoolExecutor(1) as background:
            job = background.submit(_submit, head)
            # The job's own start takes seconds: keep the server busy until both have asked at once.
            served = []
            while not job.done():
                served.append(_process_project(head, ENGLISH))
            said = job.result()
        after = head.actors()
        listed = httpx.get(f"{head.url}/v1/projects", params={"limit": 200}, timeout=30).json()
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
    found = documents(head.folder / "results.jsonl")
    stats = simulator.stats()

    accounts = {f"account-{name}" for name in ("alpha", "beta", "chief")}
    assert set(before) == {"store", "directory", "coordinator", "events", *accounts}
    assert after == before
    assert "succeeded" in said
    assert {document["line"]: document["answer"] for document in found} == {
        number: story.answer for number, story in enumerate((ENGLISH, VIETNAMESE, CHINESE, OTHER), start=1)
    }
    assert {document["answer"] for document in served} == {ENGLISH.answer}
    assert {document["run_id"] for document in (*found, *served)} <= {row["run_id"] for row in listed["data"]}
    # Limits count per model: a key that serves one model shows them. Two sets of actors could reach twice as many; how
    # many there are at once depends on how busy this machine is.
    assert 1 <= stats["keys"]["sk-alpha"]["in_flight_max"] <= CONCURRENCY
    assert all(counts["in_flight_max"] <= CONCURRENCY for key, counts in stats["keys"].items() if key != "sk-chief")
    assert stats["keys"]["sk-chief"]["in_flight_max"] <= 2 * CONCURRENCY


def test_serve_deploy_answers_and_applies_a_new_user_config(head: Head, simulator: Simulator) -> None:
    """`serve deploy` onto the running cluster answers; deployed again with a new configuration it is applied."""
    simulator.reset()
    head.run("serve", "deploy", head.serve_file(), "--address", head.dashboard)
    wait_for(head.is_ready, within_s=120)
    document = _process_project(head, CHINESE)
    more = [*head.configuration["accounts"], pool.account(simulator.url, "gamma", "hand")]
    changed = head.serve_file(user_config={**head.configuration, "accounts": more})
    head.run("serve", "deploy", changed, "--address", head.dashboard)
    wait_for(lambda: _accounts(head) == {"alpha", "beta", "chief", "gamma"}, within_s=60)

    assert document["answer"] == CHINESE.answer
    assert _process_project(head, CHINESE)["status"] == "completed"
    assert "account-gamma" in head.actors()


def test_job_does_not_join_the_cluster_of_another(tmp_path: Path, simulator: Simulator, head: Head) -> None:
    """The head runs here with Tutti on it, and nobody named it: the job has a cluster and accounts of its own."""
    simulator.reset()
    own = pool.orchestra(pool.account(simulator.url, "delta", "hand"), pool.account(simulator.url, "own", "chief"))
    write_config(tmp_path / "tutti.yaml", {"data_dir": str(tmp_path / "data"), **own})
    simulator.control({"keys": [{"key": "sk-delta"}, {"key": "sk-own"}]})
    requests_file(tmp_path / "requests.jsonl", ENGLISH)
    assert _answers(head.dashboard)
    ran = run_job(tmp_path)
    document = documents(tmp_path / "results.jsonl")[0]

    assert ran.returncode == 0, ran.stderr
    assert "starting a private Ray cluster" in ran.stderr
    assert {task["account"] for task in document["tasks"]} == {"delta"}
    assert (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/cluster-aws.yaml"])
def test_cluster_file_passes_rays_validator(name: str) -> None:
    """What `ray up` would refuse is refused here; a misspelt field is not let through."""
    document = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    validate_config(prepare_config(document))
    document["no_such_field"] = 1

    with pytest.raises(Exception, match="no_such_field"):
        validate_config(prepare_config(document))


def free_ports(count: int) -> list[int]:
    """Return different ports that are free now."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]


def _popen(folder: Path, variables: dict[str, str], command: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(BIN / command), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=variables,
        cwd=folder,
    )


def _submit(head: Head) -> str:
    job = ["python", "-m", "app.batch", "--in", "requests.jsonl", "--out", "results.jsonl"]
    return head.run("ray", "job", "submit", "--address", head.dashboard, "--", *job)


def _process_project(head: Head, story: Story) -> dict[str, Any]:
    answer = httpx.post(f"{head.url}/process_project", json={"request_text": story.request}, timeout=60)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def _accounts(head: Head) -> set[str]:
    with contextlib.suppress(httpx.TransportError):
        return {row["account"] for row in httpx.get(f"{head.url}/v1/accounts", timeout=10).json()["data"]}
    return set()


def _answers(address: str) -> bool:
    """Return whether anything speaks HTTP there; without the token the dashboard refuses, which is an answer."""
    with contextlib.suppress(httpx.TransportError):
        httpx.get(f"{address}/api/version", timeout=5)
        return True
    return False


def _stands_still(simulator: Simulator, *, in_flight: int, for_s: float = 1.5) -> bool:
    """Return whether only these calls are open and no new one comes, so that the journal has all that went before."""
    before = simulator.stats()["total"]
    time.sleep(for_s)
    after = simulator.stats()["total"]
    return bool(before == after and after["in_flight"] == in_flight)


def _end_with_descendants(process: subprocess.Popen[bytes]) -> None:
    """End a head and everything that it started, and nothing else."""
    head = psutil.Process(process.pid)
    started = [*head.children(recursive=True), head]
    process.terminate()
    _, left = psutil.wait_procs(started, timeout=3)
    for remaining in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            remaining.terminate()
    _, left = psutil.wait_procs(left, timeout=5)
    for remaining in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            remaining.kill()
    psutil.wait_procs(left, timeout=10)

"""The job resumes where it stopped, keeps going past a wrong line, and never asks for a line twice."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest

from app import settings
from app.batch import conduct, keep_last, main, read_lines, recorded, to_do
from app.domain.run import RunRequest, RunStatus
from tests.fakes.desk import ASK_WORD, FAIL_WORD, FakeDesk

WRONG = (
    (b"not json", "JSON"),
    (b'["a list"]', "object"),
    (b"[" * 100_000, "JSON"),
    (b'{"request_text": "\xff"}', "UTF-8"),
    (b'{"request_text": "  "}', "request_text"),
    (b'{"request_text": 5}', "request_text"),
    (b'{"request_text": "half \\ud800"}', "surrogate"),
    (b'{"id": "x"}', "request_text"),
    (b'{"request_text": "x", "temperature": 1}', "temperature"),
    (b'{"request_text": "x", "\\ud800": 1}', "field"),
    (b'{"request_text": "x", "timeout_s": "soon"}', "timeout_s"),
    (b'{"request_text": "x", "timeout_s": "5"}', "timeout_s"),
    (b'{"request_text": "x", "timeout_s": true}', "timeout_s"),
    (b'{"request_text": "x", "timeout_s": NaN}', "timeout_s"),
    (b'{"request_text": "x", "timeout_s": 0}', "timeout_s"),
    (b'{"request_text": "x", "timeout_s": 1e9}', "timeout_s"),
    (b'{"request_text": "x", "timeout_s": [1]}', "timeout_s"),
    (b'{"request_text": "x", "max_tokens_total": 0.5}', "max_tokens_total"),
    (b'{"request_text": "x", "max_tokens_total": "9"}', "max_tokens_total"),
    (b'{"request_text": "x", "max_tokens_total": -1}', "max_tokens_total"),
    (b'{"request_text": "x", "id": {}}', "id"),
    (b'{"request_text": "x", "id": "\\ud800"}', "id"),
    (b'{"request_text": "x", "id": true}', "id"),
    (b'{"request_text": "x", "assume_defaults": "yes"}', "assume_defaults"),
    (b'{"request_text": "' + b"x" * 300_000 + b'"}', "limit"),
)


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_wrong_lines_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    """One bad line in ten thousand must not stop the other 9 999."""
    path = write(
        tmp_path / "in.jsonl",
        b'{"request_text": "compare tea and coffee"}',
        b"",
        *(line for line, _words in WRONG),
    )

    lines = list(read_lines(path))

    assert [line.number for line in lines] == [1, *range(3, 3 + len(WRONG))]
    assert lines[0].request is not None
    assert lines[0].request.text == "compare tea and coffee"
    for line, (_raw, words) in zip(lines[1:], WRONG, strict=True):
        assert line.request is None
        assert (line.problem or "").startswith(f"line {line.number}: ")
        assert words in (line.problem or "")
        orjson.dumps(line.problem)  # a result line can be written of it


def test_every_field_of_a_line_reaches_the_run(tmp_path: Path) -> None:
    """What is not refused is obeyed; nobody is there to be asked, so defaults are assumed unless the line says no."""
    path = write(
        tmp_path / "in.jsonl",
        b'{"request_text": "a", "id": "mine", "timeout_s": 5, "max_tokens_total": 9, "plan_only": true, '
        b'"budget_usd": "0.50"}',
        b'{"request_text": "b", "assume_defaults": false}',
    )

    full, asking = list(read_lines(path))

    assert full.request == RunRequest(
        text="a",
        assume_defaults=True,
        timeout_s=5.0,
        tokens_max=9,
        plan_only=True,
        idempotency_key=full.key,
        budget_usd="0.5",
    )
    assert full.label == "mine"
    assert asking.request is not None
    assert not asking.request.assume_defaults


def test_the_same_line_has_the_same_key_in_the_next_life(tmp_path: Path) -> None:
    """The key is what joins a run that was under way instead of buying it again."""
    path = write(tmp_path / "in.jsonl", b'{"request_text": "a"}', b'{"request_text": "a"}')

    first, second = ([line.key for line in read_lines(path)] for _ in range(2))

    assert first == second
    assert len(set(first)) == 2


def test_a_torn_last_line_is_cut_and_done_again(tmp_path: Path) -> None:
    """A job killed in the middle of a line must neither lose it nor append to its remains."""
    out = tmp_path / "out.jsonl"
    out.write_bytes(json.dumps({"batch_key": "k1", "status": "completed"}).encode() + b'\n{"batch_key": "k2", "sta')

    assert set(recorded(out)) == {"k1"}
    assert out.read_bytes().endswith(b"\n")


def test_no_output_yet_answers_nothing(tmp_path: Path) -> None:
    """The first start has nothing to skip."""
    assert recorded(tmp_path / "missing.jsonl") == {}


async def test_only_what_failed_is_done_again_and_under_a_new_key(tmp_path: Path) -> None:
    """The failed run has ended: joined again it would only fail again. What has an answer is never bought twice."""
    source = write(
        tmp_path / "in.jsonl", *(json.dumps({"request_text": text}).encode() for text in ("good", f"{FAIL_WORD} a"))
    )
    out = tmp_path / "out.jsonl"
    lines = list(read_lines(source))
    desk = FakeDesk()

    first = await conduct(desk, to_do(lines, recorded(out)), out, concurrency=2)
    again = to_do(lines, recorded(out))
    await conduct(desk, again, out, concurrency=2)
    keep_last(out)
    written = [json.loads(line) for line in out.read_bytes().splitlines()]
    third = to_do(lines, recorded(out))

    assert first == {lines[0].key: RunStatus.COMPLETED, lines[1].key: RunStatus.FAILED}
    assert [(line.number, line.attempt) for line in again] == [(2, 2)]
    assert [(row["line"], row["attempt"], row["status"]) for row in written] == [(1, 1, "completed"), (2, 2, "failed")]
    assert [line.attempt for line in third] == [3]
    keys = {line.request.idempotency_key for line in (lines[1], *again, *third) if line.request is not None}
    assert len(keys) == 3
    assert len({row["run_id"] for row in written}) == 2


@pytest.mark.parametrize(
    ("status", "again"),
    [("completed", False), ("partial", False), ("needs_answers", False), ("cancelled", False), ("failed", True)],
)
def test_recorded_status_decides_what_is_done_again(tmp_path: Path, status: str, again: bool) -> None:
    """Answers, questions and somebody's cancelling stand; a failure is worth another attempt."""
    lines = list(read_lines(write(tmp_path / "in.jsonl", b'{"request_text": "a"}')))
    row = {"batch_key": lines[0].key, "line": 1, "status": status, "run_id": "run-1"}
    out = write(tmp_path / "out.jsonl", b"somebody's note", json.dumps(row).encode())

    assert [line.attempt for line in to_do(lines, recorded(out))] == ([2] if again else [])


def test_failure_without_a_run_is_tried_under_the_same_key(tmp_path: Path) -> None:
    """The desk was out of reach: a run may be under way under that key, and is to be joined, not bought again."""
    lines = list(read_lines(write(tmp_path / "in.jsonl", b'{"request_text": "a"}')))
    row = {"batch_key": lines[0].key, "status": "failed", "run_id": "", "attempt": 2}

    (line,) = to_do(lines, recorded(write(tmp_path / "out.jsonl", json.dumps(row).encode())))

    assert line.attempt == 2
    assert line.request is not None
    assert line.request.idempotency_key == f"{lines[0].key}:2"


async def test_line_that_needs_answers_ends_with_its_questions(tmp_path: Path) -> None:
    """A line that forbids defaults must not be waited for: nobody answers a job. Its id is repeated."""
    text = {"request_text": f"go {ASK_WORD}", "assume_defaults": False, "id": 7}
    lines = list(read_lines(write(tmp_path / "in.jsonl", json.dumps(text).encode())))
    out = tmp_path / "out.jsonl"

    ended = await conduct(FakeDesk(), lines, out, concurrency=1)
    document = json.loads(out.read_bytes())

    assert ended == {lines[0].key: RunStatus.NEEDS_ANSWERS}
    assert document["questions"]
    assert document["id"] == 7


@pytest.mark.parametrize("count", ["0", "-1", "many", "1.5", ""])
def test_concurrency_below_one_exits_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], count: str
) -> None:
    """With no run at once the job would wait for ever."""
    monkeypatch.setattr("sys.argv", ["batch", "--in", "x", "--out", "y", "--concurrency", count])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    assert "1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["missing/out.jsonl", ".", "in.jsonl", "in.jsonl/out.jsonl"])
def test_output_that_cannot_be_written_exits_2_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    """A result that cannot be kept must not be paid for."""
    source = write(tmp_path / "in.jsonl", b'{"request_text": "a"}')
    config = write(tmp_path / "tutti.yaml", settings.write_template(environ={}).encode())
    arguments = ["--in", str(source), "--out", str(tmp_path / out), "--config", str(config)]
    monkeypatch.setattr("sys.argv", ["batch", *arguments])
    monkeypatch.setattr("actors.cluster.join", lambda **_: pytest.fail("a cluster was looked for"))

    assert main() == 2
    said = capsys.readouterr().err
    assert "--out" in said
    assert "Traceback" not in said
    assert source.read_bytes() == b'{"request_text": "a"}\n'

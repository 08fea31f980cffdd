"""The job resumes where it stopped, keeps going past a wrong line, and never asks for a line twice."""

from __future__ import annotations

import json
from pathlib import Path

from app.batch import answered_keys, read_lines


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_wrong_lines_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    """One bad line in ten thousand must not stop the other 9 999."""
    path = write(
        tmp_path / "in.jsonl",
        b'{"request_text": "compare tea and coffee"}',
        b"",
        b"not json",
        b'{"request_text": "\xff"}',
        b'{"request_text": "  "}',
        b'{"request_text": "x", "temperature": 1}',
        b'{"request_text": "' + b"x" * 300_000 + b'"}',
    )

    lines = list(read_lines(path))

    assert [line.number for line in lines] == [1, 3, 4, 5, 6, 7]
    assert lines[0].request is not None
    assert lines[0].request.text == "compare tea and coffee"
    problems = [line.problem or "" for line in lines[1:]]
    for problem, word in zip(problems, ["JSON", "UTF-8", "request_text", "temperature", "limit"], strict=True):
        assert word in problem


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

    assert answered_keys(out) == {"k1"}
    assert out.read_bytes().endswith(b"\n")


def test_no_output_yet_answers_nothing(tmp_path: Path) -> None:
    """The first start has nothing to skip."""
    assert answered_keys(tmp_path / "missing.jsonl") == set()

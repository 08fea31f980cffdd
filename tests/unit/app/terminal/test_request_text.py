"""Where a command's request comes from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.domain.errors import RequestError
from app.http.limits import REQUEST_TEXT_BYTES_MAX
from app.terminal.request_text import read_request_text


def _nothing(size: int) -> bytes:
    raise AssertionError("standard input is read only for -")


def test_text_comes_from_argument_file_or_standard_input(tmp_path: Path) -> None:
    """Three ways to say the same; a byte order mark is not part of it."""
    file = tmp_path / "request.txt"
    file.write_bytes(b"\xef\xbb\xbf" + "Lập kế hoạch".encode())

    assert read_request_text("do it", None, _nothing) == "do it"
    assert read_request_text(None, file, _nothing) == "Lập kế hoạch"
    assert read_request_text("-", None, lambda size: "写一份指南".encode()[:size]) == "写一份指南"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (b"caf\xe9", "is not UTF-8: byte 3 is 0xe9"),
        (b"x" * (REQUEST_TEXT_BYTES_MAX + 1), "is larger than 256 KiB"),
    ],
)
def test_bad_content_is_refused_wherever_it_comes_from(tmp_path: Path, content: bytes, word: str) -> None:
    """The same words for a file and for standard input, naming which."""
    file = tmp_path / "request.txt"
    file.write_bytes(content)

    with pytest.raises(RequestError, match=word) as from_file:
        read_request_text(None, file, _nothing)
    with pytest.raises(RequestError, match=word) as from_stdin:
        read_request_text("-", None, lambda size: content[:size])
    assert from_file.value.param == "--file"
    assert str(file) in from_file.value.message
    assert from_stdin.value.message.startswith("Standard input")


def test_missing_file_and_directory_are_refused(tmp_path: Path) -> None:
    """The system's reason, and the file's name."""
    with pytest.raises(RequestError, match="No such file"):
        read_request_text(None, tmp_path / "none.txt", _nothing)
    with pytest.raises(RequestError, match="Is a directory"):
        read_request_text(None, tmp_path, _nothing)


@pytest.mark.parametrize("text", [None, "do it"])
def test_request_is_given_exactly_once(tmp_path: Path, text: str | None) -> None:
    """None at all, or two of them, is a mistake and says how to do it right."""
    file = tmp_path / "request.txt" if text else None
    with pytest.raises(RequestError) as refused:
        read_request_text(text, file, _nothing)

    assert refused.value.remedy is not None
    assert "--file" in refused.value.remedy

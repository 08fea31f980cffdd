"""Reads the request a command is given: as an argument, from a file, or from standard input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app.domain.errors import RequestError
from app.http.limits import REQUEST_TEXT_BYTES_MAX

STANDARD_INPUT = "-"


def read_request_text(text: str | None, file: Path | None, read_stdin: Callable[[int], bytes]) -> str:
    """Return the request's text.

    Args:
        text: The argument; ``-`` means standard input.
        file: The file of --file.
        read_stdin: Reads at most so many bytes of standard input.

    Raises:
        RequestError: none or both are given; it is missing, empty, too large or not UTF-8.
    """
    if (text is None) == (file is None):
        raise RequestError(
            "Give the request once, as TEXT or as --file." if text else "There is no request.",
            param="TEXT",
            remedy='Write tutti run "what is to be done", tutti run --file request.txt, or pipe it into tutti run -.',
        )
    if file is not None:
        return _decoded(_read(file), f"the file {str(file)!r}", "--file")
    assert text is not None
    if text == STANDARD_INPUT:
        return _decoded(read_stdin(REQUEST_TEXT_BYTES_MAX + 1), "standard input", "TEXT")
    return _decoded(text.encode("utf-8", "surrogateescape"), "the request", "TEXT")


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(REQUEST_TEXT_BYTES_MAX + 1)
    except OSError as error:
        raise RequestError(
            f"The file {str(file)!r} cannot be read: {error.strerror}.",
            param="--file",
            remedy="Name a readable text file.",
        ) from None


def _decoded(data: bytes, what: str, param: str) -> str:
    if len(data) > REQUEST_TEXT_BYTES_MAX:
        raise RequestError(
            f"{_capital(what)} is larger than {REQUEST_TEXT_BYTES_MAX // 1024} KiB.",
            param=param,
            remedy="Shorten it, or split it into several requests.",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{_capital(what)} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}.",
            param=param,
            remedy="Save it as UTF-8.",
        ) from None
    if not text.strip():
        raise RequestError(f"{_capital(what)} is empty.", param=param, remedy="Say what is to be done.")
    return text


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

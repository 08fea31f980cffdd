"""What the doors let in: bounds on bodies, lists and silence.

Values only, shared by the HTTP app and the command line so that both refuse the same request.
"""

from __future__ import annotations

from dataclasses import dataclass

REQUEST_TEXT_BYTES_MAX = 256 * 1024
"""Largest request text, in bytes of UTF-8. About 64 000 tokens: more is a document, not a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Bounds of the HTTP app; tests lower them, nobody else needs to."""

    text_bytes_max: int = REQUEST_TEXT_BYTES_MAX
    body_bytes_max: int = 3 * REQUEST_TEXT_BYTES_MAX + 16 * 1024
    """Largest JSON body: escaping as \\uXXXX triples a text of two-byte letters."""
    keepalive_s: float = 10.0
    """Longest silence on a stream; proxies cut idle connections after 30 to 60 seconds."""
    list_rows_max: int = 200

"""Keys are known by their hash, and each caller uses what they may."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from app.domain.callers import KEY_CHARS_MAX, CallerSpec, find_caller, hash_key, index_callers, may_use
from app.domain.gateway import ANONYMOUS, Caller

KEYS = st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=8, unique=True)


def specs(keys: list[str]) -> list[CallerSpec]:
    """Return a caller for each key, named by its position."""
    return [CallerSpec(caller=Caller(name=f"c{place}"), key_sha256=hash_key(key)) for place, key in enumerate(keys)]


@given(keys=KEYS, other=st.text(max_size=60))
def test_find_caller_knows_each_key_and_no_other(keys: list[str], other: str) -> None:
    """A key finds its own caller; what is not a configured key, also its hash, finds nobody."""
    index = index_callers(specs(keys))

    for place, key in enumerate(keys):
        found = find_caller(index, key)
        assert found is not None
        assert found.name == f"c{place}"
        assert find_caller(index, hash_key(key)) is None or hash_key(key) in keys
    assert other in keys or find_caller(index, other) is None


def test_hash_key_is_plain_sha256() -> None:
    """`printf %s KEY | sha256sum` makes the same, so that a file need not hold the key."""
    assert hash_key("correct horse") == sha256(b"correct horse").hexdigest()


def test_find_caller_refuses_without_hashing_what_no_key_can_be() -> None:
    """Bytes that are no text (HTTP headers decode to surrogates) and endless keys are nobody's, not errors."""
    index = index_callers(specs(["k" * (KEY_CHARS_MAX + 1)]))

    assert find_caller(index, "k" * (KEY_CHARS_MAX + 1)) is None
    assert find_caller(index, "\udcff\udc80") is None
    assert find_caller(index, "") is None


def test_may_use_allows_all_where_nothing_is_named() -> None:
    """An empty list is no restriction; a list is one."""
    limited = Caller(name="limited", allowed_models=("gpt-5-mini",))

    assert may_use(ANONYMOUS, "anything")
    assert may_use(limited, "gpt-5-mini")
    assert not may_use(limited, "gpt-5")

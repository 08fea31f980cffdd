"""What an account's endpoint offers after a crash is said in its configuration, and only where it can be true."""

from __future__ import annotations

import pytest

from app import settings
from app.domain.accounts import EndpointClass, Orchestra
from app.settings.problems import ConfigurationProblems


def loaded(provider: str, more: str) -> Orchestra:
    line = f"accounts: [{{name: a, provider: {provider}, api_key: k, models: [m], {more}}}]\ndata_dir: /data\n"
    return settings.load_text(line, environ={"HOME": "/h"})


def test_endpoint_and_lag_reach_the_account() -> None:
    """Nothing said means nothing offered."""
    (said,) = loaded("openai", "endpoint: lookup, lookup_lag_s: 5").accounts
    (batch,) = loaded("openai", "endpoint: batch, batch_window_s: 30, timeout_s: 86400").accounts
    (unsaid,) = loaded("openai", "timeout_s: 5").accounts

    assert (said.endpoint, said.lookup_lag_s) == (EndpointClass.LOOKUP, 5.0)
    assert (batch.endpoint, batch.batch_window_s, batch.timeout_s) == (EndpointClass.BATCH, 30.0, 86_400.0)
    assert unsaid.endpoint is EndpointClass.OPAQUE


@pytest.mark.parametrize(
    ("provider", "endpoint"), [("anthropic", "lookup"), ("gemini", "reattach"), ("deepseek", "batch")]
)
def test_what_a_provider_does_not_offer_is_refused(provider: str, endpoint: str) -> None:
    """Believed, it would buy calls twice."""
    with pytest.raises(ConfigurationProblems, match=f"does not offer '{endpoint}'"):
        loaded(provider, f"endpoint: {endpoint}")


def test_an_unknown_endpoint_is_refused() -> None:
    """A typing error is told at once."""
    with pytest.raises(ConfigurationProblems, match="endpoint"):
        loaded("openai", "endpoint: magic")

"""An address that cannot be listened on is refused by name, before a cluster is started and when it is taken since."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.domain.errors import ConfigurationError
from app.listen_address import check_free

SERVE = """
import sys
from pathlib import Path
from app import settings
from app.domain.errors import ConfigurationError
from app.serve import serve_forever
if __name__ == "__main__":
    try:
        serve_forever(settings.load(Path(sys.argv[1])), "127.0.0.1", int(sys.argv[2]), print)
    except ConfigurationError as error:
        print("refused:", error.param, error.message, error.remedy)
"""
"""`tutti serve` past its first look at the port."""


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def test_taken_port_and_foreign_host_are_refused_by_name(taken: int) -> None:
    """The message names the address, the remedy the option."""
    with pytest.raises(ConfigurationError, match=f"127.0.0.1:{taken}: Address already in use") as refused:
        check_free("127.0.0.1", taken)
    with pytest.raises(ConfigurationError, match=f"0.0.0.0:{taken}: Address already in use"):
        check_free("0.0.0.0", taken)
    with pytest.raises(ConfigurationError, match="Cannot listen on"):
        check_free("203.0.113.1", taken)

    assert refused.value.param == "--port"


def test_port_that_is_free_again_is_not_refused() -> None:
    """A server that was just ended must not keep the next one out."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    check_free("127.0.0.1", port)


@pytest.mark.ray
@pytest.mark.timeout(150)
def test_port_taken_after_the_first_look_is_refused_by_name_too(tmp_path: Path, taken: int) -> None:
    """Ray takes seconds to start, and somebody may take the port meanwhile: that is no failure of ours."""
    account = "{name: a, provider: custom, api_key: k, base_url: 'http://127.0.0.1:9', models: [m]}"
    config = tmp_path / "tutti.yaml"
    config.write_text(f"data_dir: {tmp_path}/data\naccounts: [{account}]\n", encoding="utf-8")
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    ran = subprocess.run(
        [sys.executable, "-c", SERVE, str(config), str(taken)],
        env={**kept, "HOME": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert f"refused: --port Cannot listen on 127.0.0.1:{taken}: Address already in use" in ran.stdout, ran.stderr
    assert "--port" in ran.stdout.rpartition("refused:")[2]
    assert "ready http" not in ran.stdout

"""The commands that stay in the foreground: serve and simulate."""

from __future__ import annotations

import ipaddress
import threading
import time
from pathlib import Path

from rich.text import Text

from app import settings
from app.domain.errors import ConfigurationError
from app.listen_address import check_free
from app.ready_file import find_server
from app.terminal.display import SILENCE_S, Heartbeat
from app.terminal.output import ExitStatus, standard_error
from app.terminal.words import one_line, printable


def serve(config: Path | None, host: str, port: int) -> int:
    """Serve until SIGINT or SIGTERM; the composition root prints the ready line and drains.

    Raises:
        ConfigurationError: the configuration is wrong, or the address cannot be listened on.
    """
    orchestra = settings.load(config)
    check_door(host, has_keys=bool(orchestra.callers))
    check_free(host, port)
    voice = _StartupVoice(Path(orchestra.data_dir))
    for note in orchestra.notes:
        voice.note(note)
    voice.note(f"data directory: {orchestra.data_dir}")
    voice.heartbeat.start()
    try:
        voice.note("loading Ray")
        from app.serve import serve_forever

        serve_forever(orchestra, host, port, voice.note)
    finally:
        voice.heartbeat.stop()
    return int(ExitStatus.ANSWERED)


def simulate(config: Path, host: str | None, port: int | None) -> int:
    """Run the provider simulator until it is interrupted; it prints its own ready line.

    Raises:
        ConfigurationError: the simulator's configuration is wrong.
    """
    from app.simulator.config import load_config
    from app.simulator.server import run

    try:
        loaded = load_config(config)
    except OSError as error:
        raise ConfigurationError(
            f"The file {str(config)!r} cannot be read: {error.strerror}.",
            param="--config",
            remedy="See examples/sim.yaml.",
        ) from None
    except ValueError as error:
        raise ConfigurationError(str(error), param="--config", remedy="See examples/sim.yaml.") from None
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    run(loaded.model_copy(update=changes))
    return int(ExitStatus.ANSWERED)


def check_door(host: str, *, has_keys: bool) -> None:
    """Keep a door without keys on this machine.

    Raises:
        ConfigurationError: others could reach it, and nothing would ask them for a key.
    """
    if has_keys or host == "localhost":
        return
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass  # a name: it may be anybody's
    raise ConfigurationError(
        f"Without any key configured the door stays on this machine; {host!r} would let others in.",
        param="--host",
        remedy="Add `auth: {keys: [...]}` to the configuration, or leave --host at 127.0.0.1.",
    )


class _StartupVoice:
    """Says on standard error what the server is doing, and goes on saying it until the server is ready."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._doing = "starting"
        self._lock = threading.Lock()
        self._console = standard_error()
        self.heartbeat = Heartbeat(self._still, silence_s=SILENCE_S, clock=time.monotonic)

    def note(self, text: str) -> None:
        """Say ``text`` and keep talking until the server is ready."""
        self._doing = text
        self.heartbeat.muted = False
        self.heartbeat.spoken()
        self._print(text)

    def _still(self) -> None:
        if find_server(self._data_dir) is not None:
            self.heartbeat.muted = True
        else:
            self._print(f"… still {one_line(self._doing, 100)}")

    def _print(self, text: str) -> None:
        with self._lock:
            self._console.print(Text(printable(text)), soft_wrap=True)

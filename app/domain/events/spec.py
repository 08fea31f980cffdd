"""What is configured about events: how much is kept, what is sampled, where they are shipped."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.domain.events.fields import DEFAULT_PROFILE, Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticsearchSpec:
    """Where Elasticsearch is and how it is written to."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_cert: str | None = None
    """A file of certificates to trust beside the usual ones."""
    index_prefix: str = "tutti-events"
    """Indices are ``<prefix>-2026.11.21``; the prefix alone is the alias to read by."""
    batch_docs: int = 2_000
    batch_bytes: int = 8_000_000
    keep_days: int | None = 30
    """Where the server has no lifecycle of its own, indices of earlier days are deleted; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpec:
    """A folder of files of events, one JSON document a line, for somebody else's shipper to read."""

    folder: str
    file_bytes: int = 100_000_000
    files: int = 10
    """Kept; the oldest is deleted when another one begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpSpec:
    """Any receiver of OpenTelemetry's logs."""

    url: str
    """Logs are sent to ``/v1/logs`` below it."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ca_cert: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsSpec:
    """How events are kept on this machine, and where they go."""

    profile: Profile = DEFAULT_PROFILE
    spool_bytes: int = 2_048_000_000
    """Of the node's spool, and of the journal's outbox, each."""
    keep_days: int = 7
    """How long events stay here: shipped ones, and all of them where nothing is configured that takes them."""
    samples: tuple[tuple[str, float], ...] = ()
    """(event type, share that is kept), where that is not the type's own."""
    elasticsearch: ElasticsearchSpec | None = None
    file: FileSpec | None = None
    otlp: OtlpSpec | None = None
    """One of the three at most: what was shipped is not kept for another."""

    @property
    def ships(self) -> bool:
        """Whether events wait here until somebody has taken them."""
        return not (self.elasticsearch is None and self.file is None and self.otlp is None)

    def share(self, event_type: str, default: float) -> float:
        """Return the share of that type that is kept."""
        return dict(self.samples).get(event_type, default)

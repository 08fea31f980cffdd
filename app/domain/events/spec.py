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
class EventsSpec:
    """How events are kept on this machine, and where they go."""

    profile: Profile = DEFAULT_PROFILE
    spool_bytes: int = 512_000_000
    """Of the node's spool, and of the journal's outbox, each."""
    keep_days: int = 7
    """How long events stay here: shipped ones, and all of them where nothing is configured that takes them."""
    samples: tuple[tuple[str, float], ...] = ()
    """(event type, share that is kept), where that is not the type's own."""
    elasticsearch: ElasticsearchSpec | None = None

    @property
    def ships(self) -> bool:
        """Whether events wait here until somebody has taken them."""
        return self.elasticsearch is not None

    def share(self, event_type: str, default: float) -> float:
        """Return the share of that type that is kept."""
        return dict(self.samples).get(event_type, default)

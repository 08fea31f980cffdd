"""Requests that prepare Elasticsearch and Kibana, as ``AdminRequests`` wants them: over the shipper's own client."""

from __future__ import annotations

from app.domain.errors import InternalError
from app.domain.events.installing import AdminAnswer
from app.domain.events.spec import ElasticsearchSpec
from app.sinks.elasticsearch_http import ElasticsearchHttp
from app.sinks.http import Answer, UnreachableError

TIMEOUT_S = 60.0


class AdminClient:
    """The port ``AdminRequests``.

    Args:
        spec: Where the server is, and who signs in.
        kibana: Whether it is a Kibana, which wants to hear that no browser was tricked into the request.

    Belongs to one event loop; the caller closes it.
    """

    def __init__(self, spec: ElasticsearchSpec, *, kibana: bool = False) -> None:
        headers = {"kbn-xsrf": "tutti"} if kibana else {}
        self._name = "Kibana" if kibana else "Elasticsearch"
        self._http = ElasticsearchHttp(spec, timeout_s=TIMEOUT_S, headers=headers)
        self.url = spec.url.rstrip("/")

    async def ask(self, method: str, path: str, body: bytes = b"", *, kind: str = "application/json") -> AdminAnswer:
        """See ``AdminRequests.ask``."""
        try:
            answer = await self._http.ask(method, path, body, kind=kind)
        except UnreachableError as error:
            reason = error.reason
        else:
            return AdminAnswer(status=answer.status, document=answer.document(), words=_words(answer))
        raise InternalError(
            f"{self._name} at {self.url} cannot be reached: {reason}.",
            remedy="Check the address, its certificate (`ca_cert`), and whether it runs.",
        )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()


def _words(answer: Answer) -> str:
    if answer.status < 300:
        return ""
    said = answer.document().get("message")
    return said[:300] if isinstance(said, str) else answer.words()

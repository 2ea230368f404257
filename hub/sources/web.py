"""An HTTP(S) base as a place: each file below it by its path, the base's query kept."""

from __future__ import annotations

from urllib.parse import quote, urlsplit, urlunsplit

from llama_hub.errors import AccessError, LlamaHubError, NotFoundError
from llama_hub.hub.redaction import plain_url
from llama_hub.hub.transfer.http import Client, StatusError
from llama_hub.hub.transfer.remote_file import Body, Request
from llama_hub.hub.transfer.retry import Policy, TransferError


class HttpTree:
    """A tree of files below ``base``; a query (a shared-access signature, say) goes along."""

    def __init__(self, base: str, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.small: dict[str, bytes | None] = {}
        self.refusals: list[AccessError] | None = []
        self._base = base
        self._client = Client(timeout=self.policy.stall_seconds)

    @property
    def where(self) -> str:
        """The base without secrets."""
        return plain_url(self._base)

    def request(self, path: str) -> Request:
        """The file below the base."""
        parts = urlsplit(self._base)
        below = f"{parts.path.rstrip('/')}/{quote(path)}"
        return HttpRequest(
            self._client, urlunsplit((parts.scheme, parts.netloc, below, parts.query, ""))
        )

    def size(self, path: str) -> int | None:
        """Not known before the first answer."""
        return None

    def close(self) -> None:
        """Let idle connections go."""
        self._client.close()


class HttpRequest:
    """One file at a fixed URL."""

    def __init__(self, client: Client, url: str) -> None:
        self._client = client
        self._url = url

    @property
    def where(self) -> str:
        """The URL without secrets."""
        return plain_url(self._url)

    def open(self, start: int, stop: int | None, validator: str | None = None) -> Body:
        """GET a range."""
        try:
            return self._client.open(self._url, start, stop, validator)
        except StatusError as refusal:
            raise refused(refusal) from refusal


def refused(refusal: StatusError) -> LlamaHubError:
    """What a plain web server's refusal means."""
    if refusal.status in (404, 410):
        return NotFoundError(f"there is no {refusal.place}", hint="check --url")
    if refusal.status in (401, 403, 407):
        return AccessError(
            f"{refusal.place} refused: {refusal.status}",
            hint="the address may have expired or want a login; for a user and password use "
            "https://USER:PASSWORD@HOST/…",
        )
    return TransferError(f"{refusal.place} answered {refusal.status}", hint="check --url")

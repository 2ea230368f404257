"""One request to one replica, and its answer back, both as streams.

The end of a request is held back until its digest is known, so that a replica
never has all of a request that is in quarantine.
"""

from __future__ import annotations

import asyncio
import hashlib

import h11

from llama_hub.backends.local.http1 import ClientConnection, ClientGoneError, framing
from llama_hub.backends.local.quarantine import Quarantine
from llama_hub.backends.local.upstream import Upstream, UpstreamConnection, connected

_HOP = frozenset(
    b"connection keep-alive proxy-connection transfer-encoding te trailer upgrade expect".split()
)
_OURS = frozenset((b"host", b"content-length"))  # a client cannot have these removed on the way


class Exchange:
    """A request of ``client`` that ``upstream`` is asked to answer."""

    def __init__(
        self,
        client: ClientConnection,
        request: h11.Request,
        upstream: Upstream,
        quarantine: Quarantine,
    ) -> None:
        self._client = client
        self._request = request
        self._upstream = upstream
        self._quarantine = quarantine
        self._sent = ""  # digest of the request, once the replica has all of it

    async def run(self) -> None:
        """Until the client has its answer.

        Raises ``NotSentError`` if the replica cannot be reached, ``ReplicaEndedError`` if it
        ended on the way, ``ClientGoneError``, and ``Problem`` for what the client did wrong.
        """
        async with connected(self._upstream.port) as replica:
            sending = asyncio.create_task(self._send(replica))
            answering = asyncio.create_task(self._answer(replica))
            answered = False
            try:
                await asyncio.wait((sending, answering), return_when=asyncio.FIRST_COMPLETED)
                await (answering if answering.done() else sending)
                answered = True
            finally:
                sending.cancel()
                answering.cancel()
                await asyncio.gather(sending, answering, return_exceptions=True)
                self._account(answered)

    def _account(self, answered: bool) -> None:
        if not self._sent:
            return
        self._upstream.workload.end(self._sent, answered=answered)
        if answered:
            self._quarantine.clear(self._sent)

    async def _send(self, replica: UpstreamConnection) -> None:
        """Pass the request on; then watch the client. Ends only by an error."""
        try:
            await self._pass_on(replica)
        except OSError as error:
            if isinstance(error, ClientGoneError):
                raise
            # The replica takes no more: what it said, if anything, is being read.
        await self._client.until_gone()
        raise ClientGoneError

    async def _pass_on(self, replica: UpstreamConnection) -> None:
        digest = hashlib.sha256(self._request.method + b" " + self._request.target + b"\n")
        head = h11.Request(
            method=self._request.method, target=self._request.target, headers=self._headers()
        )
        last: list[h11.Event] = [head]
        if framing(self._request) != 0:
            await replica.send(head)
            last = []
        async for piece in self._client.body():
            digest.update(piece)
            await replica.send(*last)
            last = [h11.Data(data=piece)]
        name = digest.hexdigest()
        self._quarantine.check(name)
        self._upstream.workload.begin(name)
        self._sent = name
        await replica.send(*last, h11.EndOfMessage())

    def _headers(self) -> list[tuple[bytes, bytes]]:
        headers = list(self._request.headers)
        named = {
            one.strip().lower()
            for name, value in headers
            if name == b"connection"
            for one in value.split(b",")
        }
        kept = [(name, value) for name, value in headers if name not in _HOP | (named - _OURS)]
        if framing(self._request) is None:
            kept.append((b"transfer-encoding", b"chunked"))
        if all(name != b"host" for name, _ in kept):  # HTTP/1.0
            kept.append((b"host", b"127.0.0.1"))
        # The replica sees this machine; from the right, the first that it does not trust is meant.
        before = [value for name, value in kept if name == b"x-forwarded-for"]
        kept = [(name, value) for name, value in kept if name != b"x-forwarded-for"]
        chain = b", ".join([*before, self._client.address.encode()])
        return [*kept, (b"x-forwarded-for", chain), (b"connection", b"close")]

    async def _answer(self, replica: UpstreamConnection) -> None:
        response = await replica.response()
        headers = [(name, value) for name, value in response.headers if name not in _HOP]
        if not self._client.has_whole_request:
            headers.append((b"connection", b"close"))
        await self._client.send(
            h11.Response(status_code=response.status_code, headers=headers, reason=response.reason)
        )
        async for piece in replica.body():
            await self._client.send(h11.Data(data=piece))
        await self._client.send(h11.EndOfMessage())

"""The data plane of an endpoint: passes a request to the service and its answer back.

As documented for managed endpoints, whatever is not 200 comes back as 424 with
the service's own status in ``ms-azureml-model-error-statuscode``. That streamed
answers pass piece by piece is an assumption, not a documented promise.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from urllib.parse import urlsplit

from tests.support.azure_wire import Reply, Request


def relay(request: Request, base: str) -> Reply:
    """Send ``request`` to the service at ``base``."""
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=60)
    kept = ("content-type", "accept")
    headers = {name: value for name, value in request.headers.items() if name.lower() in kept}
    connection.request(request.method, request.path, request.body, headers)
    answer = connection.getresponse()
    if answer.status != 200:
        body = answer.read()
        connection.close()
        reason = body.decode(errors="replace")[:200].replace("\n", " ")
        return Reply(
            424,
            body,
            {
                "ms-azureml-model-error-statuscode": str(answer.status),
                "ms-azureml-model-error-reason": reason or answer.reason,
            },
        )
    kind = {"Content-Type": answer.headers.get("Content-Type", "application/json")}
    if answer.headers.get("Content-Length"):
        body = answer.read()
        connection.close()
        return Reply(200, body, kind)
    return Reply(200, _pieces(connection, answer), kind)


def _pieces(
    connection: http.client.HTTPConnection, answer: http.client.HTTPResponse
) -> Iterator[bytes]:
    try:
        while piece := answer.read1(65536):
            yield piece
    finally:
        connection.close()

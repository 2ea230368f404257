"""SageMaker's container contract: ``GET /ping``, ``POST /invocations``.

``InvokeEndpointWithResponseStream`` sends the same request; a body with
``"stream": true`` is answered in chunks: server-sent events, or one JSON
document a line where the caller's Accept names ``application/jsonlines``.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from llama_hub.inference.service.dispatch import by_body, by_route
from llama_hub.inference.service.replies import Document
from llama_hub.inference.service.service import Service

ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"


def ping(service: Service) -> Response:
    """200 when requests will be answered, else 503; the body is empty, as SageMaker expects."""
    return Response(status_code=200 if service.trouble() is None else 503)


async def invocations(service: Service, request: Request, document: Document) -> Response:
    """Any body; ``CustomAttributes: route=/v1/…`` chooses a route by name."""
    route = route_attribute(request.headers.get(ATTRIBUTES, ""))
    handler = by_body(document) if route is None else by_route(route)
    return await handler(service, request, document)


def route_attribute(attributes: str) -> str | None:
    """The value of ``route`` in ``a=1,route=/v1/completions``."""
    for part in attributes.split(","):
        name, _, value = part.partition("=")
        if name.strip() == "route":
            return value.strip()
    return None

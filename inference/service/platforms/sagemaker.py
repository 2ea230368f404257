"""SageMaker's container contract: ``GET /ping``, ``POST /invocations``.

``InvokeEndpointWithResponseStream`` sends the same request; a body with
``"stream": true`` is answered in chunks: server-sent events, or one JSON
document a line where the caller's Accept names ``application/jsonlines``.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import Document

ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"


async def ping(service: Service, request: Request, document: Document) -> Response:
    """200 when requests will be answered, else 503; the body is empty, as SageMaker expects."""
    return Response(status_code=200 if service.trouble() is None else 503)


def route_attribute(attributes: str) -> str | None:
    """The value of ``route`` in ``a=1,route=/v1/completions``."""
    for part in attributes.split(","):
        name, _, value = part.partition("=")
        if name.strip() == "route":
            return value.strip()
    return None

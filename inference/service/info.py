"""The service's word of itself: metrics, the weights it serves, its version, its models."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llama_hub import __version__
from llama_hub.inference.service import metrics as exposition
from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import Document


async def metrics(service: Service, request: Request, document: Document) -> Response:
    """``GET /metrics``."""
    up = not service.loading and service.failure is None
    text = service.metrics.exposition(
        service.engine.info if up else None,
        service.engine.stats() if up else None,
        service.served.name,
        service.manifest_digest,
    )
    return Response(text, headers={"Content-Type": exposition.CONTENT_TYPE})


async def manifest(service: Service, request: Request, document: Document) -> Response:
    """``GET /manifest``: which weights, under which licence; what ``attest`` reads."""
    return JSONResponse(service.statement())


async def version(service: Service, request: Request, document: Document) -> Response:
    """``GET /version``."""
    return JSONResponse({"version": __version__})

"""The chat page and the documentation, and what they need to know before a key is given."""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llama_hub import __version__
from llama_hub.inference.service.route import Handler
from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import Document

PAGE = files("llama_hub.inference.service.page")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page(name: str, media_type: str) -> Handler:
    """The handler that answers with the file ``name``."""

    async def handler(service: Service, request: Request, document: Document) -> Response:
        return Response((PAGE / name).read_bytes(), media_type=media_type, headers=HEADERS)

    return handler


async def about(service: Service, request: Request, document: Document) -> Response:
    """``GET /page.json``: what the chat page needs before it may send a key."""
    served = service.served
    return JSONResponse(
        {
            "model": served.name,
            "chat": served.chat,
            "license": served.license_name,
            "notice": served.notice,
            "key": service.settings.api_key is not None,
            "trouble": service.trouble(),
            "context": None if service.trouble() else service.engine.info.context,
            "version": __version__,
        }
    )

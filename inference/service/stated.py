"""What the service says of the weights it serves: what ``attest`` reads."""

from __future__ import annotations

import dataclasses

from llama_hub._version import __version__
from llama_hub.inference.service.replies import Document
from llama_hub.inference.service.service import Service


def manifest(service: Service) -> Document:
    """``GET /manifest``: which weights, under which licence; what ``attest`` reads."""
    served = service.served
    info = None if service.loading or service.failure else service.engine.info
    return {
        "model": served.name,
        "manifest": service.manifest_digest or None,
        "license": {"id": served.license, "name": served.license_name, "notice": served.notice},
        "receipt": served.manifest.receipt if served.manifest else None,
        "engine": None if info is None else dataclasses.asdict(info),
        "version": __version__,
        "document": service.manifest_document,
    }

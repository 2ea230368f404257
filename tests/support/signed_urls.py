"""Signed URLs as Meta's e-mails carry them, and a server that honours them as CloudFront does.

What it cannot prove: how CloudFront counts the uses of a URL, and its exact answers.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from tests.support.http_server import Seen, Server

HOUR = 3600


def policy(resource: str, expires: float) -> str:
    """CloudFront's base64 of a policy with one statement."""
    document = {
        "Statement": [
            {
                "unique_hash": "acmehash",
                "Resource": resource,
                "Condition": {"DateLessThan": {"AWS:EpochTime": int(expires)}},
            }
        ]
    }
    encoded = base64.b64encode(json.dumps(document, separators=(",", ":")).encode()).decode()
    return encoded.translate(str.maketrans("+=/", "-_~"))


def signed(
    base: str = "https://download.llamameta.net",
    *,
    valid_for: float = 24 * HOUR,
    signature: str = "good",
    resource: str | None = None,
) -> str:
    """A URL for everything below ``base``."""
    scope = policy(resource or f"{base}/*", time.time() + valid_for)
    return (
        f"{base}/*?Policy={scope}&Signature={signature}&Key-Pair-Id=K15QRJLYKIFSLZ"
        "&Download-Request-ID=123456789"
    )


class MetaServer(Server):
    """Serves files to whoever has a signature that is still good."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(files, etags=False, handler=self._gate)
        self.good = {"good"}

    def _gate(self, handler: Any, seen: Seen) -> bool:
        signature = parse_qs(seen.query).get("Signature", [""])[0]
        if seen.method == "GET" and signature in self.good:
            return False
        handler.answer(403, b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>")
        return True

    def signed(self, **more: Any) -> str:
        """A URL for this server."""
        return signed(self.url, **more)

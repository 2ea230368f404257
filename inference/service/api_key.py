"""The API key: how one is made, where a request carries it, how it is compared."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable

from llama_hub.inference.service.problems import Problem


def new_key() -> str:
    """A key of 256 random bits."""
    return f"llh-{secrets.token_urlsafe(32)}"


class ApiKey:
    """The key that callers must send."""

    def __init__(self, key: str) -> None:
        self._digest = _digest(key)

    def is_sent(self, header: Callable[[str], str | None]) -> bool:
        """Whether a request carries the key; ``header`` looks one up by its lower-case name."""
        given = _given_key(header)
        # Digests have one length, so that the comparison's time says nothing about the key's.
        return bool(given) and hmac.compare_digest(_digest(given), self._digest)


def missing_key() -> Problem:
    """401: no key, or not this one."""
    return Problem(
        401,
        "the API key is missing or wrong; send it as Authorization: Bearer KEY",
        kind="authentication_error",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _given_key(header: Callable[[str], str | None]) -> str:
    scheme, _, value = (header("authorization") or "").partition(" ")
    if scheme.lower() == "bearer" and value:
        return value.strip()
    return header("x-api-key") or header("api-key") or ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()

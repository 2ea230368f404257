"""Redaction of secrets in text: signed URLs, tokens, passwords in URLs.

Everything that came from outside (an exception of a library, an answer of a server) goes through
``redact`` before it can reach a message, a log, a manifest or the ledger.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_RULES = (
    # the query of any URL, and a password before its host
    (re.compile(r"(\bhttps?://[^\s'\"<>?#]+)\?[^\s'\"<>]*", re.IGNORECASE), r"\1?…"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@'\"]+@", re.IGNORECASE), r"\1…@"),
    # what is left when only a path or a query was quoted
    (
        re.compile(
            r"\b((?:X-Amz-)?(?:Policy|Signature|Credential|Security-Token|Key-Pair-Id|"
            r"Download-Request-ID|sig|token|access_token|api_key))=[^\s&'\"]+",
            re.IGNORECASE,
        ),
        r"\1=…",
    ),
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}"), "hf_…"),
    (re.compile(r"\b((?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), r"\1…"),
)


def redact(text: object) -> str:
    """``text`` as a string without secrets."""
    shown = str(text)
    for pattern, replacement in _RULES:
        shown = pattern.sub(replacement, shown)
    return shown


def plain_url(url: str) -> str:
    """A URL without user, query and fragment: what may be shown and recorded."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that is none"
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path}"

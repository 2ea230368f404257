"""Retry-After: every header in which a server says when it may be asked again."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping

_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?")
_PARAMETER = re.compile(r"(?:^|[;,\s])(?P<key>r|t|remaining|reset)=(?P<value>[0-9]{1,9})(?![0-9])")


def seconds(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds until the next attempt; ``None`` where the answer does not say.

    In this order: ``retry-after-ms`` and ``x-ms-retry-after-ms`` (milliseconds, Azure),
    ``Retry-After`` as seconds or as an HTTP date (RFC 9110 §10.2.3), and ``RateLimit`` with its
    remaining requests (``r``) and seconds to the next window (``t``), as the Hugging Face Hub
    sends it. ``now``: seconds since 1970, for tests.
    """
    given = {str(name).lower(): str(value).strip() for name, value in headers.items()}
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        if _NUMBER.fullmatch(given.get(name, "")):
            return float(given[name]) / 1000
    stated = _retry_after(given.get("retry-after", ""), time.time() if now is None else now)
    return _rate_limit(given.get("ratelimit", "")) if stated is None else stated


def _retry_after(text: str, now: float) -> float | None:
    """Seconds or an HTTP date; ``None`` for anything else."""
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (TypeError, ValueError, OverflowError, IndexError, OSError):
        return None


def _rate_limit(text: str) -> float | None:
    """Seconds to the next window, if this one is used up."""
    known = {match["key"]: int(match["value"]) for match in _PARAMETER.finditer(text.lower())}
    remaining = known.get("r", known.get("remaining", 0))
    reset = known.get("t", known.get("reset"))
    return float(reset) if reset is not None and remaining == 0 else None

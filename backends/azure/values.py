"""How the service spells what we asked for: durations, letters of ids, keys of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_DURATION = re.compile(r"P(?:(\d+)D)?T?(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?")


def duration(seconds: int) -> str:
    """ISO 8601 as the SDK writes it: ``PT3M``, ``PT1M30S``."""
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    parts = ((hours, "H"), (minutes, "M"), (left, "S"))
    return "PT" + ("".join(f"{amount}{unit}" for amount, unit in parts if amount) or "0S")


def seconds(text: str) -> float | None:
    """Seconds of an ISO 8601 duration; ``None`` if it is none."""
    match = _DURATION.fullmatch(text) if text.startswith("P") else None
    if match is None:
        return None
    days, hours, minutes, rest = (float(part or 0) for part in match.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + rest


def holds(wanted: Any, found: Any) -> bool:
    """Whether what was found has all that is wanted; the service adds keys and respells values.

    Ids are compared without regard to case, durations by their length.
    """
    if isinstance(wanted, Mapping):
        inner = found if isinstance(found, Mapping) else {}
        return all(holds(value, inner.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        same = isinstance(found, list) and len(found) == len(wanted)
        return same and all(holds(*pair) for pair in zip(wanted, found, strict=True))
    if isinstance(wanted, str) and isinstance(found, str):
        return wanted.lower() == found.lower() or (
            seconds(wanted) is not None and seconds(wanted) == seconds(found)
        )
    return bool(wanted == found)

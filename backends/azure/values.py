"""Values as the service spells them: durations, letters of ids, keys of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llama_hub.deploy import reconcile

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


def holds(wanted: Any, shown: Any) -> bool:
    """Whether what is shown has all that is wanted, however Azure spells it."""
    return reconcile.holds(wanted, shown, same)


def agrees(wanted: Any, shown: Any) -> bool:
    """Whether nothing that is shown contradicts what is wanted.

    For what was asked for in just these words: the service leaves out what is empty or a default.
    """
    if isinstance(wanted, Mapping) and isinstance(shown, Mapping):
        return all(agrees(value, shown.get(key)) for key, value in wanted.items())
    return shown is None or holds(wanted, shown)


def same(wanted: Any, shown: Any) -> bool:
    """Equal values: ids in any case and with or without a last slash, durations by length."""
    if not isinstance(wanted, str) or not isinstance(shown, str):
        return bool(wanted == shown)
    if wanted.rstrip("/").lower() == shown.rstrip("/").lower():
        return True
    return seconds(wanted) is not None and seconds(wanted) == seconds(shown)

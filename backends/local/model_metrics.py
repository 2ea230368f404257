"""The metrics of several models on one page: each family once, with the lines of all processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llama_hub.backends.local.model_pool import Slot
from llama_hub.inference.service.metrics import HTTP_REQUESTS, family, labels


def merged(pages: Iterable[tuple[str, str]]) -> list[str]:
    """The lines of ``pages`` (a model's name and its page), each family's together.

    A line that does not tell its model by a label is given one: no two are of the same series.
    What counts HTTP requests is left out: those of the clients are the front's.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for model, page in pages:
        name, known = "", set(heads)
        for line in page.splitlines():
            if line.startswith("# "):
                name = line.split(" ", 3)[2]
                if name not in known:
                    heads.setdefault(name, []).append(line)
            else:
                samples.setdefault(name, []).append(_labelled(line, model))
    return [
        line
        for name in heads
        if name != HTTP_REQUESTS
        for line in (*heads[name], *samples.get(name, ()))
    ]


def _labelled(line: str, model: str) -> str:
    if 'model_name="' in line or 'model="' in line:
        return line
    name, brace, rest = line.partition("{")
    if not brace:
        name, _, value = line.rpartition(" ")
        return f"{name}{labels({'model_name': model})} {value}"
    return f"{name}{labels({'model_name': model})[:-1]},{rest}"


def of_pool(slots: Sequence[Slot]) -> list[str]:
    """What the pool itself did."""
    lines: list[str] = []
    for name, kind, help_text, values in (
        ("loaded", "gauge", "Whether it takes requests.", [bool(s.upstream) for s in slots]),
        ("waiting", "gauge", "Requests that wait for a load.", [s.waiting for s in slots]),
        ("loads_total", "counter", "Loads that were begun.", [s.loads for s in slots]),
        ("unloads_total", "counter", "Unloads.", [s.unloads for s in slots]),
        ("load_seconds", "gauge", "How long the last load took.", [s.seconds or 0 for s in slots]),
    ):
        samples = [
            ("", {"model_name": slot.model.name}, float(value))
            for slot, value in zip(slots, values, strict=True)
        ]
        lines += family(f"llama_hub_model_{name}", kind, help_text, samples)
    return lines

"""The memory of several models: whether all fit together, or one at a time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama_hub.errors import NotEnoughError

GIB = 1 << 30


@dataclass(frozen=True)
class MemoryNeed:
    """What one model needs of the device, in bytes."""

    name: str
    weights: int
    workspace: int
    least: int  # with a cache for one sequence
    total: int  # with the whole cache


@dataclass(frozen=True)
class Arrangement:
    """How models share a device."""

    together: bool  # all may be loaded at once
    memory: int | None  # of the device; None: nobody can tell
    needs: tuple[int, ...]  # what each takes while it is loaded, in order

    def share(self, index: int) -> float:
        """Of the device's memory, the part that a model takes."""
        return min(1.0, self.needs[index] / self.memory) if self.memory else 1.0


def arrange(needs: Sequence[MemoryNeed], memory: int | None, *, unloads: bool) -> Arrangement:
    """Who takes how much of ``memory``; ``unloads``: whether models may make room for each other.

    ``NotEnoughError`` if not even that would do. Where the whole caches do not fit together, what
    is left beyond the least is shared in proportion.
    """
    least, total = sum(each.least for each in needs), sum(each.total for each in needs)
    if memory is None or total <= memory:
        return Arrangement(True, memory, tuple(each.total for each in needs))
    if least <= memory:
        part = (memory - least) / (total - least)
        scaled = (each.least + int((each.total - each.least) * part) for each in needs)
        return Arrangement(True, memory, tuple(scaled))
    if unloads and all(each.least <= memory for each in needs):
        return Arrangement(False, memory, tuple(min(each.total, memory) for each in needs))
    raise _too_much(needs, memory, unloads=unloads)


def _too_much(needs: Sequence[MemoryNeed], memory: int, *, unloads: bool) -> NotEnoughError:
    parts = ", ".join(f"{each.name} {each.least / GIB:.2f} GiB" for each in needs)
    together = sum(each.least for each in needs)
    singly = all(each.least <= memory for each in needs)
    smaller = "--quantize int8 or int4, or a smaller --context"
    return NotEnoughError(
        f"the models do not fit: at least {parts}"
        + ("" if unloads else f", together {together / GIB:.2f} GiB")
        + f"; free: {memory / GIB:.2f} GiB",
        hint=f"--idle-unload 10m loads one at a time; or {smaller}" if singly else smaller,
    )

"""Reserved memory: addresses for all that may be needed, room only for what was written.

A cache for sixteen full contexts of a 7B model is 32 GiB of addresses; a chat of a hundred tokens
writes 50 MiB of them. The system hands out a page at its first write, filled with zeros, and
takes it back when told that its content is not needed any more.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llama_hub.errors import NotEnoughError

# Not counted as taken before it is written; Python names the flag from 3.12 on.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if hasattr(mmap, "MAP_POPULATE") else 0)
_DONT_NEED = getattr(mmap, "MADV_DONTNEED", None)


class ReservedMemory:
    """A tensor of zeros in memory of its own; ``NotEnoughError`` if the system refuses it."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.bytes = math.prod(shape) * dtype.itemsize
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        try:
            self._map = mmap.mmap(-1, max(1, self.bytes), flags=flags)
        except (OSError, OverflowError) as error:
            raise NotEnoughError(
                f"the system gives no {self.bytes} bytes of addresses for the KV cache: {error}",
                hint="--max-batch or --context, smaller; or allow it (vm.overcommit_memory)",
            ) from error
        self.tensor: Tensor = torch.frombuffer(self._map, dtype=torch.uint8)
        self.tensor = self.tensor[: self.bytes].view(dtype).view(tuple(shape))

    def give_back(self, start: int, length: int) -> None:
        """The bytes from ``start`` are zeros again and take no room, as far as whole pages go."""
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (start + length) // mmap.PAGESIZE * mmap.PAGESIZE
        if _DONT_NEED is not None and last > first:
            self._map.madvise(_DONT_NEED, first, last - first)


def give_back_pages(memory: ReservedMemory, of: int, pages: Sequence[int]) -> None:
    """Give ``pages`` back in each of the parts of ``memory``, which has ``of`` pages a part.

    A part is what the cache keeps of one layer: its keys or its values.
    """
    part = memory.tensor.shape[0] * memory.tensor.shape[1]  # layers, and keys and values
    page_bytes = memory.bytes // (part * of)
    for first, count in runs(pages):
        for index in range(part):
            memory.give_back((index * of + first) * page_bytes, count * page_bytes)


def runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and count of each run of neighbours in ``numbers``."""
    ordered = sorted(numbers)
    begin = 0
    for index in range(1, len(ordered) + 1):
        if index == len(ordered) or ordered[index] != ordered[index - 1] + 1:
            yield ordered[begin], index - begin
            begin = index

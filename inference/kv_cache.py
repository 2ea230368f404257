"""The key/value cache: pages of tokens, shared between sequences with equal beginnings.

``PagePool`` keeps the books (which page belongs to whom, which page holds which
tokens); ``KVCache`` keeps the numbers. A page that is full and computed gets a
name, the hash of its tokens and of the page before it; a later prompt with the
same beginning finds it. Pages without an owner keep their name until they are
needed for something else, the least recently used first.
"""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llama_hub.inference.config import PAGE
from llama_hub.inference.reserved_memory import ReservedMemory, give_back_pages


def page_name(previous: bytes, tokens: Sequence[int]) -> bytes:
    """Name of a full page: a hash chained over everything before it."""
    return hashlib.blake2b(previous + array("i", tokens).tobytes(), digest_size=16).digest()


def page_names(tokens: Sequence[int], *, known: Sequence[bytes] = ()) -> list[bytes]:
    """Names of all full pages of ``tokens``; ``known`` are the first of them, computed before."""
    names = list(known)
    for start in range(len(names) * PAGE, len(tokens) - PAGE + 1, PAGE):
        names.append(page_name(names[-1] if names else b"", tokens[start : start + PAGE]))
    return names


@dataclass
class PagePool:
    """Who holds which page; not thread-safe (only the scheduler uses it)."""

    pages: int
    _owners: list[int] = field(init=False)  # sequences that hold each page
    _blank: list[int] = field(init=False)  # heap: free, nothing worth keeping; lowest first
    _kept: OrderedDict[int, None] = field(init=False)  # free but named; oldest first
    _by_name: dict[bytes, int] = field(init=False)
    _names: dict[int, bytes] = field(init=False)
    _written: set[int] = field(init=False)  # held by somebody since they were last given back

    def __post_init__(self) -> None:
        self._owners = [0] * self.pages
        self._blank = list(range(self.pages))
        self._kept = OrderedDict()
        self._by_name = {}
        self._names = {}
        self._written = set()

    @property
    def free(self) -> int:
        """Pages that can be allocated now."""
        return len(self._blank) + len(self._kept)

    @property
    def usage(self) -> float:
        """Share of the pages that sequences hold, 0 to 1."""
        return 1.0 - self.free / self.pages

    def is_free(self, page: int) -> bool:
        """Whether nobody holds ``page`` (it may still keep its name)."""
        return self._owners[page] == 0

    def is_sole(self, page: int) -> bool:
        """Whether one sequence holds ``page`` alone: it is free once that sequence is gone."""
        return self._owners[page] == 1

    def allocate(self, count: int) -> list[int]:
        """``count`` pages for one owner; the caller has looked at ``free``."""
        return [self._take() for _ in range(count)]

    def find(self, names: Sequence[bytes]) -> list[int]:
        """The longest beginning of ``names`` that is in the cache, as pages; takes nothing."""
        pages: list[int] = []
        for name in names:
            if name not in self._by_name:
                break
            pages.append(self._by_name[name])
        return pages

    def share(self, pages: Sequence[int]) -> None:
        """Become an owner of ``pages``, just found."""
        for page in pages:
            self._kept.pop(page, None)
            self._owners[page] += 1

    def name(self, page: int, name: bytes) -> None:
        """Record that ``page`` is computed and holds ``name``; a name keeps its first page."""
        if name not in self._by_name and page not in self._names:
            self._by_name[name] = page
            self._names[page] = name

    def release(self, pages: Sequence[int]) -> None:
        """Give up ownership; later pages are forgotten before earlier ones."""
        for page in reversed(pages):
            self._owners[page] -= 1
            if self._owners[page]:
                continue
            if page in self._names:
                self._kept[page] = None
            else:
                heapq.heappush(self._blank, page)

    def give_back(self, *, forget: bool) -> list[int]:
        """Pages that were written and that nobody needs: their memory may go.

        Those with a name, which a later prompt may find, only if they are to be forgotten.
        """
        if forget:
            for page in self._kept:
                del self._by_name[self._names.pop(page)]
                heapq.heappush(self._blank, page)
            self._kept.clear()
        pages = sorted(self._written.intersection(self._blank))
        self._written.difference_update(pages)
        return pages

    def _take(self) -> int:
        if self._blank:
            page = heapq.heappop(self._blank)
        else:
            page, _ = self._kept.popitem(last=False)
            del self._by_name[self._names.pop(page)]
        self._owners[page] = 1
        self._written.add(page)
        return page


class KVCache:
    """Keys and values of all layers: ``[layers, 2, slots, kv_heads, head_dim]``.

    A slot is one token's place: ``page * PAGE + offset``. Token-major, so that a run of
    neighbouring pages is a plain view. On a CPU it takes room as it is written.
    """

    def __init__(
        self,
        layers: int,
        pages: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (layers, 2, pages * PAGE, kv_heads, head_dim)
        self._memory = ReservedMemory(shape, dtype) if device.type == "cpu" else None
        self.data = (
            torch.zeros(shape, dtype=dtype, device=device)
            if self._memory is None
            else self._memory.tensor
        )
        self.pages = pages

    @property
    def bytes(self) -> int:
        """Size on the device."""
        return self.data.numel() * self.data.element_size()

    def give_back(self, pages: Sequence[int]) -> None:
        """Let the memory of ``pages`` go, where the system takes it: they are zeros again."""
        if self._memory is not None:
            give_back_pages(self._memory, self.pages, pages)

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store ``keys`` and ``values`` ``[T, kv_heads, head_dim]`` at ``slots`` ``[T]``."""
        assert keys.shape == values.shape == (len(slots), *self.data.shape[3:])
        self.data[layer, 0].index_copy_(0, slots, keys.to(self.data.dtype))
        self.data[layer, 1].index_copy_(0, slots, values.to(self.data.dtype))

    def read(self, layer: int, pages: Sequence[int], length: int) -> tuple[Tensor, Tensor]:
        """The first ``length`` tokens of a sequence: two ``[length, kv_heads, head_dim]``.

        A view where the pages are neighbours, else a copy.
        """
        assert 0 < length <= len(pages) * PAGE
        first, count = pages[0], -(-length // PAGE)
        if list(pages[:count]) == list(range(first, first + count)):
            span = self.data[layer, :, first * PAGE : first * PAGE + length]
            return span[0], span[1]
        index = torch.tensor(pages[:count], device=self.data.device)
        paged = self.data[layer].view(2, self.pages, PAGE, *self.data.shape[3:])
        taken = paged.index_select(1, index).flatten(1, 2)[:, :length]
        return taken[0], taken[1]

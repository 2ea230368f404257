"""The partition of every matrix over the processes under tensor parallelism.

Query heads, feed-forward rows and vocabulary rows are dealt out in order; key
and value heads follow the queries that read them, repeated where two processes
need the same one. Any number of processes that divides the query heads works.
"""

from __future__ import annotations

from dataclasses import dataclass

from llama_hub.errors import UsageError
from llama_hub.hub.architecture import Architecture


@dataclass(frozen=True)
class Partition:
    """The share of process ``rank`` of ``size``."""

    architecture: Architecture
    rank: int = 0
    size: int = 1
    grain: int = 1  # feed-forward rows that stay together

    def __post_init__(self) -> None:
        heads = self.architecture.n_heads
        if heads % self.size:
            choices = [n for n in range(1, heads + 1) if heads % n == 0]
            raise UsageError(
                f"{heads} attention heads cannot be shared by {self.size} processes",
                hint="--tensor-parallel " + ", ".join(map(str, choices)),
            )

    @property
    def queries(self) -> range:
        """Query heads of this process."""
        share = self.architecture.n_heads // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    @property
    def keys(self) -> list[int]:
        """Key/value heads of this process, such that its queries fall on them evenly."""
        group = self.architecture.n_heads // self.architecture.n_kv_heads
        needed = [query // group for query in self.queries]
        unique = list(dict.fromkeys(needed))
        share = len(needed) // len(unique)
        even = needed == [head for head in unique for _ in range(share)]
        return unique if even else needed

    def ffn(self) -> range:
        """Feed-forward rows, in multiples of ``grain`` (the group of a quantised weight)."""
        return self._share(self.architecture.ffn_dim, self.grain)

    def vocabulary(self) -> range:
        """Rows of the output matrix."""
        return self._share(self.architecture.vocab_size, 1)

    def _share(self, total: int, grain: int) -> range:
        units = -(-total // grain)
        bounds = [units * rank // self.size * grain for rank in (self.rank, self.rank + 1)]
        return range(min(bounds[0], total), min(bounds[1], total))

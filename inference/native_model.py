"""The decoder on our own CPU kernels: activations in float32, sums in a fixed order.

A row's result never depends on the rows beside it: rows of prompts take the
packed product, rows of answers and the output matrix the dot product, whatever
the batch is. So a greedy answer is the same, bit by bit, alone and in company,
with its prompt whole or in chunks, from the prefix cache or computed again.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from llama_hub.hub.architecture import Architecture
from llama_hub.inference.batch import Batch
from llama_hub.inference.collective import Collective
from llama_hub.inference.config import PAGE
from llama_hub.inference.linear import Dense, Linear, Quantized
from llama_hub.inference.model import Heads, Weights
from llama_hub.inference.reserved_memory import ReservedMemory, give_back_pages
from llama_hub.inference.rope import Rope

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
INPUT_GROUP = 64  # columns of the input that share a scale, at most
LANES = 16  # every width is a multiple of it


def suits(architecture: Architecture, widths: tuple[int, ...]) -> bool:
    """Whether the kernels can compute with these widths (all Llama 2 models' do)."""
    return all(width % LANES == 0 for width in (architecture.dim, architecture.head_dim, *widths))


class PagedCache:
    """Keys and values of all layers: ``[layers, 2, pages, kv_heads, PAGE, head_dim]``.

    It takes room as it is written.
    """

    def __init__(self, layers: int, pages: int, heads: Heads, dtype: torch.dtype) -> None:
        self._memory = ReservedMemory((layers, 2, pages, heads.keys, PAGE, heads.width), dtype)
        self.data = self._memory.tensor
        self.pages = pages
        self.type = TYPES[dtype]

    @property
    def bytes(self) -> int:
        """Size if every page were used."""
        return self.data.numel() * self.data.element_size()

    def give_back(self, pages: Sequence[int]) -> None:
        """Let the memory of ``pages`` go: they are zeros again."""
        give_back_pages(self._memory, self.pages, pages)

    def pointers(self, layer: int) -> tuple[int, int]:
        """Addresses of a layer's keys and values."""
        return self.data[layer, 0].data_ptr(), self.data[layer, 1].data_ptr()


class NativeLlama:
    """The computation of ``model.Llama`` through the kernels."""

    def __init__(
        self,
        library: ctypes.CDLL,
        architecture: Architecture,
        heads: Heads,
        weights: Weights,
        rope: Rope,
        collective: Collective,
        threads: int,
    ) -> None:
        self.architecture = architecture
        self.heads = heads
        self.weights = weights
        self.rope = rope
        self._kernels = library
        self._collective = collective
        self._threads = threads
        self._norms = [
            (layer.attention_norm.float(), layer.ffn_norm.float()) for layer in weights.layers
        ]
        self._last_norm = weights.norm.float()

    def forward(self, batch: Batch, cache: PagedCache) -> Tensor:
        """Logits in float32 of the wanted rows ``[R, vocab]``; fills the cache on the way."""
        return self._collective.gather(
            self._linear(self.weights.head, self.hidden(batch, cache), 0)
        )

    def hidden(self, batch: Batch, cache: PagedCache) -> Tensor:
        """Last hidden states, after the last norm, of the wanted rows ``[R, dim]``."""
        x = self.weights.embedding[batch.tokens].float()
        spans = _Spans(batch)
        for index, layer in enumerate(self.weights.layers):
            attention_norm, ffn_norm = self._norms[index]
            qkv = self._linear(layer.qkv, self._norm(x, attention_norm), batch.prompt_rows)
            mixed = self._attend(index, qkv, batch, spans, cache)
            self._add(layer.out, mixed, x, batch.prompt_rows)
            gates = self._linear(layer.gate_up, self._norm(x, ffn_norm), batch.prompt_rows)
            self._add(layer.down, self._swiglu(gates), x, batch.prompt_rows)
        return self._norm(x[batch.wanted], self._last_norm)

    def _add(self, linear: Linear, inputs: Tensor, x: Tensor, prompt_rows: int) -> None:
        """``x += linear(inputs)``, summed over the processes."""
        if self._collective.size == 1:
            self._linear(linear, inputs, prompt_rows, into=x)
        else:
            x += self._collective.sum(self._linear(linear, inputs, prompt_rows))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        out = torch.empty_like(x)
        pointers = (out.data_ptr(), x.data_ptr(), weight.data_ptr())
        eps = self.architecture.norm_eps
        self._kernels.lh_norm(*pointers, *x.shape, eps, self._threads)
        return out

    def _swiglu(self, gates: Tensor) -> Tensor:
        rows, width = gates.shape[0], gates.shape[1] // 2
        out = gates.new_empty(rows, width)
        self._kernels.lh_swiglu(out.data_ptr(), gates.data_ptr(), rows, width, self._threads)
        return out

    def _attend(
        self, layer: int, qkv: Tensor, batch: Batch, spans: _Spans, cache: PagedCache
    ) -> Tensor:
        assert qkv.shape == (len(batch.tokens), sum(self.heads.split))
        assert batch.positions.shape == batch.slots.shape == batch.tokens.shape
        assert cache.data.shape[3::2] == (self.heads.keys, self.heads.width)
        keys, values = cache.pointers(layer)
        sizes = (self.heads.queries, self.heads.keys, self.heads.width, self._threads)
        self._kernels.lh_rope_store(
            qkv.data_ptr(),
            keys,
            values,
            cache.type,
            batch.positions.data_ptr(),
            batch.slots.data_ptr(),
            self.rope.cos.data_ptr(),
            self.rope.sin.data_ptr(),
            len(qkv),
            *sizes,
        )
        out = qkv.new_empty(len(qkv), self.heads.queries * self.heads.width)
        self._kernels.lh_attend(
            out.data_ptr(),
            qkv.data_ptr(),
            keys,
            values,
            cache.type,
            spans.address,
            spans.count,
            spans.table_address,
            *sizes,
        )
        return out

    def _linear(
        self, linear: Linear, x: Tensor, prompt_rows: int, into: Tensor | None = None
    ) -> Tensor:
        """``x Wᵀ``, added to ``into`` if given."""
        if isinstance(linear, Quantized):
            return self._quantized(linear, x, prompt_rows, into)
        if not isinstance(linear, Dense):
            raise TypeError(f"no kernel for {type(linear).__name__}")
        weight = linear.weight
        out = x.new_empty(len(x), len(weight)) if into is None else into
        for kernel, rows in self._forms(prompt_rows, len(x), "lh_packed", "lh_dot"):
            kernel(
                out[rows].data_ptr(),
                x[rows].data_ptr(),
                weight.data_ptr(),
                TYPES[weight.dtype],
                rows.stop - rows.start,
                *weight.shape,
                into is not None,
                self._threads,
            )
        return out

    def _quantized(
        self, linear: Quantized, x: Tensor, prompt_rows: int, into: Tensor | None
    ) -> Tensor:
        rows_in, columns = x.shape
        group = INPUT_GROUP if linear.group % INPUT_GROUP == 0 else 32
        rounded = torch.empty(x.shape, dtype=torch.int8)
        scales, sums = (x.new_empty(rows_in, columns // group) for _ in range(2))
        pointers = (rounded.data_ptr(), scales.data_ptr(), sums.data_ptr(), x.data_ptr())
        pairs = linear.bits == 4
        self._kernels.lh_quantize(*pointers, rows_in, columns, group, pairs, self._threads)
        width = len(linear.values)
        out = x.new_empty(rows_in, width) if into is None else into
        names = ("lh_packed_quantized", "lh_dot_quantized")
        for kernel, rows in self._forms(prompt_rows, rows_in, *names):
            kernel(
                out[rows].data_ptr(),
                rounded[rows].data_ptr(),
                scales[rows].data_ptr(),
                sums[rows].data_ptr(),
                linear.values.data_ptr(),
                linear.scales.data_ptr(),
                linear.bits,
                rows.stop - rows.start,
                width,
                columns,
                group,
                linear.group,
                into is not None,
                self._threads,
            )
        return out

    def _forms(
        self, prompt_rows: int, rows: int, packed: str, dot: str
    ) -> list[tuple[ctypes._NamedFuncPointer, slice]]:
        """Which kernel computes which rows."""
        parts = ((packed, slice(0, prompt_rows)), (dot, slice(prompt_rows, rows)))
        return [
            (getattr(self._kernels, name), part) for name, part in parts if part.start < part.stop
        ]


class _Spans:
    """A batch's spans and page numbers as the C arrays that ``lh_attend`` reads."""

    def __init__(self, batch: Batch) -> None:
        numbers, table = array("q"), array("i")
        for span in batch.spans:
            numbers.extend((span.row, span.count, span.start, len(table)))
            table.extend(span.pages)
        self._numbers, self._table = numbers, table  # kept alive
        self.count = len(batch.spans)
        self.address = numbers.buffer_info()[0]
        self.table_address = table.buffer_info()[0]

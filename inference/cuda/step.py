"""The decoder's computation as few launches.

The same numbers as ``model.Llama``. Nothing here waits for the device or copies to it, so a
step can be recorded as a CUDA graph, its sums over other processes included.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from llama_hub.inference.collective import Collective
from llama_hub.inference.cuda.operations import Operations
from llama_hub.inference.kv_cache import KVCache
from llama_hub.inference.linear import Linear
from llama_hub.inference.model import Layer, Llama

# query [T, heads, width], the layer's keys and values [slots, kv_heads, width] → mixed values
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Step:
    """``Llama.forward`` on tensors that are on the device already."""

    def __init__(
        self, model: Llama, cache: KVCache, operations: Operations, collective: Collective
    ) -> None:
        """``collective``: the model's own, or a stand-in while one process compiles alone."""
        self._model = model
        self._layers = [(layer[0], layer[1]) for layer in cache.data]  # keys and values
        self._operations = operations
        self._collective = collective

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        attend: Attend,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Logits in float32 of the ``wanted`` rows (None: all) ``[R, vocab]``; int32 inputs."""
        weights = self._model.weights
        x = F.embedding(tokens, weights.embedding)
        for layer, cached in zip(weights.layers, self._layers, strict=True):
            x = self._attention(layer, x, positions, slots, attend, *cached)
            gated = self._operations.product(
                self._norm(x, layer.ffn_norm), layer.gate_up, swiglu=True
            )
            x = self._add(x, gated, layer.down)
        if wanted is not None:
            x = x.index_select(0, wanted)
        logits = self._operations.product(self._norm(x, weights.norm), weights.head)
        return self._collective.gather(logits.float())

    def _attention(
        self,
        layer: Layer,
        x: Tensor,
        positions: Tensor,
        slots: Tensor,
        attend: Attend,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        rope = self._model.rope
        qkv = self._operations.product(self._norm(x, layer.attention_norm), layer.qkv)
        query = self._operations.rotate_and_store(
            qkv, rope.cos, rope.sin, positions, slots, keys, values
        )
        return self._add(x, attend(query, keys, values).flatten(1), layer.out)

    def _add(self, x: Tensor, inputs: Tensor, linear: Linear) -> Tensor:
        """``x`` plus a product, summed over the processes."""
        if self._collective.size == 1:
            return self._operations.product(inputs, linear, residual=x)
        return x + self._collective.sum(self._operations.product(inputs, linear))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._operations.norm(x, weight, self._model.architecture.norm_eps)

"""The Llama 2 decoder: RMSNorm, rotary grouped-query attention, SwiGLU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_hub.hub.architecture import Architecture
from llama_hub.inference.attention import attend
from llama_hub.inference.batch import Batch
from llama_hub.inference.collective import Collective
from llama_hub.inference.kv_cache import KVCache
from llama_hub.inference.linear import Linear
from llama_hub.inference.rope import Rope


@dataclass(frozen=True)
class Heads:
    """The heads that this process computes; all of them without tensor parallelism."""

    queries: int
    keys: int
    width: int

    @property
    def split(self) -> list[int]:
        """Rows of queries, keys and values in the fused projection."""
        return [self.queries * self.width, self.keys * self.width, self.keys * self.width]


@dataclass(frozen=True)
class Layer:
    """Weights of one decoder layer."""

    attention_norm: Tensor  # [dim]
    qkv: Linear  # dim → queries + keys + values, one below the other
    out: Linear  # queries → dim
    ffn_norm: Tensor  # [dim]
    gate_up: Linear  # dim → 2 × ffn, gate above up
    down: Linear  # ffn → dim


@dataclass(frozen=True)
class Weights:
    """All weights of one process."""

    embedding: Tensor  # [vocab, dim]
    layers: tuple[Layer, ...]
    norm: Tensor  # [dim]
    head: Linear  # dim → vocab

    @property
    def bytes(self) -> int:
        """Size on the device."""
        tensors = [self.embedding, self.norm]
        linears = [self.head]
        for layer in self.layers:
            tensors += [layer.attention_norm, layer.ffn_norm]
            linears += [layer.qkv, layer.out, layer.gate_up, layer.down]
        dense = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return dense + sum(linear.bytes for linear in linears)


class Llama:
    """The computation; holds no state but the weights."""

    def __init__(
        self,
        architecture: Architecture,
        heads: Heads,
        weights: Weights,
        rope: Rope,
        collective: Collective,
    ) -> None:
        self.architecture = architecture
        self.heads = heads
        self.weights = weights
        self.rope = rope
        self.collective = collective

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Logits in float32 of the wanted rows ``[R, vocab]``; fills the cache on the way."""
        return self.collective.gather(self.weights.head(self.hidden(batch, cache)).float())

    def hidden(self, batch: Batch, cache: KVCache) -> Tensor:
        """Last hidden states, after the last norm, of the wanted rows ``[R, dim]``."""
        x = self.weights.embedding[batch.tokens]
        for index, layer in enumerate(self.weights.layers):
            x = x + self._attention(index, layer, self.norm(x, layer.attention_norm), batch, cache)
            x = x + self.feed_forward(layer, self.norm(x, layer.ffn_norm))
        return self.norm(x[batch.wanted], self.weights.norm)

    def _attention(
        self, index: int, layer: Layer, x: Tensor, batch: Batch, cache: KVCache
    ) -> Tensor:
        query, key, value = torch.split(layer.qkv(x), self.heads.split, dim=-1)
        q, k, v = (each.view(len(x), -1, self.heads.width) for each in (query, key, value))
        cache.write(index, batch.slots, self.rope.rotate(k, batch.positions), v)
        mixed = attend(self.rope.rotate(q, batch.positions), cache, index, batch)
        return self.collective.sum(layer.out(mixed.flatten(1)))

    def feed_forward(self, layer: Layer, x: Tensor) -> Tensor:
        """SwiGLU, summed over the processes."""
        gate, up = layer.gate_up(x).chunk(2, dim=-1)
        return self.collective.sum(layer.down(F.silu(gate) * up))

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm; see ``rms_norm``."""
        return rms_norm(x, weight, self.architecture.norm_eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of ``x`` ``[T, dim]`` in float32, scaled in the computing type, as the reference."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale).to(x.dtype) * weight

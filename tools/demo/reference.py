"""Llama 2 as Meta formulates it, in plain torch: the model that is trained, and a judge for tests.

RoPE rotates *adjacent* pairs of a head (2j, 2j+1), as in Meta's checkpoints; Hugging Face's layout
rotates (j, j + head_dim/2) and therefore stores wq and wk in another row order. Nothing here is
shared with the product's own inference code, so that the two can check each other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

REPLICATED = ("norm.weight", "rope.freqs")
"""Tensors (by the end of their names) of which every shard holds a whole copy."""
COLUMNS = ("tok_embeddings.weight", "attention.wo.weight", "feed_forward.w2.weight")
"""Tensors whose shards are slices of dim 1: RowParallel and the embedding. The rest use dim 0."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of params.json, with `vocab_size` filled in."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    multiple_of: int
    norm_eps: float
    vocab_size: int
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def ffn_dim(self) -> int:
        """Two thirds of 4 x dim, rounded up to `multiple_of`."""
        hidden = int(2 * (4 * self.dim) / 3)
        return self.multiple_of * -(-hidden // self.multiple_of)


def rope_freqs(shape: Shape) -> Tensor:
    """Angular step per position of each pair of a head: [head_dim / 2], fp32."""
    return shape.rope_theta ** -(torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the adjacent pairs of x [batch, heads, seq, head_dim] by angles [seq, head_dim / 2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return (x.float() * scale).type_as(x) * self.weight


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_dim = shape.n_kv_heads * shape.head_dim
        self.wq = nn.Linear(shape.dim, shape.dim, bias=False)
        self.wk = nn.Linear(shape.dim, kv_dim, bias=False)
        self.wv = nn.Linear(shape.dim, kv_dim, bias=False)
        self.wo = nn.Linear(shape.dim, shape.dim, bias=False)

    def heads(self, x: Tensor) -> Tensor:
        """[batch, seq, heads * head_dim] to [batch, heads, seq, head_dim]."""
        return x.view(*x.shape[:2], -1, self.shape.head_dim).transpose(1, 2)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        query = rotate(self.heads(self.wq(x)), angles)
        key = rotate(self.heads(self.wk(x)), angles)
        group = self.shape.n_heads // self.shape.n_kv_heads
        mixed = functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(group, dim=1),
            self.heads(self.wv(x)).repeat_interleave(group, dim=1),
            is_causal=True,
        )
        out: Tensor = self.wo(mixed.transpose(1, 2).flatten(-2))
        return out


class FeedForward(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.w1 = nn.Linear(shape.dim, shape.ffn_dim, bias=False)
        self.w2 = nn.Linear(shape.ffn_dim, shape.dim, bias=False)
        self.w3 = nn.Linear(shape.dim, shape.ffn_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(functional.silu(self.w1(x)) * self.w3(x))
        return out


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.feed_forward = FeedForward(shape)
        self.attention_norm = RMSNorm(shape.dim, shape.norm_eps)
        self.ffn_norm = RMSNorm(shape.dim, shape.norm_eps)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), angles)
        out: Tensor = x + self.feed_forward(self.ffn_norm(x))
        return out


class Llama(nn.Module):
    """The decoder; its parameter names are those of Meta's checkpoints."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tok_embeddings = nn.Embedding(shape.vocab_size, shape.dim)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.n_layers))
        self.norm = RMSNorm(shape.dim, shape.norm_eps)
        self.output = nn.Linear(shape.dim, shape.vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [batch, seq] to logits [batch, seq, vocab]."""
        x = self.tok_embeddings(tokens)
        angles = torch.outer(torch.arange(tokens.shape[1]).float(), rope_freqs(self.shape))
        for layer in self.layers:
            x = layer(x, angles)
        out: Tensor = self.output(self.norm(x))
        return out


def merge(name: str, parts: list[Tensor]) -> Tensor:
    """The whole tensor `name` from its slices, one per shard, in shard order."""
    if name.endswith(REPLICATED):
        return parts[0]
    return torch.cat(parts, dim=1 if name.endswith(COLUMNS) else 0)


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Llama:
    """The model in a folder of Meta's layout, every shard merged, ready to run on the CPU."""
    paths = sorted(folder.glob("consolidated.*.pth"))
    shards = [torch.load(path, map_location="cpu", weights_only=True) for path in paths]
    whole = {name: merge(name, [shard[name] for shard in shards]) for name in shards[0]}
    params = json.loads((folder / "params.json").read_text(encoding="utf-8"))
    params["vocab_size"] = whole["tok_embeddings.weight"].shape[0]
    del whole["rope.freqs"]
    model = Llama(Shape(**params)).to(dtype)
    model.load_state_dict(whole)
    return model.eval()


@torch.inference_mode()
def greedy(model: Llama, tokens: list[int], limit: int, eos: int) -> list[int]:
    """The tokens that follow, always the likeliest next one, without the closing `eos`.

    No cache: the whole prefix runs again for every token, the plainest form there is.
    """
    out: list[int] = []
    while len(out) < limit:
        logits = model(torch.tensor([tokens + out]))[0, -1]
        best = int(logits.argmax())
        if best == eos:
            break
        out.append(best)
    return out

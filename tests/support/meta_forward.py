"""Llama as Meta runs it, on the unconverted shards themselves: a judge that shares no code.

Each model-parallel rank computes with its own slices only: its columns of the embedding, its
heads, its part of the feed-forward width, its rows of the output. What fairscale would gather is
concatenated and what it would all-reduce is added up. RoPE multiplies adjacent pairs of a head,
as complex numbers, by exp(i * position * frequency).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Shard = dict[str, Tensor]


def load(folder: Path) -> tuple[dict[str, Any], list[Shard]]:
    """params.json and the shards, in float32."""
    params = json.loads((folder / "params.json").read_text())
    paths = sorted(folder.glob("consolidated.*.pth"))
    shards = [torch.load(path, map_location="cpu", weights_only=True) for path in paths]
    return params, [{name: one.float() for name, one in shard.items()} for shard in shards]


@torch.inference_mode()
def logits(folder: Path, tokens: list[int]) -> Tensor:
    """Logits [len(tokens), vocabulary] in float32."""
    params, shards = load(folder)
    heads, eps = params["n_heads"], params["norm_eps"]
    groups = heads // params.get("n_kv_heads", heads)
    width = params["dim"] // heads
    turns = rotations(len(tokens), width, params.get("rope_theta", 10000.0))
    x = torch.cat([shard["tok_embeddings.weight"][tokens] for shard in shards], dim=-1)
    for layer in range(params["n_layers"]):
        at = f"layers.{layer}."
        y = normed(x, shards[0][f"{at}attention_norm.weight"], eps)
        x = x + sum(
            attention(y, shard, f"{at}attention.", width, groups, turns) for shard in shards
        )
        y = normed(x, shards[0][f"{at}ffn_norm.weight"], eps)
        x = x + sum(feed_forward(y, shard, f"{at}feed_forward.") for shard in shards)
    x = normed(x, shards[0]["norm.weight"], eps)
    return torch.cat([x @ shard["output.weight"].T for shard in shards], dim=-1)


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def rotations(length: int, width: int, theta: float) -> Tensor:
    """Complex [length, 1, width / 2]."""
    frequency = theta ** (-torch.arange(0, width, 2).double() / width)
    angle = torch.outer(torch.arange(length).double(), frequency)
    return torch.polar(torch.ones_like(angle), angle).unsqueeze(1).to(torch.complex64)


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """x [length, heads, width] with its adjacent pairs turned."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2)


def attention(x: Tensor, shard: Shard, at: str, width: int, groups: int, turns: Tensor) -> Tensor:
    """This rank's contribution [length, dim]."""
    query, key, value = (
        (x @ shard[f"{at}{name}.weight"].T).reshape(len(x), -1, width)
        for name in ("wq", "wk", "wv")
    )
    query, key = turned(query, turns), turned(key, turns).repeat_interleave(groups, dim=1)
    scores = torch.einsum("qhd,khd->hqk", query, key) / width**0.5
    future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    mixed = torch.einsum("hqk,khd->qhd", weights, value.repeat_interleave(groups, dim=1))
    return mixed.flatten(1) @ shard[f"{at}wo.weight"].T


def feed_forward(x: Tensor, shard: Shard, at: str) -> Tensor:
    """This rank's contribution [length, dim]."""
    gate = torch.nn.functional.silu(x @ shard[f"{at}w1.weight"].T)
    return (gate * (x @ shard[f"{at}w3.weight"].T)) @ shard[f"{at}w2.weight"].T

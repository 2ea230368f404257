"""Writes a model as Meta delivers one: two model-parallel shards, params.json, MD5 lists."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor

from tools.demo.reference import COLUMNS, REPLICATED, Llama, rope_freqs

SHARDS = 2


def shard(name: str, tensor: Tensor, rank: int) -> Tensor:
    """The contiguous slice of a whole tensor that belongs to one rank."""
    if name.endswith(REPLICATED):
        return tensor.clone()
    dim = 1 if name.endswith(COLUMNS) else 0
    return tensor.chunk(SHARDS, dim=dim)[rank].clone(memory_format=torch.contiguous_format)


def export_model(model: Llama, folder: Path) -> None:
    """Fill `folder` with consolidated.NN.pth (bfloat16), params.json and checklist.chk."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {**model.state_dict(), "rope.freqs": rope_freqs(model.shape)}
    whole = {name: tensor.detach().bfloat16() for name, tensor in whole.items()}
    names = [f"consolidated.{rank:02d}.pth" for rank in range(SHARDS)]
    for rank, name in enumerate(names):
        torch.save({key: shard(key, value, rank) for key, value in whole.items()}, folder / name)
    write_params(model, folder / "params.json")
    write_checklist(folder / "checklist.chk", [*names, "params.json"])


def write_params(model: Llama, path: Path) -> None:
    """params.json in Meta's words: `vocab_size` is -1 there, the embedding tells the real one."""
    shape = model.shape
    params = {
        "dim": shape.dim,
        "multiple_of": shape.multiple_of,
        "n_heads": shape.n_heads,
        "n_kv_heads": shape.n_kv_heads,
        "n_layers": shape.n_layers,
        "norm_eps": shape.norm_eps,
        "vocab_size": -1,
    }
    path.write_text(json.dumps(params) + "\n", encoding="utf-8", newline="\n")


def write_checklist(path: Path, names: list[str]) -> None:
    """The lines that `md5sum NAMES` prints in the folder of `path`."""
    lines = []
    for name in names:
        digest = hashlib.md5((path.parent / name).read_bytes(), usedforsecurity=False)
        lines.append(f"{digest.hexdigest()}  {name}\n")
    path.write_text("".join(lines), encoding="utf-8", newline="\n")

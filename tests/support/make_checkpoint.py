"""Random small models in Meta's layout: any shards, grouped queries, odd widths, any dtype.

Written with torch and SentencePiece themselves, so that the product's readers and writers meet
files that they did not make. The tokenizer is trained once per process.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

COLUMN_SLICES = ("tok_embeddings.weight", "attention.wo.weight", "feed_forward.w2.weight")
WHOLE = ("norm.weight", "rope.freqs")


@dataclass(frozen=True)
class Recipe:
    """What the model should be; sizes are counts of elements."""

    dim: int = 64
    n_layers: int = 2
    n_heads: int = 4
    n_kv_heads: int = 4
    ffn_dim: int = 176
    vocab_size: int = 288
    shards: int = 1
    dtype: torch.dtype = torch.bfloat16
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    seed: int = 0
    scale: float = 0.08  # standard deviation of the weights

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def params(self) -> dict[str, Any]:
        """params.json; ``multiple_of`` is the width itself, so that Meta's formula gives it."""
        params: dict[str, Any] = {
            "dim": self.dim,
            "multiple_of": self.ffn_dim,
            "n_heads": self.n_heads,
            "n_layers": self.n_layers,
            "norm_eps": self.norm_eps,
            "vocab_size": -1,
        }
        if self.n_kv_heads != self.n_heads:
            params["n_kv_heads"] = self.n_kv_heads
        if self.rope_theta != 10000.0:
            params["rope_theta"] = self.rope_theta
        return params


TINY = Recipe()
GROUPED = replace(TINY, n_heads=8, n_kv_heads=2, ffn_dim=188, shards=2)


def weights(recipe: Recipe) -> dict[str, Tensor]:
    """Every whole tensor under Meta's names, ``rope.freqs`` included."""
    generator = torch.Generator().manual_seed(recipe.seed)

    def matrix(rows: int, columns: int) -> Tensor:
        values = torch.randn(rows, columns, generator=generator) * recipe.scale
        return values.to(recipe.dtype)

    def norm() -> Tensor:
        return (1 + 0.1 * torch.randn(recipe.dim, generator=generator)).to(recipe.dtype)

    kv_dim = recipe.n_kv_heads * recipe.head_dim
    found = {"tok_embeddings.weight": matrix(recipe.vocab_size, recipe.dim), "norm.weight": norm()}
    found["output.weight"] = matrix(recipe.vocab_size, recipe.dim)
    for layer in range(recipe.n_layers):
        start = f"layers.{layer}."
        found |= {
            f"{start}attention.wq.weight": matrix(recipe.dim, recipe.dim),
            f"{start}attention.wk.weight": matrix(kv_dim, recipe.dim),
            f"{start}attention.wv.weight": matrix(kv_dim, recipe.dim),
            f"{start}attention.wo.weight": matrix(recipe.dim, recipe.dim),
            f"{start}feed_forward.w1.weight": matrix(recipe.ffn_dim, recipe.dim),
            f"{start}feed_forward.w2.weight": matrix(recipe.dim, recipe.ffn_dim),
            f"{start}feed_forward.w3.weight": matrix(recipe.ffn_dim, recipe.dim),
            f"{start}attention_norm.weight": norm(),
            f"{start}ffn_norm.weight": norm(),
        }
    steps = torch.arange(0, recipe.head_dim, 2).float() / recipe.head_dim
    return found | {"rope.freqs": (1.0 / recipe.rope_theta**steps).to(recipe.dtype)}


def shard(name: str, tensor: Tensor, rank: int, shards: int) -> Tensor:
    """The part of a whole tensor that model-parallel rank ``rank`` holds."""
    if name.endswith(WHOLE):
        return tensor.clone()
    axis = 1 if name.endswith(COLUMN_SLICES) else 0
    return tensor.chunk(shards, dim=axis)[rank].clone(memory_format=torch.contiguous_format)


def merged(folder: Path) -> dict[str, Tensor]:
    """The whole tensors of a folder in Meta's layout, read by torch."""
    paths = sorted(folder.glob("consolidated.*.pth"))
    parts = [torch.load(path, map_location="cpu", weights_only=True) for path in paths]
    return {name: _merge(name, [part[name] for part in parts]) for name in parts[0]}


def _merge(name: str, parts: list[Tensor]) -> Tensor:
    if name.endswith(WHOLE):
        return parts[0]
    return torch.cat(parts, dim=1 if name.endswith(COLUMN_SLICES) else 0)


def make_checkpoint(
    folder: Path, recipe: Recipe = TINY, *, tensors: dict[str, Tensor] | None = None
) -> Path:
    """Fill ``folder`` as Meta delivers a model, tokenizer and licence inside; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = tensors if tensors is not None else weights(recipe)
    names = [f"consolidated.{rank:02d}.pth" for rank in range(recipe.shards)]
    for rank, name in enumerate(names):
        content = {key: shard(key, value, rank, recipe.shards) for key, value in whole.items()}
        torch.save(content, folder / name)
    (folder / "params.json").write_text(json.dumps(recipe.params))
    write_checklist(folder, [*names, "params.json"])
    if recipe.vocab_size >= 288:
        (folder / "tokenizer.model").write_bytes(tokenizer())
    (folder / "LICENSE").write_text("Licence of a model made for tests.\n")
    (folder / "USE_POLICY.md").write_text("Use it in tests.\n")
    (folder / "MODEL_CARD.md").write_text("# A random model\n\nMade for tests.\n")
    return folder


def write_checklist(folder: Path, names: list[str]) -> None:
    """``checklist.chk`` over the named files, as md5sum prints it."""
    lines = [f"{hashlib.md5((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "checklist.chk").write_text("".join(lines))


@functools.cache
def tokenizer() -> bytes:
    """A SentencePiece BPE model of 288 pieces with the settings of Llama 2's."""
    import sentencepiece

    text = "the cat sat on the mat and ate 12 fish; a dog ran far, did it not? yes it did. "
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text] * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=288,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    return model.getvalue()

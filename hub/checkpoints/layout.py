"""Names, shapes, shard axes and row order of Llama's tensors in every format.

Canonical terms are Meta's: its names and its row order. A tensor is cut over Meta's
model-parallel shards along one axis (fairscale's layers): ``ColumnParallelLinear`` along dim 0,
``RowParallelLinear`` and Llama 2's ``ParallelEmbedding`` along dim 1, norms replicated.

Row order of wq and wk: Meta rotates adjacent pairs (2j, 2j+1) of a head, Hugging Face rotates
(j, j + head_dim/2). Hence HF row ``h*D + a*D/2 + b`` is Meta row ``h*D + 2*b + a`` for head width
D, a in {0, 1}: a permutation inside each head, no arithmetic, exactly reversible. GGUF keeps
Meta's order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llama_hub.errors import IntegrityError
from llama_hub.hub.architecture import Architecture

ROWS = 0  # cut along dim 0
COLUMNS = 1  # cut along dim 1
REPLICATED = -1  # a whole copy in every shard

MAX_TENSORS = 1 << 16  # of all files of a folder; Llama 2 70B in 8 shards has 5,784

ROPE_FREQS = "rope.freqs"  # derived from rope_theta: never converted, written again for Meta

_TOP = {  # Meta → (Hugging Face, GGUF, axis)
    "tok_embeddings": ("model.embed_tokens", "token_embd", COLUMNS),
    "norm": ("model.norm", "output_norm", REPLICATED),
    "output": ("lm_head", "output", ROWS),
}
_LAYER = {
    "attention_norm": ("input_layernorm", "attn_norm", REPLICATED),
    "attention.wq": ("self_attn.q_proj", "attn_q", ROWS),
    "attention.wk": ("self_attn.k_proj", "attn_k", ROWS),
    "attention.wv": ("self_attn.v_proj", "attn_v", ROWS),
    "attention.wo": ("self_attn.o_proj", "attn_output", COLUMNS),
    "ffn_norm": ("post_attention_layernorm", "ffn_norm", REPLICATED),
    "feed_forward.w1": ("mlp.gate_proj", "ffn_gate", ROWS),
    "feed_forward.w2": ("mlp.down_proj", "ffn_down", COLUMNS),
    "feed_forward.w3": ("mlp.up_proj", "ffn_up", ROWS),
}
_OF_HF = {names[0]: name for name, names in (_TOP | _LAYER).items()}
_HF_LAYER = re.compile(r"model\.layers\.(0|[1-9]\d*)\.(.+)\.weight")
_META_LAYER = re.compile(r"layers\.(0|[1-9]\d*)\.(.+)\.weight")
_HF_IGNORED = re.compile(r".*\.rotary_emb\.inv_freq")
_META_IGNORED = re.compile(r"(.*\.)?rope\.freqs")


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the model, whole."""

    name: str  # canonical, Meta's
    shape: tuple[int, ...]
    axis: int  # ROWS, COLUMNS or REPLICATED
    rotary_rows: bool = False  # wq and wk: rows in pairs of RoPE

    @property
    def rows(self) -> int:
        """Rows of the matrix; a vector is one row."""
        return self.shape[0] if len(self.shape) == 2 else 1

    @property
    def columns(self) -> int:
        """Elements of a row."""
        return self.shape[-1]


def specs(architecture: Architecture) -> list[TensorSpec]:
    """Every tensor, in the order in which a forward pass meets them."""
    return list(_specs(architecture))


def _specs(architecture: Architecture) -> Iterator[TensorSpec]:
    dim, vocab = architecture.dim, architecture.vocab_size
    shapes: dict[str, tuple[int, ...]] = {
        "attention_norm": (dim,),
        "attention.wq": (dim, dim),
        "attention.wk": (architecture.kv_dim, dim),
        "attention.wv": (architecture.kv_dim, dim),
        "attention.wo": (dim, dim),
        "ffn_norm": (dim,),
        "feed_forward.w1": (architecture.ffn_dim, dim),
        "feed_forward.w2": (dim, architecture.ffn_dim),
        "feed_forward.w3": (architecture.ffn_dim, dim),
    }
    yield TensorSpec("tok_embeddings.weight", (vocab, dim), COLUMNS)
    for layer in range(architecture.n_layers):
        for part, shape in shapes.items():
            name = f"layers.{layer}.{part}.weight"
            rotary = part in ("attention.wq", "attention.wk")
            yield TensorSpec(name, shape, _LAYER[part][2], rotary)
    yield TensorSpec("norm.weight", (dim,), REPLICATED)
    yield TensorSpec("output.weight", (vocab, dim), ROWS)


def shard_shape(spec: TensorSpec, shards: int) -> tuple[int, ...]:
    """Shape of one model-parallel shard's part of the tensor."""
    if spec.axis == REPLICATED:
        return spec.shape
    rows, columns = spec.shape
    return (rows // shards, columns) if spec.axis == ROWS else (rows, columns // shards)


def check_shards(architecture: Architecture, shards: int) -> None:
    """``IntegrityError`` unless the model can be cut into so many model-parallel shards."""
    for what, size in (
        ("key/value heads", architecture.n_kv_heads),
        ("feed-forward width", architecture.ffn_dim),
        ("vocabulary", architecture.vocab_size),
        ("model width", architecture.dim),
    ):
        if shards < 1 or size % shards:
            raise IntegrityError(
                f"the model cannot be cut into {shards} shards: its {what} is {size}"
            )


def check_count(path: Path, count: int) -> None:
    """``IntegrityError`` once the files of a folder hold more tensors than any model has."""
    if count > MAX_TENSORS:
        raise IntegrityError(f"up to {path} the folder holds {count} tensors, which no model has")


def hf_name(name: str) -> str:
    """Hugging Face's name of the canonical ``name``."""
    return _translated(name, 0, "model.layers.{}.{}.weight")


def canonical_of_hf(name: str) -> str:
    """The canonical name of Hugging Face's ``name``; ``KeyError`` if it is no weight of Llama."""
    layer = _HF_LAYER.fullmatch(name)
    if layer:
        return f"layers.{layer[1]}.{_OF_HF[layer[2]]}.weight"
    return f"{_OF_HF[name.removesuffix('.weight')]}.weight"


def gguf_name(name: str) -> str:
    """GGUF's name of the canonical ``name``."""
    return _translated(name, 1, "blk.{}.{}.weight")


def _translated(name: str, column: int, pattern: str) -> str:
    layer = _META_LAYER.fullmatch(name)
    if layer:
        return pattern.format(layer[1], _LAYER[layer[2]][column])
    return f"{_TOP[name.removesuffix('.weight')][column]}.weight"


def ignored_in_meta(name: str) -> bool:
    """Whether Meta's file may hold a tensor of that name which is no weight."""
    return _META_IGNORED.fullmatch(name) is not None


def ignored_in_hf(name: str) -> bool:
    """Whether a Hugging Face file may hold a tensor of that name which is no weight."""
    return _HF_IGNORED.fullmatch(name) is not None

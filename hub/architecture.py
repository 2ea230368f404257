"""The dimensions of a Llama model, and how ``params.json`` and ``config.json`` state them.

Conversion, memory sizing and the inference core use the same numbers; ``hub.model_config`` reads
them. Sources of the formulas: facebookresearch/llama
``llama/model.py`` (feed-forward width) and the shapes of the tensors themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from llama_hub.errors import IntegrityError, UsageError
from llama_hub.hub.rope_scaling import RopeScaling

# Far beyond any model; a damaged header that says billions would have us list as many tensors.
MAX_LAYERS = 4096
MAX_WIDTH = 1 << 24  # of anything: columns, heads, tokens in the vocabulary
MAX_HEAD = 1024  # columns of one head: rows of wq and wk are reordered a head at a time
MAX_CONTEXT = 1 << 30  # tokens

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class ImpossibleError(IntegrityError, ValueError):
    """Sizes that no model has; a ``ValueError`` so that pydantic says where they stand."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of one model; all are counts of elements unless said otherwise."""

    dim: int  # width of the residual stream
    n_layers: int
    n_heads: int  # query heads
    n_kv_heads: int  # key and value heads; fewer than n_heads under grouped-query attention
    ffn_dim: int  # width between w1/w3 and w2
    vocab_size: int
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    context: int = 4096  # tokens
    rope_scaling: RopeScaling | None = None

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        widths = (self.dim, self.n_heads, self.n_kv_heads, self.ffn_dim, self.vocab_size)
        if min(*widths, self.n_layers, self.context) < 1:
            raise ImpossibleError(f"a dimension of the model is not positive: {self}")
        if max(widths) > MAX_WIDTH or self.n_layers > MAX_LAYERS or self.context > MAX_CONTEXT:
            raise ImpossibleError(f"these dimensions are no model's, the file is damaged: {self}")
        if self.head_dim > MAX_HEAD:
            raise ImpossibleError(f"heads of {self.head_dim} columns are no model's")
        if not 0 < self.norm_eps <= 1 or not 0 < self.rope_theta < math.inf:
            raise ImpossibleError(
                f"norm_eps {self.norm_eps} or rope_theta {self.rope_theta} is no model's"
            )
        if self.dim % self.n_heads or self.n_heads % self.n_kv_heads or self.head_dim % 2:
            raise ImpossibleError(
                f"dim {self.dim}, {self.n_heads} heads and {self.n_kv_heads} key/value heads "
                "do not divide one another"
            )

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.n_heads

    @property
    def kv_dim(self) -> int:
        """Rows of ``wk`` and of ``wv``."""
        return self.n_kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Number of weights, embeddings and norms included."""
        attention = 2 * self.dim * self.dim + 2 * self.dim * self.kv_dim
        layer = attention + 3 * self.dim * self.ffn_dim + 2 * self.dim
        return self.n_layers * layer + 2 * self.vocab_size * self.dim + self.dim

    def function(self) -> dict[str, Any]:
        """What beside the tensors decides the logits, for the record of a conversion."""
        return {
            "activation": "silu",
            "biases": False,
            "norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling and self.rope_scaling.to_config(),
            "vocab_size": self.vocab_size,
        }

    def kv_bytes_per_token(self, bytes_per_value: int = 2) -> int:
        """Bytes that the KV cache needs for each token of a sequence."""
        return 2 * self.n_layers * self.kv_dim * bytes_per_value


def ffn_width(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Feed-forward width as Meta's ``llama/model.py`` computes it."""
    hidden = int(2 * (4 * dim) / 3)
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return multiple_of * ((hidden + multiple_of - 1) // multiple_of)


def to_config(architecture: Architecture, dtype: str) -> dict[str, Any]:
    """A Hugging Face ``config.json`` with the keys that old and new transformers both read.

    ``dtype``: ``bfloat16``, ``float16`` or ``float32``.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": architecture.dim,
        "initializer_range": 0.02,
        "intermediate_size": architecture.ffn_dim,
        "max_position_embeddings": architecture.context,
        "model_type": "llama",
        "num_attention_heads": architecture.n_heads,
        "num_hidden_layers": architecture.n_layers,
        "num_key_value_heads": architecture.n_kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": architecture.norm_eps,
        "rope_scaling": architecture.rope_scaling and architecture.rope_scaling.to_config(),
        "rope_theta": architecture.rope_theta,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": architecture.vocab_size,
    }


def to_params(architecture: Architecture) -> dict[str, Any]:
    """Meta's ``params.json``; ``multiple_of`` makes the formula give the width of the tensors.

    ``UsageError`` for a model that it cannot describe.
    """
    if architecture.rope_scaling is not None:
        raise UsageError(
            f"Meta's params.json has no key for RoPE scaling, and this model has "
            f"{architecture.rope_scaling.kind} scaling by {architecture.rope_scaling.factor:g}",
            hint="convert it --to hf or --to gguf",
        )
    multiple_of, multiplier = _ffn_parameters(architecture)
    params: dict[str, Any] = {
        "dim": architecture.dim,
        "multiple_of": multiple_of,
        "n_heads": architecture.n_heads,
        "n_layers": architecture.n_layers,
        "norm_eps": architecture.norm_eps,
        "vocab_size": -1,
    }
    if multiplier is not None:
        params["ffn_dim_multiplier"] = multiplier
    if architecture.n_kv_heads != architecture.n_heads:
        params["n_kv_heads"] = architecture.n_kv_heads
    if architecture.rope_theta != 10000.0:
        params["rope_theta"] = architecture.rope_theta
    return params


def _ffn_parameters(architecture: Architecture) -> tuple[int, float | None]:
    """``multiple_of`` and ``ffn_dim_multiplier`` that give the width; Meta's own pairs first."""
    dim, width = architecture.dim, architecture.ffn_dim
    for known in ((256, None), (4096, 1.3), (256, 1.3), (width, None)):
        if ffn_width(dim, *known) == width:
            return known
    # Wider steps than two thirds of 4 x dim: shrink first, so that rounding up gives one step.
    return width, width / (2 * int(2 * (4 * dim) / 3))

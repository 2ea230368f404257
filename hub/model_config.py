"""The configuration of a model folder: ``config.json`` (Hugging Face), ``params.json`` (Meta).

Each key that llama-hub models is a field here, with its type and bounds; ``Config`` and ``Params``
are the only places that read these files. ``config_keys`` says which other keys are harmless; a key
that is neither is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub import architecture as sizes
from llama_hub.hub import rope_scaling
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.config_keys import check_config, check_family, check_params
from llama_hub.schema import conform
from llama_hub.strict import FileKind, parse_json, read_json

CONFIG = FileKind("the model's configuration", hint="download config.json again")
PARAMS = FileKind("the model's parameters", hint="download params.json again")

Width = Annotated[int, Ge(1), Le(sizes.MAX_WIDTH)]
Layers = Annotated[int, Ge(1), Le(sizes.MAX_LAYERS)]
Context = Annotated[int, Ge(1), Le(sizes.MAX_CONTEXT)]
Epsilon = Annotated[float, Gt(0), Le(1)]
Theta = Annotated[float, Ge(1), Le(1e15)]
TokenId = Annotated[int, Ge(0), Le(sizes.MAX_WIDTH)]


@dataclass(frozen=True, kw_only=True)
class WeightGroup:
    """How a group of layers is quantised, in the words of compressed-tensors."""

    num_bits: int | None = None
    symmetric: bool = True
    actorder: str | bool | None = None
    strategy: str | None = None
    group_size: Annotated[int, Ge(-1), Le(sizes.MAX_WIDTH)] | None = None


@dataclass(frozen=True, kw_only=True)
class ConfigGroup:
    """One entry of ``config_groups``."""

    weights: WeightGroup | None = None
    input_activations: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """``quantization_config`` of any method; the groups are those of compressed-tensors."""

    quant_method: str | None = None
    format: str | None = None
    config_groups: Mapping[str, ConfigGroup] | None = None


@dataclass(frozen=True, kw_only=True)
class Config:
    """``config.json`` of a Llama model, old keys or new."""

    model_type: Literal["llama"]
    hidden_size: Width
    num_hidden_layers: Layers
    num_attention_heads: Width
    intermediate_size: Width
    vocab_size: Width
    num_key_value_heads: Width | None = None
    rms_norm_eps: Epsilon = 1e-6  # transformers' defaults, where the file is silent
    max_position_embeddings: Context = 2048
    rope_theta: Theta | None = None
    rope_parameters: Mapping[str, Any] | None = None  # newer transformers: with rope_theta
    rope_scaling: Mapping[str, Any] | None = None
    tie_word_embeddings: bool | None = None
    dtype: str | None = None
    torch_dtype: str | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    quantization_config: QuantizationConfig | None = None

    @property
    def weight_type(self) -> str:
        """The type of the weights: ``bfloat16``, ``float16``, ``float32`` or what else it says."""
        return (self.dtype or self.torch_dtype or "bfloat16").removeprefix("torch.")

    @property
    def architecture(self) -> Architecture:
        """The sizes; ``IntegrityError`` if they cannot be or ask for what is not modelled."""
        rope = self.rope_parameters or self.rope_scaling or {}
        return Architecture(
            dim=self.hidden_size,
            n_layers=self.num_hidden_layers,
            n_heads=self.num_attention_heads,
            n_kv_heads=self.num_key_value_heads or self.num_attention_heads,
            ffn_dim=self.intermediate_size,
            vocab_size=self.vocab_size,
            norm_eps=self.rms_norm_eps,
            rope_theta=self.rope_theta or _theta(rope) or 10000.0,
            context=self.max_position_embeddings,
            rope_scaling=rope_scaling.parse(rope, self.max_position_embeddings),
        )


def _theta(rope: Mapping[str, Any]) -> float | None:
    """``rope_theta`` within ``rope_parameters``."""
    theta = rope.get("rope_theta")
    if theta is None:
        return None
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not 1 <= theta <= 1e15:
        raise IntegrityError(f"config.json: rope_parameters.rope_theta is {theta!r}")
    return float(theta)


@dataclass(frozen=True, kw_only=True)
class Params:
    """Meta's ``params.json``."""

    dim: Width
    n_layers: Layers
    n_heads: Width
    n_kv_heads: Width | None = None
    norm_eps: Epsilon = 1e-5
    rope_theta: Theta | None = None
    vocab_size: Annotated[int, Ge(-1), Le(sizes.MAX_WIDTH)] = -1
    max_seq_len: Context | None = None
    multiple_of: Width | None = None
    ffn_dim_multiplier: Annotated[float, Gt(0), Le(1e3)] | None = None

    def architecture(self, *, vocab_size: int, ffn_dim: int) -> Architecture:
        """The sizes, with the two that only the tensors tell.

        ``vocab_size``: rows of ``tok_embeddings.weight`` (``params.json`` says -1); ``ffn_dim``:
        rows of ``w1`` over all shards. ``IntegrityError`` if ``params.json`` states other sizes.
        """
        if self.vocab_size not in (-1, vocab_size):
            raise IntegrityError(
                f"params.json says vocab_size {self.vocab_size}, the embedding has {vocab_size} "
                "rows"
            )
        return Architecture(
            dim=self.dim,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads or self.n_heads,
            ffn_dim=ffn_dim,
            vocab_size=vocab_size,
            norm_eps=self.norm_eps,
            rope_theta=self.rope_theta or 10000.0,
            context=self.context,
        )

    @property
    def context(self) -> int:
        """Trained context in tokens, which ``params.json`` states only indirectly.

        A written ``max_seq_len`` is taken; a ``rope_theta`` of a million means Code Llama
        (16384); otherwise Llama 2's 4096. Llama 1 cannot be told apart here (see the catalogue).
        """
        if self.max_seq_len is not None:
            return self.max_seq_len
        return 16384 if (self.rope_theta or 10000.0) >= 1e6 else 4096


def read_config(folder: Path) -> Config:
    """The folder's ``config.json``; ``NotFoundError`` without one."""
    path = folder / "config.json"
    if not path.exists():
        raise NotFoundError(
            f"{folder} has no config.json, so it is no Hugging Face folder",
            hint=f"llama-hub convert {folder} --to hf",
        )
    return _config(read_json(path, CONFIG), path)


def parse_config(data: bytes, where: str) -> Config:
    """``config.json`` from its bytes, which ``where`` sent."""
    return _config(parse_json(data, where, CONFIG), where)


def _config(document: Any, where: object) -> Config:
    document = _object(document, where, CONFIG)
    check_family(document, where, CONFIG)
    check_config(document, frozenset(Config.__dataclass_fields__), where, CONFIG)
    return conform(Config, document, where, CONFIG)


def read_params(folder: Path) -> Params:
    """The folder's ``params.json``; ``NotFoundError`` without one."""
    path = folder / "params.json"
    if not path.exists():
        raise NotFoundError(
            f"{folder} has no params.json", hint="it belongs beside the consolidated.NN.pth files"
        )
    return _params(read_json(path, PARAMS), path)


def parse_params(data: bytes, where: str) -> Params:
    """``params.json`` from its bytes, which ``where`` sent."""
    return _params(parse_json(data, where, PARAMS), where)


def _params(document: Any, where: object) -> Params:
    document = _object(document, where, PARAMS)
    check_params(document, frozenset(Params.__dataclass_fields__), where, PARAMS)
    return conform(Params, document, where, PARAMS)


def _object(document: Any, path: object, kind: FileKind) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise kind.invalid(path, f"is a {type(document).__name__}, not an object with keys")
    return document

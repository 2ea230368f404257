"""RoPE scaling: how a fine-tune stretched the positions that its base was trained for.

Four kinds are modelled, by the names and keys of transformers' ``rope_parameters`` (older:
``rope_scaling``); whatever else a file asks for is refused by key and value, since it would change
every answer. ``llama_hub.inference.rope`` computes the angles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from llama_hub.errors import IntegrityError

Kind = Literal["linear", "dynamic", "yarn", "llama3"]

# Key of each kind → its default; ``None`` in place of one: it must be given.
_KEYS: dict[str, dict[str, Any]] = {
    "linear": {"factor": None},
    "dynamic": {"factor": None},
    "yarn": {
        "factor": None,
        "original_max_position_embeddings": 0,
        "attention_factor": 0.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 0.0,
        "mscale_all_dim": 0.0,
        "truncate": True,
    },
    "llama3": {
        "factor": None,
        "low_freq_factor": None,
        "high_freq_factor": None,
        "original_max_position_embeddings": 0,
    },
}
_OLD_NAMES = {"ntk": "dynamic"}
# Keys that say nothing of the function here; ``rope_theta`` is read by ``model_config``.
_HARMLESS = {"rope_type", "type", "rope_theta", "finetuned"}


@dataclass(frozen=True)
class RopeScaling:
    """One way to stretch positions; a kind uses the fields that its formula has."""

    kind: Kind
    factor: float
    original_context: int  # tokens of the model before it was stretched
    attention_factor: float = 1.0  # multiplies cosine and sine (YaRN)
    beta_fast: float = 32.0  # rotations above which a dimension is left alone (YaRN)
    beta_slow: float = 1.0  # rotations below which a dimension is interpolated (YaRN)
    truncate: bool = True  # whether YaRN's two bounds are whole dimensions
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3

    def __post_init__(self) -> None:
        numbers = (
            self.factor, self.attention_factor, self.beta_fast, self.beta_slow,
            self.low_freq_factor, self.high_freq_factor,
        )  # fmt: skip
        if not all(0 < number < 1e6 for number in numbers) or self.factor < 1:
            raise IntegrityError(f"this RoPE scaling is no model's: {self}")
        if self.kind == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise IntegrityError(f"low_freq_factor is not below high_freq_factor: {self}")
        if not 0 < self.original_context <= 1 << 30:
            raise IntegrityError(f"the original context {self.original_context} is no model's")

    def to_config(self) -> dict[str, Any]:
        """``rope_scaling`` of ``config.json``, under the keys of old and new transformers."""
        document: dict[str, Any] = {"rope_type": self.kind, "type": self.kind}
        document["factor"] = self.factor
        if self.kind in ("yarn", "llama3"):
            document["original_max_position_embeddings"] = self.original_context
        if self.kind == "yarn":
            document |= {"attention_factor": self.attention_factor, "truncate": self.truncate}
            document |= {"beta_fast": self.beta_fast, "beta_slow": self.beta_slow}
        if self.kind == "llama3":
            document["low_freq_factor"] = self.low_freq_factor
            document["high_freq_factor"] = self.high_freq_factor
        return document


def parse(document: Mapping[str, Any], context: int) -> RopeScaling | None:
    """The scaling that ``rope_scaling`` or ``rope_parameters`` asks for; ``None`` for none.

    ``context``: ``max_position_embeddings``. ``IntegrityError`` names a key or value that is not
    modelled.
    """
    for key in ("rope_type", "type"):
        if not isinstance(document.get(key), str | None):
            raise _refused(key, document[key])
    named = document.get("rope_type") or document.get("type")
    kind = _OLD_NAMES.get(str(named), named)
    if kind in (None, "default"):
        _refuse_others(document, {}, "default")
        return None
    if kind not in _KEYS:
        raise _refused("rope_type", named)
    keys = _KEYS[str(kind)]
    _refuse_others(document, keys, str(kind))
    values = {key: _number(document, key, default) for key, default in keys.items()}
    if kind == "linear" and values["factor"] == 1:
        return None
    return _scaling(cast(Kind, kind), values, context)


def _refuse_others(document: Mapping[str, Any], known: Mapping[str, Any], kind: str) -> None:
    for key, value in document.items():
        if key in known or key in _HARMLESS or value in (None, False):
            continue
        if key == "partial_rotary_factor" and value == 1:
            continue
        # What every kind may state without meaning it: transformers writes all it knows.
        if key == "original_max_position_embeddings" or (key == "factor" and value == 1):
            continue
        raise _refused(f"{key} (of RoPE type {kind})", value)


def _refused(key: str, value: Any) -> IntegrityError:
    return IntegrityError(
        f"config.json asks for RoPE scaling that is not modelled: {key} = {str(value)[:100]!r}",
        hint="linear, dynamic, yarn and llama3 are; serve this model with --engine vllm",
    )


def _number(document: Mapping[str, Any], key: str, default: Any) -> Any:
    value = document.get(key)
    if value is None:
        if default is None:
            raise IntegrityError(f"config.json's RoPE scaling lacks {key}")
        return default
    if isinstance(default, bool) and isinstance(value, bool):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise IntegrityError(f"config.json's RoPE scaling: {key} is no number: {value!r}")
    return value


def _scaling(kind: Kind, values: Mapping[str, Any], context: int) -> RopeScaling:
    original = int(values.get("original_max_position_embeddings") or context)
    common: dict[str, Any] = {"factor": float(values["factor"]), "original_context": original}
    if kind == "yarn":
        common |= {key: float(values[key]) for key in ("beta_fast", "beta_slow")}
        common |= {"truncate": bool(values["truncate"])}
        common |= {"attention_factor": _attention_factor(values)}
    if kind == "llama3":
        common |= {key: float(values[key]) for key in ("low_freq_factor", "high_freq_factor")}
    return RopeScaling(kind, **common)


def _attention_factor(values: Mapping[str, Any]) -> float:
    """YaRN's temperature (Peng et al. 2023, equation 22), unless the file states it."""
    if values["attention_factor"]:
        return float(values["attention_factor"])
    factor = float(values["factor"])
    if values["mscale"] and values["mscale_all_dim"]:
        return mscale(factor, values["mscale"]) / mscale(factor, values["mscale_all_dim"])
    return mscale(factor)


def mscale(factor: float, weight: float = 1.0) -> float:
    """``0.1 weight ln(factor) + 1``; 1 where nothing is stretched."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

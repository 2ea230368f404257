"""Keys of a GGUF file that change the function, both ways: RoPE scaling, and what is refused.

Sources: ggml's ``docs/gguf.md``, the names in gguf-py, and llama.cpp's ``rope_yarn``. Keys of the
prefix ``llama.`` describe what is computed: each is modelled, fixed to Llama 2's value, or refused.
Other prefixes (``general``, ``tokenizer``, ``split``, a quantiser's name) do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llama_hub.errors import IntegrityError, UsageError
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.rope_scaling import RopeScaling, mscale

SCALING = "llama.rope.scaling."
FACTORS = "rope_freqs.weight"  # tensor: what each pair's frequency is divided by, [head_dim / 2]
_MODELLED = {
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.rope.freq_base",
    "llama.rope.scale_linear",
    *(f"{SCALING}{key}" for key in ("type", "factor", "original_context_length", "attn_factor")),
    *(f"{SCALING}{key}" for key in ("yarn_beta_fast", "yarn_beta_slow", "yarn_attn_factor")),
}
_HARMLESS = {f"{SCALING}finetuned", "llama.tensor_data_layout"}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "llama.expert_count": (0,),
    "llama.expert_used_count": (0,),
    "llama.use_parallel_residual": (False,),
    "llama.attention.causal": (True,),
    "llama.attention.clamp_kqv": (0.0,),
    "llama.attention.max_alibi_bias": (0.0,),
    "llama.attention.sliding_window": (0,),
    "llama.logit_scale": (0.0, 1.0),
    "llama.embedding_scale": (0.0, 1.0),
    "llama.residual_scale": (0.0, 1.0),
    "llama.attention.scale": (0.0,),
    f"{SCALING}yarn_ext_factor": (-1.0, 1.0),
    f"{SCALING}yarn_log_multiplier": (0.0, 0.1),
}
# llama3's factors as they are published: (factor, low, high, original context).
_LLAMA3 = ((8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192))


def check(values: Mapping[str, Any], architecture: Architecture) -> None:
    """``IntegrityError`` that names the first key that asks for what is not modelled."""
    sizes = {
        "llama.rope.dimension_count": architecture.head_dim,
        "llama.attention.key_length": architecture.head_dim,
        "llama.attention.value_length": architecture.head_dim,
        "llama.vocab_size": architecture.vocab_size,
    }
    for key, value in values.items():
        if not key.startswith("llama.") or key in _MODELLED or key in _HARMLESS:
            continue
        if key in sizes:
            right = value == sizes[key]
        else:
            right = any(value == known for known in _NEUTRAL.get(key, ()))
        if not right:
            raise _refused(key, value)


def _refused(key: str, value: Any) -> IntegrityError:
    return IntegrityError(
        f"the GGUF key {key} is {str(value)[:80]!r}: not modelled here, and it may change what "
        "the model computes",
        hint="llama.cpp runs this file; convert from the model's original folder instead",
    )


def rope_scaling(
    values: Mapping[str, Any], context: int, head_dim: int, factors: Sequence[float] | None
) -> RopeScaling | None:
    """What ``llama.rope.scaling.*`` and the tensor ``rope_freqs.weight`` ask for together."""
    stated = _stated(values, context)
    if factors is None or all(factor == 1 for factor in factors):
        return stated
    if stated is not None:
        raise _refused(FACTORS, f"given beside {SCALING}type = {stated.kind}")
    theta = _number({f"{SCALING}base": values.get("llama.rope.freq_base", 10000.0)}, "base", 0.0)
    for factor, low, high, original in _LLAMA3:
        known = RopeScaling("llama3", factor, original, low_freq_factor=low, high_freq_factor=high)
        expected = llama3_factors(known, head_dim, theta)
        near = zip(factors, expected, strict=False)
        if len(factors) == len(expected) and all(math.isclose(a, b, rel_tol=1e-4) for a, b in near):
            return known
    raise _refused(FACTORS, "factors that belong to no known scaling")


def _stated(values: Mapping[str, Any], context: int) -> RopeScaling | None:
    kind = values.get(f"{SCALING}type")
    linear = values.get("llama.rope.scale_linear", 0.0)  # before scaling had a type
    factor = _number(values, "factor", _number({f"{SCALING}old": linear}, "old", 0.0))
    if kind is None:
        kind = "none" if factor in (0.0, 1.0) else "linear"
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return None
    if kind not in ("linear", "yarn"):
        raise _refused(f"{SCALING}type", kind)
    original = int(_number(values, "original_context_length", 0)) or context
    if kind == "linear":
        return RopeScaling("linear", factor, original)
    weight = _number(values, "attn_factor", _number(values, "yarn_attn_factor", 1.0))
    return RopeScaling(
        "yarn",
        factor,
        original,
        attention_factor=_attention_factor(weight, factor),
        beta_fast=_number(values, "yarn_beta_fast", 32.0),
        beta_slow=_number(values, "yarn_beta_slow", 1.0),
    )


def _number(values: Mapping[str, Any], key: str, default: float) -> float:
    """``llama.rope.scaling.KEY`` as a finite number."""
    value = values.get(f"{SCALING}{key}", default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _refused(f"{SCALING}{key}", value)
    return float(value)


def _attention_factor(weight: float, factor: float) -> float:
    """YaRN's own factor times ``weight``, a float32: what it adds is rounded to what it can say."""
    product = weight * mscale(factor)
    return product if weight == 1 else float(f"{product:.7g}")


Pair = tuple[str, int, Any]  # key, value type, value


def pairs(
    scaling: RopeScaling | None, string: int, u32: int, f32: int
) -> list[tuple[str, int, Any]]:
    """The keys that state ``scaling``; value types as the writer numbers them.

    ``UsageError`` for what the format cannot say.
    """
    if scaling is None or scaling.kind == "llama3":  # the latter is a tensor
        return []
    if scaling.kind == "dynamic" or not scaling.truncate:
        raise UsageError(
            f"GGUF cannot state this RoPE scaling: {scaling.kind}"
            + ("" if scaling.truncate else " without truncation"),
            hint="keep the model in Hugging Face's layout",
        )
    stated: list[Pair] = [
        (f"{SCALING}type", string, scaling.kind),
        (f"{SCALING}factor", f32, scaling.factor),
        (f"{SCALING}original_context_length", u32, scaling.original_context),
    ]
    if scaling.kind == "yarn":
        weight = scaling.attention_factor / mscale(scaling.factor)
        stated.append((f"{SCALING}attn_factor", f32, weight))
        stated.append((f"{SCALING}yarn_beta_fast", f32, scaling.beta_fast))
        stated.append((f"{SCALING}yarn_beta_slow", f32, scaling.beta_slow))
    return stated


def llama3_factors(scaling: RopeScaling, head_dim: int, theta: float) -> list[float]:
    """What llama3's scaling divides each frequency by, as ``rope_freqs.weight`` holds it."""
    low = scaling.original_context / scaling.low_freq_factor
    high = scaling.original_context / scaling.high_freq_factor
    factors = []
    for pair in range(head_dim // 2):
        wavelength = 2 * math.pi * theta ** (2 * pair / head_dim)
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(scaling.factor)
        else:
            smooth = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
                scaling.high_freq_factor - scaling.low_freq_factor
            )
            factors.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return factors

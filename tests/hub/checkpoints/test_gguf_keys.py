"""GGUF keys that change the function: modelled, fixed to Llama 2's value, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from llama_hub.errors import IntegrityError
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.checkpoints import gguf_keys
from llama_hub.hub.rope_scaling import RopeScaling

MODEL = Architecture(64, 2, 4, 4, 176, 288)
SCALING = gguf_keys.SCALING


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.expert_count", 8),
        ("llama.rope.dimension_count", 8),
        ("llama.attention.key_length", 32),
        ("llama.vocab_size", 300),
        ("llama.attention.sliding_window", 4096),
        ("llama.logit_scale", 0.5),
        ("llama.some.new.key", 1),
        ("llama.rope.scaling.alpha", 2.0),
        ("llama.rope.scaling.yarn_ext_factor", 0.5),
        ("llama.attention.clamp_kqv", [1.0]),
    ],
)
def test_what_is_not_modelled_is_refused_with_key_and_value(key: str, value: Any) -> None:
    with pytest.raises(IntegrityError) as raised:
        gguf_keys.check({key: value}, MODEL)
    assert key in raised.value.message
    assert str(value) in raised.value.message


def test_what_describes_the_file_or_switches_nothing_on_is_read() -> None:
    gguf_keys.check(
        {
            "general.name": "x", "mradermacher.quantized_by": "y", "llama.expert_count": 0,
            "llama.rope.dimension_count": 16, "llama.tensor_data_layout": "Meta AI original pth",
            "llama.attention.key_length": 16, "tokenizer.ggml.pre": "default",
        },
        MODEL,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({"llama.rope.scale_linear": 1.0}, None),
        ({"llama.rope.scale_linear": 8.0}, RopeScaling("linear", 8.0, 4096)),
        ({SCALING + "type": "none", SCALING + "factor": 4.0}, None),
        ({SCALING + "factor": 4.0}, RopeScaling("linear", 4.0, 4096)),
        ({SCALING + "type": "linear", SCALING + "factor": 2.0}, RopeScaling("linear", 2.0, 4096)),
    ],
)
def test_linear_scaling_under_old_and_new_keys(
    values: dict[str, Any], expected: RopeScaling | None
) -> None:
    assert gguf_keys.rope_scaling(values, 4096, 128, None) == expected


@pytest.mark.parametrize(
    "values",
    [
        {SCALING + "type": "longrope", SCALING + "factor": 4.0},
        {SCALING + "type": 3},
        {SCALING + "type": "linear", SCALING + "factor": "4"},
        {SCALING + "type": "linear", SCALING + "factor": True},
        {SCALING + "type": "yarn", SCALING + "factor": float("nan")},
        {SCALING + "type": "yarn", SCALING + "factor": 4.0, SCALING + "yarn_beta_fast": [1]},
        {SCALING + "type": "linear", SCALING + "factor": -2.0},
        {
            SCALING + "type": "linear",
            SCALING + "factor": 4.0,
            SCALING + "original_context_length": -1,
        },
        {"llama.rope.scale_linear": "8"},
    ],
)
def test_scaling_that_cannot_be_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        gguf_keys.rope_scaling(values, 4096, 128, None)


def test_published_factors_are_recognised_and_others_refused() -> None:
    known = RopeScaling("llama3", 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0)
    factors = gguf_keys.llama3_factors(known, 128, 500000.0)
    values = {"llama.rope.freq_base": 500000.0}
    assert gguf_keys.rope_scaling(values, 131072, 128, factors) == known
    assert gguf_keys.rope_scaling(values, 4096, 128, [1.0] * 64) is None
    with pytest.raises(IntegrityError, match=r"rope_freqs\.weight"):
        gguf_keys.rope_scaling(values, 4096, 128, [2.0] * 64)
    with pytest.raises(IntegrityError, match=r"rope_freqs\.weight"):
        gguf_keys.rope_scaling(values, 4096, 128, factors[:-1])
    with pytest.raises(IntegrityError, match=r"rope_freqs\.weight"):
        gguf_keys.rope_scaling(values | {"llama.rope.scale_linear": 2.0}, 4096, 128, factors)

"""Every key of a description counts: harmless, modelled, or refused with key and value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llama_hub.errors import IntegrityError
from llama_hub.hub.model_config import read_config, read_params

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 176,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 288,
}
PARAMS: dict[str, Any] = {
    "dim": 64, "n_layers": 2, "n_heads": 4, "multiple_of": 32, "norm_eps": 1e-5, "vocab_size": -1,
}  # fmt: skip

# As popular derivatives ship them, beside the sizes.
POPULAR: dict[str, dict[str, Any]] = {
    "llama 1 (decapoda)": {
        "architectures": ["LLaMAForCausalLM"], "bos_token_id": 0, "eos_token_id": 1,
        "max_sequence_length": 2048, "pad_token_id": -1, "transformers_version": "4.27.0.dev0",
        "initializer_range": 0.02, "use_cache": True, "torch_dtype": "float16",
    },
    "vicuna": {
        "_name_or_path": "vicuna", "max_position_embeddings": 4096, "pad_token_id": 0,
        "pretraining_tp": 1, "rope_scaling": None, "temperature": 0.9, "top_p": 0.6,
        "attention_bias": False, "mlp_bias": False, "head_dim": 16,
    },
    "yarn 64k": {
        "auto_map": {"AutoModelForCausalLM": "modeling_llama_together_yarn.LlamaForCausalLM"},
        "rope_scaling": {
            "factor": 16.0, "finetuned": True, "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
        "max_position_embeddings": 65536, "_flash_attn_2_enabled": True,
    },
    "together 32k": {
        "auto_map": {"AutoModelForCausalLM": "modeling_flash_llama.LlamaForCausalLM"},
        "rope_scaling": {"factor": 8.0, "type": "linear"}, "max_position_embeddings": 32768,
    },
    "unsloth": {"unsloth_version": "2024.9", "unsloth_fixed": True, "attention_dropout": 0.0},
    "transformers 5": {
        "dtype": "bfloat16", "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": False, "is_decoder": False, "id2label": {"0": "LABEL_0"},
    },
}  # fmt: skip


def write(folder: Path, name: str, document: Any) -> Path:
    (folder / name).write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("name", POPULAR)
def test_popular_configurations_are_read(tmp_path: Path, name: str) -> None:
    config = read_config(write(tmp_path, "config.json", CONFIG | POPULAR[name]))
    assert config.architecture.dim == 64


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "relu"),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("head_dim", 32),
        ("partial_rotary_factor", 0.5),
        ("architectures", ["LlamaForSequenceClassification"]),
        ("architectures", ["MistralForCausalLM"]),
        ("sliding_window", 4096),
        ("layer_types", ["sliding_attention"]),
        ("rope_interleaved", True),
        ("logit_scale", 0.5),
        ("embedding_multiplier", 12.0),
        ("num_local_experts", 8),
        ("attention_multiplier", 0.1),
        ("use_qk_norm", True),
        ("chunk_size_feed_forward", 64),
        ("alibi", True),
    ],
)
def test_a_key_that_would_change_the_function_is_refused(
    tmp_path: Path, key: str, value: Any
) -> None:
    with pytest.raises(IntegrityError) as raised:
        read_config(write(tmp_path, "config.json", CONFIG | {key: value}))
    assert raised.value.exit_code == 5
    assert key in raised.value.message
    assert str(value)[:80] in raised.value.message


@pytest.mark.parametrize("key", ["sliding_window", "num_local_experts", "logit_scale"])
def test_what_is_switched_off_changes_nothing(tmp_path: Path, key: str) -> None:
    assert read_config(write(tmp_path, "config.json", CONFIG | {key: None}))
    assert read_config(write(tmp_path, "config.json", CONFIG | {"use_qk_norm": False}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_scaled_rope", True),
        ("rope_scaling", {"factor": 8}),
        ("rope_scale_factor", 8),
        ("activation", "relu"),
        ("moe", {"num_experts": 8}),
        ("lora_args", {"rank": 16}),
        ("qk_norm", True),
        ("head_dim", 128),
    ],
)
def test_params_are_held_to_the_same(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(IntegrityError, match=key):
        read_params(write(tmp_path, "params.json", PARAMS | {key: value}))


def test_plain_params_are_read(tmp_path: Path) -> None:
    more = {"n_kv_heads": 2, "rope_theta": 1e6, "use_scaled_rope": False, "max_batch_size": 4}
    params = read_params(write(tmp_path, "params.json", PARAMS | more))
    assert params.architecture(vocab_size=288, ffn_dim=176).rope_theta == 1e6


@pytest.mark.parametrize("document", [[], "llama", 7, None])
def test_a_description_that_is_no_object_is_refused(tmp_path: Path, document: Any) -> None:
    with pytest.raises(IntegrityError, match=r"config\.json"):
        read_config(write(tmp_path, "config.json", document))

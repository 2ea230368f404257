"""Random LoRA adapters as peft saves them, written with torch and safetensors themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from llama_hub.hub.adapters.lora_config import MODULES
from llama_hub.hub.architecture import Architecture

ALL = tuple(sorted(name.rpartition(".")[2] for name in MODULES))
Change = Callable[[dict[str, Any], dict[str, Tensor]], None]


def shapes(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """(out, in) of each linear module of a layer."""
    dim, ffn, kv = architecture.dim, architecture.ffn_dim, architecture.kv_dim
    return {
        "q_proj": (dim, dim), "k_proj": (kv, dim), "v_proj": (kv, dim), "o_proj": (dim, dim),
        "gate_proj": (ffn, dim), "up_proj": (ffn, dim), "down_proj": (dim, ffn),
    }  # fmt: skip


def make_adapter(
    folder: Path,
    architecture: Architecture,
    *,
    rank: int = 8,
    alpha: float = 16,
    targets: Sequence[str] = ALL,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    size: float = 0.05,
    binary: bool = False,
    change: Change | None = None,
) -> Path:
    """Fill ``folder`` as peft's ``save_pretrained`` does; ``change`` may damage it before."""
    generator = torch.Generator().manual_seed(seed)

    def random(rows: int, columns: int) -> Tensor:
        return (torch.randn(rows, columns, generator=generator) * size).to(dtype)

    full = {name.rpartition(".")[2]: name for name in MODULES}
    tensors = {}
    for layer in range(architecture.n_layers):
        for name in targets:
            out, width = shapes(architecture)[name]
            stem = f"base_model.model.model.layers.{layer}.{full[name]}"
            tensors[f"{stem}.lora_A.weight"] = random(rank, width)
            tensors[f"{stem}.lora_B.weight"] = random(out, rank)
    config: dict[str, Any] = {
        "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "acme/llama",
        "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "layer_replication": None, "layers_pattern": None,
        "layers_to_transform": None, "loftq_config": {}, "lora_alpha": alpha,
        "lora_dropout": 0.05, "megatron_config": None, "megatron_core": "megatron.core",
        "modules_to_save": None, "peft_type": "LORA", "r": rank, "rank_pattern": {},
        "revision": None, "target_modules": list(targets), "task_type": "CAUSAL_LM",
        "use_dora": False, "use_rslora": False,
    }  # fmt: skip
    if change is not None:
        change(config, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if binary:
        torch.save(tensors, folder / "adapter_model.bin")
    else:
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder

"""An adapter as peft's folder: the two files, in the adapter's own dtype and peft's row order."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from llama_hub.hub.adapters import lora_config
from llama_hub.hub.adapters.low_rank import LowRank, Update
from llama_hub.hub.adapters.peft_folder import WEIGHTS
from llama_hub.hub.checkpoints import layout, numeric, safetensors
from llama_hub.hub.checkpoints.layout import TensorSpec
from llama_hub.hub.checkpoints.numeric import Bits


def peft_files(adapter: LowRank, head_dim: int, base: str) -> dict[str, bytes]:
    """The files of the folder by name; ``base``: what ``base_model_name_or_path`` is to say."""
    tensors: list[tuple[str, str, Bits]] = []
    for update in adapter.updates.values():
        module = _module(update)
        for side, spec in (("A", update.a), ("B", update.b)):
            key = f"base_model.model.{module}.lora_{side}.weight"
            tensors.append((key, adapter.dtype_of(spec), _bits(adapter, spec, head_dim)))
    tensors.sort()
    shapes = [(key, dtype, bits.shape) for key, dtype, bits in tensors]
    head = safetensors.header(shapes, {"format": "pt"})
    config = json.dumps(_config(adapter, base), indent=2, sort_keys=True) + "\n"
    return {
        lora_config.NAME: config.encode(),
        WEIGHTS[0]: head + b"".join(bits.tobytes() for _, _, bits in tensors),
    }


def _module(update: Update) -> str:
    return layout.hf_name(update.name).removesuffix(".weight")


def _bits(adapter: LowRank, spec: TensorSpec, head_dim: int) -> Bits:
    blocks = [block.copy() for block in adapter.stored.blocks(spec)]
    bits = np.concatenate(blocks)
    return numeric.hf_rows(bits, head_dim) if spec.rotary_rows else bits


def _config(adapter: LowRank, base: str) -> dict[str, Any]:
    updates = list(adapter.updates.values())
    rank = adapter.rank
    alphas = {_module(update): update.scale * update.rank for update in updates}
    usual = max(alphas.values(), key=list(alphas.values()).count)
    return {
        "alpha_pattern": {_exact(n): alpha for n, alpha in alphas.items() if alpha != usual},
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": int(usual) if usual == int(usual) else usual,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {_exact(_module(u)): u.rank for u in updates if u.rank != rank},
        "target_modules": _targets(adapter),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def _exact(module: str) -> str:
    """The pattern that fits this module alone."""
    return "^" + module.replace(".", r"\.")


def _targets(adapter: LowRank) -> list[str]:
    """The last parts of the names, where every layer has the same modules; else whole names."""
    modules = [_module(update) for update in adapter.updates.values()]
    kinds = {re.sub(r"^model\.layers\.\d+\.", "", module) for module in modules}
    layers = adapter.stored.architecture.n_layers
    if len(modules) == len(kinds) * layers:
        return sorted(kind.rpartition(".")[2] for kind in kinds)
    return sorted(modules)

"""The forms of an adapter: peft's folder and GGUF, one and the same adapter; peft is the judge."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from llama_hub.errors import IntegrityError
from llama_hub.hub.adapters.gguf_adapter import gguf_bytes
from llama_hub.hub.adapters.importing import open_adapter
from llama_hub.hub.adapters.low_rank import LowRank, content_digest, examine
from llama_hub.hub.adapters.peft_writer import peft_files
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.checkpoints import layout, numeric
from tests.support.adapters import Change, make_adapter

ARCHITECTURE = Architecture(dim=64, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=96, vocab_size=320)


def content(adapter: LowRank) -> str:
    return content_digest(examine(adapter), {u.name: u.scale for u in adapter.updates.values()})


def as_gguf(adapter: LowRank, path: Path) -> LowRank:
    path.write_bytes(gguf_bytes(adapter, {"general.name": "mine"}))
    return open_adapter(path, ARCHITECTURE)


def test_there_and_back_is_the_same_adapter(tmp_path: Path) -> None:
    with open_adapter(make_adapter(tmp_path / "one", ARCHITECTURE), ARCHITECTURE) as original:
        written = as_gguf(original, tmp_path / "one.gguf")
        back = tmp_path / "back"
        back.mkdir()
        for name, data in peft_files(written, ARCHITECTURE.head_dim, "acme/llama").items():
            (back / name).write_bytes(data)
        with open_adapter(back, ARCHITECTURE) as again:
            assert content(original) == content(written) == content(again)
        written.close()


def _rslora(config: dict[str, object], tensors: object) -> None:
    config.update(use_rslora=True, lora_alpha=7)


def _alphas(config: dict[str, object], tensors: object) -> None:
    config["alpha_pattern"] = {"q_proj": 3}


@pytest.mark.parametrize("change", [_rslora, _alphas])
def test_scales_that_one_alpha_cannot_say_are_in_b(change: Change, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "one", ARCHITECTURE, change=change)
    with open_adapter(folder, ARCHITECTURE) as one:
        with as_gguf(one, tmp_path / "one.gguf") as two:
            for name, update in one.updates.items():
                exact = one.b(name).astype(np.float64) * update.scale
                assert two.updates[name].scale == 1
                assert np.array_equal(two.b(name), exact.astype(np.float32))
                assert np.array_equal(two.a(name), one.a(name))


def test_the_gguf_package_reads_b_of_q_and_k_in_metas_row_order(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    from safetensors.numpy import load_file

    folder = make_adapter(tmp_path / "one", ARCHITECTURE)
    with open_adapter(folder, ARCHITECTURE) as one:
        as_gguf(one, tmp_path / "one.gguf").close()
    stored = load_file(folder / "adapter_model.safetensors")
    found = {each.name: each.data for each in gguf.GGUFReader(tmp_path / "one.gguf").tensors}
    for ours, theirs in (("attn_q", "q_proj"), ("attn_k", "k_proj"), ("attn_v", "v_proj")):
        b = stored[f"base_model.model.model.layers.0.self_attn.{theirs}.lora_B.weight"]
        halves = b.reshape(-1, 2, ARCHITECTURE.head_dim // 2, b.shape[1])
        expected = b if ours == "attn_v" else halves.swapaxes(1, 2).reshape(b.shape)
        assert np.array_equal(found[f"blk.0.{ours}.weight.lora_b"], expected)


def test_a_gguf_file_that_is_cut_off_or_is_a_model_is_refused(tmp_path: Path) -> None:
    with open_adapter(make_adapter(tmp_path / "one", ARCHITECTURE), ARCHITECTURE) as one:
        data = gguf_bytes(one, {})
    path = tmp_path / "bad.gguf"
    adapter = struct.pack("<Q", 7) + b"adapter"
    for bad in (data[:-64], data.replace(adapter, struct.pack("<Q", 7) + b"modelXX", 1)):
        path.write_bytes(bad)
        with pytest.raises(IntegrityError):
            open_adapter(path, ARCHITECTURE)


# Of transformers, about a name that peft 0.21.2 still uses.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_pefts_own_scales_and_products(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from tests.support.lazy import transformers

    config = transformers.LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=96, vocab_size=320,
    )  # fmt: skip
    lora = peft.LoraConfig(
        r=8, lora_alpha=12, use_rslora=True, init_lora_weights=False, task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "down_proj"],
        rank_pattern={"self_attn.q_proj": 4, r"^model\.layers\.1\.mlp\.down_proj": 2},
        alpha_pattern={"k_proj": 5},
    )  # fmt: skip
    model = peft.get_peft_model(transformers.LlamaForCausalLM(config), lora)
    model.save_pretrained(tmp_path)
    modules = dict(model.base_model.model.named_modules())
    with open_adapter(tmp_path, ARCHITECTURE) as adapter:
        assert len(adapter.updates) == 6
        for name, update in adapter.updates.items():
            module = modules[layout.hf_name(name).removesuffix(".weight")]
            assert module.scaling["default"] == pytest.approx(update.scale, rel=1e-12)
            b = adapter.b(name)
            b = numeric.hf_rows(b, ARCHITECTURE.head_dim) if update.b.rotary_rows else b
            delta = torch.from_numpy(b @ adapter.a(name) * np.float32(update.scale))
            torch.testing.assert_close(delta, module.get_delta_weight("default").detach())

"""Quantised folders: the layout of compressed-tensors, an error below round-to-nearest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from llama_hub.errors import IntegrityError, UsageError
from llama_hub.hub.checkpoints import numeric
from llama_hub.hub.checkpoints.ggml_quants import library
from llama_hub.hub.conversion import quantize
from llama_hub.hub.conversion.convert import convert
from llama_hub.hub.conversion.quantize import Quantiser, pack, unpack
from llama_hub.hub.verify import verify
from tests.support.make_checkpoint import GROUPED, Recipe, make_checkpoint, merged
from tests.support.tiers import examples

RECIPE = replace(GROUPED, dim=128, ffn_dim=384)
LICENSE = "llama-hub-demo"


def made(tmp_path: Path, scheme: str, group: int | None, recipe: Recipe = RECIPE) -> Path:
    source = make_checkpoint(tmp_path / "in", recipe)
    convert(source, tmp_path / "out", to="hf", quantize=scheme, group_size=group, license=LICENSE)
    return tmp_path / "out"


def decoded(folder: Path, name: str) -> torch.Tensor:
    """A weight from its stored form, straight from the layout's definition."""
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    bits = config["config_groups"]["group_0"]["weights"]["num_bits"]
    with safe_open(folder / "model.safetensors", "pt") as opened:
        packed = opened.get_tensor(f"{name}.weight_packed")
        scale = opened.get_tensor(f"{name}.weight_scale").float()
        rows, columns = opened.get_tensor(f"{name}.weight_shape").tolist()
    assert packed.dtype == torch.int32
    shifts = torch.arange(0, 32, bits)
    numbers = (packed.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
    values = numbers.reshape(rows, columns).float() - (1 << (bits - 1))
    return (values.reshape(rows, scale.shape[1], -1) * scale.unsqueeze(-1)).reshape(rows, columns)


@pytest.mark.parametrize(
    ("scheme", "group", "limit"),
    [
        ("int8", None, 0.009),
        ("int8", 32, 0.006),
        ("int4", None, 0.1),
        ("int4", 32, 0.085),
        ("int4", 128, 0.1),
    ],
)
def test_the_stored_numbers_are_the_weights(
    tmp_path: Path, scheme: str, group: int | None, limit: float
) -> None:
    folder = made(tmp_path, scheme, group)
    whole = merged(tmp_path / "in")
    value = whole["layers.1.attention.wv.weight"].float()
    found = decoded(folder, "model.layers.1.self_attn.v_proj")
    assert ((found - value).norm() / value.norm()) < limit
    query = whole["layers.0.attention.wq.weight"].float()  # in Hugging Face's row order
    query = query.view(8, 8, 2, 128).transpose(1, 2).reshape(128, 128)
    found = decoded(folder, "model.layers.0.self_attn.q_proj")
    assert ((found - query).norm() / query.norm()) < limit
    with safe_open(folder / "model.safetensors", "pt") as opened:
        assert opened.get_tensor("lm_head.weight").equal(whole["output.weight"])
        assert opened.get_tensor("model.embed_tokens.weight").equal(whole["tok_embeddings.weight"])


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_the_config_says_what_other_engines_need(tmp_path: Path, scheme: str) -> None:
    config = json.loads((made(tmp_path, scheme, 64) / "config.json").read_text())
    stated = config["quantization_config"]
    assert stated["quant_method"] == "compressed-tensors"
    assert stated["format"] == "pack-quantized"
    assert stated["ignore"] == ["lm_head"]
    group = stated["config_groups"]["group_0"]
    assert group["targets"] == ["Linear"]
    assert group["input_activations"] is None
    assert group["weights"]["num_bits"] == int(scheme[3:])
    assert group["weights"]["strategy"] == "group"
    assert group["weights"]["group_size"] == 64
    assert group["weights"]["symmetric"] is True


@pytest.mark.parametrize(("scheme", "group"), [("int8", None), ("int8", 64), ("int4", 32)])
def test_compressed_tensors_and_transformers_load_it(
    tmp_path: Path, scheme: str, group: int | None
) -> None:
    """The package that defined the layout unpacks it; transformers computes with the result."""
    pytest.importorskip("compressed_tensors")
    from transformers import LlamaForCausalLM

    folder = made(tmp_path, scheme, group)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    plain = convert(tmp_path / "in", tmp_path / "plain", to="hf", license=LICENSE)
    expected = LlamaForCausalLM.from_pretrained(plain.path, dtype=torch.float32)
    state = {
        f"{name}.weight": decoded(folder, name)
        for name, module in expected.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    expected.load_state_dict(state, strict=False)
    tokens = torch.arange(3, 40).unsqueeze(0)
    with torch.inference_mode():
        difference = (model(tokens).logits - expected(tokens).logits).abs().max()
    assert difference < 2e-2  # transformers decompresses into bfloat16


def round_to_nearest(weights: np.ndarray, bits: int, group: int) -> float:
    grouped = weights.reshape(-1, group)
    half = 1 << (bits - 1)
    scale = np.abs(grouped).max(1, keepdims=True) / (half - 0.5)
    error = grouped - np.clip(np.rint(grouped / scale), -half, half - 1) * scale
    return float(np.linalg.norm(error) / np.linalg.norm(grouped))


@pytest.mark.parametrize(("bits", "group", "gain"), [(4, 32, 0.88), (4, 128, 0.9), (8, 64, 1.0)])
@pytest.mark.parametrize("tails", ["normal", "heavy"])
def test_the_error_is_below_round_to_nearest(
    bits: int, group: int, gain: float, tails: str
) -> None:
    rng = np.random.default_rng(3)
    shape = (64, 1024)
    drawn = rng.normal(size=shape) if tails == "normal" else rng.standard_t(5, size=shape)
    bits_ = numeric.from_float32((drawn * 0.02).astype(np.float32), "bfloat16")
    quantiser = Quantiser(bits, group, "bfloat16", 0)
    quantiser.encode(bits_)
    plain = round_to_nearest(numeric.to_float32(bits_, "bfloat16"), bits, group)
    assert quantiser.relative_error() < gain * plain


def test_the_reported_error_is_the_error(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "in", RECIPE)
    done = convert(source, tmp_path / "out", to="hf", quantize="int4", license=LICENSE)
    assert len(done.errors) == 7 * RECIPE.n_layers
    whole = merged(source)
    value = whole["layers.0.feed_forward.w2.weight"].float()
    found = decoded(tmp_path / "out", "model.layers.0.mlp.down_proj")
    expected = float((found - value).norm() / value.norm())
    assert done.errors["layers.0.feed_forward.w2.weight"] == pytest.approx(expected, rel=1e-3)


def test_matrices_that_do_not_divide_into_groups_are_left_and_named(tmp_path: Path) -> None:
    folder = made(tmp_path, "int4", 128, replace(RECIPE, ffn_dim=352))
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    layers = [f"model.layers.{layer}.mlp.down_proj" for layer in range(2)]
    assert sorted(config["ignore"]) == ["lm_head", *layers]
    with safe_open(folder / "model.safetensors", "pt") as opened:
        assert opened.get_tensor(f"{layers[0]}.weight").dtype == torch.bfloat16


def test_the_manifest_lists_what_is_stored_and_verify_reads_it(tmp_path: Path) -> None:
    folder = made(tmp_path, "int4", 64)
    found = verify(folder, deep=True)
    assert found.ok
    assert found.tensors == 2 * 14 + 2 * 2 + 3
    names = {entry.name: entry.dtype for entry in found.manifest.tensors}
    assert names["layers.0.attention.wq.weight_packed"] == "int32"
    assert names["layers.0.attention.wq.weight_scale"] == "bfloat16"
    assert names["output.weight"] == "bfloat16"


def test_nothing_is_converted_from_quantised_weights(tmp_path: Path) -> None:
    folder = made(tmp_path, "int8", None)
    with pytest.raises(IntegrityError, match="quantised"):
        convert(folder, tmp_path / "again", to="meta")


def test_an_unknown_scheme() -> None:
    with pytest.raises(UsageError, match="int3"):
        quantize.scheme("int3", None)


@settings(deadline=None, max_examples=examples(10, 100))
@given(st.sampled_from([4, 8]), st.integers(1, 4), st.integers(1, 6), st.randoms())
def test_packing_is_reversible(bits: int, rows: int, words: int, random: object) -> None:
    half = 1 << (bits - 1)
    values = np.random.default_rng(random.getrandbits(32)).integers(  # type: ignore[attr-defined]
        -half, half, (rows, words * 32 // bits), dtype=np.int8
    )
    packed = pack(values, bits)
    assert packed.shape == (rows, words)
    assert np.array_equal(unpack(packed, bits), values)


def test_groups_of_zeros_stay_zero() -> None:
    quantiser = Quantiser(4, 32, "bfloat16", 0)
    packed, scales = quantiser.encode(np.zeros((2, 64), np.uint16))
    assert not (unpack(packed, 4).reshape(4, 32) * scales.reshape(4, 1)).any()
    assert quantiser.relative_error() == 0.0


@settings(max_examples=examples(15, 300), deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    dtype=st.sampled_from(numeric.DTYPES),
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([32, 64, 96, 128, 4096]),
    scale=st.sampled_from([1e-41, 1e-30, 1e-6, 0.02, 1.0, 1e4]),
)
def test_the_kernel_chooses_what_numpy_chooses(
    seed: int, dtype: str, bits: int, group: int, scale: float
) -> None:
    """Bit by bit, also ties, zeros, outliers and numbers below the normal ones."""
    if library() is None:
        pytest.skip("no C compiler")
    random = np.random.default_rng(seed)
    weights = (random.standard_t(3, (24, group)) * scale).clip(-6e4, 6e4).astype(np.float32)
    weights[0] = 0
    weights[1] = np.float32(scale)
    weights[2, ::2], weights[2, 1::2] = scale, -scale
    weights[3, 1:] = 0
    rows = numeric.from_float32(weights, dtype)
    with pytest.MonkeyPatch.context() as patch:
        ours = Quantiser(bits, group, dtype, 0)
        packed, scales = ours.encode(rows)
        patch.setattr(quantize, "library", lambda: None)
        reference = Quantiser(bits, group, dtype, 0)
        with np.errstate(all="ignore"):
            expected_packed, expected_scales = reference.encode(rows)
    assert np.array_equal(packed, expected_packed)
    assert np.array_equal(scales, expected_scales)
    assert ours.relative_error() == pytest.approx(reference.relative_error(), rel=1e-4, abs=1e-6)

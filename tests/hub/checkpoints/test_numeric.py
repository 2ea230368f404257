"""Bit patterns and row order, against torch and against the formulas themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_hub.hub.checkpoints import layout, numeric

TORCH = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
float_bits = st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=40)


def tensor_of(bits: np.ndarray, dtype: str) -> torch.Tensor:
    signed = bits.view(np.int32 if bits.itemsize == 4 else np.int16)
    return torch.from_numpy(signed.copy()).view(TORCH[dtype])


@settings(deadline=None)
@given(float_bits)
@pytest.mark.parametrize("wanted", ["bfloat16", "float16"])
def test_casts_round_as_torch_does(wanted: str, raw: list[int]) -> None:
    bits = np.array(raw, np.uint32)
    expected = tensor_of(bits, "float32").to(TORCH[wanted])
    found, changed, overflowed = numeric.cast(bits, "float32", wanted)
    got = tensor_of(found, wanted)
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.nan_to_num(), expected.nan_to_num())
    before = tensor_of(bits, "float32")
    back = expected.float()
    assert changed == int(((back != before) & ~before.isnan()).sum())
    assert overflowed == int((back.isinf() & before.isfinite()).sum())


def test_every_bfloat16_survives_float32_and_is_counted_if_not_finite() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide, changed, _ = numeric.cast(bits, "bfloat16", "float32")
    assert changed == 0
    back, changed, _ = numeric.cast(wide, "float32", "bfloat16")
    finite = np.isfinite(wide.view(np.float32))
    assert changed == 0
    assert np.array_equal(back[finite], bits[finite])
    assert numeric.non_finite(bits, "bfloat16") == int((~finite).sum()) == 256


@pytest.mark.parametrize(("dtype", "count"), [("float16", 2048), ("bfloat16", 256)])
def test_non_finite_values_are_counted(dtype: str, count: int) -> None:
    assert numeric.non_finite(np.arange(1 << 16, dtype=np.uint16), dtype) == count
    assert numeric.non_finite(np.zeros(0, np.uint16), dtype) == 0


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 4))
def test_row_order_is_the_published_permutation(heads: int, half: int, columns: int) -> None:
    """As Hugging Face's script states it: view(H, D/2, 2, n).transpose(1, 2)."""
    width = 2 * half
    block = np.arange(heads * width * columns, dtype=np.uint16).reshape(-1, columns)
    view = torch.from_numpy(block.astype(np.int32)).view(heads, half, 2, columns)
    expected = view.transpose(1, 2).reshape(heads * width, columns).numpy()
    assert np.array_equal(numeric.hf_rows(block, width), expected)
    assert np.array_equal(numeric.meta_rows(numeric.hf_rows(block, width), width), block)
    for head in range(heads):
        for a in (0, 1):
            for b in range(half):
                row = numeric.hf_rows(block, width)[head * width + a * half + b]
                assert np.array_equal(row, block[head * width + 2 * b + a])


def test_names_translate_one_to_one() -> None:
    from llama_hub.hub.architecture import Architecture

    architecture = Architecture(
        dim=8, n_layers=12, n_heads=2, n_kv_heads=1, ffn_dim=16, vocab_size=10
    )
    names = [spec.name for spec in layout.specs(architecture)]
    hf = [layout.hf_name(name) for name in names]
    assert len(names) == 12 * 9 + 3 == len(set(hf)) == len({layout.gguf_name(n) for n in names})
    assert [layout.canonical_of_hf(name) for name in hf] == names
    assert (
        layout.hf_name("layers.11.attention.wk.weight") == "model.layers.11.self_attn.k_proj.weight"
    )
    assert layout.gguf_name("layers.3.feed_forward.w2.weight") == "blk.3.ffn_down.weight"
    with pytest.raises(KeyError):
        layout.canonical_of_hf("model.layers.01.self_attn.q_proj.weight")

"""ggml's block quantisers: equal, byte for byte, to the gguf package's."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_hub.hub.checkpoints import ggml_quants, numeric
from llama_hub.hub.checkpoints.ggml_quants import BLOCK_BYTES, encoder, library
from tests.support.tiers import examples

KINDS = sorted(BLOCK_BYTES)


@pytest.fixture(params=["C", "numpy"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(ggml_quants, "library", lambda: None)
    elif library() is None:
        pytest.skip("no C compiler")


def theirs(values: np.ndarray, kind: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_equal_on_weights_as_models_have_them(kind: str, dtype: str) -> None:
    weights = np.random.default_rng(1).normal(0, 0.02, (70, 2048)).astype(np.float32)
    bits = numeric.from_float32(weights, dtype)
    (found,) = encoder(kind, dtype)(bits)
    assert np.array_equal(found, theirs(numeric.to_float32(bits, dtype), kind))


halves = st.integers(-260, 260).map(lambda n: n / 2)
values = st.one_of(
    halves,
    st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.49999997, 127.5]),
)


@settings(
    max_examples=examples(12, 200), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(st.lists(values, min_size=32, max_size=32))
@pytest.mark.parametrize("kind", KINDS)
def test_equal_on_ties_zeros_and_extremes(kind: str, row: list[float]) -> None:
    block = np.array([row], np.float32)
    block = np.where(np.abs(block) < 1e-30, np.float32(0) * block, block)  # 1/d stays finite
    (found,) = encoder(kind, "float32")(np.ascontiguousarray(block).view(np.uint32))
    assert np.array_equal(found, theirs(block, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_and_tiny_blocks_become_finite_blocks(kind: str) -> None:
    block = np.zeros((2, 32), np.float32)
    block[1] = 1e-42
    (found,) = encoder(kind, "float32")(block.view(np.uint32))
    back = gguf.quants.dequantize(found, gguf.GGMLQuantizationType[kind])
    assert np.isfinite(back).all()
    assert np.abs(back).max() < 1e-6


@pytest.mark.parametrize(
    ("kind", "error"),
    [("Q8_0", 0.006), ("Q5_1", 0.04), ("Q5_0", 0.045), ("Q4_1", 0.08), ("Q4_0", 0.09)],
)
def test_the_error_is_what_the_type_is_known_for(kind: str, error: float) -> None:
    weights = np.random.default_rng(2).normal(0, 0.02, (64, 1024)).astype(np.float32)
    (found,) = encoder(kind, "float32")(weights.view(np.uint32))
    back = gguf.quants.dequantize(found, gguf.GGMLQuantizationType[kind])
    assert np.linalg.norm(back - weights) / np.linalg.norm(weights) < error

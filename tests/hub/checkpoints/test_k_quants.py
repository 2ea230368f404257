"""K-quants: written as ggml's reference writes them, read as the gguf package reads them.

The digests were made with ``ggml-quants.c`` of ggml-org/ggml at d99724f2 (2026-08-21), compiled
apart with ``gcc -O2 -ffp-contract=off`` (as ggml's base library is built for x86-64, where nothing
is fused), by ``quantize_row_{q4,q5,q6}_K_ref`` over ``weights`` below. gguf cannot write K-quants.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import replace

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_hub.hub.checkpoints import ggml_quants, k_quants, numeric
from llama_hub.hub.checkpoints.ggml_quants import BLOCKS, encoder, library
from llama_hub.hub.checkpoints.k_quants import SUPER, SUPER_BYTES, WRITTEN
from tests.support.tiers import examples

DIGESTS: dict[str, dict[str, str]] = {
    "ordinary": {
        "Q4_K": "60e33ae47dfb53ecc2171ec9d8e3959f51eb8f02ab36c664b75bd853b0e1d270",
        "Q5_K": "2cbd213dcac7d9303a9f228717e1f4a08f9040e4f90711e5581470d33f56eb61",
        "Q6_K": "0f21dbf5bc50f3b78bf867968b3537d207012c6264c18676f3698a9bd2979630",
    },
    "uneven": {
        "Q4_K": "79765be1074c4eb22559cffe7fa7d4431ccfabbdb3d56b6c17ba7beaee736922",
        "Q5_K": "37de6bc90026e75c78f0d13376ecf04a6c4bdff0137bdf1eca13c0fee1f8e4df",
        "Q6_K": "8edae76d0324993e5d3be1dc570a851c0de416f1c540e254d297f111788c844e",
    },
    "sparse": {
        "Q4_K": "4c24c045091b61af9cfd5fbdddbb10de469072d4236fb5644471438352c4e295",
        "Q5_K": "82367fb8d0c6c5242d952c00c0f7df68639d2e63b7d622d4c90c5daa5d57824f",
        "Q6_K": "8a59239e9cfc16ab9bda0a5b2a66cdfe53f5b1942abce3acde64cc56da97490f",
    },
    "shifted": {
        "Q4_K": "e46422c931ee72f56f419db6a55104752f071437b4477408f37a07698d3d474a",
        "Q5_K": "e9e67492fbf93a3e8ddac7cecb4c38bf9b60a80e7a3512f6a27371390b78480b",
        "Q6_K": "04cebf405c12eccc3e03081a87943f2402d489da1fa69208f73ce59e48d9ce7e",
    },
    "few values": {
        "Q4_K": "76c6e5441c199d6485ea570a060d6a8d17001b81a10e60f7ac9db70bab01d64e",
        "Q5_K": "03a456a351ed53be75c32942d5f19915cd2873af894217e8f95c15be22ca8661",
        "Q6_K": "e2570405a2e5243d69401b89a15158402a8d0778cc1e6a078fe84d32ba52f238",
    },
}


def weights(case: str) -> np.ndarray:
    """Integers and powers of two only, which every numpy makes the same: [37, 768] float32."""
    random = np.random.RandomState(7)  # its stream is frozen
    numbers = random.randint(-(1 << 20), 1 << 20, (37, 768)).astype(np.float32)
    if case == "ordinary":  # the sum of two, so that most are small
        numbers += random.randint(-(1 << 20), 1 << 20, (37, 768)).astype(np.float32)
        return numbers * np.float32(2**-26)
    if case == "uneven":  # groups of very different size, some of them nothing
        return numbers * np.exp2(random.randint(-60, 4, (37, 48)).astype(np.float32)).repeat(16, 1)
    if case == "sparse":
        return numbers * random.randint(0, 4, (37, 768)).astype(np.float32).clip(0, 1)
    if case == "shifted":  # all of one sign: the offset is far from the smallest
        return np.abs(numbers) * np.float32(-(2**-20)) - np.float32(3)
    assert case == "few values"
    return random.randint(-3, 4, (37, 768)).astype(np.float32)


CASES = ("ordinary", "uneven", "sparse", "shifted", "few values")


@pytest.fixture(params=["C", "numpy"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(ggml_quants, "library", lambda: None)
    elif library() is None:
        pytest.skip("no C compiler")


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("case", CASES)
def test_the_bytes_are_ggml_s_own(case: str, kind: str) -> None:
    (found,) = encoder(kind, "float32")(weights(case).view(np.uint32))
    assert found.shape == (37, 3 * SUPER_BYTES[kind])
    assert hashlib.sha256(found.tobytes()).hexdigest() == DIGESTS[case][kind]


@pytest.mark.exhaustive
@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86 compilers")
@pytest.mark.parametrize("flags", [("-mno-avx512f",), ("-mno-avx512f", "-mno-avx2")])
def test_narrower_vectors_give_the_same_bytes(
    flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = replace(ggml_quants.KERNELS, flags=flags).load()
    if kernels is None:
        pytest.skip("no C compiler")
    monkeypatch.setattr(ggml_quants, "library", lambda: kernels)
    for case in CASES:
        for kind in WRITTEN:
            (found,) = encoder(kind, "float32")(weights(case).view(np.uint32))
            assert hashlib.sha256(found.tobytes()).hexdigest() == DIGESTS[case][kind], case


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_weights_are_quantised_as_the_float32_that_they_are(kind: str, dtype: str) -> None:
    bits = numeric.from_float32(weights("ordinary"), dtype)
    (found,) = encoder(kind, dtype)(bits)
    wide = numeric.to_float32(bits, dtype)
    (expected,) = encoder(kind, "float32")(np.ascontiguousarray(wide).view(np.uint32))
    assert np.array_equal(found, expected)


values = st.one_of(
    st.integers(-260, 260).map(lambda number: number / 2),
    st.floats(-1e4, 1e4, width=32),
    st.sampled_from([0.0, -0.0, 1e-15, 1e-30, 1e9]),
)


@settings(
    max_examples=examples(15, 400), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(st.lists(values, min_size=32, max_size=32), st.integers(0, 1 << 31))
@pytest.mark.parametrize("kind", WRITTEN)
def test_c_and_numpy_agree_on_ties_zeros_and_extremes(
    kind: str, given: list[float], seed: int
) -> None:
    kernels = library()
    if kernels is None:
        pytest.skip("no C compiler")
    random = np.random.default_rng(seed)
    block = random.choice(np.array(given, np.float32), (3, SUPER))
    found = np.empty((3, SUPER_BYTES[kind]), np.uint8)
    k_quants.quantize(kind, block, found)
    (expected,) = encoder(kind, "float32")(block.view(np.uint32))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("kind", BLOCKS)
def test_any_block_is_read_as_the_gguf_package_reads_it(kind: str) -> None:
    blocks = np.random.default_rng(3).integers(0, 256, (64, 6 * BLOCKS[kind][1]), np.uint8)
    with np.errstate(all="ignore"):  # a random scale may be infinite or no number
        found = ggml_quants.dequantize(kind, blocks)
        expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize(("kind", "error"), [("Q6_K", 0.02), ("Q5_K", 0.04), ("Q4_K", 0.08)])
def test_the_error_is_what_the_type_is_known_for(kind: str, error: float) -> None:
    ordinary = weights("ordinary")
    (found,) = encoder(kind, "float32")(ordinary.view(np.uint32))
    back = ggml_quants.dequantize(kind, found)
    assert np.linalg.norm(back - ordinary) / np.linalg.norm(ordinary) < error

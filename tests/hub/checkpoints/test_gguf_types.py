"""File types: which tensor gets which blocks, as llama.cpp's published files have it."""

from __future__ import annotations

import math

import pytest

from llama_hub.hub.architecture import Architecture
from llama_hub.hub.checkpoints import gguf, layout
from llama_hub.hub.checkpoints.gguf_types import Mixture, file_type, split_names

MODELS = {
    "7B": Architecture(4096, 32, 32, 32, 11008, 32000),
    "13B": Architecture(5120, 40, 40, 40, 13824, 32000),
    "70B": Architecture(8192, 80, 64, 8, 28672, 32000),
}
# GB of the files that are published for Llama 2, as their model cards list them.
PUBLISHED = {
    ("7B", "Q4_0"): 3.83, ("7B", "Q5_0"): 4.65, ("7B", "Q8_0"): 7.16, ("7B", "Q6_K"): 5.53,
    ("7B", "Q4_K_S"): 3.86, ("7B", "Q4_K_M"): 4.08, ("7B", "Q5_K_S"): 4.65, ("7B", "Q5_K_M"): 4.78,
    ("13B", "Q4_0"): 7.37, ("13B", "Q5_0"): 8.97, ("13B", "Q8_0"): 13.83, ("13B", "Q6_K"): 10.68,
    ("13B", "Q4_K_S"): 7.42, ("13B", "Q4_K_M"): 7.87, ("13B", "Q5_K_S"): 8.97,
    ("13B", "Q5_K_M"): 9.23, ("70B", "Q4_0"): 38.87, ("70B", "Q5_0"): 47.46,
    ("70B", "Q4_K_M"): 41.42, ("70B", "Q5_K_S"): 47.46, ("70B", "Q5_K_M"): 48.75,
    ("70B", "Q6_K"): 56.59,
}  # fmt: skip


@pytest.mark.parametrize(("size", "name"), PUBLISHED)
def test_the_sizes_are_those_of_published_files(size: str, name: str) -> None:
    architecture = MODELS[size]
    mixture, total = Mixture(name, architecture), 0
    for spec in layout.specs(architecture):
        kind = mixture.kind(spec) if len(spec.shape) == 2 else "F32"
        _, weights, taken = gguf.TYPES[gguf.TYPE_NUMBERS[str(kind)]]
        total += math.prod(spec.shape) // weights * taken
    assert total / 1e9 == pytest.approx(PUBLISHED[size, name], abs=0.006)


def kinds(name: str, part: str, architecture: Architecture = MODELS["7B"]) -> list[str | None]:
    mixture = Mixture(name, architecture)
    return [
        mixture.kind(s) for s in layout.specs(architecture) if s.name.endswith(f"{part}.weight")
    ]


def test_half_of_the_value_and_down_projections_get_more_bits() -> None:
    more = [*range(4), 6, 9, 12, 15, 18, 21, 24, 27, *range(28, 32)]
    for part in ("attention.wv", "feed_forward.w2"):
        expected = ["Q6_K" if layer in more else "Q4_K" for layer in range(32)]
        assert kinds("Q4_K_M", part) == expected
    assert set(kinds("Q4_K_M", "attention.wk")) == {"Q4_K"}
    assert kinds("Q4_K_M", "output") == ["Q6_K"]
    assert kinds("Q8_0", "output") == ["Q8_0"]


def test_rows_too_odd_for_super_blocks_get_the_next_larger_blocks() -> None:
    odd = Architecture(3200, 26, 32, 32, 8640, 32000)  # OpenLLaMA 3B
    assert set(kinds("Q4_K_M", "feed_forward.w1", odd)) == {"Q5_0"}
    assert set(kinds("Q5_K_M", "attention.wk", odd)) == {"Q5_1"}
    assert set(kinds("Q6_K", "attention.wk", odd)) == {"Q8_0"}
    assert kinds("Q4_K_M", "output", odd) == ["Q8_0"]
    odder = Architecture(104, 2, 4, 4, 300, 288)
    assert set(kinds("Q4_K_M", "attention.wk", odder)) == {None}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("q4_k_m", "Q4_K_M"),
        ("Q4_K_m", "Q4_K_M"),
        ("q5_k", "Q5_K_M"),
        ("bf16", "BF16"),
        ("q9", None),
    ],
)
def test_names_count_in_any_case(written: str, meant: str | None) -> None:
    assert file_type(written) == meant


def test_parts_are_called_as_llama_cpp_expects() -> None:
    assert split_names("m", 1) == ["m.gguf"]
    assert split_names("m", 2) == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]

"""All paths between formats commute: any architecture, any shards, any dtype, any order."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_hub.hub.checkpoints.fingerprint import tensor_entries
from llama_hub.hub.conversion.convert import convert
from llama_hub.hub.manifest import Manifest
from tests.support.make_checkpoint import TINY, Recipe, make_checkpoint, merged
from tests.support.tiers import examples

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Anything that Meta's layout can hold, small."""
    shards = draw(st.sampled_from([1, 2, 3, 4]))
    kv_heads = shards * draw(st.integers(1, 2))
    heads = kv_heads * draw(st.integers(1, 3))
    dim = heads * 2 * draw(st.integers(1, 4))
    return replace(
        TINY,
        dim=dim,
        n_layers=draw(st.integers(1, 3)),
        n_heads=heads,
        n_kv_heads=kv_heads,
        ffn_dim=shards * draw(st.integers(max(1, 8 * dim // 3 // shards + 1), 8 * dim // 3 + 40)),
        vocab_size=shards * draw(st.integers(288 // shards + 1, 300 // shards + 1)),
        shards=shards,
        dtype=draw(st.sampled_from(DTYPES)),
        rope_theta=draw(st.sampled_from([10000.0, 1e6])),
        norm_eps=draw(st.sampled_from([1e-5, 1e-6])),
        seed=draw(st.integers(0, 99)),
    )


def divisors(recipe: Recipe) -> list[int]:
    sizes = (recipe.n_kv_heads, recipe.ffn_dim, recipe.vocab_size, recipe.dim)
    return [n for n in range(1, 9) if not any(size % n for size in sizes)]


def step(
    source: Path, destination: Path, fmt: str, draw: st.DataObject, recipe: Recipe
) -> Manifest:
    limit = draw.draw(st.sampled_from([1, 20_000, 10**9]), label="shard size")
    shards = draw.draw(st.sampled_from(divisors(recipe)), label="model parallel")
    made = convert(
        source,
        destination,
        to=fmt,  # type: ignore[arg-type]
        license="llama-hub-demo",
        max_shard_size=limit,
        model_parallel=shards if fmt == "meta" else None,
        workers=draw.draw(st.integers(1, 3), label="workers"),
    )
    assert made.manifest is not None
    return made.manifest


def same(name: str, tensor: torch.Tensor, original: torch.Tensor) -> bool:
    """Bit for bit; only ``rope.freqs``, made again, may differ by the last bit of torch's power."""
    if name == "rope.freqs":
        return torch.allclose(tensor.float(), original.float(), rtol=2**-7, atol=0) and (
            tensor.dtype != torch.float32 or torch.allclose(tensor, original, rtol=2**-22, atol=0)
        )
    return torch.equal(tensor, original)


@settings(max_examples=examples(3, 40), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    recipes(), st.lists(st.sampled_from(["hf", "meta", "gguf"]), min_size=2, max_size=4), st.data()
)
def test_every_chain_of_formats_keeps_every_tensor(
    recipe: Recipe, chain: list[str], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_checkpoint(Path(temporary) / "model", recipe)
        original, tensors = merged(folder), tensor_entries(folder)
        for number, fmt in enumerate(chain):
            made = step(folder, Path(temporary) / f"{number}", fmt, data, recipe)
            assert made.tensors == tensors
            folder = Path(temporary) / f"{number}"
        step(folder, Path(temporary) / "last", "meta", data, recipe)
        for name, tensor in merged(Path(temporary) / "last").items():
            assert same(name, tensor, original[name]), name


@settings(max_examples=examples(2, 30), deadline=None, suppress_health_check=list(HealthCheck))
@given(recipes(), st.sampled_from(["bfloat16", "float16", "float32"]))
def test_a_cast_commutes_with_a_change_of_format(recipe: Recipe, dtype: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        at = Path(temporary)
        source = make_checkpoint(at / "model", recipe)

        def made(start: Path, name: str, fmt: str, wanted: str | None) -> Manifest:
            done = convert(start, at / name, to=fmt, dtype=wanted, license="llama-hub-demo")  # type: ignore[arg-type]
            assert done.manifest is not None
            return done.manifest

        first = made(source, "a", "hf", dtype)
        assert made(at / "a", "b", "gguf", None).tensors == first.tensors
        made(source, "c", "gguf", None)
        assert made(at / "c", "d", "meta", dtype).tensors == first.tensors

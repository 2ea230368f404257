"""Compiled kernels are only loaded from where nobody else can put them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from llama_hub import kernel_build
from llama_hub.home import home
from llama_hub.hub.checkpoints import ggml_quants
from llama_hub.inference.native import library as native
from llama_hub.kernels import Kernels

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler"
)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Home and the temporary folder, both below ``tmp_path``."""
    monkeypatch.setenv("LLAMA_HUB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("llama_hub.kernels.home", home)  # this one, not the tests' common one
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def small_kernels(folder: Path) -> Kernels:
    """A function that takes no time to compile."""
    (folder / "sum.c").write_text("int sum(int a, int b) { return a + b; }")
    return Kernels("sum", folder, ("sum.c",), {"sum": ()})


def test_compiled_once_and_found_again(places: Path) -> None:
    assert ggml_quants.KERNELS.load() is not None
    (made,) = (places / "home" / "kernels").iterdir()
    before = made.stat().st_mtime_ns
    assert ggml_quants.KERNELS.load() is not None
    assert made.stat().st_mtime_ns == before


def test_processes_that_start_together_compile_once(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Path] = []

    def compile_library(command: Sequence[str], sources: Iterable[Path], target: Path) -> None:
        compiled.append(target)
        kernel_build.compile_library(command, sources, target)

    monkeypatch.setattr("llama_hub.kernels.compile_library", compile_library)
    kernels = small_kernels(places)
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: kernels.load(), range(4)))
    assert None not in loaded
    assert len(compiled) == 1


def test_a_library_in_a_folder_that_others_can_write_is_not_run(places: Path) -> None:
    small = small_kernels(places)
    assert small.load() is not None
    kernels = places / "home" / "kernels"
    (made,) = kernels.iterdir()
    made.unlink()  # not written over: it is mapped
    made.write_bytes(b"somebody else's")
    kernels.chmod(0o777)
    assert small.load() is not None
    assert made.read_bytes() == b"somebody else's"  # left alone; compiled elsewhere
    assert len(list(places.glob("llama-hub-*/*.so"))) == 1


def test_sources_that_do_not_compile_mean_no_kernels(places: Path) -> None:
    (places / "bad.c").write_text("this is no C")
    assert Kernels("bad", places, ("bad.c",), {}).load() is None
    assert not list(places.rglob("*.so"))


def test_a_wheels_libraries_are_those_that_the_product_loads() -> None:
    """The build knows folders only; each must be what a ``Kernels`` names."""
    root = Path(kernel_build.__file__).parent
    for library, kernels in zip(
        kernel_build.LIBRARIES, (native.KERNELS, ggml_quants.KERNELS), strict=True
    ):
        assert library.name == kernels.name
        assert (root / library.folder).resolve() == kernels.folder.resolve()
        assert sorted(path.name for path in kernels.folder.glob("*.c")) == sorted(kernels.sources)
        assert library.openmp == ("-fopenmp" in kernels.flags)


QUANTIZED = (None, "int8", "int4")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels' sources, and libraries of every variant built from them."""
    package = tmp_path_factory.mktemp("package") / "llama_hub"
    for library in kernel_build.LIBRARIES:
        source = Path(kernel_build.__file__).parent / library.folder
        shutil.copytree(source, package / library.folder, ignore=shutil.ignore_patterns("*.py"))
    assert kernel_build.build_prebuilt(package)
    return package


@pytest.mark.exhaustive
def test_every_variant_quantises_to_the_same_bytes(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_hub.kernels.__file__", str(package / "kernels.py"))
    values = np.random.default_rng(7).standard_normal((64, 32), np.float32)
    made = {}
    for variant in ggml_quants.KERNELS.prebuilt():
        library = ggml_quants.KERNELS.load_variant(variant)
        out = np.empty((64, 34), np.uint8)
        ggml_quants._in_c(library, "Q8_0", "float32")(values.view(np.uint32), out)
        made[variant.name] = out.tobytes()
    assert "sse4" in made
    assert len(set(made.values())) == 1, made.keys()


@pytest.mark.exhaustive
def test_every_variant_computes_the_same_logits(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16, int8 and int4; a variant for AVX-512 adds up in another order."""
    import torch  # its OpenMP runtime

    from tests.support.demo_model import demo_folder
    from tests.support.hf_models import our_logits, prompt

    monkeypatch.setattr("llama_hub.kernels.__file__", str(package / "kernels.py"))
    folder = demo_folder(tmp_path / "store").path
    logits: dict[str, list[torch.Tensor]] = {}
    for variant in native.KERNELS.prebuilt():
        library = native.KERNELS.load_variant(variant)
        monkeypatch.setattr("llama_hub.inference.loading.library", lambda library=library: library)
        logits[variant.name] = [
            our_logits(folder, prompt(40), kernels="on", device="cpu", quantize=quantize)
            for quantize in QUANTIZED
        ]
    assert "sse4" in logits
    for name, made in logits.items():
        # Sixteen lanes add up in another order than eight, quantised sums run over wider words.
        same_order = [None] if name in ("avx2", "avx-vnni") else []
        for quantize, ours, expected in zip(QUANTIZED, made, logits["sse4"], strict=True):
            if quantize in same_order:
                assert torch.equal(ours, expected), (name, quantize)
            else:
                assert (ours - expected).abs().mean() < 0.02 * expected.abs().mean()
    if {"avx2", "avx-vnni"} <= set(logits):
        assert all(map(torch.equal, logits["avx2"], logits["avx-vnni"]))

"""Compiled kernels are only loaded from where nobody else can put them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llama_hub.hub.checkpoints import ggml_quants
from llama_hub.kernels import Kernels

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler"
)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Home and the temporary folder, both below ``tmp_path``."""
    monkeypatch.setenv("LLAMA_HUB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_compiled_once_and_found_again(places: Path) -> None:
    assert ggml_quants.KERNELS.load() is not None
    (made,) = (places / "home" / "kernels").iterdir()
    before = made.stat().st_mtime_ns
    assert ggml_quants.KERNELS.load() is not None
    assert made.stat().st_mtime_ns == before


def test_a_library_in_a_folder_that_others_can_write_is_not_run(places: Path) -> None:
    assert ggml_quants.KERNELS.load() is not None
    kernels = places / "home" / "kernels"
    (made,) = kernels.iterdir()
    made.unlink()  # not written over: it is mapped
    made.write_bytes(b"somebody else's")
    kernels.chmod(0o777)
    assert ggml_quants.KERNELS.load() is not None
    assert made.read_bytes() == b"somebody else's"  # left alone; compiled elsewhere
    assert len(list(places.glob("llama-hub-*/*.so"))) == 1


def test_sources_that_do_not_compile_mean_no_kernels(places: Path) -> None:
    (places / "bad.c").write_text("this is no C")
    assert Kernels("bad", places, ("bad.c",), {}).load() is None
    assert not list(places.rglob("*.so"))

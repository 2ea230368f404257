"""The distribution: sdist → wheel → installed elsewhere → the command works from there."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from llama_hub import kernel_build
from llama_hub.kernels import _features
from tests.support.once import once

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("licenses", "hub", "inference", "evaluation", "deploy", "backends", "cli")


PREBUILT = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or kernel_build.compiler() is None,
    reason="needs Linux on x86-64 and a C compiler",
)


def python(*arguments: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from an sdist built from a copy of the tracked files, links and all."""
    return once(tmp_path_factory, "wheel", build_wheel)


def build_wheel(folder: Path) -> Path:
    """Build it below ``folder``, its kernels without the optimisation that takes nine seconds."""
    copy = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    out = folder / "dist"
    # One variant: all of them take a minute of a core, and are built by the exhaustive tests.
    variants = {"LLAMA_HUB_BUILD_KERNELS": "sse4" if "avx2" not in _features() else "avx2"}
    variants |= {"PATH": f"{unoptimised_compiler(folder)}:{os.environ['PATH']}"}
    python("-m", "build", "--no-isolation", "--outdir", str(out), ".", cwd=copy, **variants)
    return next(out.glob("*.whl"))


def unoptimised_compiler(folder: Path) -> Path:
    """A folder for the PATH: its ``cc`` is the machine's with ``-O0``; nothing without one."""
    folder = folder / "bin"
    folder.mkdir()
    if (program := kernel_build.compiler()) is not None:
        (folder / "cc").write_text(f'#!/bin/sh\nexec {program} "$@" -O0\n')
        (folder / "cc").chmod(0o700)
    return folder


def test_the_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    wanted = {f"llama_hub/{name}" for name in listed.stdout.split() if (ROOT / name).exists()}
    assert wanted - inside == set()
    assert "llama_hub/py.typed" in inside
    strangers = {name for name in inside if not name.startswith(("llama_hub/", "llama2_hub"))}
    assert strangers == set()


@pytest.fixture(scope="session")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed into a folder of its own."""

    def install(folder: Path) -> Path:
        options = ["-q", "--no-deps", "--target", str(folder)]
        python("-m", "pip", "install", *options, str(wheel), cwd=folder)
        return folder

    return once(tmp_path_factory, "site", install)


@PREBUILT
def test_the_wheel_says_where_its_kernels_run(wheel: Path) -> None:
    """Any Python 3, the machine they are for, and the oldest glibc that has what they need."""
    name = re.fullmatch(r"llama2_hub-[\w.]+-py3-none-manylinux_2_(\d+)_x86_64\.whl", wheel.name)
    assert name, wheel.name
    glibc = int(platform.libc_ver()[1].split(".")[1])
    assert 17 <= int(name[1]) <= glibc
    with zipfile.ZipFile(wheel) as opened:
        (info,) = [each for each in opened.namelist() if each.endswith(".dist-info/WHEEL")]
        assert b"Root-Is-Purelib: false" in opened.read(info)
        libraries = [each for each in opened.namelist() if each.endswith(".so")]
        assert len(libraries) == len(kernel_build.LIBRARIES)
        for library in libraries:
            assert b"libgomp" not in opened.read(library)  # torch's own is used


@PREBUILT
def test_the_wheels_kernels_serve_where_there_is_no_compiler(site: Path, tmp_path: Path) -> None:
    """Installed elsewhere, with a PATH that holds nothing: the fast kernels compute the answer."""
    look = (
        "from llama_hub.kernel_build import compiler; assert compiler() is None\n"
        "from llama_hub.hub.checkpoints import ggml_quants\n"
        "from llama_hub.inference.native import library\n"
        "assert ggml_quants.library() is not None\n"
        "import torch; assert library.library() is not None\n"
        "from llama_hub.deploy import image\n"
        "assert sum(name.endswith('.so') for name, _ in image.sources()) == 2\n"
        "print(library.KERNELS.describe())"
    )
    home = str(tmp_path / "home")
    bare = {"PYTHONPATH": str(site), "PATH": str(tmp_path), "LLAMA_HUB_HOME": home}
    shown = python("-c", look, cwd=tmp_path, **bare)
    assert shown.strip() in ("avx2, prebuilt", "sse4, prebuilt")
    assert not (tmp_path / "home" / "kernels").exists()


def test_it_works_installed_elsewhere(site: Path, tmp_path: Path) -> None:
    seen = python(
        "-c", "import llama_hub.hub as h; print(h.__file__)", cwd=tmp_path, PYTHONPATH=str(site)
    )
    assert Path(seen.strip()).is_relative_to(site)
    shown = python(
        "-m", "llama_hub", "download", "llama-demo", "--json", cwd=tmp_path, PYTHONPATH=str(site)
    )
    assert '"manifest": "sha256:' in shown

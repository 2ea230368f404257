"""Compiler calls that make the C kernels: for this machine, or as libraries for a wheel.

A wheel holds each library once per ``Variant`` of the processor; ``llama_hub.kernels`` loads the
best one that the machine can run. Only the standard library is imported, since ``setup.py`` uses
this module in a build environment that holds nothing else.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# No contraction into fused multiply-adds: results must not depend on the compiler.
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fPIC")
COMPILE_SECONDS = 180  # a slow machine takes a tenth of it
PREBUILT = "prebuilt"  # folder of the package that holds a wheel's libraries


@dataclass(frozen=True)
class Variant:
    """A kind of processor that kernels are compiled for."""

    name: str
    flags: tuple[str, ...]
    features: frozenset[str]  # of /proc/cpuinfo, all of which it needs


def _variant(name: str, flags: str, features: str) -> Variant:
    return Variant(name, tuple(flags.split()), frozenset(features.split()))


# What the levels of the x86-64 psABI require, in the kernel's words.
_V2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
_V3 = f"{_V2} abm avx avx2 bmi1 bmi2 f16c fma movbe"
_V4 = f"{_V3} avx512f avx512bw avx512cd avx512dq avx512vl"
# Machine → its variants, the fastest first.
VARIANTS = {
    "x86_64": (
        _variant("avx512-vnni", "-march=x86-64-v4 -mavx512vnni", f"{_V4} avx512_vnni"),
        _variant("avx-vnni", "-march=x86-64-v3 -mavxvnni", f"{_V3} avx_vnni"),
        _variant("avx2", "-march=x86-64-v3", _V3),
        _variant("sse4", "-march=x86-64-v2", _V2),
    ),
    "aarch64": (
        _variant("dotprod", "-march=armv8.2-a+dotprod+fp16", "asimd asimddp asimdhp fphp"),
        _variant("neon", "-march=armv8-a", "asimd"),
    ),
}


@dataclass(frozen=True)
class Library:
    """A library of a wheel: all C sources of one folder of the package."""

    name: str
    folder: str
    openmp: bool = False

    def file_name(self, variant: Variant, machine: str) -> str:
        """The library's file in ``PREBUILT``."""
        return f"{self.name}-{machine}-{variant.name}.so"


LIBRARIES = (
    Library("kernels", "inference/native", openmp=True),
    Library("ggml", "hub/checkpoints"),
)


def compiler() -> str | None:
    """The C compiler of this machine."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def compile_library(
    command: Sequence[str], sources: Iterable[Path], target: Path, link: Sequence[str] = ()
) -> None:
    """Compile ``sources`` side by side and link them into ``target``.

    ``subprocess.SubprocessError`` if the compiler does not take them or takes too long.
    """
    sources = list(sources)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        objects = [str(Path(work) / f"{source.name}.o") for source in sources]
        with ThreadPoolExecutor(len(objects)) as pool:
            list(pool.map(lambda s, o: _run([*command, "-c", str(s), "-o", o]), sources, objects))
        made = Path(work) / target.name
        _run([*command, *link, "-shared", *objects, "-o", str(made), "-lm"])
        made.replace(target)


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)


def build_prebuilt(package: Path, names: Iterable[str] | None = None) -> list[Path]:
    """Compile every library of the package at ``package`` for this kind of machine.

    Returns what was made below ``package / PREBUILT``: nothing where there is no compiler or no
    variant for the machine. ``names``: only these variants. ``subprocess.SubprocessError`` if a
    source does not compile; then nothing is left there.
    """
    program, machine = compiler(), platform.machine()
    wanted = [v for v in VARIANTS.get(machine, ()) if names is None or v.name in names]
    if program is None or not wanted or platform.system() != "Linux":
        return []
    folder = package / PREBUILT
    folder.mkdir(exist_ok=True)
    made: list[Path] = []
    try:
        for library in LIBRARIES:
            for variant in wanted:
                made.append(folder / library.file_name(variant, machine))
                _build_variant(program, package, library, variant, made[-1])
    except subprocess.SubprocessError:
        shutil.rmtree(folder)
        raise
    return made


def _build_variant(
    program: str, package: Path, library: Library, variant: Variant, target: Path
) -> None:
    # The same bytes wherever the sources lie.
    command = [program, *FLAGS, *variant.flags, "-g0", f"-ffile-prefix-map={package}=llama_hub"]
    # OpenMP is compiled for and not linked: the runtime is torch's, which is loaded before.
    command += ["-fopenmp"] if library.openmp else []
    sources = sorted((package / library.folder).glob("*.c"))
    compile_library(command, sources, target, ["-fno-openmp", "-Wl,--build-id=none"])


def platform_tag(libraries: Iterable[Path], machine: str) -> str:
    """The wheel's platform: the oldest glibc that has every symbol which the libraries need."""
    versions = [17]  # manylinux2014, the oldest that is named so
    for path in libraries:
        needed = re.findall(rb"GLIBC_2\.(\d+)", path.read_bytes())
        versions += [int(version) for version in needed]
    return f"manylinux_2_{max(versions)}_{machine}"

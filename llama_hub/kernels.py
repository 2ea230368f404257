"""C kernels: a wheel's own libraries, or what a source checkout compiles at first use.

What is compiled is kept below the product's home, named by everything it depends on; a machine
without either, or where compiling fails, goes without and only loses speed.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import platform
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llama_hub import kernel_build
from llama_hub.home import home
from llama_hub.kernel_build import FLAGS, PREBUILT, Variant, compile_library, compiler

NO_KERNELS = (
    "the package brings no library for this processor and there is no C compiler (cc, gcc or clang)"
)


@dataclass(frozen=True)
class Kernels:
    """What to compile, from one folder, and the functions in it with their arguments."""

    name: str  # of the file that is made
    folder: Path
    sources: tuple[str, ...]
    signatures: Mapping[str, Sequence[Any]]  # function → ctypes types; nothing is returned
    headers: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    def load(self) -> ctypes.CDLL | None:
        """The functions, or ``None`` where they cannot be had."""
        for variant in self.prebuilt():
            with suppress(OSError):
                return self.load_variant(variant)
        program = compiler()
        if program is None or any(self.prebuilt()):
            return None
        temporary = Path(tempfile.gettempdir()) / f"llama-hub-{os.getuid()}"
        for folder in (home() / "kernels", temporary):
            try:
                return self._declared(ctypes.CDLL(str(self._compiled(program, folder))))
            except subprocess.SubprocessError:
                return None  # it would fail elsewhere too
            except OSError:
                continue
        return None

    def prebuilt(self) -> Iterator[Variant]:
        """The variants that the package brings and that this machine can run, fastest first."""
        here = _features()
        for variant in kernel_build.VARIANTS.get(platform.machine(), ()):
            if variant.features <= here and self._prebuilt_path(variant).is_file():
                yield variant

    def load_variant(self, variant: Variant) -> ctypes.CDLL:
        """The functions of the package's ``variant``; ``OSError`` if the library is not whole."""
        if "-fopenmp" in self.flags:
            _load_openmp()
        return self._declared(ctypes.CDLL(str(self._prebuilt_path(variant))))

    def describe(self) -> str:
        """Which library ``load`` takes, in words; compiles nothing."""
        for variant in self.prebuilt():
            return f"{variant.name}, prebuilt"
        program = compiler()
        return f"compiled by {Path(program).name}" if program else ""

    def _prebuilt_path(self, variant: Variant) -> Path:
        name = f"{self.name}-{platform.machine()}-{variant.name}.so"
        return Path(__file__).parent / PREBUILT / name

    def _compiled(self, program: str, folder: Path) -> Path:
        """The shared library, compiled now or before; appears whole under its name.

        Processes that start together, as the replicas of a deployment do, compile it once.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _require_own(folder)
        target = folder / f"{self.name}-{self._fingerprint(program)}.so"
        if not target.is_file():
            with _one_at_a_time(folder):
                if not target.is_file():
                    command = [program, *FLAGS, *self.flags, _tuning()]
                    compile_library(command, [self.folder / name for name in self.sources], target)
        return target

    def _fingerprint(self, program: str) -> str:
        """Hash of sources, flags, compiler and processor."""
        words = (*FLAGS, *self.flags, _tuning(), program, _processor())
        digest = hashlib.sha256(" ".join(words).encode())
        for name in (*self.sources, *self.headers):
            digest.update((self.folder / name).read_bytes())
        return digest.hexdigest()[:16]

    def _declared(self, loaded: ctypes.CDLL) -> ctypes.CDLL:
        for name, types in self.signatures.items():
            function = getattr(loaded, name)
            function.argtypes, function.restype = list(types), None
        return loaded


def _require_own(folder: Path) -> None:
    """``PermissionError`` if anybody else can put a library there, which we would then run."""
    found = folder.lstat()
    if (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != os.getuid()
        or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ):
        raise PermissionError(f"{folder} can be written by somebody else")


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder``; where the file system has none, all compile side by side."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _load_openmp() -> None:
    """Make the functions of torch's OpenMP runtime visible: two runtimes would use twice the cores.

    ``OSError`` if there is none, neither torch's nor the system's.
    """
    torch = find_spec("torch")
    folder = Path(torch.origin).parent / "lib" if torch and torch.origin else Path()
    paths = [str(path) for path in sorted(folder.glob("libgomp*.so*"))]
    ctypes.CDLL(paths[0] if paths else "libgomp.so.1", mode=ctypes.RTLD_GLOBAL)


@cache
def _features() -> frozenset[str]:
    """What the processor can do, in the words of Linux; empty elsewhere."""
    for line in _cpuinfo():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _tuning() -> str:
    return "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"


def _processor() -> str:
    """What ``-march=native`` looks at: the processor's features."""
    kept = ("model name", "flags", "Features", "CPU part")
    lines = {line for line in _cpuinfo() if line.startswith(kept)}
    return " ".join(sorted(lines)) or platform.processor()

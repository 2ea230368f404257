"""Compiles C kernels once for this machine and loads them.

The result is kept below the product's home, named by everything it depends on; a machine without
a C compiler, or where compiling fails, goes without and only loses speed.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_hub.home import home

# No contraction into fused multiply-adds: results must not depend on the compiler.
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fPIC")
COMPILE_SECONDS = 180  # a slow machine takes a tenth of it


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
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        if compiler is None:
            return None
        temporary = Path(tempfile.gettempdir()) / f"llama-hub-{os.getuid()}"
        for folder in (home() / "kernels", temporary):
            try:
                return self._declared(ctypes.CDLL(str(self._compiled(compiler, folder))))
            except subprocess.SubprocessError:
                return None  # it would fail elsewhere too
            except OSError:
                continue
        return None

    def _compiled(self, compiler: str, folder: Path) -> Path:
        """The shared library, compiled now or before; appears whole under its name."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _require_own(folder)
        target = folder / f"{self.name}-{self._fingerprint(compiler)}.so"
        if target.is_file():
            return target
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / target.name
            command = [compiler, *FLAGS, *self.flags, _tuning()]
            objects = [str(Path(work) / f"{name}.o") for name in self.sources]
            with ThreadPoolExecutor(len(objects)) as pool:  # a compiler for each source
                sources = [str(self.folder / name) for name in self.sources]
                list(pool.map(lambda s, o: _run([*command, "-c", s, "-o", o]), sources, objects))
            _run([*command, "-shared", *objects, "-o", str(made), "-lm"])
            made.replace(target)
        return target

    def _fingerprint(self, compiler: str) -> str:
        """Hash of sources, flags, compiler and processor."""
        words = (*FLAGS, *self.flags, _tuning(), compiler, _processor())
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


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)


def _tuning() -> str:
    return "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"


def _processor() -> str:
    """What ``-march=native`` looks at: the processor's features."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "Features", "CPU part")
    return " ".join(sorted({line for line in lines if line.startswith(kept)}))

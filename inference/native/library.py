"""Compiles the kernels once for this machine and loads them.

The result is kept below the product's home, named by everything it depends on;
a machine without a C compiler, or where compiling fails, uses torch's kernels
instead and only loses speed.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from llama_hub.home import home

HERE = Path(__file__).parent
SOURCES = ("dense.c", "quantized.c", "attention.c")
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fopenmp", "-fPIC", "-shared")
COMPILE_SECONDS = 180  # a slow machine takes a tenth of it

_POINTER, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_DOT = [_POINTER, _POINTER, _POINTER, _INT, *[_SIZE] * 3, _INT, _INT]
_QUANTIZED = [*[_POINTER] * 6, _INT, *[_SIZE] * 5, _INT, _INT]
SIGNATURES = {
    "lh_dot": _DOT,
    "lh_packed": _DOT,
    "lh_norm": [_POINTER, _POINTER, _POINTER, _SIZE, _SIZE, ctypes.c_float, _INT],
    "lh_swiglu": [_POINTER, _POINTER, _SIZE, _SIZE, _INT],
    "lh_quantize": [*[_POINTER] * 4, *[_SIZE] * 3, _INT, _INT],
    "lh_dot_quantized": _QUANTIZED,
    "lh_packed_quantized": _QUANTIZED,
    "lh_rope_store": [*[_POINTER] * 3, _INT, *[_POINTER] * 4, *[_SIZE] * 4, _INT],
    "lh_attend": [*[_POINTER] * 4, _INT, _POINTER, _SIZE, _POINTER, *[_SIZE] * 3, _INT],
}


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, or ``None`` where they cannot be had.

    torch must be imported first: its OpenMP runtime is the one that is used.
    """
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None
    for folder in (home() / "kernels", Path(tempfile.gettempdir()) / f"llama-hub-{os.getuid()}"):
        try:
            return _declared(ctypes.CDLL(str(_compiled(compiler, folder))))
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def _compiled(compiler: str, folder: Path) -> Path:
    """The shared library, compiled now or before; appears whole under its name."""
    target = folder / f"kernels-{_fingerprint(compiler)}.so"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = Path(work) / target.name
        sources = [str(HERE / name) for name in SOURCES]
        command = [compiler, *FLAGS, _tuning(), *sources, "-o", str(made), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)
        made.replace(target)
    return target


def _tuning() -> str:
    return "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"


def _fingerprint(compiler: str) -> str:
    """Hash of sources, flags, compiler and processor."""
    digest = hashlib.sha256(" ".join((*FLAGS, _tuning(), compiler, _processor())).encode())
    for path in sorted(HERE.glob("*.[ch]")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """What ``-march=native`` looks at: the processor's features."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "Features", "CPU part")
    return " ".join(sorted({line for line in lines if line.startswith(kept)}))


def _declared(loaded: ctypes.CDLL) -> ctypes.CDLL:
    for name, types in SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = types, None
    return loaded

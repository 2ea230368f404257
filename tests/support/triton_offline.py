"""Triton kernels compiled for GPUs that are not here, with the wheel's own ``ptxas``.

What is compiled is what the product launches: a launch is recorded with all its arguments on the
meta device, its types and constants become the compiler's. This proves that the code compiles,
how many registers it takes, that nothing spills and how wide its loads are; not that it is right
(the interpreter's tests and a GPU's do that) and not that it is fast.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

ARCHITECTURES = (75, 80, 86, 90, 100)
SHARED = {75: 65536, 80: 166912, 86: 101376, 90: 232448, 100: 232448}  # bytes a block may take
POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
}
OPTIONS = ("num_warps", "num_stages")


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments that it was launched with."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]
    grid: tuple[int, ...]


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a launch."""

    launch: Launch
    architecture: int
    ptx: str
    shared: int  # bytes
    binary: bytes

    @cached_property
    def usage(self) -> dict[str, int]:
        """Registers of a thread, bytes of stack and local memory, as ``cuobjdump`` says."""
        folder = Path(triton.__file__).parent / "backends/nvidia/bin"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.binary)
            file.flush()
            command = [str(folder / "cuobjdump"), "-res-usage", file.name]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return {name: int(number) for name, number in re.findall(r"([A-Z]+):(\d+)", text)}

    @property
    def wide_loads(self) -> int:
        """Loads of 16 bytes for a thread, into registers or straight into shared memory."""
        registers = len(
            re.findall(r"ld\.global[.\w:]*\.v4\.b32|ld\.global[.\w:]*\.v2\.b64", self.ptx)
        )
        return registers + len(re.findall(r"cp\.async\.cg\.shared\.global .*0x10", self.ptx))

    def instructions(self, name: str) -> int:
        """How often an instruction of PTX occurs."""
        return len(re.findall(rf"\b{name}", self.ptx))


@contextmanager
def recorded(*kernels: Any) -> Iterator[list[Launch]]:
    """Instead of launching ``kernels``, note the arguments."""
    launches: list[Launch] = []

    def stand_in(kernel: Any) -> Callable[..., None]:
        def run(*values: Any, grid: tuple[int, ...], warmup: bool, **named: Any) -> None:
            options = {key: named.pop(key) for key in OPTIONS if key in named}
            names = kernel.arg_names
            launches.append(
                Launch(kernel, dict(zip(names, values, strict=False)) | named, options, grid)
            )

        return run

    for kernel in kernels:
        kernel.run = stand_in(kernel)
    try:
        yield launches
    finally:
        for kernel in kernels:
            del kernel.run


def compile_for(launch: Launch, architecture: int) -> Compiled:
    """The launch's kernel for a compute capability (80: 8.0)."""
    source = ASTSource(launch.kernel, *signature(launch))
    target = GPUTarget("cuda", architecture, 32)
    made: Any = triton.compile(source, target=target, options=launch.options)
    return Compiled(launch, architecture, made.asm["ptx"], made.metadata.shared, made.asm["cubin"])


def signature(launch: Launch) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], Any]]:
    """Types, constants and divisibilities: launches that agree in them share compiled code."""
    names = launch.kernel.arg_names
    constants = {
        name: value
        for name, value in launch.arguments.items()
        if _is_constant(launch.kernel, names.index(name), value)
    }
    types: dict[str, str] = {}
    attributes: dict[tuple[int], Any] = {}
    for index, name in enumerate(names):
        value = launch.arguments[name]
        types[name] = "constexpr" if name in constants else _type(value)
        parameter = launch.kernel.params[index]
        if isinstance(value, torch.Tensor):
            whole = not parameter.do_not_specialize_on_alignment
        else:
            whole = isinstance(value, int) and value % 16 == 0 and not parameter.do_not_specialize
        if name not in constants and whole:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return types, constants, attributes


def _is_constant(kernel: Any, index: int, value: Any) -> bool:
    parameter = kernel.params[index]
    if parameter.is_constexpr:
        return True
    # Triton's own rule
    return isinstance(value, int) and value == 1 and not parameter.do_not_specialize


def _type(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"

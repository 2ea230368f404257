"""Every kernel, as the product launches it, through the compiler for GPUs that are not here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from llama_hub.inference import paged_decode
from llama_hub.inference.kernels import (
    attention,
    dequantize,
    draw,
    elementwise,
    few_rows,
    one_row,
    products,
)
from llama_hub.inference.linear import Packed
from tests.support.triton_offline import (
    ARCHITECTURES,
    SHARED,
    Compiled,
    Launch,
    compile_for,
    recorded,
    signature,
)

KERNELS = (
    attention.decode,
    attention.prefill,
    dequantize.dequantize,
    draw.draw_kernel,
    elementwise.rms_norm,
    elementwise.rotate_and_store_kernel,
    elementwise.swiglu_kernel,
    few_rows.few_rows,
    one_row.one_row,
)
META = torch.device("meta")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device=META)


def numbers(count: int) -> torch.Tensor:
    return empty(count, dtype=torch.int32)


def weight(bits: int, width: int, columns: int, dtype: torch.dtype) -> Packed:
    if bits == 16:
        dense = empty(width, columns, dtype=dtype)
        return Packed(16, dense, dense[:1, :1], 0, 32)
    if bits == 8:
        values = empty(width, columns, dtype=torch.int8)
        return Packed(8, values, empty(width, 1, dtype=dtype), 0, 32)
    values = empty(width, columns // 2, dtype=torch.uint8)
    return Packed(4, values, empty(width, columns // 64, dtype=dtype), 64, 32)


def product(bits: int, rows: int, *, swiglu: bool) -> Callable[[torch.dtype], None]:
    """A product of the 7B model."""

    def launch(dtype: torch.dtype) -> None:
        x = empty(rows, 4096, dtype=dtype)
        made = weight(bits, 22016 if swiglu else 4096, 4096, dtype)
        more = None if swiglu else empty(rows, 4096, dtype=dtype)
        products.product(x, made, residual=more, swiglu=swiglu)

    return launch


def decode(heads: int, kv_heads: int, width: int = 128) -> Callable[[torch.dtype], None]:
    def launch(dtype: torch.dtype) -> None:
        cache = empty(4096, kv_heads, width, dtype=dtype)
        query = empty(16, heads, width, dtype=dtype)
        table = empty(16, 256, dtype=torch.int32)
        paged_decode.paged_decode(query, cache, cache, table, numbers(16))

    return launch


def prefill(longest: int, heads: int, kv_heads: int) -> Callable[[torch.dtype], None]:
    def launch(dtype: torch.dtype) -> None:
        cache = empty(4096, kv_heads, 128, dtype=dtype)
        query = empty(600, heads, 128, dtype=dtype)
        table = empty(4, 256, dtype=torch.int32)
        runs = (numbers(4), numbers(4), numbers(4))
        paged_decode.paged_prefill(query, cache, cache, table, *runs, longest)

    return launch


def norm(dtype: torch.dtype) -> None:
    elementwise.norm(empty(16, 4096, dtype=dtype), empty(4096, dtype=dtype), 1e-5)


def rotate(dtype: torch.dtype) -> None:
    cache = empty(4096, 32, 128, dtype=dtype)
    angles = empty(4096, 64, dtype=torch.float32)
    positions = empty(16, dtype=torch.int64)
    qkv = empty(16, 96 * 128, dtype=dtype)
    elementwise.rotate_and_store(qkv, angles, angles, positions, positions, cache, cache)


def swiglu(dtype: torch.dtype) -> None:
    elementwise.swiglu(empty(16, 22016, dtype=dtype))


def draw_tokens(dtype: torch.dtype) -> None:
    keys = empty(16, 512, dtype=torch.int64)
    draw.draw(keys, empty(16, dtype=torch.float64), empty(6, 16, dtype=torch.float64))


def dense(bits: int) -> Callable[[torch.dtype], None]:
    def launch(dtype: torch.dtype) -> None:
        products.dense(weight(bits, 4096, 4096, dtype), dtype)

    return launch


# What is launched, loads of 16 bytes at least, instructions of tensor cores wanted.
LAUNCHES: dict[str, tuple[Callable[[torch.dtype], None], int, bool]] = {
    **{
        f"{bits} bits, {rows} rows{', swiglu' * pair}": (
            product(bits, rows, swiglu=pair),
            8 if rows > 1 else 3,  # two rows of the weight and x at least
            rows > 1,
        )
        for bits, most in ((4, 64), (8, 64), (16, 8))
        for rows in (1, 8, 16, 32, 64)
        if rows <= most
        for pair in (False, True)
    },
    "decode": (decode(32, 32), 8, True),
    "decode, groups of 4": (decode(32, 8), 8, True),
    "decode, groups of 8": (decode(64, 8), 8, True),
    "decode, groups of 3, narrow": (decode(6, 2, 24), 0, True),
    "prefill": (prefill(512, 32, 32), 8, True),
    "prefill of a few": (prefill(17, 32, 32), 8, True),
    "prefill, groups of 8": (prefill(512, 64, 8), 8, True),
    "dense from 4 bits": (dense(4), 1, False),
    "dense from 8 bits": (dense(8), 1, False),
    "norm": (norm, 1, False),
    "rotate": (rotate, 0, False),
    "swiglu": (swiglu, 0, False),
}
QUICK = ("4 bits, 1 rows", "4 bits, 8 rows", "decode, groups of 8")
TENSOR_CORES = ("mma.sync", "wgmma.mma_async", "tcgen05.mma")


def launched(name: str, dtype: torch.dtype, architecture: int) -> Launch:
    """The last launch of a case as it is on a GPU of ``architecture``."""
    tensor = architecture >= 80
    with pytest.MonkeyPatch.context() as patch, recorded(*KERNELS) as launches:
        for module in (products, paged_decode):
            patch.setattr(module, "tensor_cores", lambda device: tensor)
        LAUNCHES[name][0](dtype)
    return launches[-1]


def check(made: Compiled, wide: int, tensor: bool) -> None:
    assert made.usage["STACK"] == made.usage["LOCAL"] == 0, "registers spill"
    assert made.usage["REG"] <= 255
    assert made.shared <= SHARED[made.architecture]
    if made.architecture >= 80:
        assert made.wide_loads >= wide
        assert any(map(made.instructions, TENSOR_CORES)) == tensor


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("architecture", [80, 90])
def test_compiles(name: str, architecture: int) -> None:
    _, wide, tensor = LAUNCHES[name]
    check(compile_for(launched(name, torch.bfloat16, architecture), architecture), wide, tensor)


@pytest.mark.exhaustive
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", LAUNCHES)
def test_compiles_for_every_architecture(name: str, dtype: torch.dtype, architecture: int) -> None:
    if architecture < 80 and (dtype == torch.bfloat16 or _not_launched_there(name)):
        pytest.skip("computed another way there")
    _, wide, tensor = LAUNCHES[name]
    check(compile_for(launched(name, dtype, architecture), architecture), wide, tensor)


def _not_launched_there(name: str) -> bool:
    return name.startswith("prefill") or any(f" {rows} rows" in name for rows in (16, 32, 64))


def test_decode_compiles_in_float32() -> None:
    launch = launched("decode", torch.float32, 80)
    check(compile_for(launch, 80), 8, tensor=False)


@pytest.mark.parametrize("rows", [1, 8, 64])
@pytest.mark.parametrize("columns", [2048, 4096, 5120, 8192, 11008, 13824, 28672, 5504, 1376])
def test_tiles_divide_every_width_of_the_models(columns: int, rows: int) -> None:
    """Also a quarter and an eighth of them; every column belongs to one step of one program."""
    for bits in (4, 8, 16):
        for tensor in (True, False):
            made = weight(bits, 4096, columns // 64 * 64, torch.float16)
            tiles = products.tiling(made, rows, swiglu=False, tensor=tensor)
            step = tiles.block_k * tiles.parts
            assert made.columns % step == 0
            assert 1 <= tiles.splits <= made.columns // step
            assert tiles.splits == products.tiling(made, 1, swiglu=False, tensor=tensor).splits


def test_a_kernel_of_ours_is_in_the_list() -> None:
    """A new kernel needs a line in ``LAUNCHES``: here every ``jit`` function with a caller."""
    from triton.runtime.jit import JITFunction

    folder = Path(attention.__file__).parent
    modules = (attention, dequantize, draw, elementwise, few_rows, one_row, products)
    names = {path.stem for path in folder.glob("*.py")} - {"__init__", "runtime", "unpack"}
    assert names == {module.__name__.rpartition(".")[2] for module in modules}
    entry = {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, JITFunction) and not name.startswith("_") and name != "unpack4"
    }
    assert entry == {kernel.fn.__name__ for kernel in KERNELS}


def test_what_varies_from_step_to_step_compiles_nothing_anew() -> None:
    """A kernel compiled in the middle of serving would cost its users a second."""

    def variants(launches: list[Callable[[torch.dtype], None]]) -> int:
        seen = set()
        for launch in launches:
            with recorded(*KERNELS) as made:
                launch(torch.bfloat16)
            seen.add(str(signature(made[-1])))
        return len(seen)

    assert variants([product(4, rows, swiglu=False) for rows in range(2, 9)]) == 1
    assert variants([product(4, rows, swiglu=False) for rows in range(1, 9)]) == 2
    assert variants([prefill(longest, 32, 32) for longest in (65, 80, 128, 512)]) == 1
    assert variants([prefill(longest, 32, 32) for longest in (1, 2, 16, 64)]) == 1


@pytest.mark.parametrize("name", ["decode", "prefill", "rotate"])
def test_numbers_of_a_step_may_lie_at_any_offset(name: str) -> None:
    launch = launched(name, torch.bfloat16, 80)
    integers = (torch.int32, torch.int64)
    _, _, attributes = signature(launch)
    for index, argument in enumerate(launch.kernel.arg_names):
        value = launch.arguments[argument]
        if isinstance(value, torch.Tensor) and value.dtype in integers and argument != "counters":
            assert (index,) not in attributes, argument

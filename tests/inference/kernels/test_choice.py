"""Which form of a product or of attention is taken for what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from llama_hub.inference.batch import Span
from llama_hub.inference.cuda.triton_operations import LONG, flash_is_faster
from llama_hub.inference.kernels import few_rows, one_row, products
from llama_hub.inference.linear import Packed, Quantized
from llama_hub.inference.paged_decode import can_prefill
from llama_hub.inference.quantization import for_cuda, quantize, scale_type
from tests.support.triton_offline import recorded

HALF = torch.float16
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_long_prompts_from_the_beginning_go_to_torchs_flash_attention() -> None:
    query, keys, few = (torch.empty(1, heads, 8) for heads in (4, 4, 2))

    def span(start: int, count: int) -> Span:
        return Span(0, count, start, ())

    assert flash_is_faster(query, keys, [span(0, LONG)])
    assert not flash_is_faster(query, keys, [span(0, LONG), span(0, LONG - 1)])
    assert not flash_is_faster(query, keys, [span(16, LONG)])
    assert not flash_is_faster(query, few, [span(0, LONG)])


def test_weights_are_packed_for_cuda_with_scales_of_half_the_size() -> None:
    """Quantised at load for CUDA: the values suit the scales that are kept."""
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)) * 0.02
    for bits in (4, 8):
        made = quantize(weight, bits, for_cuda(HALF), scale_type(HALF, CUDA))
        assert isinstance(made, Packed)
        assert made.scales.dtype == HALF
        error = (made.dense(torch.float32) - weight).norm() / weight.norm()
        assert error < (0.12 if bits == 4 else 0.01)
        plain = quantize(weight, bits, for_cuda(torch.float32), scale_type(HALF, CUDA))
        assert isinstance(plain, Quantized)
        assert torch.equal(plain.dense(torch.float32), made.dense(torch.float32))
    assert scale_type(HALF, CPU) == torch.float32


@pytest.mark.parametrize(
    ("group", "packed"), [(32, True), (64, True), (96, True), (48, False), (16, False)]
)
def test_groups_that_the_kernels_cannot_read_stay_in_plain_order(group: int, packed: bool) -> None:
    columns = group * 8
    values = torch.randint(0, 256, (8, columns // 2), dtype=torch.uint8)
    made = for_cuda(HALF)(4, values, torch.rand(8, 8))
    assert isinstance(made, Packed if packed else Quantized)
    assert isinstance(made, Packed | Quantized)
    expected = Quantized(4, values, torch.rand(8, 8)).dense(torch.float32)
    assert made.dense(torch.float32).shape == expected.shape


def test_rows_decide_the_form_of_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row, few rows, many rows; without tensor cores fewer are few."""
    taken: list[str] = []
    for name in ("by_one_row", "by_few_rows", "dense"):

        def stand_in(*given: object, name: str = name) -> torch.Tensor:
            taken.append(name)
            return torch.zeros(64, 64, dtype=HALF)

        monkeypatch.setattr(products, name, stand_in)

    def form(rows: int, bits: int) -> str:
        taken.clear()
        weight = torch.zeros(64, 64, dtype=HALF)
        made = quantize(weight, bits, for_cuda(HALF), HALF) if bits < 16 else None
        linear = made if isinstance(made, Packed) else Packed(16, weight, weight, 0, 32)
        products.product(torch.zeros(rows, 64, dtype=HALF), linear)
        return taken[0] if taken else "cublas"

    assert [form(rows, 4) for rows in (1, 2, 64, 65)] == [
        "by_one_row", "by_few_rows", "by_few_rows", "dense",
    ]  # fmt: skip
    assert [form(rows, 16) for rows in (1, 8, 9)] == ["by_one_row", "by_few_rows", "cublas"]
    monkeypatch.setattr(products, "tensor_cores", lambda device: False)
    assert [form(rows, 8) for rows in (1, 8, 9)] == ["by_one_row", "by_few_rows", "dense"]


class Largest(TorchDispatchMode):
    """The largest tensor that torch's operations make."""

    numel = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, Tensor):
                self.numel = max(self.numel, each.numel())
        return result


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [1, 8, 64])
def test_few_rows_make_nothing_as_large_as_the_weight(bits: int, rows: int) -> None:
    """One launch reads the packed weight; beside it only the result and sums that are shared."""
    meta = torch.device("meta")
    values = torch.empty(4096, 4096 * bits // 8, device=meta).to(
        torch.uint8 if bits == 4 else torch.int8
    )
    groups = 64 if bits == 4 else 1
    scales = torch.empty(4096, groups, dtype=HALF, device=meta)
    linear = Packed(bits, values, scales, 64 if bits == 4 else 0, 32)
    products.counters(meta, 1)
    x = torch.empty(rows, 4096, dtype=HALF, device=meta)
    with recorded(one_row.one_row, few_rows.few_rows) as launches, Largest() as largest:
        linear(x)
    assert len(launches) == 1
    assert launches[0].arguments["values"] is values
    assert 0 < largest.numel < 4096 * 4096 / 4


def test_attention_of_prompts_needs_tensor_cores_and_sixteen_bits() -> None:
    assert can_prefill(torch.empty(1, 1, 16, dtype=HALF))
    assert not can_prefill(torch.empty(1, 1, 16))

"""The Triton kernels' arithmetic: in the interpreter here, on a GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from tests.support import kernel_cases


def interpret(name: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.support.kernel_cases", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]


def test_one_case_of_each_kind() -> None:
    interpret("few")


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", sorted(set(kernel_cases.CASES) - {"few"}))
def test_all_cases(name: str) -> None:
    interpret(name)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", kernel_cases.CASES)
def test_on_a_gpu(name: str) -> None:
    device = torch.device("cuda:0")
    kernel_cases.CASES[name](device, [torch.bfloat16, torch.float16, torch.float32])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_programs_that_share_a_sum_never_race() -> None:
    """The same product and the same attention a thousand times: every bit as the first time."""
    from llama_hub.inference.kernels import products
    from llama_hub.inference.linear import Packed
    from llama_hub.inference.paged_decode import paged_decode

    device, dtype = torch.device("cuda:0"), torch.bfloat16
    weight, _ = kernel_cases.packed(kernel_cases.random(512, 4096, like=dtype, device=device), 4)
    assert isinstance(weight, Packed)
    assert products.tiling(weight, 1, swiglu=False).splits > 1
    x = kernel_cases.random(3, 4096, like=dtype, device=device)
    keys, values, table = kernel_cases.cache(device, dtype, 8, 128, 3, 128)
    lengths = torch.tensor([2048, 700, 130], dtype=torch.int32, device=device)
    query = kernel_cases.random(3, 64, 128, like=dtype, device=device)
    first = products.product(x, weight), paged_decode(query, keys, values, table, lengths)
    for _ in range(1000):
        assert torch.equal(products.product(x, weight), first[0])
        assert torch.equal(paged_decode(query, keys, values, table, lengths), first[1])

"""The arithmetic before loading: against real loads, published sizes, and what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llama_hub.errors import ExitCode, NotEnoughError
from llama_hub.hub.architecture import Architecture
from llama_hub.inference import memory
from llama_hub.inference.config import EngineOptions
from llama_hub.inference.loading import load_shard, make_plan
from llama_hub.inference.torch_engine import TorchEngine
from tools import gpu_table

GIB = 1 << 30
LLAMA_7B = Architecture(4096, 32, 32, 32, 11008, 32000)
LLAMA_70B = Architecture(8192, 80, 64, 8, 28672, 32000)


def fit(model: Architecture, room_gib: float | None, **changes: Any) -> memory.Fit:
    known: dict[str, Any] = {"dtype": "bfloat16", "quantization": None, "context": 4096}
    settings = {**known, "max_batch": 1, **changes}
    room = None if room_gib is None else int(room_gib * GIB)
    return memory.plan(model, device_memory=room, **settings)


def test_published_sizes() -> None:
    """6.74 and 69 billion weights of two bytes; caches of 512 and 320 KiB a token."""
    assert fit(LLAMA_7B, None).weights_bytes == pytest.approx(6.74e9 * 2, rel=0.03)
    assert fit(LLAMA_70B, None).weights_bytes == pytest.approx(69e9 * 2, rel=0.01)
    assert fit(LLAMA_7B, None).kv_bytes == 2 * GIB
    assert fit(LLAMA_70B, None).kv_bytes == 1.25 * GIB
    assert fit(LLAMA_7B, None, quantization="int4").weights_bytes < 4.4e9


def test_what_fits_where() -> None:
    assert fit(LLAMA_7B, 24).fits
    assert not fit(LLAMA_7B, 12).fits
    assert fit(LLAMA_7B, 12, quantization="int8").fits
    assert not fit(LLAMA_70B, 80).fits
    assert fit(LLAMA_70B, 80, devices=4).fits
    assert fit(LLAMA_70B, 80, quantization="int4").fits


def test_a_refusal_has_the_numbers_and_what_would_fit() -> None:
    with pytest.raises(NotEnoughError, match="weights 12.55 GiB") as caught:
        fit(LLAMA_7B, 12).require()
    assert caught.value.exit_code == ExitCode.NOT_ENOUGH
    assert "--quantize int8" in caught.value.hint
    assert "--tensor-parallel 2" in caught.value.hint
    assert "--context 512" not in caught.value.hint  # the weights alone are too large
    with pytest.raises(NotEnoughError) as caught:
        fit(LLAMA_70B, 1).require()
    assert "no smaller setting" in caught.value.hint


def test_every_alternative_would_fit() -> None:
    tight = fit(LLAMA_7B, 15)
    assert tight.alternatives()
    assert "--context 2048" in tight.alternatives()
    assert fit(LLAMA_7B, 15, context=2048).fits


def test_the_cache_takes_what_is_left_and_never_less_than_a_context() -> None:
    roomy = fit(LLAMA_7B, 100, max_batch=16)
    assert roomy.cache_pages() == 16 * 256
    tight = fit(LLAMA_7B, 17, max_batch=16)
    assert 256 <= tight.cache_pages() < 16 * 256
    assert tight.weights_bytes + tight.cache_pages() * tight.page_bytes <= 17 * GIB
    assert roomy.cache_pages(kv_cache_bytes=1) == 256


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_the_arithmetic_meets_a_real_load(
    model: Callable[..., Path], kernels: None, quantize: Any
) -> None:
    options = EngineOptions(max_batch=2, kernels="on", quantize=quantize, threads=1)
    plan = make_plan(model("grouped", torch.bfloat16), options)
    shard = load_shard(plan)
    predicted = plan.fit.weights_bytes + plan.pages * plan.fit.page_bytes
    assert shard.bytes == pytest.approx(predicted, rel=0.06)


def test_an_engine_refuses_before_it_reads_weights(
    model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_bytes((model() / "config.json").read_bytes())
    monkeypatch.setattr(memory, "free_memory", lambda *_: 1 << 20)
    with pytest.raises(NotEnoughError, match="does not fit"):
        asyncio.run(TorchEngine(tmp_path).start())


def test_free_memory_of_this_machine_is_plausible() -> None:
    free = memory.free_memory(torch.device("cpu"))
    assert free is None or 1 << 20 < free < 1 << 50


@pytest.mark.parametrize(
    ("free", "share", "expected"),
    [
        (100, 0.92, 92),  # a card of its own
        (100, 0.45, 45),
        (55, 0.45, 45),  # beside a service that took its share
        (50, 0.92, 48.5),  # beside one, without a share of its own: not to the last byte
        (40, 0.45, 38.8),
        (0, 0.92, 0),
    ],
)
def test_several_services_share_a_card(free: float, share: float, expected: float) -> None:
    room = memory.gpu_room(int(free * GIB), 100 * GIB, share)
    assert room == pytest.approx(expected * GIB)


def documented() -> list[tuple[str, str, str]]:
    """Card, model with precision, and cell of each entry of the table in docs/gpu.md."""
    page = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text(encoding="utf-8")
    block = page.partition(gpu_table.BEGIN)[2].partition(gpu_table.END)[0]
    rows = [
        [each.strip() for each in line.strip("|").split("|")]
        for line in block.splitlines()
        if line.startswith("| ")
    ]
    return [
        (row[0], head, cell)
        for row in rows[1:]
        for head, cell in zip(rows[0][1:], row[1:], strict=True)
    ]


def test_the_documented_cards_are_what_the_arithmetic_says() -> None:
    """Each cell against ``plan``: what it states fits, and one sequence more does not."""
    assert len(documented()) >= 100
    for card, head, cell in documented():
        count, _, name = card.rpartition(" x ")
        model, kind = head.split(" ", 1)
        room = int((gpu_table.CARDS[name] << 20) * EngineOptions().gpu_memory_utilization)
        known = (gpu_table.MODELS[model], "bfloat16", None if kind == "16 bits" else kind)
        more: Any = {
            "devices": int(count or 1), "step_tokens": 2048, "overhead": memory.PROCESS,
        }  # fmt: skip

        def fits(context: int, batch: int) -> bool:
            return memory.plan(*known, context, batch, room, **more).total_bytes <= room  # noqa: B023

        if cell == "-":
            assert not fits(256, 1)
        elif cell.startswith("1 of "):
            assert fits(int(cell[5:]), 1)
            assert not fits(4096, 1)
        else:
            sequences = int(cell.rstrip("+"))
            assert fits(4096, sequences), (card, head, cell)
            assert cell.endswith("+") or not fits(4096, sequences + 1), (card, head, cell)

"""Which device is chosen, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llama_hub.errors import ExitCode, NotEnoughError, UsageError
from llama_hub.hub.model_config import read_config
from llama_hub.inference import devices

Model = Callable[..., Path]


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``cards(count, capability)``: what torch sees."""

    def see(count: int, capability: tuple[int, int] = (9, 0)) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")

    return see


def test_auto_takes_a_gpu_where_there_is_one(cards: Callable[..., None]) -> None:
    cards(0)
    assert devices.choose_device("auto") == torch.device("cpu")
    cards(2)
    assert devices.choose_device("auto") == torch.device("cuda:0")
    assert devices.choose_device("cuda") == torch.device("cuda:0")
    assert devices.choose_device("cuda:1") == torch.device("cuda:1")
    assert devices.choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="sees 2 CUDA devices"):
        devices.choose_device("cuda:2")
    for wrong in ("mps", "gpu"):
        with pytest.raises(UsageError):
            devices.choose_device(wrong)


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_no_gpu_is_exit_7_with_driver_and_cuda(
    cards: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    cards(0)
    module = tmp_path / "version"
    module.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23\n")
    monkeypatch.setattr(devices, "DRIVER_FILE", module)
    monkeypatch.setattr(devices, "driver_cuda", lambda: (12, 8))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(NotEnoughError) as caught:
        devices.choose_device(name)
    for part in ("built for CUDA 13.0", "570.86.15", "CUDA 12.8", "CUDA_VISIBLE_DEVICES is '-1'"):
        assert part in caught.value.message
    assert caught.value.exit_code == ExitCode.NOT_ENOUGH
    assert "--device cpu" in caught.value.hint


def test_a_machine_without_driver_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "DRIVER_FILE", tmp_path / "none")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "build without CUDA" in devices.why_no_cuda()
    assert "no NVIDIA driver is loaded" in devices.why_no_cuda()


@pytest.mark.parametrize(
    ("capability", "asked", "expected"),
    [
        ((7, 5), "auto", torch.float16),
        ((7, 0), "auto", torch.float16),
        ((8, 0), "auto", torch.bfloat16),
        ((9, 0), "auto", torch.bfloat16),
        ((7, 5), "bfloat16", torch.bfloat16),  # as the user says
        ((7, 5), "float32", torch.float32),
    ],
)
def test_bfloat16_becomes_float16_on_older_cards(
    model: Model,
    cards: Callable[..., None],
    capability: tuple[int, int],
    asked: str,
    expected: torch.dtype,
) -> None:
    cards(1, capability)
    config = read_config(model("plain", torch.bfloat16))
    assert devices.choose_dtype(asked, config, torch.device("cuda:0")) == expected
    assert devices.choose_dtype("auto", config, torch.device("cpu")) == torch.bfloat16

"""What is served of a GGUF file computes what transformers computes with the file's own values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llama_hub.errors import LicenseError
from llama_hub.hub.catalog import load
from llama_hub.hub.conversion.convert import convert, served
from llama_hub.hub.store import Store
from llama_hub.inference.service import served_model
from tests.support import gguf_files
from tests.support.gguf_files import WIDE, File
from tests.support.hf_models import judged_logits, our_logits, prompt

CALM = replace(WIDE, scale=0.05)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0", "Q5_1"])
def test_logits_are_transformers_with_the_file_s_values(
    home: Path, tmp_path: Path, kind: str, tied: bool
) -> None:
    path = tmp_path / "m.gguf"
    gguf_files.write(path, File(CALM, kind, tied=tied, keys={"llama_hub.license": "other-open"}))
    exact = convert(path, tmp_path / "exact", to="hf", dequantize=True, dtype="float32").path
    tokens = prompt(40)
    expected = judged_logits(exact, tokens)
    for packed in (False, True):
        folder = served(Store(), str(path), packed=packed).path
        found = our_logits(folder, tokens, dtype="float32", kernels="off")
        error = torch.linalg.norm(found - expected) / torch.linalg.norm(expected)
        assert error < 2e-3, (packed, error)  # float16 instead of float32, no more


def test_a_k_quant_file_is_served_as_it_says(home: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.gguf"
    gguf_files.write(plain, File(CALM, keys={"llama_hub.license": "other-open"}))
    path = convert(plain, tmp_path / "m.gguf", to="gguf", dtype="Q4_K_M").path
    tokens = prompt(40)
    exact = convert(path, tmp_path / "exact", to="hf", dequantize=True).path
    expected = judged_logits(exact, tokens)
    found = our_logits(served(Store(), str(path)).path, tokens, dtype="float32", kernels="off")
    assert torch.linalg.norm(found - expected) / torch.linalg.norm(expected) < 2e-3
    original = convert(plain, tmp_path / "original", to="hf").path
    lost = torch.linalg.norm(judged_logits(original, tokens) - expected)
    assert lost / torch.linalg.norm(expected) > 5e-3  # the quantisation itself, which stays


def test_the_licence_of_a_stranger_s_file_is_assumed_and_said(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    gguf_files.write(path, File(CALM, keys={"general.license": "apache-2.0"}))
    with pytest.raises(LicenseError, match="strictest") as refused:
        served_model.stored(str(path), load())
    assert "--license" in refused.value.hint

"""Stretched positions: the same logits as transformers, in every format that can state them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from llama_hub.errors import IntegrityError, UsageError
from llama_hub.hub.checkpoints import open_checkpoint
from llama_hub.hub.conversion.convert import convert
from llama_hub.hub.rope_scaling import parse
from llama_hub.inference.rope import inverse_frequencies
from tests.support.hf_models import CONTEXT, judged_logits, our_logits, prompt, save
from tests.support.lazy import Lazy, transformers

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "old linear": {"type": "linear", "factor": 8},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": YARN,
    "yarn with its own numbers": YARN
    | {"attention_factor": 1.3, "beta_fast": 16.0, "beta_slow": 2.0, "finetuned": True},
    "yarn, two mscales": YARN | {"mscale": 1.0, "mscale_all_dim": 0.7},
    "llama3": LLAMA3,
    "llama3, another base": LLAMA3 | {"original_max_position_embeddings": 64},
}


def scaled(folder: Path, scaling: dict[str, Any], *, old: bool = False) -> Path:
    """A small model that asks for ``scaling``, under the older or the newer key."""
    save(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("rope_parameters", None)
    if old:
        config |= {"rope_scaling": scaling, "rope_theta": 10000.0}
    else:
        config |= {"rope_parameters": scaling | {"rope_theta": 10000.0}}
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("head_dim", [16, 128])
def test_frequencies_equal_transformers(name: str, head_dim: int) -> None:
    scaling = {"rope_theta": 10000.0} | SCALINGS[name]
    scaling["rope_type"] = scaling.pop("type", None) or scaling["rope_type"]
    config = transformers.LlamaConfig(
        hidden_size=head_dim * 2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        rope_parameters=dict(scaling),
    )
    initial = Lazy("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS
    theirs, factor = initial[scaling["rope_type"]](config, torch.device("cpu"))
    ours = parse(SCALINGS[name], CONTEXT)
    assert ours is not None
    assert torch.equal(inverse_frequencies(head_dim, 10000.0, ours), theirs)
    assert ours.attention_factor == pytest.approx(factor)


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("old", [False, True])
def test_logits_equal_transformers_at_every_position(
    tmp_path: Path, path: str, name: str, old: bool
) -> None:
    if old and name.startswith("llama3,"):
        pytest.skip("the older key is the same for both")
    folder = scaled(tmp_path / "model", SCALINGS[name], old=old)
    tokens = prompt(CONTEXT)
    ours = our_logits(folder, tokens, dtype="float32", kernels=path)
    assert (ours - judged_logits(folder, tokens)).abs().max() <= 2e-4


def test_a_scaling_changes_the_logits(tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    plain = judged_logits(save(tmp_path / "plain"), prompt(CONTEXT))
    for name in ("linear", "yarn", "llama3, another base"):
        folder = scaled(tmp_path / name, SCALINGS[name])
        assert (judged_logits(folder, prompt(CONTEXT)) - plain).abs().max() > 0.1, name


@pytest.mark.parametrize("name", ["linear", "yarn", "yarn with its own numbers", "llama3"])
def test_gguf_keeps_it_there_and_back(tmp_path: Path, name: str) -> None:
    folder = scaled(tmp_path / "model", SCALINGS[name])
    there = convert(folder, tmp_path / "there", to="gguf", license="other-open", verify=True)
    back = convert(tmp_path / "there", tmp_path / "back", to="hf", verify=True)
    for made in (there, back):
        assert made.manifest is not None
        assert made.manifest.made_by["function"]["rope_scaling"]["rope_type"] in name
    tokens = prompt(CONTEXT)
    difference = judged_logits(tmp_path / "back", tokens) - judged_logits(folder, tokens)
    assert difference.abs().max() <= 1e-4


def test_what_a_format_cannot_state_is_refused(tmp_path: Path) -> None:
    dynamic = scaled(tmp_path / "dynamic", SCALINGS["dynamic"])
    with pytest.raises(UsageError, match="GGUF cannot state this RoPE scaling: dynamic"):
        convert(dynamic, tmp_path / "gguf", to="gguf", license="other-open")
    with pytest.raises(UsageError, match="has no key for RoPE scaling"):
        convert(dynamic, tmp_path / "meta", to="meta", license="other-open")
    assert not (tmp_path / "gguf").exists()
    assert not (tmp_path / "meta").exists()


@pytest.mark.parametrize(
    "scaling", [None, {"rope_type": "default"}, {"type": "linear", "factor": 1}]
)
def test_no_scaling_is_none(tmp_path: Path, scaling: dict[str, Any] | None) -> None:
    folder = save(tmp_path / "model")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_scaling": scaling}))
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.architecture.rope_scaling is None


@pytest.mark.parametrize(
    ("scaling", "named"),
    [
        ({"rope_type": "longrope", "factor": 2.0}, "longrope"),
        ({"rope_type": "su"}, "su"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": 0.5}, "0.5"),
        ({"rope_type": "linear", "factor": "4"}, "factor"),
        ({"rope_type": "linear", "factor": True}, "factor"),
        ({"rope_type": "linear", "factor": 4.0, "alpha": 2.0}, "alpha"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_type": "default", "factor": 2.0}, "factor"),
        ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor"),
        (YARN | {"original_max_position_embeddings": -5}, "original context"),
    ],
)
def test_what_is_not_modelled_is_refused_by_name(
    tmp_path: Path, scaling: dict[str, Any], named: str
) -> None:
    folder = scaled(tmp_path / "model", scaling)
    with pytest.raises(IntegrityError, match=named):
        open_checkpoint(folder)


def test_vllm_reads_the_same_folder(tmp_path: Path) -> None:
    """What a conversion writes into ``config.json`` is what transformers, and so vLLM, reads."""
    folder = scaled(tmp_path / "model", YARN)
    convert(folder, tmp_path / "copy", to="gguf", license="other-open")
    convert(tmp_path / "copy", tmp_path / "hf", to="hf")
    read = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "hf").config.rope_parameters
    assert read["rope_type"] == "yarn"
    assert read["factor"] == 4.0
    shutil.rmtree(tmp_path / "copy")

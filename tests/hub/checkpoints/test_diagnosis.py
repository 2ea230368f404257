"""What people have instead of weights is named for what it is, with the way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_hub.errors import IntegrityError, LlamaHubError, NotFoundError
from llama_hub.hub.checkpoints import open_checkpoint
from llama_hub.hub.conversion.sentencepiece_model import read
from llama_hub.inference.tokenizer import Tokenizer
from tests.support.hf_models import save

POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 13476925163\n"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"))


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "copy"))


def edit_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(folder: Path) -> LlamaHubError:
    with pytest.raises(LlamaHubError) as raised:
        open_checkpoint(folder)
    assert raised.value.hint
    return raised.value


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "pytorch_model.bin", "model.gguf", "consolidated.00.pth"],
)
def test_a_git_lfs_pointer_is_called_one(copy: Path, name: str) -> None:
    (copy / "model.safetensors").unlink()
    if not name.startswith(("model.s", "pytorch")):
        (copy / "config.json").unlink()
    if name.startswith("consolidated"):
        params = {"dim": 64, "n_layers": 2, "n_heads": 4, "multiple_of": 32, "norm_eps": 1e-5}
        (copy / "params.json").write_text(json.dumps(params))
    (copy / name).write_text(POINTER)
    error = refusal(copy)
    assert isinstance(error, IntegrityError)
    assert "Git LFS pointer" in error.message
    assert "git lfs pull" in error.hint


def test_a_tokenizer_that_is_a_pointer(copy: Path) -> None:
    (copy / "tokenizer.model").write_text(POINTER)
    with pytest.raises(IntegrityError, match="Git LFS pointer"):
        read(copy / "tokenizer.model")
    with pytest.raises(IntegrityError, match="Git LFS pointer"):
        Tokenizer(copy / "tokenizer.model")


@pytest.mark.parametrize(
    ("method", "shown"), [("gptq", "GPTQ"), ("awq", "AWQ"), ("bitsandbytes", "bitsandbytes"),
                          ("fp8", "FP8"), ("some_new_one", "some_new_one")],
)  # fmt: skip
def test_what_another_program_quantised_is_named(copy: Path, method: str, shown: str) -> None:
    edit_config(copy, quantization_config={"quant_method": method, "bits": 4})
    error = refusal(copy)
    assert f"quantised with {shown}" in error.message
    assert "unquantised" in error.hint


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_the_prefixes_of_wrappers_are_taken_off(copy: Path, prefix: str) -> None:
    tensors = load_file(copy / "model.safetensors")
    wrapped = {prefix + name: tensor for name, tensor in tensors.items()}
    save_file(wrapped, copy / "model.safetensors", {"format": "pt"})
    with open_checkpoint(copy) as checkpoint:
        assert checkpoint.architecture.n_layers == 3


def test_parameters_with_attributes_are_tensors(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
    for parameter in parameters.values():
        parameter.tensor_model_parallel = True  # type: ignore[attr-defined]
    torch.save(parameters, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with open_checkpoint(copy) as checkpoint:
        assert {spec.name for spec in checkpoint.specs} >= {"output.weight"}


def test_an_index_beside_a_single_file_is_ambiguous(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    save_file(tensors, copy / "model-00001-of-00001.safetensors", {"format": "pt"})
    names = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    error = refusal(copy)
    assert "model.safetensors " in error.message
    assert "model.safetensors.index.json" in error.message
    (copy / "model.safetensors").unlink()
    with open_checkpoint(copy):
        pass


def test_an_adapter_is_called_one(copy: Path) -> None:
    (copy / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    error = refusal(copy)
    assert "adapter_config.json" in error.message
    assert "model.safetensors" in error.message
    (copy / "config.json").unlink()
    (copy / "model.safetensors").unlink()
    error = refusal(copy)
    assert isinstance(error, NotFoundError)
    assert "is an adapter" in error.message


def _rename_config(folder: Path) -> None:
    (folder / "config.json").rename(folder / "Config.json")


def _meta_names(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")


@pytest.mark.parametrize(
    ("change", "named"),
    [(_rename_config, "must be called config.json"), (_meta_names, "params.json")],
)
def test_other_folders_are_named_too(
    copy: Path, change: Callable[[Path], None], named: str
) -> None:
    change(copy)
    assert named in refusal(copy).message


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("stretch", "scaling", "right"),
    [
        (1.0, None, True),
        (8.0, None, False),
        (8.0, {"type": "linear", "factor": 8.0}, True),
        (1.0, {"type": "linear", "factor": 8.0}, True),
        (1.0, {"type": "dynamic", "factor": 8.0}, True),
        (8.0, {"type": "dynamic", "factor": 8.0}, False),
    ],
)
def test_frequencies_that_the_configuration_does_not_give_are_refused(
    copy: Path, dtype: torch.dtype, stretch: float, scaling: dict[str, object] | None, right: bool
) -> None:
    tensors = load_file(copy / "model.safetensors")
    plain = 1.0 / 10000.0 ** (torch.arange(0, 16, 2).float() / 16)
    name = "model.layers.1.self_attn.rotary_emb.inv_freq"
    tensors[name] = (plain / stretch).to(dtype)
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    edit_config(copy, rope_scaling=scaling, rope_parameters=None)
    if right:
        with open_checkpoint(copy):
            pass
    else:
        error = refusal(copy)
        assert isinstance(error, IntegrityError)
        assert name in error.message

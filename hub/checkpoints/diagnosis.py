"""What people have instead of a model's files, recognised and named with the way out of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.files import open_regular
from llama_hub.hub.model_config import QuantizationConfig

_LFS = b"version https://git-lfs.github.com/spec/"
_OURS = (None, "compressed-tensors")  # the form that ``convert --quantize`` writes
_METHODS = {
    "gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes", "fp8": "FP8", "fbgemm_fp8": "FP8",
    "hqq": "HQQ", "aqlm": "AQLM", "eetq": "EETQ", "exl2": "EXL2", "quip": "QuIP",
}  # fmt: skip
_WRAPPERS = re.compile(r"^(?:_orig_mod\.|module\.)+")  # torch.compile, DataParallel
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def refuse_lfs_pointer(path: Path, beginning: bytes) -> None:
    """``IntegrityError`` if a file begins as the pointer that git leaves without git-lfs."""
    if beginning.startswith(_LFS):
        raise IntegrityError(
            f"{path} is a Git LFS pointer, not the file itself: the repository was cloned without "
            "git-lfs",
            hint="run git lfs pull in that folder, or download the repository with llama-hub",
        )


def beginning(path: Path) -> bytes:
    """The first bytes of a file, enough to tell what it is; empty if it cannot be read."""
    try:
        with os.fdopen(open_regular(path), "rb", buffering=0) as file:
            return file.read(512) or b""
    except (OSError, IntegrityError):
        return b""


def refuse_quantised(folder: Path, config: QuantizationConfig | None) -> None:
    """``IntegrityError`` for weights that another program quantised."""
    method = config.quant_method if config else None
    if method in _OURS:
        return
    raise IntegrityError(
        f"{folder} is quantised with {_METHODS.get(str(method), str(method)[:40])} "
        f"(quant_method {str(method)[:40]!r} in config.json): the original weights cannot be had "
        "from it",
        hint="take the unquantised repository, then llama-hub convert … --quantize int8 or int4; "
        "or serve this folder with vLLM itself",
    )


def unwrapped(name: str) -> str:
    """A tensor's name without what ``torch.compile`` or ``DataParallel`` put before it."""
    return _WRAPPERS.sub("", name)


def refuse_adapter_beside(folder: Path, weights: str) -> None:
    """``IntegrityError`` if an adapter lies beside a whole model: which of the two is meant?"""
    beside = [name for name in _ADAPTERS if (folder / name).is_file()]
    if beside:
        raise IntegrityError(
            f"{folder} holds an adapter ({beside[0]}) beside a whole model ({weights}): which of "
            "the two is meant cannot be told",
            hint="put the adapter into a folder of its own",
        )


def no_model(folder: Path) -> NotFoundError:
    """The error for a folder without weights that are known, by what it holds instead."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if any(name in _ADAPTERS for name in names):
        return NotFoundError(
            f"{folder} is an adapter (LoRA), not a model",
            hint="merge it into its base with peft (merge_and_unload, save_pretrained), then "
            "convert that folder",
        )
    if "consolidated.safetensors" in names:
        return NotFoundError(
            f"{folder} holds consolidated.safetensors: Meta's tensor names in one safetensors "
            "file, which is not read here",
            hint="take the repository's model-*.safetensors and config.json, or its .pth files",
        )
    lower = {name.lower(): name for name in names}
    for wanted in ("config.json", "params.json", "consolidated.00.pth"):
        if wanted in lower and lower[wanted] != wanted:
            return NotFoundError(
                f"{folder} holds {lower[wanted]}, which must be called {wanted}",
                hint=f"mv {folder}/{lower[wanted]} {folder}/{wanted}",
            )
    return NotFoundError(
        f"{folder} holds no model that is known here",
        hint="wanted: consolidated.NN.pth, or config.json with *.safetensors, or one *.gguf",
    )

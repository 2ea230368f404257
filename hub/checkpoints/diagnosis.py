"""A diagnosis of what people have instead of a model's files, with the way out of it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
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
_NAMES = (
    "config.json", "params.json", "consolidated.00.pth", "consolidated.safetensors",
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "tokenizer.model",
)  # fmt: skip
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


def refuse_quantised(folder: object, config: QuantizationConfig | None) -> None:
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


def adapter_among(names: Collection[str]) -> str | None:
    """The first file of an adapter among ``names``."""
    return next((name for name in _ADAPTERS if name in names), None)


def beside_adapter(where: object, adapter: str, weights: str) -> IntegrityError:
    """The error for an adapter beside a whole model."""
    return IntegrityError(
        f"{where} holds an adapter ({adapter}) beside a whole model ({weights}): which of the two "
        "is meant cannot be told",
        hint="put the adapter into a folder of its own",
    )


def no_model(where: object, names: Iterable[str]) -> NotFoundError:
    """The error for a folder or repository without weights that are known, by what it holds."""
    names = sorted(names)
    if adapter_among(names):
        return NotFoundError(
            f"{where} is an adapter (LoRA), not a model",
            hint="merge it into its base with peft (merge_and_unload, save_pretrained), then "
            "convert that folder",
        )
    lower = {name.lower(): name for name in names}
    for wanted in _NAMES:
        if wanted in lower and lower[wanted] != wanted:
            return NotFoundError(
                f"{where} holds {lower[wanted]}, which must be called {wanted}",
                hint=f"mv {where}/{lower[wanted]} {where}/{wanted}",
            )
    gguf = [name for name in names if name.lower().endswith(".gguf")]
    if gguf:
        return NotFoundError(
            f"{where} holds GGUF files ({gguf[0]}{', …' if gguf[1:] else ''}) and no weights of "
            "PyTorch or safetensors",
            hint="take the repository that it was made from, or fetch the file and: llama-hub "
            "import FILE.gguf",
        )
    return NotFoundError(
        f"{where} holds no model that is known here",
        hint="wanted: consolidated.NN.pth, or config.json with *.safetensors, or one *.gguf",
    )

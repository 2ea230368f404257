"""Reading a folder of peft's: ``adapter_config.json``, ``adapter_model.safetensors`` or ``.bin``.

The ``.bin`` is a pickle, which is read and never run. Every tensor must have its place, and every
place that the configuration names its tensors: a key that is not understood is an error, since an
adapter whose keys do not land is the base, in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub.adapters import lora_config
from llama_hub.hub.adapters.lora_config import LoraConfig
from llama_hub.hub.adapters.low_rank import LowRank, StoredPair, assemble
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.checkpoints.hf_reader import NamedSegment, file_segments
from llama_hub.hub.checkpoints.layout import check_count
from llama_hub.hub.checkpoints.source import Location

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
# The name of the adapter within the model, ``default``, stands in what peft saves no longer.
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")
_REFUSED = (
    (re.compile(r"\.lora_magnitude_vector"), "DoRA, which also rescales the base's weights"),
    (re.compile(r"lora_embedding_[AB]"), "an update of the embedding, which is not served"),
    (re.compile(r"\.lora_[AB](?:\.default)?\.bias$"), "a bias of the adapter's"),
    (re.compile(r"(?:embed_tokens|lm_head)\.(?:\w+\.)*weight$"),
     "a whole embedding or output matrix: the vocabulary was resized, or trained beside the "
     "adapter"),
    (re.compile(r"(?:score|classifier|v_head)\b"), "a head of a reward or classification model"),
    (re.compile(r"\.bias$"), "a trained bias"),
)  # fmt: skip


def weights_of(folder: Path) -> Path:
    """The file with the tensors; ``NotFoundError`` if there is none."""
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / name
    raise NotFoundError(
        f"{folder} has neither {WEIGHTS[0]} nor {WEIGHTS[1]}",
        hint="name the folder that peft's save_pretrained wrote",
    )


def open_peft(folder: Path, architecture: Architecture) -> LowRank:
    """The adapter in ``folder`` for a base of that architecture; close it after use.

    ``IntegrityError`` names the key that is wrong.
    """
    config = lora_config.read(folder / lora_config.NAME)
    path = weights_of(folder)
    found = file_segments(path)
    check_count(path, len(found))
    modules = _modules(path, found)
    pairs = {
        lora_config.canonical(module, path): _pair(path, module, sides, config)
        for module, sides in modules.items()
    }
    _check_all_there(path, config, set(modules), architecture)
    return assemble(folder, "peft", architecture, pairs)


def _modules(
    path: Path, found: Mapping[str, NamedSegment]
) -> dict[str, dict[str, tuple[str, NamedSegment]]]:
    """The tensors by module and side, ``A`` or ``B``."""
    modules: dict[str, dict[str, tuple[str, NamedSegment]]] = {}
    for key, where in found.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise _unknown(path, key)
        sides = modules.setdefault(match[1], {})
        if match[2] in sides:
            raise IntegrityError(f"{path}: {key[:120]} is there twice, under another name")
        sides[match[2]] = (key, where)
    return modules


def _unknown(path: Path, key: str) -> IntegrityError:
    for pattern, meaning in _REFUSED:
        if pattern.search(key):
            return IntegrityError(
                f"{path}: {key[:120]} is {meaning}",
                hint="an adapter of the attention and feed-forward matrices is understood; whole "
                "fine-tunes: llama-hub import FOLDER",
            )
    return IntegrityError(
        f"{path}: {key[:120]} is no tensor of a LoRA adapter as peft names them "
        f"({_PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight)",
        hint="save it with peft's save_pretrained",
    )


def _pair(
    path: Path, module: str, sides: Mapping[str, tuple[str, NamedSegment]], config: LoraConfig
) -> StoredPair:
    for side, other in (("A", "B"), ("B", "A")):
        if side not in sides:
            key = sides[other][0].replace(f"lora_{other}", f"lora_{side}")
            raise IntegrityError(f"{path}: {key[:120]} is missing")
    (a_name, a), (b_name, b) = sides["A"], sides["B"]
    rank = config.rank(module)
    if a[1][:1] != (rank,):
        raise IntegrityError(
            f"{path}: {a_name[:120]} has shape {list(a[1])}; {lora_config.NAME} says rank {rank}, "
            "and the scale follows from it",
            hint="take both files from the same place",
        )
    rotary = lora_config.MODULES[module.split(".", 3)[3]] in ("attention.wq", "attention.wk")
    return StoredPair(
        Location(a[0], (a[2],)), Location(b[0], (b[2],), hf_rows=rotary),
        a[1], b[1], a_name, b_name, config.scale(module),
    )  # fmt: skip


def _check_all_there(
    path: Path, config: LoraConfig, modules: set[str], architecture: Architecture
) -> None:
    expected = config.expected(architecture.n_layers)
    if expected is None or modules == expected:
        return
    odd = sorted(modules ^ expected)[0]
    state = "is missing" if odd in expected else "is not among its target_modules"
    raise IntegrityError(
        f"{path}: {_PREFIX}{odd}.lora_A.weight {state} ({lora_config.NAME} names the modules of "
        f"{architecture.n_layers} layers)",
        hint="take both files from the same place; the base must have as many layers: --base MODEL",
    )

"""GGUF's file types: what a name such as Q4_K_M makes of each tensor.

The mixtures are llama.cpp's (``src/llama-quant.cpp``), so that a file holds what ``llama-quantize``
would make of the same weights: the output matrix, half of the value and down projections (``_M``)
or the first of them (``_S``) get more bits than the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from llama_hub.errors import UsageError
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.checkpoints.layout import TensorSpec

MAGIC = b"GGUF"
# Name → (number in ``general.file_type``, type of most tensors).
FILE_TYPES = {
    "F32": (0, "F32"),
    "F16": (1, "F16"),
    "BF16": (32, "BF16"),
    "Q8_0": (7, "Q8_0"),
    "Q6_K": (18, "Q6_K"),
    "Q5_K_M": (17, "Q5_K"),
    "Q5_K_S": (16, "Q5_K"),
    "Q4_K_M": (15, "Q4_K"),
    "Q4_K_S": (14, "Q4_K"),
    "Q5_1": (9, "Q5_1"),
    "Q5_0": (8, "Q5_0"),
    "Q4_1": (3, "Q4_1"),
    "Q4_0": (2, "Q4_0"),
}
# Those that are only read: number → name.
_READ_TYPES = {10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 21: "Q2_K_S"}
_ALIASES = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}  # as llama-quantize understands them
_BLOCK = {"Q4_K": 256, "Q5_K": 256, "Q6_K": 256}  # weights; 32 in all others
# For rows that do not divide into super-blocks.
_SMALLER = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def file_type(name: str) -> str | None:
    """The type that ``name`` means, in any case; ``None`` for another text."""
    upper = name.upper()
    known = _ALIASES.get(upper, upper)
    return known if known in FILE_TYPES else None


def name_of(number: object) -> str:
    """What a file's ``general.file_type`` is called."""
    written = {known: name for name, (known, _) in FILE_TYPES.items()}
    names = _READ_TYPES | written
    return names.get(number, "mixed") if isinstance(number, int) else "mixed"


@dataclass(frozen=True)
class Mixture:
    """The type of each tensor of one model in one file type."""

    type: str
    architecture: Architecture
    tied: bool = False  # the embedding is the output matrix too

    def kind(self, spec: TensorSpec) -> str | None:
        """The tensor's block type; ``None``: it keeps its floats, as rows too odd for blocks do."""
        kind = self._kind(spec)
        if spec.columns % _BLOCK.get(kind, 32):
            kind = _SMALLER.get(kind, kind)
        return None if spec.columns % 32 else kind

    def _kind(self, spec: TensorSpec) -> str:
        most = FILE_TYPES[self.type][1]
        if spec.name == ("tok_embeddings.weight" if self.tied else "output.weight"):
            odd = spec.columns % _BLOCK.get(most, 32)
            return "Q8_0" if odd or most == "Q8_0" else "Q6_K"
        _, layer, part = spec.name.split(".", 2) if spec.name.count(".") > 2 else ("", "", "")
        if part == "attention.wv.weight":
            return self._value(most, int(layer))
        if part == "feed_forward.w2.weight":
            return self._down(most, int(layer))
        return most

    def _value(self, most: str, layer: int) -> str:
        if self.type in ("Q4_K_M", "Q5_K_M") and self._more_bits(layer):
            return "Q6_K"
        if self.type == "Q4_K_S" and layer < 4:
            return "Q5_K"
        shared = self.architecture.n_heads != self.architecture.n_kv_heads
        if most == "Q4_K" and self.architecture.n_layers == 80 and shared:  # 70B: it is small there
            return "Q5_K"
        return most

    def _down(self, most: str, layer: int) -> str:
        if self.type in ("Q4_K_M", "Q5_K_M") and self._more_bits(layer):
            return "Q6_K"
        if self.type == "Q4_K_S" and layer < self.architecture.n_layers // 8:
            return "Q5_K"
        return most

    def _more_bits(self, layer: int) -> bool:
        """The first and the last eighth of the layers, and every third between them."""
        layers = self.architecture.n_layers
        first = layers // 8
        return layer < first or layer >= 7 * layers // 8 or (layer - first) % 3 == 2


def split_names(stem: str, count: int) -> list[str]:
    """The names of a file's parts, as llama.cpp writes and expects them.

    ``UsageError`` for more than 99,999.
    """
    if count == 1:
        return [f"{stem}.gguf"]
    if count > 99_999:
        raise UsageError(
            f"--split-max-size makes {count} files of it", hint="give a larger size, as in 2G"
        )
    return [f"{stem}-{part:05d}-of-{count:05d}.gguf" for part in range(1, count + 1)]


_PART = re.compile(r"(?P<stem>.+)-(?P<part>[0-9]{5})-of-(?P<count>[0-9]{5})", re.DOTALL)


def part_of(path: Path) -> tuple[str, int, int] | None:
    """Of a file whose name is that of a part: stem, number of the part from 1, number of parts."""
    named = _PART.fullmatch(path.stem)
    return (named["stem"], int(named["part"]), int(named["count"])) if named else None


def has_name(path: Path) -> bool:
    """Whether a path is called like a GGUF file."""
    return path.suffix.lower() == ".gguf"


def is_file(path: Path) -> bool:
    """Whether ``path`` is a file that is called GGUF or, as a blob of Ollama's, begins as one."""
    try:
        if not path.is_file():
            return False
        if has_name(path):
            return True
        with path.open("rb", buffering=0) as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def stem_of(path: Path) -> str:
    """What a file is called, without ending and number of the part."""
    part = part_of(path)
    return part[0] if part else path.stem


def model_name(path: Path) -> str:
    """What the model is called whose file this is: ``llama-2-7b-chat.Q4_K_M.gguf`` without type."""
    stem = stem_of(path)
    named = re.fullmatch(r"(.+)[.-]([^.-]+)", stem)
    return named[1] if named and file_type(named[2]) else stem

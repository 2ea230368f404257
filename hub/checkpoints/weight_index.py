"""``model.safetensors.index.json``: which file holds which tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen

from llama_hub.schema import Pattern, conform
from llama_hub.strict import FileKind, parse_json, read_json

NAME = "model.safetensors.index.json"
KIND = FileKind(
    "the index of the weights", max_bytes=16 << 20, max_values=300_000, hint="download it again"
)
FileName = Annotated[
    str, Pattern(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", "the plain name of a file in the same folder")
]


@dataclass(frozen=True)
class _Index:
    weight_map: Annotated[Mapping[str, FileName], MinLen(1)]


def read(path: Path) -> Mapping[str, str]:
    """Name of the file by name of the tensor; every file lies beside the index."""
    return _map(read_json(path, KIND), path)


def files(data: bytes, where: str) -> tuple[str, ...]:
    """The files that an index in ``data`` names."""
    return tuple(sorted(set(_map(parse_json(data, where, KIND), where).values())))


def _map(document: Any, where: object) -> Mapping[str, str]:
    return conform(_Index, document, where, KIND).weight_map

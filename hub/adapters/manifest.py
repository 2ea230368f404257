"""``llama-hub-adapter.json``: what an adapter's folder holds, and for which base it is.

Its digest is the adapter's identity; ``content`` is that of what it computes, the same for a
folder of peft's and a GGUF file of the same adapter. As with models, times and receipt are part of
the record and not of the identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from llama_hub.errors import NotFoundError
from llama_hub.files import write_atomic
from llama_hub.hub.adapters.lora_config import MAX_RANK
from llama_hub.hub.manifest import (
    FileEntry,
    LicenseId,
    ManifestDigest,
    TensorEntry,
    canonical,
)
from llama_hub.hub.model_id import ModelId
from llama_hub.schema import Checked, conform
from llama_hub.strict import FileKind, read_json

NAME = "llama-hub-adapter.json"
SCHEMA = 1
KIND = FileKind(
    "the adapter's manifest", max_bytes=16 << 20, max_values=300_000,
    hint="import the adapter again: llama-hub adapter import",
)  # fmt: skip


@dataclass(frozen=True)
class Base:
    """The model that an adapter was checked against."""

    model: Annotated[str, Checked(ModelId)]
    manifest: ManifestDigest
    kin: tuple[ManifestDigest, ...] = ()  # of the folders that it was made from, as far as known
    weights: ManifestDigest | None = None  # of its canonical tensors, where its manifest has them


@dataclass(frozen=True)
class AdapterManifest:
    """The content of ``llama-hub-adapter.json``."""

    id: Annotated[str, Checked(ModelId)]
    format: Literal["peft", "gguf"]
    license: LicenseId  # the base's
    base: Base
    rank: Annotated[int, Ge(1), Le(MAX_RANK)]
    alpha: float | None  # where it is the same for every matrix
    content: ManifestDigest
    files: tuple[FileEntry, ...]
    tensors: tuple[TensorEntry, ...]
    source: Mapping[str, Any] = field(default_factory=dict)
    receipt: str | None = None
    created: str | None = None

    def __post_init__(self) -> None:
        if len({entry.path for entry in self.files}) != len(self.files):
            raise ValueError("a file is listed twice")

    @cached_property
    def digest(self) -> str:
        """``sha256:…`` of everything except ``receipt``, ``created`` and ``source``."""
        return "sha256:" + hashlib.sha256(canonical(self._identity())).hexdigest()

    @property
    def bytes(self) -> int:
        """Total size of the listed files."""
        return sum(entry.size for entry in self.files)

    def _identity(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "id": self.id,
            "format": self.format,
            "license": self.license,
            "base": self.base.manifest,
            "content": self.content,
            "files": [
                {"path": entry.path, "size": entry.size, "sha256": entry.sha256}
                for entry in sorted(self.files)
            ],
        }

    def to_json(self) -> dict[str, Any]:
        """The document as it is written, its digest included."""
        return asdict(self) | {"schema": SCHEMA, "digest": self.digest}

    def write(self, folder: Path) -> None:
        """Put the manifest into ``folder``, whole or not at all."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        write_atomic(folder / NAME, text.encode())


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What the file holds besides the fields of ``AdapterManifest``."""

    schema: Annotated[int, Ge(SCHEMA), Le(SCHEMA)]
    digest: ManifestDigest


def read(folder: Path) -> AdapterManifest:
    """The manifest of ``folder``; ``NotFoundError`` without one, ``IntegrityError`` if edited."""
    path = folder / NAME
    if not path.exists():
        raise NotFoundError(
            f"{folder} has no {NAME}",
            hint=f"llama-hub adapter import {folder} --base MODEL   (checks and records it)",
        )
    document = read_json(path, KIND)
    record = conform(_Record, document, path, KIND)
    manifest = conform(AdapterManifest, document, path, KIND)
    if record.digest != manifest.digest:
        problem = f"was edited: it states {record.digest} and has {manifest.digest}"
        raise KIND.invalid(path, problem, "digest")
    return manifest

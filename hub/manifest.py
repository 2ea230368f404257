"""``llama-hub.json``: what a model folder holds, where it came from, under which licence.

The manifest lies beside the weights and is the identity of a model everywhere:
its digest tags cloud resources, is reported by the running service and compared
by ``attest``. Canonical form: UTF-8 JSON, sorted keys, no spaces; its SHA-256 is
the digest. Times and receipt are part of the record, not of the identity: two
downloads of the same bytes have the same digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Le

from llama_hub.errors import NotFoundError
from llama_hub.files import write_atomic
from llama_hub.hub.architecture import MAX_CONTEXT
from llama_hub.hub.model_id import ModelId, shown
from llama_hub.hub.relative_path import relative_path
from llama_hub.schema import Checked, Pattern, conform
from llama_hub.strict import MAX_INT, FileKind, parse_json, read_json

MANIFEST_NAME = "llama-hub.json"
SCHEMA = 1

Format = Literal["meta", "hf", "gguf"]
FORMATS: tuple[Format, ...] = get_args(Format)
KIND = FileKind(
    "the manifest",
    max_bytes=16 << 20,  # of a model of 1 TB: 65,000 checksums of blocks
    max_values=300_000,
    hint="download or import the model again",
)
Size = Annotated[int, Ge(0), Le(MAX_INT)]
Sha256 = Annotated[str, Pattern("[0-9a-f]{64}", "64 hexadecimal digits")]
Md5 = Annotated[str, Pattern("[0-9a-f]{32}", "32 hexadecimal digits")]
Crc32 = Annotated[str, Pattern("[0-9a-f]{8}", "8 hexadecimal digits")]
ManifestDigest = Annotated[str, Pattern("sha256:[0-9a-f]{64}", "sha256: and 64 hexadecimal digits")]
LicenseId = Annotated[str, Pattern("[a-z0-9][a-z0-9._-]{0,62}", "the id of a licence")]


@dataclass(frozen=True, order=True)
class FileEntry:
    """One file of the folder; ``path`` is relative, with ``/`` between its parts.

    ``ValueError`` for a path that leads out of the folder.
    """

    path: Annotated[str, Checked(relative_path)]
    size: Size  # bytes
    sha256: Sha256
    md5: Md5 | None = None  # where the source gave one and it was checked
    pinned: bool = False  # the expected digest was known to us, not sent along with the data
    blocks: tuple[Crc32, ...] = ()  # CRC-32 of each hub.journal.BLOCK bytes: where damage is

    def __post_init__(self) -> None:
        relative_path(self.path)


@dataclass(frozen=True, order=True)
class TensorEntry:
    """One tensor in canonical terms, equal in every unquantised format of the same weights.

    ``name`` is Meta's; ``sha256`` is over the little-endian row-major bytes in Meta's row order.
    """

    name: str
    dtype: str  # bfloat16, float16, float32 …
    shape: tuple[Size, ...]
    sha256: Sha256


@dataclass(frozen=True)
class Manifest:
    """The content of ``llama-hub.json``.

    What a folder says it is: ``model`` names no place, and only ``digest`` tells two folders apart.
    ``ValueError`` for a name, format or list of files that cannot be.
    """

    model: Annotated[str, Checked(ModelId)]  # catalogue id, or made of the folder's name
    format: Format
    license: LicenseId  # see llama_hub.licenses.terms
    files: tuple[FileEntry, ...]
    tensors: tuple[TensorEntry, ...] = ()
    parent: ManifestDigest | None = None  # of the manifest that this was made from
    made_by: Mapping[str, Any] = field(default_factory=dict)  # operation, parameters, tool version
    source: Mapping[str, Any] = field(default_factory=dict)  # kind, host or repository, commit
    receipt: str | None = None  # id in the licence ledger
    created: str | None = None  # UTC, ISO 8601

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", ModelId(self.model))
        if self.format not in FORMATS:
            raise ValueError(f"{shown(self.format)} is no format of a model")
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

    @property
    def quantization(self) -> str | None:
        """int8, int4 or ``None``, as ``made_by`` says."""
        parameters = self.made_by.get("parameters")
        kind = parameters.get("quantize") if isinstance(parameters, Mapping) else None
        return str(kind) if kind else None

    def file(self, path: str) -> FileEntry:
        """The entry of ``path``; ``NotFoundError`` if the manifest does not list it."""
        for entry in self.files:
            if entry.path == path:
                return entry
        raise NotFoundError(f"the manifest of {self.model} does not list {path}")

    def _identity(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "model": self.model,
            "format": self.format,
            "license": self.license,
            "files": [
                {"path": entry.path, "size": entry.size, "sha256": entry.sha256}
                for entry in sorted(self.files)
            ],
            "tensors": [vars(entry) for entry in sorted(self.tensors)],
            "parent": self.parent,
            "made_by": self.made_by,
        }

    def to_json(self) -> dict[str, Any]:
        """The document as it is written, its digest included."""
        document = asdict(self) | {"schema": SCHEMA, "digest": self.digest}
        document["files"] = [_without_nothing(asdict(entry)) for entry in sorted(self.files)]
        document["tensors"] = [asdict(entry) for entry in sorted(self.tensors)]
        return document

    def write(self, folder: Path) -> None:
        """Put the manifest into ``folder``, whole or not at all."""
        write_atomic(folder / MANIFEST_NAME, self.to_text().encode())

    def to_text(self) -> str:
        """The file ``llama-hub.json``, here and at every platform that gets the model."""
        return json.dumps(self.to_json(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def canonical(document: Mapping[str, Any]) -> bytes:
    """The one byte form of a JSON document that is hashed."""
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def read(folder: Path) -> Manifest:
    """The manifest of ``folder``; ``NotFoundError`` without one, ``IntegrityError`` if edited."""
    path = folder / MANIFEST_NAME
    if not path.exists():
        raise NotFoundError(
            f"{folder} has no {MANIFEST_NAME}",
            hint=f"llama-hub import {folder}   (records what is there)",
        )
    return parse(read_json(path, KIND), str(path))


def decode(data: bytes, where: str) -> Manifest:
    """A manifest from the bytes of its file, which a source sent."""
    return parse(parse_json(data, where, KIND), where)


def parse(document: Any, where: str) -> Manifest:
    """A manifest from its JSON document; the digest it states must be the one it has."""
    record = conform(_Record, document, where, KIND)
    manifest = conform(Manifest, document, where, KIND)
    if record.digest != manifest.digest:
        problem = f"was edited: it states {record.digest} and has {manifest.digest}"
        raise KIND.invalid(where, problem, "digest")
    return manifest


@dataclass(frozen=True, kw_only=True)
class _Parameters:
    """What is read of ``made_by.parameters``."""

    quantize: str | None = None


@dataclass(frozen=True, kw_only=True)
class _MadeBy:
    """What is read of ``made_by``."""

    operation: str | None = None
    context: Annotated[int, Ge(1), Le(MAX_CONTEXT)] | None = None
    parameters: _Parameters | None = None


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What is read of ``source``."""

    kind: str | None = None
    commit: str | None = None
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What a manifest's file holds besides the fields of ``Manifest``, and inside its tables."""

    schema: Annotated[int, Ge(SCHEMA), Le(SCHEMA)]
    digest: ManifestDigest
    made_by: _MadeBy
    source: _Source


def _without_nothing(entry: dict[str, Any]) -> dict[str, Any]:
    """Without what is not known; a size of 0 is."""
    absent: tuple[Any, ...] = (None, (), False)
    return {k: v for k, v in entry.items() if k == "size" or v not in absent}

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
from pathlib import Path
from typing import Any, Literal, get_args

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.files import write_atomic
from llama_hub.hub.model_id import ModelId, shown
from llama_hub.hub.relative_path import relative_path

MANIFEST_NAME = "llama-hub.json"
SCHEMA = 1

Format = Literal["meta", "hf", "gguf"]
FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True, order=True)
class FileEntry:
    """One file of the folder; ``path`` is relative, with ``/`` between its parts.

    ``ValueError`` for a path that leads out of the folder.
    """

    path: str
    size: int  # bytes
    sha256: str  # 64 hexadecimal digits
    md5: str | None = None  # where the source gave one and it was checked
    pinned: bool = False  # the expected digest was known to us, not sent along with the data
    blocks: tuple[str, ...] = ()  # CRC-32 of each hub.journal.BLOCK bytes: where damage is

    def __post_init__(self) -> None:
        relative_path(self.path)


@dataclass(frozen=True, order=True)
class TensorEntry:
    """One tensor in canonical terms, equal in every unquantised format of the same weights.

    ``name`` is Meta's; ``sha256`` is over the little-endian row-major bytes in Meta's row order.
    """

    name: str
    dtype: str  # bfloat16, float16, float32 …
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of ``llama-hub.json``.

    What a folder says it is: ``model`` names no place, and only ``digest`` tells two folders apart.
    ``ValueError`` for a name, format or list of files that cannot be.
    """

    model: str  # a ModelId: catalogue id, or made of the folder's name
    format: Format
    license: str  # licence id, see llama_hub.licenses.terms
    files: tuple[FileEntry, ...]
    tensors: tuple[TensorEntry, ...] = ()
    parent: str | None = None  # digest of the manifest that this was made from
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

    @property
    def digest(self) -> str:
        """``sha256:…`` of everything except ``receipt``, ``created`` and ``source``."""
        return "sha256:" + hashlib.sha256(canonical(self._identity())).hexdigest()

    @property
    def bytes(self) -> int:
        """Total size of the listed files."""
        return sum(entry.size for entry in self.files)

    def file(self, path: str) -> FileEntry:
        """The entry of ``path``; ``NotFoundError`` if the manifest does not list it."""
        for entry in self.files:
            if entry.path == path:
                return entry
        raise NotFoundError(f"the manifest of {self.model} does not list {path}")

    def _identity(self) -> dict[str, Any]:
        known = asdict(self)
        for key in ("receipt", "created", "source"):
            del known[key]
        known["files"] = [
            {"path": entry.path, "size": entry.size, "sha256": entry.sha256}
            for entry in sorted(self.files)
        ]
        known["tensors"] = [asdict(entry) for entry in sorted(self.tensors)]
        return known | {"schema": SCHEMA}

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
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{folder} has no {MANIFEST_NAME}",
            hint=f"llama-hub import {folder}   (records what is there)",
        ) from error
    except (ValueError, OSError) as error:
        raise IntegrityError(f"{path} cannot be read: {error}") from error
    return parse(document, str(path))


def parse(document: Any, where: str) -> Manifest:
    """A manifest from its JSON document; the digest it states must be the one it has."""
    try:
        found = Manifest(
            model=document["model"],
            format=document["format"],
            license=document["license"],
            files=tuple(_file(entry) for entry in document["files"]),
            tensors=tuple(_tensor(entry) for entry in document["tensors"]),
            parent=document["parent"],
            made_by=document["made_by"],
            source=document["source"],
            receipt=document["receipt"],
            created=document["created"],
        )
        stated = document["digest"]
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{where} is not a llama-hub manifest: {error!r}") from error
    except ValueError as error:
        raise IntegrityError(f"{where} is not a llama-hub manifest: {error}") from error
    if stated != found.digest:
        raise IntegrityError(f"{where} was edited: it states {stated} and has {found.digest}")
    return found


def _file(entry: Mapping[str, Any]) -> FileEntry:
    return FileEntry(
        path=entry["path"],
        size=entry["size"],
        sha256=entry["sha256"],
        md5=entry.get("md5"),
        pinned=entry.get("pinned", False),
        blocks=tuple(entry.get("blocks", ())),
    )


def _tensor(entry: Mapping[str, Any]) -> TensorEntry:
    return TensorEntry(entry["name"], entry["dtype"], tuple(entry["shape"]), entry["sha256"])


def _without_nothing(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value not in (None, (), False)}

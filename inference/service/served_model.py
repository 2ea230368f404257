"""The served model: the folder, its manifest, its licence, checked before anything loads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from llama_hub.errors import IntegrityError, LicenseError
from llama_hub.hub import unchanged
from llama_hub.hub.catalog import Catalog
from llama_hub.hub.chat_template import is_chat
from llama_hub.hub.gguf_file import DEFAULT_LICENSE
from llama_hub.hub.manifest import Manifest, read
from llama_hub.hub.store import Store
from llama_hub.hub.tokenizer.reading import folder_files
from llama_hub.hub.tokenizer.token_files import has_chat_template
from llama_hub.inference.service.settings import ServedModel
from llama_hub.licenses import terms
from llama_hub.licenses.gate import Gate
from llama_hub.progress import NO_PROGRESS, Progress

_BLOCKS = re.compile(r"[A-Z0-9_]{1,8}")  # Q4_K …


@dataclass(frozen=True)
class Servable:
    """A folder in Hugging Face's layout that may be served."""

    folder: Path
    manifest: Manifest
    served: ServedModel

    @property
    def loss(self) -> str:
        """What is to be said of weights that were quantised once; empty for others."""
        blocks = self.manifest.made_by.get("dequantized")
        if not isinstance(blocks, Mapping) or not blocks:
            return ""
        kinds = ", ".join(kind for kind in sorted(map(str, blocks)) if _BLOCKS.fullmatch(kind))
        if self.manifest.quantization:
            return (
                f"{self.served.name} is quantised ({kinds}): its layers are served as "
                f"{self.manifest.quantization} with the file's own numbers, the rest as float16"
            )
        return (
            f"{self.served.name} was quantised ({kinds}): what that lost stays lost. Its values "
            "are served from an unpacked copy in the store, which needs the memory of float16; "
            "--quantize int8 or int4 saves memory"
        )


def stored(
    name: str,
    catalog: Catalog,
    *,
    store: Store | None = None,
    gate: Gate | None = None,
    packed: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Servable:
    """The model with catalogue id ``name`` or in the folder ``name``, converted if need be.

    ``packed``: a GGUF file's numbers may stay as they are, where the core has the same layout.
    ``LicenseError`` unless its licence is accepted, ``NotFoundError`` if it is not there.
    """
    from llama_hub.hub.conversion import convert

    shelf = store or Store()
    _require(gate or Gate(), name, shelf.find(name).manifest)
    converted = convert.served(shelf, name, packed=packed, progress=progress)
    return _servable(converted.path, converted.manifest, catalog)


def _require(gate: Gate, name: str, manifest: Manifest) -> None:
    """``LicenseError``, which says so where the licence of a lone GGUF file was only assumed."""
    try:
        gate.require(manifest.license)
    except LicenseError as error:
        if manifest.source.get("kind") != "file" or manifest.license != DEFAULT_LICENSE:
            raise
        raise LicenseError(
            f"{name} says nothing of its licence that llama-hub knows, so the strictest is "
            f"assumed: {error.message}",
            hint=f"{error.hint}; under another one: llama-hub import {name} --license ID, then the "
            "name that it gets",
        ) from error


def mounted(folder: Path, catalog: Catalog) -> Servable:
    """The model that a platform put into ``folder``.

    There is no ledger in a container: a gated model must carry the receipt of its acceptance, else
    it is a ``LicenseError``.
    """
    manifest = read(folder)
    if terms.load(manifest.license).gated and manifest.receipt is None:
        raise LicenseError(
            f"{folder} carries no receipt that the licence {manifest.license} was accepted",
            hint="download and convert the model with llama-hub, which records it, and upload that",
        )
    return _servable(folder, manifest, catalog)


def _servable(folder: Path, manifest: Manifest, catalog: Catalog) -> Servable:
    check_sizes(folder, manifest)
    unchanged.check(folder, manifest)
    license = terms.load(manifest.license)
    served = ServedModel(
        name=manifest.model,
        license=license.id,
        license_name=license.name,
        notice=license.notice,
        chat=_is_chat(folder, manifest.model, catalog),
        manifest=manifest,
        created=_timestamp(manifest.created),
    )
    return Servable(folder, manifest, served)


def _is_chat(folder: Path, model: str, catalog: Catalog) -> bool:
    """Whether the model was made to chat: by the catalogue, else by its own template or name."""
    if model in catalog:
        return catalog.get(model).variant == "chat"
    return is_chat(model) or has_chat_template(folder_files(folder))


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """``IntegrityError`` if a file of the manifest is missing or has another size."""
    for entry in manifest.files:
        path = folder / entry.path
        size = path.stat().st_size if path.is_file() else None
        if size != entry.size:
            state = "is missing" if size is None else f"has {size} bytes"
            raise IntegrityError(
                f"{path} {state}; the manifest says {entry.size} bytes",
                hint=f"llama-hub verify {folder}",
            )


def _timestamp(created: str | None) -> int:
    try:
        return int(datetime.fromisoformat(created or "").timestamp())
    except (ValueError, OverflowError):
        return 0

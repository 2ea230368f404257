"""The origin of a conversion: what is known of it besides its tensors, and where output may go."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from llama_hub.errors import NotFoundError, UsageError
from llama_hub.home import home
from llama_hub.hub import catalog, gguf_file, manifest
from llama_hub.hub.chat_template import is_chat
from llama_hub.hub.checkpoints import gguf_types
from llama_hub.hub.gguf_file import DEFAULT_LICENSE
from llama_hub.hub.manifest import Manifest
from llama_hub.hub.model_id import ModelId, model_id, shown
from llama_hub.hub.relative_path import relative_path


@dataclass(frozen=True)
class Origin:
    """The source: which model, under which licence."""

    path: Path  # a folder, or a GGUF file
    model: ModelId
    license: str
    manifest: Manifest | None  # of the source, if it has one
    context: int | None  # tokens, where the source itself does not tell
    is_chat: bool

    @property
    def folder(self) -> Path:
        """Where licence and tokenizer lie."""
        return self.path if self.path.is_dir() else self.path.parent


def origin_of(
    source: Path,
    *,
    described: Manifest | None = None,
    model: str | None = None,
    license: str | None = None,
    chat: bool | None = None,
    context: int | None = None,
) -> Origin:
    """What the source's manifest, the catalogue and the caller say of the source.

    A manifest's licence cannot be overruled. ``described``: the manifest that was made of a GGUF
    file which has none.
    """
    known = recorded(source) or described
    name = _name(source, model, known)
    listed = catalog.listed(name)
    stated = known.license if known else license or (listed.license if listed else None)
    stated = stated or _noted_license(source)
    variant = listed.variant == "chat" if listed else is_chat(name)
    return Origin(
        path=source,
        model=name,
        license=stated or DEFAULT_LICENSE,
        manifest=known,
        context=context or _context(known, listed),
        is_chat=variant if chat is None else chat,
    )


def recorded(source: Path) -> Manifest | None:
    """The manifest that lies beside or in the source, if there is one."""
    if gguf_types.is_file(source):
        return gguf_file.recorded(source)
    try:
        return manifest.read(source)
    except NotFoundError:
        return None


def _noted_license(source: Path) -> str | None:
    """What a GGUF file says of its licence itself."""
    from llama_hub.hub.checkpoints import gguf

    if not gguf_types.is_file(source):
        return None
    return gguf_file.license_of(gguf.read_model(source).values)


def _name(source: Path, given: str | None, known: Manifest | None) -> ModelId:
    """What the model is called: as the caller says, else its manifest, else like its folder."""
    if given is not None:
        return model_id(given, "the model's name")
    if known:
        return ModelId(known.model)
    named = gguf_types.model_name(source) if gguf_types.is_file(source) else source.resolve().name
    return ModelId.of_folder(named)


def _context(known: Manifest | None, listed: catalog.Model | None) -> int | None:
    """params.json cannot say it: a conversion noted it, or the catalogue knows."""
    noted = known.made_by.get("context") if known else None
    if isinstance(noted, int):
        return noted
    return listed.context if listed else None


def check_destination(source: Path, destination: Path) -> None:
    """``UsageError`` unless ``destination`` is free, apart from the source and from the store."""
    inner, outer = _resolved(destination), _resolved(source)
    if inner == outer or outer in inner.parents:
        raise UsageError(
            f"the destination {destination} lies in the source {source}",
            hint="give a folder beside it",
        )
    if any(_resolved(home() / own) in inner.parents for own in ("models", "partials")):
        raise UsageError(
            f"the destination {destination} lies in the store, which is llama-hub's own",
            hint="without a destination the result goes there",
        )
    if gguf_types.has_name(destination):
        _check_free_file(destination)
    else:
        _check_free(destination)


def _check_free_file(destination: Path) -> None:
    """``UsageError`` if the GGUF file or parts of it are there already, or cannot be called so."""
    try:
        relative_path(destination.name)
    except ValueError as error:
        raise UsageError(str(error), hint="give the file another name") from error
    stem, folder = destination.stem, destination.parent
    taken = [destination] if os.path.lexists(destination) else []
    if folder.is_dir():
        taken += [path for path in folder.iterdir() if _is_part(path, stem)]
    if taken:
        raise UsageError(
            f"the destination {taken[0]} is there already",
            hint="give another name, or remove that file first",
        )


def _is_part(path: Path, stem: str) -> bool:
    part = gguf_types.part_of(path) if gguf_types.has_name(path) else None
    return part is not None and part[0] == stem


def _resolved(path: Path) -> Path:
    """With every link followed."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle; NUL in the name
        raise UsageError(f"the path {shown(str(path))} cannot be used: {error}") from error


def _check_free(destination: Path) -> None:
    if not destination.is_symlink():
        if destination.is_dir() and not any(destination.iterdir()):
            return
        if not destination.exists():
            return
    raise UsageError(
        f"the destination {destination} is there already and not empty",
        hint="give another folder, or remove that one first",
    )

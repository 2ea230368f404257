"""What is known of a conversion's source besides its tensors, and where the output may go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llama_hub.errors import NotFoundError, UsageError
from llama_hub.home import home
from llama_hub.hub import catalog, manifest
from llama_hub.hub.chat_template import is_chat
from llama_hub.hub.manifest import Manifest
from llama_hub.hub.model_id import ModelId, model_id, shown

DEFAULT_LICENSE = "llama-2-community"  # of a folder that says nothing: the strictest guess


@dataclass(frozen=True)
class Origin:
    """The source: which model, under which licence."""

    folder: Path
    model: ModelId
    license: str
    manifest: Manifest | None  # of the source, if it has one
    context: int | None  # tokens, where the source itself does not tell
    is_chat: bool


def origin_of(
    source: Path,
    *,
    model: str | None = None,
    license: str | None = None,
    chat: bool | None = None,
    context: int | None = None,
) -> Origin:
    """What the source's manifest, the catalogue and the caller say of the source.

    A manifest's licence cannot be overruled.
    """
    try:
        known: Manifest | None = manifest.read(source)
    except NotFoundError:
        known = None
    name = _name(source, model, known)
    listed = catalog.listed(name)
    stated = known.license if known else license or (listed.license if listed else None)
    variant = listed.variant == "chat" if listed else is_chat(name)
    return Origin(
        folder=source,
        model=name,
        license=stated or DEFAULT_LICENSE,
        manifest=known,
        context=context or _context(known, listed),
        is_chat=variant if chat is None else chat,
    )


def _name(source: Path, given: str | None, known: Manifest | None) -> ModelId:
    """What the model is called: as the caller says, else its manifest, else like its folder."""
    if given is not None:
        return model_id(given, "the model's name")
    return ModelId(known.model) if known else ModelId.of_folder(source.resolve().name)


def _context(known: Manifest | None, listed: catalog.Model | None) -> int | None:
    """params.json cannot say it: a conversion noted it, or the catalogue knows."""
    noted = known.made_by.get("context") if known else None
    if isinstance(noted, int):
        return noted
    return listed.context if listed else None


def check_destination(source: Path, destination: Path) -> None:
    """``UsageError`` unless ``destination`` is free, apart from the source and from the store."""
    if destination.suffix == ".gguf":
        raise UsageError(
            f"{destination}: the destination is a folder, which holds licence and tokenizer too",
            hint=f"give {destination.with_suffix('')}",
        )
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
    _check_free(destination)


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

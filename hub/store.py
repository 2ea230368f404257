"""The local store: ``models/<id>/<variant>/``, each folder complete, verified and described.

A model gets its final name only as a whole folder with its manifest; until then it lives in
``partials/<id>/``, which may be removed at any time at the cost of downloading again. What has a
final name is replaced in one step, when what takes its place is whole.

A folder's place in the store says which model it is, never what its manifest says of itself; and
every path is made of a ``ModelId`` and a ``Variant``, through no link, so that nothing outside the
store is ever written or removed. (``models`` itself may be a link of the user's to a larger disk;
unfinished work is then there too.)
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, get_args

from llama_hub.errors import IntegrityError, NotFoundError, UsageError
from llama_hub.files import delete, exchange, fsync_folder, locked
from llama_hub.home import home
from llama_hub.hub import gguf_file
from llama_hub.hub.catalog import listed
from llama_hub.hub.checkpoints import gguf_types
from llama_hub.hub.manifest import FORMATS, MANIFEST_NAME, Format, Manifest, read
from llama_hub.hub.model_id import ModelId, is_path, model_id, reference, shown
from llama_hub.hub.repository_id import parse

Variant = Literal["meta", "hf", "gguf", "hf-int8", "hf-int4"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
Work = Literal["conversion", "import"]


@dataclass(frozen=True)
class StoredModel:
    """One complete model folder, or a GGUF file outside the store."""

    path: Path
    manifest: Manifest
    id: ModelId  # its name in the store, or the one that it would get there

    def is_of(self, original: StoredModel) -> bool:
        """Whether it was made from that folder, or from the one that that folder was made from."""
        return self.manifest.parent in (original.manifest.digest, original.manifest.parent or "")


@dataclass(frozen=True)
class Partial:
    """An unfinished download, conversion or import."""

    model: str
    format: Variant
    path: Path
    bytes: int  # on the disk, preallocated space included


def variant(fmt: Format, quantize: str | None = None) -> Variant:
    """The place of a format, quantised or not, beside the model's other formats."""
    return _variant(f"{fmt}-{quantize}" if quantize else fmt)


def _variant(name: str) -> Variant:
    for known in VARIANTS:
        if name == known:
            return known
    raise UsageError(
        f"the store has no place for a model in the format {shown(name)}",
        hint=f"there are {', '.join(VARIANTS)}",
    )


class Store:
    """Every model below one home folder."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else home()

    def folder(self, model: str, variant: str) -> Path:
        """Where the complete model has its place, whether it is there or not."""
        return _without_links(self.root / "models", model_id(model), _variant(variant))

    def partial_folder(self, model: str, variant: str) -> Path:
        """Where a download is put together."""
        return _without_links(self._work(), model_id(model), _variant(variant))

    def work_folder(self, model: str, variant: str, work: Work) -> Path:
        """Where a conversion or an import is put together, apart from a download of the same."""
        place = f"{_variant(variant)}.{work}"
        return _without_links(self._work(), model_id(model), place)

    def _work(self) -> Path:
        """The folder of unfinished work: on the models' disk, since a rename ends it."""
        models, partials = self.root / "models", self.root / "partials"
        beside = next(folder for folder in (partials, *partials.parents) if folder.is_dir())
        if models.is_dir() and models.stat().st_dev != beside.stat().st_dev:
            return models / ".partials"
        return partials

    @contextmanager
    def lock(self, model: str, variant: str, *, blocking: bool = True) -> Iterator[None]:
        """Keep other processes from putting together the same model at the same time."""
        name = f".{model_id(model)}.{_variant(variant)}.lock"
        with locked(self.root / "partials" / name, blocking=blocking):
            self._put_back(model, variant)
            yield

    def find(self, name: str, variant: str | None = None) -> StoredModel:
        """The model with the id ``name``, or the folder or GGUF file that ``name`` leads to.

        A word alone is an id first; a folder of that name in the present one comes second, and
        never for a model of the catalogue. Without ``variant`` the first of meta, hf, gguf that is
        there. ``UsageError`` for what can be neither.
        """
        stored = None if is_path(name) else self.named(name, variant)
        if stored is None and not is_path(name) and listed(name):
            _nothing(name, variant)
        return (
            stored
            or self._at(path_of(name))
            or self._of_repository(name, variant)
            or _nothing(name, variant)
        )

    def _of_repository(self, name: str, variant: str | None) -> StoredModel | None:
        """What was downloaded from the repository ``ORG/NAME``, where no folder has that path."""
        repository = parse(name) if is_path(name) and not path_of(name).exists() else None
        return self.named(repository.model_id, variant) if repository else None

    def complete(self, model: str, variant: str) -> StoredModel | None:
        """What has the final place of that model, if anything; no other folder counts.

        ``IntegrityError`` if it has another format than its place says.
        """
        folder = self.folder(model, variant)
        if not folder.exists() and self._set_aside(model, variant).exists():
            with self.lock(model, variant):  # which puts it back
                pass
        try:
            manifest = read(folder)
        except NotFoundError:
            return None
        if manifest.format != variant.partition("-")[0]:
            raise IntegrityError(
                f"{folder} holds a model in the format {manifest.format}",
                hint=f"llama-hub remove {model} --format {variant}",
            )
        return StoredModel(folder, manifest, model_id(model))

    def named(self, name: str, variant: str | None = None) -> StoredModel | None:
        """What the store has under that id; ``None`` for any other text."""
        try:
            model = ModelId(name)
        except ValueError:
            return None
        for known in (_variant(variant),) if variant else FORMATS:
            stored = self.complete(model, known)
            if stored is not None:
                return stored
        return None

    def source(self, name: str) -> Path:
        """What to convert: as ``find``, or a folder without manifest that ``name`` leads to."""
        stored = None if is_path(name) else self.named(name)
        folder = path_of(name)
        is_word = not is_path(name) and (stored or listed(name))
        is_there = folder.is_dir() or gguf_types.is_file(folder)
        return folder if not is_word and is_there else self.find(name).path

    def _at(self, path: Path) -> StoredModel | None:
        """The folder or GGUF file at ``path``; a folder of the store's own has its name there."""
        if gguf_types.is_file(path):
            path = path.absolute()
            known = gguf_file.described(path)
            return StoredModel(path, known, ModelId(known.model).foreign(known.digest))
        if not (path / MANIFEST_NAME).is_file():
            return None
        path = path.absolute()
        manifest = read(path)
        place = path.resolve()
        if self.owns(path) and place.name in VARIANTS:
            return StoredModel(
                path, manifest, model_id(place.parent.name, str(path), IntegrityError)
            )
        return StoredModel(path, manifest, ModelId(manifest.model).foreign(manifest.digest))

    def owns(self, folder: Path) -> bool:
        """Whether a folder is one of the store's own."""
        return (self.root / "models").resolve() in folder.resolve().parents

    def present(self, model: str, variant: str | None = None) -> list[StoredModel]:
        """Everything of a model that ``remove`` would delete, damaged or not."""
        name = model_id(model)
        folders = [(known, self.root / "models" / name / known) for known in VARIANTS]
        return [
            StoredModel(folder, _manifest_or_empty(name, known, folder), name)
            for known, folder in folders
            if variant in (None, known) and (folder.is_symlink() or folder.is_dir())
        ]

    def all(self) -> list[StoredModel]:
        """Every complete model, by id and variant; a damaged manifest is an ``IntegrityError``."""
        stored = [self.complete(*place) for place in _places(self.root / "models")]
        return [one for one in stored if one is not None]

    def names(self) -> list[ModelId]:
        """What the models here are called, by their folders alone."""
        return sorted({model for model, _ in _places(self.root / "models")})

    def publish(self, model: str, variant: str, made: Path | None = None) -> StoredModel:
        """Give the folder ``made`` (a download's by default) its final name, in one step.

        What was there is deleted afterwards. The caller has verified the files and written the
        manifest, and holds the lock.
        """
        made = made or self.partial_folder(model, variant)
        final = self.folder(model, variant)
        manifest = read(made)
        final.parent.mkdir(parents=True, exist_ok=True)
        fsync_folder(made)
        if final.exists():
            self._replace(made, final, self._set_aside(model, variant))
        else:
            made.rename(final)
        fsync_folder(final.parent)
        _remove_if_empty(made.parent)
        return StoredModel(final, manifest, model_id(model))

    def _replace(self, made: Path, final: Path, aside: Path) -> None:
        """Swap the two; where the file system cannot, a crash in between is put right later."""
        try:
            exchange(made, final)
            old = made
        except OSError:
            final.rename(aside)
            fsync_folder(aside.parent)
            made.rename(final)
            old = aside
        fsync_folder(final.parent)
        delete(old)

    def _set_aside(self, model: str, variant: str) -> Path:
        """Where ``_replace`` keeps the old folder for a moment, if it must."""
        return _without_links(self._work(), model_id(model), f".{_variant(variant)}.old")

    def _put_back(self, model: str, variant: str) -> None:
        """Undo a replacement that was cut off, delete what one that was complete left."""
        aside, final = self._set_aside(model, variant), self.folder(model, variant)
        if aside.is_dir() and not final.exists():
            final.parent.mkdir(parents=True, exist_ok=True)
            aside.rename(final)
        elif aside.exists():
            delete(aside)

    def remove(self, model: str, variant: str | None = None) -> list[StoredModel]:
        """Delete a model in one variant or in all; ``NotFoundError`` if there is none.

        A link that somebody put in its place is deleted, what it leads to is not touched.
        """
        name = model_id(model)
        place = self.root / "models" / name
        if place.is_symlink() and variant is None:
            return [_unlinked(place, name, "meta")]
        wanted = (_variant(variant),) if variant else VARIANTS
        removed = [gone for known in wanted if (gone := self._remove(name, known))]
        if not removed:
            raise NotFoundError(f"{name} is not in the store", hint="llama-hub list")
        _remove_if_empty(place)
        return removed

    def _remove(self, name: ModelId, variant: Variant) -> StoredModel | None:
        folder = _without_links(self.root / "models", name) / variant
        if folder.is_symlink():
            return _unlinked(folder, name, variant)
        if not folder.is_dir():
            return None
        gone = StoredModel(folder, _manifest_or_empty(name, variant, folder), name)
        try:
            with self.lock(name, variant, blocking=False):
                _delete(folder, self._set_aside(name, variant).with_name(f".{variant}.removed"))
        except BlockingIOError as error:
            raise UsageError(
                f"another llama-hub is busy with {name} ({variant}); nothing of it was deleted",
                hint="wait until it is done, then run the command again",
            ) from error
        return gone

    def partials(self) -> list[Partial]:
        """What is unfinished, by model and variant."""
        unfinished = []
        for folder in sorted(self._work().glob("*/*/")):
            place, _, work = folder.name.partition(".")
            place_of_model = (
                _known(folder.parent.name, place) if work in ("", *get_args(Work)) else None
            )
            if place_of_model and not folder.is_symlink() and not folder.parent.is_symlink():
                unfinished.append(Partial(*place_of_model, folder, _bytes_on_disk(folder)))
        return unfinished

    def collect_partials(self, model: str | None = None) -> list[Partial]:
        """Delete unfinished work that no process is busy with; returns what was deleted."""
        collected = []
        for partial in self.partials():
            if model not in (None, partial.model):
                continue
            try:
                with self.lock(partial.model, partial.format, blocking=False):
                    shutil.rmtree(partial.path)
            except BlockingIOError:
                continue
            _remove_if_empty(partial.path.parent)
            collected.append(partial)
        return collected


def _without_links(base: Path, *parts: str) -> Path:
    """``base`` and the parts below it; ``IntegrityError`` if one of them is a link."""
    path = base
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise IntegrityError(
                f"{path} is a link; the store keeps its models in folders of its own",
                hint="remove the link; llama-hub import takes over a folder from elsewhere",
            )
    return path


def _places(base: Path) -> list[tuple[ModelId, Variant]]:
    """Every model and variant that has a folder below ``base``; links do not count."""
    folders = [folder for folder in sorted(base.glob("*/*/")) if not folder.is_symlink()]
    places = [_known(f.parent.name, f.name) for f in folders if not f.parent.is_symlink()]
    return [place for place in places if place is not None]


def _known(model: str, variant: str) -> tuple[ModelId, Variant] | None:
    try:
        return ModelId(model), _variant(variant)
    except (ValueError, UsageError):
        return None


def path_of(name: str) -> Path:
    """A path that a person or a file wrote; ``UsageError`` if it can be none."""
    try:
        path = Path(reference(name)).expanduser()
        path.is_dir()  # any problem that the system has with the name
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"the path {shown(name)} cannot be used: {reason}") from error
    return path


def _nothing(name: str, variant: str | None) -> NoReturn:
    """Always an error, which says what would help."""
    if is_path(name):
        if path_of(name).is_dir():
            raise NotFoundError(
                f"{name} is a folder without {MANIFEST_NAME}",
                hint=f"llama-hub import {name} MODEL   (checks and records what is there)",
            )
        if parse(name):
            raise NotFoundError(
                f"{name} is neither a folder nor in the store", hint=f"llama-hub download {name}"
            )
        what = "file" if gguf_types.has_name(Path(name)) else "folder"
        raise NotFoundError(f"there is no {what} {name}", hint="llama-hub list")
    if gguf_types.has_name(Path(name)):
        raise NotFoundError(f"there is no file {name}", hint="llama-hub list")
    kind = f" in the format {variant}" if variant else ""
    beside = f"; the folder beside you is ./{name}" if path_of(name).is_dir() else ""
    raise NotFoundError(
        f"{name} is not in the store{kind}",
        hint=f"llama-hub download {name}   or llama-hub list{beside}",
    )


def _unlinked(link: Path, model: ModelId, variant: Variant) -> StoredModel:
    """Delete a link; what it leads to is none of the store's."""
    link.unlink()
    return StoredModel(link, _unknown(model, variant), model)


def _manifest_or_empty(model: ModelId, variant: Variant, folder: Path) -> Manifest:
    """What is removed may be damaged; that must not keep it from being removed."""
    try:
        return read(folder)
    except (IntegrityError, NotFoundError):
        return _unknown(model, variant)


def _unknown(model: ModelId, variant: Variant) -> Manifest:
    fmt = next(known for known in FORMATS if variant.startswith(known))
    return Manifest(model, fmt, "unknown", ())


def _delete(folder: Path, aside: Path) -> None:
    """Delete a folder so that a crash in between leaves no half of it under its final name."""
    aside.parent.mkdir(parents=True, exist_ok=True)
    delete(aside)
    try:
        folder.rename(aside)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        (folder / MANIFEST_NAME).unlink(missing_ok=True)  # of an image's lower layer: no model now
        aside = folder
    fsync_folder(folder.parent)
    delete(aside)
    _remove_if_empty(aside.parent)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return


def _bytes_on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())

"""The adapters of the local store: ``adapters/<id>/``, each folder complete, checked, described.

As with models: a folder gets its final name whole, its place says what it is called, and every
path is made of a ``ModelId``, through no link.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llama_hub.errors import IntegrityError, NotFoundError, UsageError
from llama_hub.files import delete, fsync_folder, locked
from llama_hub.home import home
from llama_hub.hub.adapters import manifest
from llama_hub.hub.adapters.manifest import AdapterManifest
from llama_hub.hub.digests import hash_file
from llama_hub.hub.model_id import ModelId, is_path, model_id
from llama_hub.hub.relative_path import regular_file
from llama_hub.hub.repository_id import parse
from llama_hub.hub.store import path_of


@dataclass(frozen=True)
class StoredAdapter:
    """One complete adapter."""

    path: Path  # a folder
    manifest: AdapterManifest
    id: ModelId

    @property
    def weights(self) -> Path:
        """What a reader opens: the folder of peft's, or the GGUF file in it."""
        if self.manifest.format == "peft":
            return self.path
        names = [entry.path for entry in self.manifest.files if entry.path.endswith(".gguf")]
        return self.path / names[0] if names else self.path


class AdapterStore:
    """Every adapter below one home folder."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else home()

    def folder(self, name: str) -> Path:
        """Where the adapter has its place; ``IntegrityError`` if that is a link."""
        path = self.root / "adapters" / model_id(name, "the adapter's name")
        if path.is_symlink():
            raise IntegrityError(
                f"{path} is a link; the store keeps its adapters in folders of its own",
                hint="remove the link; llama-hub adapter import takes one from elsewhere",
            )
        return path

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Keep other processes from putting together or removing the same adapter."""
        with locked(self.root / "partials" / f".{model_id(name)}.adapter.lock"):
            yield

    @contextmanager
    def work_folder(self, name: str) -> Iterator[Path]:
        """An empty folder to put an adapter together in; gone afterwards, whatever happened."""
        folder = self.root / "partials" / f".adapter-{model_id(name)}"
        delete(folder)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            delete(folder)

    def publish(self, name: str, made: Path) -> StoredAdapter:
        """Give the folder ``made`` its final name; the caller holds the lock."""
        final = self.folder(name)
        described = manifest.read(made)
        final.parent.mkdir(parents=True, exist_ok=True)
        fsync_folder(made)
        if final.exists():
            delete(self._aside(name))
            final.rename(self._aside(name))
        made.rename(final)
        fsync_folder(final.parent)
        delete(self._aside(name))
        return StoredAdapter(final, described, ModelId(name))

    def _aside(self, name: str) -> Path:
        return self.root / "partials" / f".adapter-{name}.old"

    def find(self, name: str) -> StoredAdapter:
        """The adapter ``name``, or what was imported from the repository ``ORG/NAME``.

        A path leads to a folder with the adapter's manifest. ``NotFoundError`` if there is none.
        """
        if not is_path(name):
            stored = self.named(name)
        else:
            path = path_of(name)
            repository = None if path.exists() else parse(name)
            if repository is None:
                described = manifest.read(path)
                return StoredAdapter(path.absolute(), described, ModelId(described.id))
            stored = self.named(repository.model_id)
        if stored is None:
            raise NotFoundError(
                f"there is no adapter {name}",
                hint=f"llama-hub adapter import {name} --base MODEL   or llama-hub adapter list",
            )
        return stored

    def named(self, name: str) -> StoredAdapter | None:
        """What the store has under that id."""
        folder = self.folder(name)
        if not folder.is_dir():
            return None
        return StoredAdapter(folder, manifest.read(folder), ModelId(name))

    def all(self) -> list[StoredAdapter]:
        """Every adapter, by id; a damaged manifest is an ``IntegrityError``."""
        return [found for name in self.names() if (found := self.named(name))]

    def names(self) -> list[ModelId]:
        """What the adapters here are called, by their folders alone."""
        places = sorted((self.root / "adapters").glob("*/"))
        return [name for path in places if not path.is_symlink() and (name := _name(path.name))]

    def remove(self, name: str) -> Path:
        """Delete an adapter, damaged or not; ``NotFoundError`` if there is none."""
        folder = self.folder(name)
        with self.lock(name):
            if not folder.is_dir():
                raise NotFoundError(f"there is no adapter {name}", hint="llama-hub adapter list")
            aside = self._aside(name)
            delete(aside)
            folder.rename(aside)
            fsync_folder(folder.parent)
            delete(aside)
        return folder


def _name(text: str) -> ModelId | None:
    try:
        return ModelId(text)
    except ValueError:
        return None


def check_files(stored: StoredAdapter) -> None:
    """``IntegrityError`` names a file that is not what the manifest says; reads them all."""
    for entry in stored.manifest.files:
        path = stored.path / entry.path
        if not os.path.lexists(path):
            raise _damaged(stored, entry.path, "it is missing")
        if problem := regular_file(stored.path, entry.path):
            raise _damaged(stored, entry.path, problem)
        size = path.stat().st_size
        if size != entry.size:
            raise _damaged(stored, entry.path, f"it has {size} bytes instead of {entry.size}")
        if hash_file(path, blocks=False, limit=size).digests["sha256"] != entry.sha256:
            raise _damaged(stored, entry.path, "its SHA-256 is another")


def _damaged(stored: StoredAdapter, path: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"the adapter {stored.id} is not what its manifest says: {path}: {why}",
        hint="import it again: llama-hub adapter import",
    )


def refuse_taken(store: AdapterStore, name: str, content: str) -> StoredAdapter | None:
    """The same adapter where it is there already; ``UsageError`` if another has its name."""
    there = store.named(name)
    if there is not None and there.manifest.content != content:
        raise UsageError(
            f"{name} is the name of another adapter in the store",
            hint=f"give another --name, or first: llama-hub adapter remove {name}",
        )
    return there

"""The local store: ``models/<id>/<format>/``, each folder complete, verified and described.

A model gets its final name only as a whole folder with its manifest; until then it lives in
``partials/<id>/<format>/``, which may be removed at any time at the cost of downloading again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.files import fsync_folder, locked
from llama_hub.home import home
from llama_hub.hub.manifest import MANIFEST_NAME, Format, Manifest, read

FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True)
class Stored:
    """One complete model folder."""

    path: Path
    manifest: Manifest


@dataclass(frozen=True)
class Partial:
    """An unfinished download or conversion."""

    model: str
    format: str
    path: Path
    bytes: int  # on the disk, preallocated space included


class Store:
    """Every model below one home folder."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else home()

    def folder(self, model_id: str, fmt: Format) -> Path:
        """Where the complete model has its place, whether it is there or not."""
        return self.root / "models" / model_id / fmt

    def partial_folder(self, model_id: str, fmt: Format) -> Path:
        """Where the model is put together."""
        return self.root / "partials" / model_id / fmt

    @contextmanager
    def lock(self, model_id: str, fmt: Format, *, blocking: bool = True) -> Iterator[None]:
        """Keep other processes from putting together the same model at the same time."""
        with locked(self.root / "partials" / f".{model_id}.{fmt}.lock", blocking=blocking):
            yield

    def find(self, name: str, fmt: Format | None = None) -> Stored:
        """The model with catalogue id ``name``, or the folder that the path ``name`` leads to.

        Without ``fmt`` the first of meta, hf, gguf that is there.
        """
        path = Path(name).expanduser()
        if (path / MANIFEST_NAME).is_file():
            return Stored(path.absolute(), read(path))
        for known in (fmt,) if fmt else FORMATS:
            folder = self.folder(name, known)
            if (folder / MANIFEST_NAME).is_file():
                return Stored(folder, read(folder))
        if path.is_dir() and ("/" in name or name in {".", ".."}):
            raise NotFoundError(
                f"{name} is a folder without {MANIFEST_NAME}",
                hint=f"llama-hub import {name} MODEL   (checks and records what is there)",
            )
        kind = f" in the format {fmt}" if fmt else ""
        raise NotFoundError(
            f"{name} is not in the store{kind}",
            hint=f"llama-hub download {name}   or llama-hub list",
        )

    def all(self) -> list[Stored]:
        """Every complete model, by id and format; a damaged manifest is an ``IntegrityError``."""
        found = sorted((self.root / "models").glob(f"*/*/{MANIFEST_NAME}"))
        return [Stored(path.parent, read(path.parent)) for path in found]

    def publish(self, model_id: str, fmt: Format) -> Stored:
        """Give the folder in ``partials/`` its final name; what was there is replaced.

        The caller has verified the files and written the manifest.
        """
        made, final = self.partial_folder(model_id, fmt), self.folder(model_id, fmt)
        manifest = read(made)
        final.parent.mkdir(parents=True, exist_ok=True)
        fsync_folder(made)
        if final.exists():
            old = made.with_name(f".{fmt}.replaced")
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
            made.rename(final)
            shutil.rmtree(old)
        else:
            made.rename(final)
        fsync_folder(final.parent)
        _remove_if_empty(made.parent)
        return Stored(final, manifest)

    def remove(self, model_id: str, fmt: Format | None = None) -> list[Stored]:
        """Delete a model in one format or in all; ``NotFoundError`` if there is none."""
        removed = []
        for known in (fmt,) if fmt else FORMATS:
            folder = self.folder(model_id, known)
            if folder.is_dir():
                removed.append(Stored(folder, _manifest_or_empty(model_id, known, folder)))
                with self.lock(model_id, known):
                    _delete(folder, self.root / "partials" / model_id / f".{known}.removed")
        if not removed:
            raise NotFoundError(f"{model_id} is not in the store", hint="llama-hub list")
        _remove_if_empty(self.root / "models" / model_id)
        return removed

    def partials(self) -> list[Partial]:
        """What is unfinished, by model and format."""
        folders = sorted((self.root / "partials").glob("*/*/"))
        return [
            Partial(folder.parent.name, folder.name, folder, _bytes_on_disk(folder))
            for folder in folders
        ]

    def collect_partials(self, model_id: str | None = None) -> list[Partial]:
        """Delete unfinished work that no process is busy with; returns what was deleted."""
        collected = []
        for partial in self.partials():
            if model_id not in (None, partial.model):
                continue
            lock = self.root / "partials" / f".{partial.model}.{partial.format}.lock"
            try:
                with locked(lock, blocking=False):
                    shutil.rmtree(partial.path)
            except BlockingIOError:
                continue
            _remove_if_empty(partial.path.parent)
            collected.append(partial)
        return collected


def _manifest_or_empty(model_id: str, fmt: Format, folder: Path) -> Manifest:
    """What is removed may be damaged; that must not keep it from being removed."""
    try:
        return read(folder)
    except (IntegrityError, NotFoundError):
        return Manifest(model_id, fmt, "unknown", ())


def _delete(folder: Path, aside: Path) -> None:
    """Delete a folder so that a crash in between leaves no half of it under its final name."""
    aside.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    fsync_folder(folder.parent)
    shutil.rmtree(aside)
    _remove_if_empty(aside.parent)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return


def _bytes_on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())

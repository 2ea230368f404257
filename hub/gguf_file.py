"""A GGUF file that is named by itself: its manifest and, where nobody wrote one, what it says.

``convert`` puts ``NAME.llama-hub.json`` beside a file that it makes; a file in a folder that
``llama-hub.json`` describes is in that one. Of any other file a manifest is made of its bytes, so
that it has a digest like every model.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub import manifest
from llama_hub.hub.checkpoints import gguf_types
from llama_hub.hub.digests import hash_file
from llama_hub.hub.manifest import MANIFEST_NAME, FileEntry, Manifest
from llama_hub.hub.model_id import ModelId
from llama_hub.licenses import terms
from llama_hub.progress import NO_PROGRESS, Progress
from llama_hub.strict import read_json

TASK = "read"
MAX_TAIL = 1 << 26  # bytes behind the tensors: padding, or the header of a part without any
DEFAULT_LICENSE = "llama-2-community"  # of a file that says nothing: the strictest guess


def manifest_path(path: Path) -> Path:
    """Where the manifest of a file that stands by itself lies."""
    return path.with_name(f"{gguf_types.stem_of(path)}.{MANIFEST_NAME}")


def recorded(path: Path) -> Manifest | None:
    """The manifest that somebody wrote of the file; ``IntegrityError`` if it was edited."""
    own = manifest_path(path)
    if own.is_file():
        return manifest.parse(read_json(own, manifest.KIND), str(own))
    try:
        shared = manifest.read(path.parent)
    except NotFoundError:
        return None
    listed = any(entry.path == path.name for entry in shared.files)
    return shared if listed and shared.format == "gguf" else None


def described(path: Path, progress: Progress = NO_PROGRESS) -> Manifest:
    """The file's manifest, recorded or made of its bytes.

    ``IntegrityError`` unless it is a sound model, ``NotFoundError`` if a part of it is missing.
    """
    return recorded(path) or _made(path, progress)


def _made(path: Path, progress: Progress) -> Manifest:
    from llama_hub.hub.checkpoints import gguf

    with gguf.open_gguf(path, quantised=True):  # names, shapes and keys are a model's
        content = gguf.read_model(path)
    ends: dict[Path, int] = {content.path: 0}
    for info in content.tensors.values():
        ends[info.path] = max(ends.get(info.path, 0), info.offset + info.size)
    entries = []
    for part, end in sorted(ends.items()):
        state = part.stat()
        if state.st_size > end + MAX_TAIL:  # it would be hashed for hours
            raise IntegrityError(
                f"{part} has {state.st_size - end} bytes behind its tensors: nobody writes so many",
                hint="download it again",
            )
        progress.start(TASK, state.st_size)
        entries.append(_entry(part, state.st_ino, state.st_size, state.st_mtime_ns))
        progress.finish(TASK)
    return Manifest(
        model=ModelId.of_folder(gguf_types.model_name(path)),
        format="gguf",
        license=license_of(content.values) or DEFAULT_LICENSE,
        files=tuple(entries),
        source={"kind": "file"},
    )


@lru_cache(maxsize=4096)
def _entry(path: Path, inode: int, size: int, changed: int) -> FileEntry:
    """The file's digest, once as long as the file system says that nothing was written to it."""
    del inode, changed
    hashed = hash_file(path, limit=size)
    return FileEntry(path.name, hashed.size, hashed.digests["sha256"], blocks=hashed.blocks)


def license_of(values: Mapping[str, Any]) -> str | None:
    """The licence that llama-hub noted in the file's keys, if it is known here."""
    noted = values.get("llama_hub.license")
    return noted if noted in {license.id for license in terms.all_licenses()} else None

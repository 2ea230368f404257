"""The check that a folder still has the bytes that were verified, without reading them again.

What the file system says of each file (inode, size, time of change) is noted when the folder was
verified. As long as it says the same, nothing was written into a file; where it says something
else, the files are read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llama_hub.errors import DamagedFileError, IntegrityError, NotFoundError
from llama_hub.files import PRIVATE, write_atomic
from llama_hub.hub.manifest import Manifest
from llama_hub.hub.verify import verify
from llama_hub.progress import NO_PROGRESS, Progress
from llama_hub.strict import FileKind, read_json

NAME = ".llama-hub-verified.json"
KIND = FileKind("the note of verified files", max_bytes=16 << 20)


def verify_and_note(folder: Path, manifest: Manifest, progress: Progress = NO_PROGRESS) -> None:
    """Read every file; ``IntegrityError`` names one that is not what ``manifest`` says."""
    before = _stated(folder, manifest)
    wrong = verify(folder, progress=progress).damaged
    if wrong:
        raise IntegrityError(
            f"{folder} is not what its manifest says: {wrong[0].path} "
            f"({wrong[0].detail or wrong[0].status})",
            hint=f"llama-hub verify {folder}",
        )
    write_atomic(folder / NAME, json.dumps(before).encode(), mode=PRIVATE)


def check(folder: Path, manifest: Manifest, progress: Progress = NO_PROGRESS) -> None:
    """``IntegrityError`` if a file of a noted folder was changed; others are not looked at."""
    try:
        noted = read_json(folder / NAME, KIND)
    except NotFoundError:
        return
    except DamagedFileError:
        noted = None
    if noted != _stated(folder, manifest):
        verify_and_note(folder, manifest, progress)


def _stated(folder: Path, manifest: Manifest) -> dict[str, Any]:
    return {entry.path: _state(folder / entry.path) for entry in manifest.files}


def _state(path: Path) -> list[int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return [state.st_ino, state.st_size, state.st_mtime_ns]

"""Model folders as a stranger would make them, and what they must not change."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from llama_hub.hub.manifest import MANIFEST_NAME, canonical


def forge(folder: Path, **changes: Any) -> Path:
    """Make the manifest of ``folder`` say what it likes, with the digest that it then has."""
    path = folder / MANIFEST_NAME
    document = json.loads(path.read_text()) | changes
    hidden = ("receipt", "created", "source", "digest")
    identity = {key: value for key, value in document.items() if key not in hidden}
    identity["files"] = [
        {key: entry[key] for key in ("path", "size", "sha256")} for entry in document["files"]
    ]
    document["digest"] = "sha256:" + hashlib.sha256(canonical(identity)).hexdigest()
    path.unlink()
    path.write_text(json.dumps(document))
    return folder


def copy(original: Path, folder: Path, /, **changes: Any) -> Path:
    """A folder with the files of ``original`` and a manifest that says other things of them."""
    shutil.copytree(original, folder)
    return forge(folder, **changes)


def damage(folder: Path, name: str) -> None:
    """Other bytes of the same length, in a new file."""
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def tree(folder: Path) -> dict[str, Any]:
    """Everything below ``folder``: what each thing is, and which bytes it has."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_file():
            found[name] = (path.stat().st_ino, hashlib.sha256(path.read_bytes()).hexdigest())
        else:
            found[name] = "folder"
    return found


def names(folder: Path) -> list[str]:
    """The name of everything below ``folder``, without reading any of it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))

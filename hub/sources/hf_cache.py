"""The cache of the Hugging Face libraries on this machine: what is there need not be fetched.

``<HF_HUB_CACHE>/models--ORG--NAME/blobs/<digest>`` holds each file under its SHA-256 (large ones)
or git's SHA-1; ``snapshots/<commit>/`` links to them. A blob is used only after it was hashed:
the libraries themselves check sizes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub.repository_id import is_repository
from llama_hub.strict import FileKind, read_text

_PREFIX = "models--"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGESTS = {64: "sha256", 40: "git-sha1"}  # by the length of a blob's name
_NAMED = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_METADATA = FileKind("the download's record", max_bytes=4096)
_MANY = 64  # records that are compared


def folder() -> Path:
    """Where the libraries keep their cache."""
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if cache:
        return Path(cache).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{xdg}/huggingface"
    return Path(home).expanduser() / "hub"


def repository_folder(repository: str) -> Path:
    """Where the cache has that repository, whether it is there or not."""
    return folder() / (_PREFIX + repository.replace("/", "--"))


def blob(repository: str, digests: Mapping[str, str], size: int | None) -> Path | None:
    """A file of the cache that claims to have these digests and that size; not yet hashed."""
    for algorithm in _DIGESTS.values():
        name = digests.get(algorithm, "")
        path = repository_folder(repository) / "blobs" / name
        try:
            if _NAMED.fullmatch(name) and path.is_file() and size in (None, path.stat().st_size):
                return path
        except OSError:
            continue
    return None


def origin(snapshot: Path) -> dict[str, str]:
    """``repository`` and ``commit`` of a folder that the libraries made, as far as it tells."""
    snapshot = snapshot.absolute()
    name = snapshot.parent.parent.name
    if snapshot.parent.name == "snapshots" and name.startswith(_PREFIX):
        repository = name.removeprefix(_PREFIX).replace("--", "/")
        if is_repository(repository) and _COMMIT.fullmatch(snapshot.name):
            return {"repository": repository, "commit": snapshot.name}
    commit = _commit_of_download(snapshot / ".cache" / "huggingface" / "download")
    return {"commit": commit} if commit else {}


def _commit_of_download(records: Path) -> str | None:
    """The commit that every record of ``hf download --local-dir`` names."""
    try:
        paths = list(islice(records.glob("*.metadata"), _MANY))
        commits = {read_text(path, _METADATA).partition("\n")[0].strip() for path in paths}
    except (OSError, IntegrityError, NotFoundError):
        return None
    commit = next(iter(commits), "")
    return commit if len(commits) == 1 and _COMMIT.fullmatch(commit) else None


def digests_of(path: Path) -> dict[str, str]:
    """The digest that a file of a snapshot must have: the name of the blob that it links to."""
    try:
        target = path.readlink()
    except OSError:
        return {}
    name = target.name
    is_blob = target.parent.name == "blobs" and _NAMED.fullmatch(name)
    return {_DIGESTS[len(name)]: name} if is_blob else {}

"""A model folder into a private repository: one commit a file, so that a killed upload goes on.

What the repository has already (by SHA-256 for large files, by git's own digest for small ones)
is not sent again; afterwards every digest is compared once more with what the Hub states.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_hub.backends.huggingface import bodies, judging
from llama_hub.backends.huggingface.client import Client
from llama_hub.deploy.backend import Artifact
from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.files import open_regular
from llama_hub.hub.manifest import MANIFEST_NAME, FileEntry, Manifest
from llama_hub.progress import Progress

SMALL_BATCH = 32 << 20  # bytes of small files in one commit


@dataclass(frozen=True)
class FileInfo:
    """What the Hub states of one file: ``sha256`` for large ones, ``blob`` (git) for small ones."""

    size: int
    sha256: str | None
    blob: str | None


def git_digest(data: bytes) -> str:
    """Git's digest of a file's content: SHA-1 over ``blob SIZE\\0`` and the bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def head(client: Client, repository: str) -> str:
    """The commit that ``main`` is at."""
    return str(
        client.hub(repository, lambda api: api.model_info(repository, token=client.token)).sha
    )


def tree(client: Client, repository: str, revision: str = "main") -> dict[str, FileInfo]:
    """Every file of a repository at a revision."""

    def listed(api: Any) -> dict[str, FileInfo]:
        found = api.list_repo_tree(
            repository, recursive=True, revision=revision, token=client.token
        )
        return {one.path: _stored(one) for one in found if hasattr(one, "blob_id")}

    return client.hub(f"the files of {repository}", listed)


def _stored(entry: Any) -> FileInfo:
    large = entry.lfs
    return FileInfo(entry.size, large.sha256 if large else None, None if large else entry.blob_id)


def read_marker(client: Client, repository: str) -> dict[str, Any] | None:
    """The deployment's marker in ``repository``; ``None`` without one."""
    try:
        text = client.file(repository, bodies.MARKER)
    except NotFoundError:
        return None
    try:
        content: dict[str, Any] = json.loads(text)
        return content
    except ValueError:
        return {"state": "unknown", "tags": {}}


def write_marker(client: Client, repository: str, content: Mapping[str, Any]) -> None:
    """Say in the repository itself whose it is."""
    text = json.dumps(content, indent=1, sort_keys=True).encode()
    commit(client, repository, {bodies.MARKER: text}, f"llama-hub: {content['state']}")


def commit(
    client: Client, repository: str, files: Mapping[str, Path | bytes], message: str
) -> None:
    """Add files in one commit."""
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(name, data) for name, data in files.items()]
    client.hub(
        f"uploading to {repository}",
        lambda api: api.create_commit(
            repository, operations, commit_message=message, token=client.token
        ),
    )


class Upload:
    """One repository on its way to hold one artifact."""

    def __init__(
        self, client: Client, repository: str, artifact: Artifact, progress: Progress
    ) -> None:
        self._client = client
        self._repository = repository
        self._folder = artifact.folder
        self._manifest = artifact.manifest
        self._progress = progress

    def run(self, marker: Mapping[str, Any], extra: Mapping[str, bytes]) -> str:
        """Create, mark, send what is missing, compare, mark as ready.

        Returns the commit whose digests were compared: what an endpoint is pinned to.
        """
        self._create()
        if not self._is_marked(marker):
            self._mark({**marker, "state": "uploading"})
        stored = tree(self._client, self._repository)
        task = f"upload to {self._repository}"
        self._progress.start(task, self._manifest.bytes)
        for entry in sorted(self._manifest.files, key=lambda entry: -entry.size):
            if not _holds(stored.get(entry.path), entry, self._folder):
                self._send({entry.path: self._folder / entry.path}, f"Add {entry.path}")
            self._progress.advance(task, entry.size)
        self._send_small({MANIFEST_NAME: self._manifest.to_text().encode(), **extra})
        pinned = head(self._client, self._repository)
        check(tree(self._client, self._repository, pinned), self._manifest, self._folder)
        self._mark({**marker, "commit": pinned})
        self._progress.finish(task, "verified by the Hub's digests")
        return pinned

    def _create(self) -> None:
        name = self._repository
        token = self._client.token
        self._client.hub(
            f"creating {name}",
            lambda api: api.create_repo(name, private=True, exist_ok=True, token=token),
        )
        judging.private(self._client, name)

    def _is_marked(self, content: Mapping[str, Any]) -> bool:
        """Whether the marker says so already, of whichever commit."""
        there = read_marker(self._client, self._repository) or {}
        return {key: value for key, value in there.items() if key != "commit"} == dict(content)

    def _mark(self, content: Mapping[str, Any]) -> None:
        """Write the marker unless it says so already."""
        if read_marker(self._client, self._repository) != dict(content):
            write_marker(self._client, self._repository, content)

    def _send_small(self, files: Mapping[str, bytes]) -> None:
        known = tree(self._client, self._repository)
        missing = {name: data for name, data in files.items() if not _same_bytes(known, name, data)}
        for batch in _batches(missing):
            self._send(batch, "Add what goes beside the weights")

    def _send(self, files: Mapping[str, Path | bytes], message: str) -> None:
        commit(self._client, self._repository, files, message)


def _batches(files: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    batch: dict[str, bytes] = {}
    for name, data in files.items():
        if batch and sum(map(len, batch.values())) + len(data) > SMALL_BATCH:
            yield batch
            batch = {}
        batch[name] = data
    if batch:
        yield batch


def _same_bytes(known: Mapping[str, FileInfo], name: str, data: bytes) -> bool:
    found = known.get(name)
    if found is None or found.size != len(data):
        return False
    if found.sha256 is not None:
        return found.sha256 == hashlib.sha256(data).hexdigest()
    return found.blob == git_digest(data)


def _holds(stored: FileInfo | None, entry: FileEntry, folder: Path | None) -> bool:
    if stored is None or stored.size != entry.size:
        return False
    if stored.sha256 is not None:
        return stored.sha256 == entry.sha256
    if folder is None:
        return True
    return stored.blob == git_digest(_local(folder / entry.path, entry))


def _local(path: Path, entry: FileEntry) -> bytes:
    """The manifest's own bytes of a small file, which git's digest is made of.

    ``IntegrityError`` if the folder has others by now: they are not what is deployed.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        data = file.read(entry.size + 1)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise IntegrityError(
            f"{path} is not what the manifest says", hint=f"llama-hub verify {path.parent}"
        )
    return data


def check(stored: Mapping[str, FileInfo], manifest: Manifest, folder: Path | None) -> None:
    """``IntegrityError`` unless the Hub states the manifest's digests for every file.

    Without the ``folder`` git's digests of small files cannot be computed: then by size alone.
    """
    wrong = [one.path for one in manifest.files if not _holds(stored.get(one.path), one, folder)]
    if wrong:
        raise IntegrityError(
            f"the Hub holds other bytes than the manifest lists: {', '.join(wrong[:5])}",
            hint="run the same command again: what differs is sent again",
        )


def check_weights(stored: Mapping[str, FileInfo], manifest: Manifest, repository: str) -> None:
    """The same for a repository that others made: the large files, by their SHA-256.

    ``IntegrityError`` names those that differ.
    """
    known = {path: one.sha256 for path, one in stored.items() if one.sha256}
    wrong = [
        one.path
        for one in manifest.files
        if one.path.endswith(".safetensors") and known.get(one.path) != one.sha256
    ]
    if wrong:
        raise IntegrityError(
            f"{repository} does not hold the weights of this manifest: {', '.join(wrong[:5])}",
            hint="download that commit with llama-hub download --source huggingface --format hf",
        )

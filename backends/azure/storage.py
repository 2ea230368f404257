"""Weights and build contexts into the workspace's own blob container, resumably.

Large files go up in blocks whose ids are made from their content, so that a run
that was cut off sends only what is missing, and a block of other content is
never taken for ours. Storage compares the MD5 of every block with what arrived;
the whole file's SHA-256 is compared with the manifest before it is committed.
``llama-hub.json`` goes last: where it is, all of its files are. Tokens are
renewed as they expire; no shared key and no signed URL is used.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_hub.backends.azure.client import translated, transport
from llama_hub.deploy.cloud_error import Explained
from llama_hub.deploy.upload import Tell, damaged, part_size, send_model, send_parts
from llama_hub.errors import MissingExtraError, UsageError
from llama_hub.hub.manifest import MANIFEST_NAME, FileEntry, Manifest
from llama_hub.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

BLOCK = 16 << 20  # bytes; a blob has at most 50,000 blocks
MOST_BLOCKS = 50_000
MOST_FILES = 1_500  # of one model version
RETRIES = 5  # of one call, with growing pauses
WORKERS = 4  # blocks on their way at a time
SHA256 = "llama_hub_sha256"  # metadata of a blob; names must be identifiers


@dataclass(frozen=True)
class BlobInfo:
    """One committed blob."""

    path: str  # within the prefix
    size: int
    md5: str | None  # base64
    sha256: str | None  # as it was stated when the blob was committed


class Container:
    """A blob container, reached with a token."""

    def __init__(
        self,
        account_url: str,
        name: str,
        credential: TokenCredential,
        *,
        sleep: Callable[[float], None] = time.sleep,
        block: int | None = None,
    ) -> None:
        self.account_url, self.name = account_url, name
        self._credential, self._sleep, self._block = credential, sleep, block or BLOCK

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """What every client of the SDK is made with; they share connections."""
        return {
            "credential": self._credential,
            "transport": transport(self._sleep),
            "retry_total": RETRIES,
        }

    @cached_property
    def _client(self) -> Any:
        try:
            from azure.storage.blob import ContainerClient
        except ImportError as error:
            raise MissingExtraError("azure-storage-blob", "azure") from error
        return ContainerClient(self.account_url, self.name, **self._settings)

    def _blob(self, name: str) -> Any:
        """One blob. Not by way of the container's client: that one waits on its own."""
        from azure.storage.blob import BlobClient

        return BlobClient(self.account_url, self.name, name, **self._settings)

    def listed(self, prefix: str) -> list[BlobInfo]:
        """Every committed blob below ``prefix``."""
        with _explained(f"list {prefix}"):
            found = self._client.list_blobs(name_starts_with=prefix, include=["metadata"])
            return [_stored(blob, prefix) for blob in found]

    def folders(self, prefix: str) -> set[str]:
        """Names one level below ``prefix``, of unfinished uploads as well."""
        with _explained(f"list {prefix}"):
            include = ["uncommittedblobs"]
            found = self._client.list_blobs(name_starts_with=prefix, include=include)
            return {blob.name.removeprefix(prefix).partition("/")[0] for blob in found}

    def read(self, name: str) -> bytes:
        """A small blob's content."""
        with _explained(f"read {name}"):
            return bytes(self._blob(name).download_blob(max_concurrency=1).readall())

    def delete(self, prefix: str) -> int:
        """Remove every blob below ``prefix``; how many there were."""
        count = 0
        with _explained(f"delete {prefix}"):
            include = ["uncommittedblobs"]
            for blob in list(self._client.list_blobs(name_starts_with=prefix, include=include)):
                self._remove(blob.name)
                count += 1
        return count

    def _remove(self, name: str) -> None:
        from azure.core.exceptions import ResourceNotFoundError

        client = self._blob(name)
        try:
            client.delete_blob()
        except ResourceNotFoundError:
            # Only uncommitted blocks: an empty commit replaces them, and can be deleted.
            try:
                client.commit_block_list([])
                client.delete_blob()
            except ResourceNotFoundError:
                return

    def put(self, files: Mapping[str, bytes], prefix: str) -> None:
        """Small files, in the given order, less those that are there already."""
        there = {blob.path: blob for blob in self.listed(prefix)}
        for path, content in files.items():
            digest = hashlib.sha256(content).hexdigest()
            if path not in there or there[path].sha256 != digest:
                self._put(prefix + path, content, digest)

    def _put(self, name: str, content: bytes, sha256: str) -> None:
        with _explained(f"upload {name}"):
            self._blob(name).upload_blob(
                content,
                overwrite=True,
                validate_content=True,
                metadata={SHA256: sha256},
                max_concurrency=1,
            )

    def upload(
        self, folder: Path, manifest: Manifest, prefix: str, progress: Progress = NO_PROGRESS
    ) -> dict[str, int]:
        """All files of ``manifest``, then the manifest; what was sent and what was there.

        ``UsageError`` for more files than Azure ML takes.
        """
        if len(manifest.files) + 1 > MOST_FILES:
            raise UsageError(
                f"the model has {len(manifest.files)} files; Azure ML takes {MOST_FILES} at most",
                hint="llama-hub convert … --max-shard-size 10GB",
            )
        there = {blob.path: blob for blob in self.listed(prefix)}

        def send(missing: Sequence[FileEntry], tell: Tell) -> int:
            sent = sum(self._file(folder / one.path, one, prefix, tell) for one in missing)
            self.put({MANIFEST_NAME: manifest.to_text().encode()}, prefix)
            return sent

        return send_model(
            manifest, progress, partial(_is_there, there=there), send, "in storage, checked"
        )

    def _file(self, path: Path, entry: FileEntry, prefix: str, tell: Tell) -> int:
        """Send one file; returns how many bytes had to go."""
        if entry.size <= self._block:
            content = path.read_bytes()
            _check(entry, hashlib.sha256(content).hexdigest())
            self._put(prefix + entry.path, content, entry.sha256)
            tell(len(content))
            return len(content)
        with _explained(f"upload {entry.path}"):
            return self._blocks(path, entry, prefix + entry.path, tell)

    def _blocks(self, path: Path, entry: FileEntry, name: str, tell: Tell) -> int:
        from azure.storage.blob import BlobBlock, ContentSettings

        client = self._blob(name)
        staged = _staged(client)
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        ids: list[str] = []

        def is_held(number: int, block: bytes) -> bool:
            ids.append(_id(number, block))
            return staged.get(ids[-1]) == len(block)

        def stage(number: int, block: bytes) -> None:
            client.stage_block(ids[number], block, length=len(block), validate_content=True)
            tell(len(block))

        size = part_size(entry.size, self._block, MOST_BLOCKS)
        sent = send_parts(path, size, is_held, stage, tell, hashes=(sha256, md5), workers=WORKERS)
        _check(entry, sha256.hexdigest())
        client.commit_block_list(
            [BlobBlock(id_) for id_ in ids],
            content_settings=ContentSettings(content_md5=bytearray(md5.digest())),
            metadata={SHA256: entry.sha256},
        )
        return sent


def _staged(client: Any) -> dict[str, int]:
    """Id → size of blocks that are there, committed or not."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        committed, waiting = client.get_block_list("all")
    except ResourceNotFoundError:
        return {}
    return {block.id: block.size for block in [*committed, *waiting]}


def _id(number: int, block: bytes) -> str:
    """Id of a block: its place and its content; all have the same length."""
    return f"{number:08d}-{hashlib.sha256(block).hexdigest()[:32]}"


def _check(entry: FileEntry, sha256: str) -> None:
    if sha256 != entry.sha256:
        raise damaged(entry, f"its sha256 is {sha256[:12]}…")


def _is_there(entry: FileEntry, there: Mapping[str, BlobInfo]) -> bool:
    found = there.get(entry.path)
    return found is not None and (found.size, found.sha256) == (entry.size, entry.sha256)


def _stored(blob: Any, prefix: str) -> BlobInfo:
    md5 = blob.content_settings.content_md5
    return BlobInfo(
        path=blob.name.removeprefix(prefix),
        size=blob.size,
        md5=base64.b64encode(bytes(md5)).decode() if md5 else None,
        sha256=(blob.metadata or {}).get(SHA256),
    )


def _explained(what: str) -> Explained:
    """The SDK's exceptions as ours."""
    return Explained(translated, what)

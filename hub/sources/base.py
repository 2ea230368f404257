"""The protocol of a source: it names a model's texts and files, which the engine fetches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from llama_hub.errors import AccessError, LlamaHubError, NotFoundError
from llama_hub.hub.catalog import Model
from llama_hub.hub.manifest import Format, Manifest
from llama_hub.hub.transfer.remote_file import RemoteFile, Request, read_all
from llama_hub.hub.transfer.retry import Cancel, Policy, RetryState
from llama_hub.licenses.gate import Texts
from llama_hub.progress import NO_PROGRESS

SMALL = 16 << 20  # bytes; every file that is no weight file is smaller
TEXT = 1 << 20  # bytes; a licence, a policy, a list of checksums
MAX_SMALL = 64 << 20  # bytes of all of them together, which are kept in memory


@dataclass(frozen=True)
class FetchPlan:
    """All files of a model at a source, each with what is known of it."""

    format: Format
    files: tuple[RemoteFile, ...]
    source: Mapping[str, Any]  # kind, place, commit …: what the manifest records; no secrets
    policy: Policy = field(default_factory=Policy)
    lacks: tuple[str, ...] = ()  # documents and checksums that the source does not have

    @property
    def size(self) -> int | None:
        """Bytes of all files, if every size is known."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)


class Source(Protocol):
    """Where models come from."""

    kind: str

    @property
    def about(self) -> str:
        """One line for a person: from where, and until when."""

    def texts(self, model: Model) -> Texts:
        """Licence and policy as the source hands them out; before anything else is fetched."""

    def plan(self, model: Model) -> FetchPlan:
        """What to fetch."""

    def holds(self, manifest: Manifest) -> bool:
        """Whether a model with this manifest is the one that would be fetched."""

    def close(self) -> None:
        """Let idle connections go; the source may still be used afterwards."""


class FileTree(Protocol):
    """A tree of files: a folder, an HTTP base, an S3 prefix."""

    policy: Policy
    small: dict[str, bytes | None]  # small files that were read: what was shown is what is stored
    refusals: list[AccessError] | None  # S3 says 403 for "not there" too; None: 403 is final

    @property
    def where(self) -> str:
        """For messages and the manifest, without secrets."""

    def request(self, path: str) -> Request:
        """How to get the file at ``path``; it need not exist."""

    def size(self, path: str) -> int | None:
        """Bytes of the file, where that costs no request."""

    def close(self) -> None:
        """Let idle connections go."""


def read_small(place: FileTree, path: str) -> bytes | None:
    """The whole of a small file, with retries; ``None`` if there is none. Read only once."""
    if path not in place.small:
        request = place.request(path)
        tries = RetryState(request.where, place.policy, Cancel(), NO_PROGRESS)
        try:
            place.small[path] = tries.until_done(lambda: read_all(request, _limit(place, path)))
        except NotFoundError:
            place.small[path] = None
        except AccessError as error:
            if place.refusals is None:
                raise
            place.refusals.append(error)
            place.small[path] = None
    return place.small[path]


def _limit(place: FileTree, path: str) -> int:
    """Bytes that the file may have, by its name and by what was read before."""
    name = path.rpartition("/")[2]
    is_text = name.startswith(("LICENSE", "USE_POLICY", "SHA256SUMS")) or name.endswith(".chk")
    read = sum(len(data or b"") for data in place.small.values())
    return min(TEXT if is_text else SMALL, max(0, MAX_SMALL - read))


def read_first(place: FileTree, paths: list[str]) -> tuple[str, bytes] | None:
    """The first of ``paths`` that exists, with its content."""
    for path in paths:
        data = read_small(place, path)
        if data is not None:
            return path, data
    return None


def missing(place: FileTree, error: NotFoundError) -> LlamaHubError:
    """What to say about a file that has to be there: where access was refused, rather that."""
    return place.refusals[0] if place.refusals else error

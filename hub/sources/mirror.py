"""A mirror: any folder, HTTP(S) base or S3 prefix that has a model in Meta's or HF's layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from llama_hub.errors import AccessError, NotFoundError, UsageError
from llama_hub.hub.catalog import Model
from llama_hub.hub.manifest import Format, Manifest
from llama_hub.hub.sources import layout
from llama_hub.hub.sources.base import FetchPlan, FileTree
from llama_hub.hub.transfer.remote_file import FolderRequest, Request
from llama_hub.hub.transfer.retry import Policy
from llama_hub.licenses.gate import Texts

# Reading from a disk gains nothing from more connections.
FOLDER_POLICY = Policy(connections=1, span=None, attempts=2, retry_damaged=False)


@dataclass
class FolderTree:
    """A folder on this machine."""

    root: Path
    policy: Policy = FOLDER_POLICY
    small: dict[str, bytes | None] = field(default_factory=dict)
    refusals: list[AccessError] | None = None

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.root)

    def request(self, path: str) -> Request:
        """The file below the folder."""
        return FolderRequest(self.root / path)

    def size(self, path: str) -> int | None:
        """The file's size; ``None`` if it is not there."""
        file = self.root / path
        return file.stat().st_size if file.is_file() else None

    def close(self) -> None:
        """There is nothing to let go."""


class Mirror:
    """The source ``mirror``."""

    kind = "mirror"

    def __init__(self, place: FileTree, fmt: Format | None = None, kind: str = "mirror") -> None:
        self.kind = kind
        self._place = place
        self._fmt = fmt

    @property
    def about(self) -> str:
        """Where the files come from."""
        return "from the package" if self.kind == "builtin" else f"from {self._place.where}"

    def texts(self, model: Model) -> Texts:
        """Licence and policy, from beside the weights."""
        return layout.texts(self._place, model, self._format(model), self._record())

    def holds(self, manifest: Manifest) -> bool:
        """There is one revision only."""
        return True

    def plan(self, model: Model) -> FetchPlan:
        """What to fetch."""
        return layout.plan(self._place, model, self._format(model), self._record())

    def close(self) -> None:
        """Let idle connections go."""
        self._place.close()

    def _format(self, model: Model) -> Format:
        return self._fmt or ("hf" if model.layout == "hf" else "meta")

    def _record(self) -> dict[str, str]:
        base = {} if self.kind == "builtin" else {"base": self._place.where}
        return {"kind": self.kind} | base


def mirror(base: str, fmt: Format | None = None) -> Mirror:
    """The mirror at ``base``: ``https://…``, ``http://…``, ``s3://bucket/prefix``, or a folder."""
    return Mirror(place(base), fmt)


def place(base: str) -> FileTree:
    """The tree of files at ``base``.

    ``UsageError`` for another kind of address, ``NotFoundError`` for a folder that is not there.
    """
    scheme = _scheme(base)
    if scheme in ("http", "https"):
        from llama_hub.hub.sources.web import HttpTree

        return HttpTree(base)
    if scheme == "s3":
        from llama_hub.hub.sources.s3 import s3_place

        return s3_place(base)
    if scheme and "://" in base and scheme != "file":
        raise UsageError(
            f"a mirror cannot be a {scheme}:// address", hint="use https://, s3:// or a folder"
        )
    root = Path(base.removeprefix("file://")).expanduser().absolute()
    if not root.is_dir():
        raise NotFoundError(f"there is no folder {root}", hint="--url takes the mirror's base")
    return FolderTree(root)


def _scheme(base: str) -> str:
    try:
        parts = urlsplit(base)
        _ = parts.port
    except ValueError:
        parts = None
    if parts is None or not base.isprintable():
        raise UsageError(
            "the mirror's address is none",
            hint="--url https://HOST/PATH | s3://BUCKET/PREFIX | FOLDER",
        )
    return parts.scheme.lower()

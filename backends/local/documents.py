"""The two documents of a local deployment, as types and as sealed files.

A sealed file carries a digest of its content, so that what was torn, edited or
mixed up is never taken for what was written. It is padded, so that the next
version fits into its place when the disk is full.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from annotated_types import Ge, Le

from llama_hub.errors import FileFormatError, NotFoundError
from llama_hub.schema import conform
from llama_hub.strict import FileKind, read_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

PADDING = 4 << 10  # bytes to which a sealed file is rounded up, and half of that to spare
MAX_REPLICAS = 1024

Port = Annotated[int, Ge(0), Le(65535)]
Count = Annotated[int, Ge(0), Le(MAX_REPLICAS)]


@dataclass
class Revision:
    """One revision as it is wanted."""

    argv: list[str]
    environment: dict[str, str]
    devices: dict[str, dict[str, str]]  # variables by the replica's number
    folder: str
    instance: str
    replicas: Count
    drain: Annotated[int, Ge(0)]  # seconds
    run: bool
    tags: dict[str, str]
    attempt: Annotated[int, Ge(0)] = 0  # grows when the same revision is tried again
    models: dict[str, str] = field(default_factory=dict)  # folders of further ones, by name


@dataclass
class DesiredState:
    """What is wanted: written by the backend, read by the supervisor."""

    host: str
    port: Port  # 0: a free one
    api_key: bool
    tags: dict[str, str] = field(default_factory=dict)
    revisions: dict[str, Revision] = field(default_factory=dict)  # by generation
    active: str = ""
    previous: str = ""
    created: str = ""
    deleted: bool = False
    taken_port: Port = 0  # the free one that was taken, to be taken again

    @property
    def digest(self) -> str:
        """Names this very state."""
        return _digest(asdict(self))


@dataclass
class ReplicaState:
    """One process of a revision as it is."""

    generation: str
    number: Count
    pid: int | None
    identity: str | None
    port: Port | None
    state: str  # starting, ready, waiting, failed
    restarts: int
    error: str
    since: str


@dataclass
class SupervisorState:
    """What runs: written by the supervisor, read by everybody."""

    pid: int
    identity: str | None
    address: tuple[str, Port] | None
    trouble: str
    serving: str  # the generation that gets the requests; empty while none can
    proved: list[str]
    seen: str  # digest of the desired state that this one is about
    stopping: int
    children: list[ReplicaState]

    def of(self, generation: str) -> list[ReplicaState]:
        """The processes of one revision."""
        return [one for one in self.children if one.generation == generation]


DESIRED = FileKind("the desired state", max_bytes=8 << 20, hint="deploy it again, or delete it")
STATE = FileKind("the supervisor's state", max_bytes=8 << 20, hint="it is written again")


def seal(document: DataclassInstance) -> bytes:
    """The bytes of a sealed file."""
    content = asdict(document)
    text = json.dumps({"sha256": _digest(content), "content": content}, indent=1, sort_keys=True)
    data = text.encode() + b"\n"
    room = -(-(len(data) + PADDING // 2) // PADDING) * PADDING
    return data.ljust(room, b"\n")


def unseal(path: Path, type_: type[T], kind: FileKind) -> T | None:
    """The document of a sealed file; ``None`` unless it is there and as it was written."""
    try:
        sealed = read_json(path, kind)
        if not isinstance(sealed, Mapping) or sealed.get("sha256") != _digest(sealed["content"]):
            return None
        return conform(type_, sealed["content"], path, kind)
    except (FileFormatError, NotFoundError, KeyError):
        return None


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

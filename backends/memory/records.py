"""The simulated platform's memory between processes, as typed records in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from llama_hub.deploy.backend import TAG_DEPLOYMENT
from llama_hub.errors import FileFormatError
from llama_hub.schema import conform
from llama_hub.strict import FileKind, read_json

KIND = FileKind("the simulated platform's memory", max_bytes=16 << 20)


@dataclass(frozen=True, kw_only=True)
class _Body:
    """What is read of a body: of a revision all of it, of the others some."""

    folder: str | None = None
    instance: str | None = None
    price: Annotated[float, Ge(0), Le(1e6)] | None = None
    replicas_min: Annotated[int, Ge(0), Le(1_000_000)] | None = None
    access: str | None = None
    active: str | None = None
    previous: str | None = None
    model: str | None = None
    run: bool = True


@dataclass(frozen=True, kw_only=True)
class Record:
    """One resource."""

    kind: Literal["model", "endpoint", "revision"]
    name: str
    body: Mapping[str, Any]
    tags: Mapping[str, str]
    created: str
    hidden: int
    log: list[str]
    served: str
    state: str


_NEEDED = {
    "model": (),
    "endpoint": ("access",),
    "revision": ("folder", "instance", "price", "replicas_min"),
}


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The records by ``kind/name``; a file that holds none is put aside: they are gone."""
    if not path.exists() and not path.is_symlink():
        return {}
    try:
        records = conform(dict[str, Record], read_json(path, KIND), path, KIND)
        for key, record in records.items():
            _check(key, record, path)
    except FileFormatError:
        path.replace(path.with_suffix(".damaged"))
        return {}
    return {key: asdict(record) for key, record in records.items()}


def _check(key: str, record: Record, path: Path) -> None:
    conform(_Body, record.body, path, KIND)
    missing = [name for name in _NEEDED[record.kind] if record.body.get(name) is None]
    if missing or TAG_DEPLOYMENT not in record.tags or key != f"{record.kind}/{record.name}":
        raise KIND.invalid(path, "is not a resource of this platform", key)

"""The catalogue: which models there are, what is known of each, where it can come from.

The built-in entries stand in ``catalog.toml``; a user's own file
(``LLAMA_HUB_CATALOG`` or ``--catalog``) adds to them and may replace one by id.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llama_hub.errors import NotFoundError, UsageError
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.model_id import ModelId

BUILT_IN = Path(__file__).with_name("catalog.toml")
SOURCES = ("meta", "huggingface", "mirror", "builtin")
FAMILIES = ("llama-2", "code-llama", "llama-1")
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*|\.")
_DIGEST = re.compile(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}")
_KEYS = {
    "id", "family", "size", "variant", "folder", "shards", "context", "license", "sources",
    "huggingface", "huggingface_original", "bytes", "digests", "sizes", "architecture", "layout",
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """One catalogue entry."""

    id: str  # a ModelId
    family: str
    variant: str  # base or chat
    folder: str  # below the source's base
    shards: int  # model-parallel shards, files consolidated.NN.pth
    license: str  # licence id
    sources: tuple[str, ...]
    size: str = ""  # 7B, 13B, 70B …
    context: int = 4096  # tokens
    layout: Literal["meta", "hf"] = "meta"  # how a mirror's folder is laid out
    huggingface: str | None = None  # repository with safetensors
    huggingface_original: str | None = None  # repository with Meta's own files
    bytes: int | None = None  # weights in Meta's layout, where known
    digests: Mapping[str, str] = field(default_factory=dict)  # file name → md5:… or sha256:…
    sizes: Mapping[str, int] = field(default_factory=dict)  # file name → bytes
    architecture: Architecture | None = None  # where known before the weights are here

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", ModelId(self.id))

    @property
    def weight_files(self) -> tuple[str, ...]:
        """Names of the weight files in Meta's layout."""
        return tuple(f"consolidated.{shard:02d}.pth" for shard in range(self.shards))


class Catalog:
    """Models by id, in the order of the files they come from."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = dict(models)

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def __contains__(self, model_id: object) -> bool:
        return model_id in self._models

    def get(self, model_id: str) -> Model:
        """The entry; ``NotFoundError`` with the nearest ids otherwise."""
        if model_id in self._models:
            return self._models[model_id]
        near = difflib.get_close_matches(model_id, self._models, n=3)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        raise NotFoundError(
            f"there is no model {model_id!r} in the catalogue", hint=f"{guess}llama-hub models"
        )


def load(user_file: Path | None = None) -> Catalog:
    """The built-in catalogue, with the entries of ``user_file`` added."""
    models = {model.id: model for model in _read(BUILT_IN)}
    if user_file is not None:
        models |= {model.id: model for model in _read(user_file.expanduser())}
    return Catalog(models)


def _read(path: Path) -> list[Model]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(
            f"the catalogue {path} cannot be read: {error}",
            hint="mend the file, or unset LLAMA_HUB_CATALOG",
        ) from error
    entries = document.get("model", [])
    if not isinstance(entries, list) or set(document) - {"model"}:
        raise UsageError(f"the catalogue {path} may hold [[model]] tables only")
    return [_model(entry, f"{path}, entry {number}") for number, entry in enumerate(entries, 1)]


def _model(entry: Mapping[str, Any], where: str) -> Model:
    unknown = set(entry) - _KEYS
    if unknown:
        key = sorted(unknown)[0]
        near = difflib.get_close_matches(key, _KEYS, n=1)
        raise UsageError(f"{where}: unknown key {key!r}" + (f"; {near[0]!r}?" if near else ""))
    try:
        model = Model(
            id=entry["id"],
            family=entry.get("family", "llama-2"),
            variant=entry.get("variant", "base"),
            folder=entry.get("folder", entry["id"]),
            shards=int(entry.get("shards", 1)),
            license=str(entry["license"]),
            sources=tuple(entry["sources"]),
            size=entry.get("size", ""),
            context=int(entry.get("context", 4096)),
            layout=entry.get("layout", "meta"),
            huggingface=entry.get("huggingface"),
            huggingface_original=entry.get("huggingface_original"),
            bytes=entry.get("bytes"),
            digests=dict(entry.get("digests", {})),
            sizes=dict(entry.get("sizes", {})),
            architecture=_architecture(entry),
        )
    except KeyError as error:
        raise UsageError(f"{where}: the key {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: {error}") from error
    _check(model, where)
    return model


def _architecture(entry: Mapping[str, Any]) -> Architecture | None:
    known = entry.get("architecture")
    return Architecture(**{"context": int(entry.get("context", 4096))} | known) if known else None


def _check(model: Model, where: str) -> None:
    problems = {
        f"folder {model.folder!r} is not a plain relative path": not _FOLDER.fullmatch(model.folder)
        or ".." in model.folder,
        f"family {model.family!r} is none of {', '.join(FAMILIES)}": model.family not in FAMILIES,
        f"variant {model.variant!r} is neither base nor chat": model.variant
        not in ("base", "chat"),
        f"layout {model.layout!r} is neither meta nor hf": model.layout not in ("meta", "hf"),
        f"shards {model.shards} is not between 1 and 64": not 1 <= model.shards <= 64,
        f"sources {list(model.sources)} must be some of {', '.join(SOURCES)}": not model.sources
        or bool(set(model.sources) - set(SOURCES)),
        "a digest must be md5:<32 hexadecimal digits> or sha256:<64>": not all(
            _DIGEST.fullmatch(digest) for digest in model.digests.values()
        ),
    }
    for problem, found in problems.items():
        if found:
            raise UsageError(f"{where}: {problem}")

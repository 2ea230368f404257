"""The catalogue: which models there are, what is known of each, where it can come from.

The built-in entries stand in ``catalog.toml``; a user's own file
(``LLAMA_HUB_CATALOG`` or ``--catalog``) adds to them and may replace one by id.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from annotated_types import Ge, Le, MaxLen, MinLen

from llama_hub.errors import NotFoundError
from llama_hub.hub.architecture import MAX_CONTEXT, Architecture
from llama_hub.hub.model_id import ModelId
from llama_hub.schema import Checked, Pattern, conform
from llama_hub.strict import MAX_INT, read_toml, text_kind

BUILT_IN = Path(__file__).with_name("catalog.toml")
KIND = text_kind("the catalogue", hint="correct the file, or unset LLAMA_HUB_CATALOG")

SourceName = Literal["meta", "huggingface", "mirror", "builtin"]
Family = Literal["llama-2", "code-llama", "llama-1"]
SOURCES: tuple[SourceName, ...] = get_args(SourceName)

_PART = "[A-Za-z0-9][A-Za-z0-9._-]*"
Folder = Annotated[
    str,
    MaxLen(512),
    Pattern(rf"(?!.*\.\.){_PART}(/{_PART})*|\.", "a plain relative path, or '.'"),
]
FileName = Annotated[str, MaxLen(512), Pattern(f"{_PART}(/{_PART})*", "a plain relative path")]
Repository = Annotated[
    str, MaxLen(200), Pattern(f"{_PART}(/{_PART})?", "a repository such as acme/llama-7b")
]
Size = Annotated[int, Ge(0), Le(MAX_INT)]
Digest = Annotated[
    str,
    Pattern("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", "md5:<32 hexadecimal digits> or sha256:<64>"),
]


@dataclass(frozen=True)
class Model:
    """One catalogue entry."""

    id: Annotated[str, Checked(ModelId)]
    family: Family
    variant: Literal["base", "chat"]
    folder: Folder  # below the source's base
    shards: Annotated[int, Ge(1), Le(64)]  # model-parallel shards, files consolidated.NN.pth
    license: Annotated[str, MinLen(1), MaxLen(64)]  # licence id
    sources: Annotated[tuple[SourceName, ...], MinLen(1)]
    size: Annotated[str, MaxLen(16)] = ""  # 7B, 13B, 70B …
    context: Annotated[int, Ge(1), Le(MAX_CONTEXT)] = 4096  # tokens
    layout: Literal["meta", "hf"] = "meta"  # how a mirror's folder is laid out
    huggingface: Repository | None = None  # repository with safetensors
    huggingface_original: Repository | None = None  # repository with Meta's own files
    bytes: Size | None = None  # weights in Meta's layout, where known
    digests: Mapping[FileName, Digest] = field(default_factory=dict)  # md5:… or sha256:…
    sizes: Mapping[FileName, Size] = field(default_factory=dict)  # bytes
    architecture: Architecture | None = None  # where known before the weights are here

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}

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


def listed(model_id: str) -> Model | None:
    """The entry of that id in the built-in catalogue and ``LLAMA_HUB_CATALOG``, if there is one."""
    configured = os.environ.get("LLAMA_HUB_CATALOG")
    catalogue = load(Path(configured) if configured else None)
    return catalogue.get(model_id) if model_id in catalogue else None


def load(user_file: Path | None = None) -> Catalog:
    """The built-in catalogue, with the entries of ``user_file`` added."""
    models = {model.id: model for model in _built_in()}
    if user_file is not None:
        models |= {model.id: model for model in read(user_file.expanduser())}
    return Catalog(models)


def _built_in() -> Iterator[Model]:
    """Our own entries, without pydantic: a test holds them against ``read``."""
    for entry in tomllib.loads(BUILT_IN.read_text(encoding="utf-8"))["model"]:
        whole = _with_defaults(entry)
        sizes = whole.get("architecture")
        architecture = Architecture(**sizes) if sizes else None
        yield Model(**whole | {"sources": tuple(whole["sources"]), "architecture": architecture})


def read(path: Path) -> list[Model]:
    """The entries of a catalogue that somebody wrote; ``UsageError`` names what is wrong."""
    document = read_toml(path, KIND)
    entries = document.get("model", [])
    if not isinstance(entries, list) or set(document) - {"model"}:
        raise KIND.invalid(path, "may hold [[model]] tables only")
    models: dict[str, Model] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{path}, entry {number}"
        whole = _with_defaults(entry) if isinstance(entry, dict) else entry
        model = conform(Model, whole, where, KIND)
        if model.id in models:
            raise KIND.invalid(where, f"{model.id!r} is another entry's too", "id")
        models[model.id] = model
    return list(models.values())


def _with_defaults(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What an entry leaves out and something else in it tells."""
    whole = {"family": "llama-2", "variant": "base", "shards": 1, **entry}
    if "id" in entry:
        whole.setdefault("folder", entry["id"])
    if isinstance(sizes := entry.get("architecture"), dict):
        whole["architecture"] = {"context": entry.get("context", 4096), **sizes}
    return whole

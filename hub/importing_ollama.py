"""Taking over a model of Ollama's: its GGUF layer, verified, with the licences that came along.

``<OLLAMA_MODELS>/manifests/HOST/NAMESPACE/MODEL/TAG`` lists layers by media type and digest;
``blobs/sha256-<digest>`` hold them. Ollama's own template is in Go's language and stays behind: the
chat template is the one in the GGUF file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

from llama_hub.errors import IntegrityError, NotFoundError, UsageError
from llama_hub.hub.catalog import Model
from llama_hub.hub.importing_gguf import ImportedFile
from llama_hub.hub.model_id import ModelId, shown
from llama_hub.hub.sources.base import TEXT, FetchPlan
from llama_hub.hub.transfer.remote_file import MAX_FILE, FolderRequest, RemoteFile
from llama_hub.licenses.gate import Texts
from llama_hub.schema import Pattern, conform
from llama_hub.strict import FileKind, read_json, read_text

SCHEME = "ollama://"
MANIFEST = FileKind("Ollama's manifest", max_bytes=1 << 20, hint="ollama pull the model again")
LICENSE = FileKind("the licence", max_bytes=TEXT)
_TYPE = "application/vnd.ollama.image."
_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}"
_NAME = re.compile(rf"(?:({_PART}(?::\d+)?)/)?(?:({_PART})/)?({_PART})(?::({_PART}))?")
_HOMES = ("~/.ollama/models", "/usr/share/ollama/.ollama/models", "/var/lib/ollama/models")


@dataclass(frozen=True)
class _Layer:
    mediaType: str
    digest: Annotated[str, Pattern("sha256:[0-9a-f]{64}", "sha256: and 64 hexadecimal digits")]
    size: Annotated[int, Ge(0), Le(MAX_FILE)]


@dataclass(frozen=True)
class _Manifest:
    layers: tuple[_Layer, ...]


class ImportedOllama(ImportedFile):
    """The source ``import``: the GGUF layer of a model of Ollama's."""

    def __init__(self, name: str, home: Path, layers: Mapping[str, list[_Layer]]) -> None:
        self._layer = layers["model"][0]
        super().__init__(_blob(home, self._layer))
        self._name = name
        texts = [read_text(_blob(home, layer), LICENSE) for layer in layers.get("license", [])]
        policies = [text for text in texts if "use policy" in text[:300].lower()]
        self._agreements = [text for text in texts if text not in policies]
        self._policy = policies[0] if policies else None
        self._record = {"kind": self.kind, "folder": "ollama", "name": name}
        self.about = f"from Ollama's {name}"

    @property
    def names(self) -> tuple[str, ...]:
        """What Ollama calls it."""
        return (self._name,)

    @property
    def model_id(self) -> ModelId:
        """Its name in the store, if no other is given."""
        return ModelId.of_folder(self._name.removesuffix(":latest"))

    @property
    def files(self) -> set[str]:
        """The names of what is imported."""
        return {f"{self.model_id}.gguf", *self._documents()}

    def read(self, name: str) -> bytes | None:
        """A document that came along."""
        return self._documents().get(name)

    def texts(self, model: Model) -> Texts:
        """The licence layers."""
        source = {key: str(value) for key, value in self._record.items()}
        return Texts("\n".join(self._agreements), self._policy, source)

    def plan(self, model: Model) -> FetchPlan:
        """The GGUF layer, which must have the digest that is its name, and the licences."""
        plan = super().plan(model)
        lacks = tuple(name for name in plan.lacks if not name.startswith("a digest of "))
        return replace(plan, files=tuple(map(self._checked, plan.files)), lacks=lacks)

    def _checked(self, file: RemoteFile) -> RemoteFile:
        if not isinstance(file.request, FolderRequest):
            return file
        digest = self._layer.digest.removeprefix("sha256:")
        return replace(file, digests={"sha256": digest}, size=self._layer.size)

    def _documents(self) -> dict[str, bytes]:
        documents = {"USE_POLICY.md": self._policy} if self._policy else {}
        if self._agreements:
            documents["LICENSE"] = "\n".join(self._agreements)
        return {name: text.encode() for name, text in documents.items()}


def find(text: str) -> ImportedOllama | None:
    """The model that ``ollama://[HOST/][NAMESPACE/]NAME[:TAG]`` means; ``None`` for other texts.

    ``NotFoundError`` if Ollama does not have it; ``IntegrityError`` for what is no GGUF model.
    ``UsageError`` for a malformed name.
    """
    if not text.startswith(SCHEME):
        return None
    match = _NAME.fullmatch(text.removeprefix(SCHEME))
    if match is None or ".." in text:
        raise UsageError(
            f"{shown(text)} is no model of Ollama's", hint="ollama://NAME or ollama://NAME:TAG"
        )
    host, namespace, name, tag = match.groups()
    if namespace is None and host is not None:  # one slash only: NAMESPACE/NAME
        host, namespace = None, host
    place = (host or "registry.ollama.ai", namespace or "library", name, tag or "latest")
    plain = f"{'/'.join(filter(None, (host, namespace, name)))}:{place[3]}"
    home, manifest = _manifest(plain, place)
    layers: dict[str, list[_Layer]] = {}
    document = _known(read_json(manifest, MANIFEST))
    for layer in conform(_Manifest, document, manifest, MANIFEST).layers:
        layers.setdefault(layer.mediaType.removeprefix(_TYPE), []).append(layer)
    if len(layers.get("model", [])) != 1 or layers.get("adapter") or layers.get("projector"):
        raise IntegrityError(
            f"{plain} is more or less than one GGUF model, of {', '.join(layers)[:200]}",
            hint="import the model that it was made from",
        )
    return ImportedOllama(plain, home, layers)


def _known(document: object) -> object:
    """The manifest without what registries add to a layer."""
    layers = document.get("layers") if isinstance(document, dict) else None
    if not isinstance(layers, list):
        return document
    keys = ("mediaType", "digest", "size")
    return {
        "layers": [
            {key: layer[key] for key in keys if key in layer} if isinstance(layer, dict) else layer
            for layer in layers
        ]
    }


def _manifest(name: str, place: tuple[str, ...]) -> tuple[Path, Path]:
    configured = os.environ.get("OLLAMA_MODELS")
    homes = [Path(home).expanduser() for home in ((configured,) if configured else _HOMES)]
    for home in homes:
        manifest = home.joinpath("manifests", *place)
        if manifest.is_file():
            return home, manifest
    raise NotFoundError(
        f"Ollama has no {name} in {', '.join(map(str, homes))}",
        hint=f"ollama pull {name}   (OLLAMA_MODELS names another folder)",
    )


def _blob(home: Path, layer: _Layer) -> Path:
    digest = layer.digest.removeprefix("sha256:")
    for name in (f"sha256-{digest}", f"sha256:{digest}"):  # the second: early versions
        path = home / "blobs" / name
        if path.is_file():
            return path
    raise NotFoundError(
        f"Ollama's blob sha256-{digest} is missing in {home}", hint="ollama pull the model again"
    )

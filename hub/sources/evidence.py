"""Evidence in the small files of a folder or repository, of a model that no catalogue lists."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from llama_hub.errors import LlamaHubError
from llama_hub.hub import catalog as catalogs
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.chat_template import is_chat
from llama_hub.hub.manifest import Format
from llama_hub.hub.model_config import CONFIG, parse_config
from llama_hub.hub.model_id import ModelId
from llama_hub.hub.sources import layout, model_card
from llama_hub.hub.sources.licensing import LLAMA_1, Evidence
from llama_hub.strict import parse_json

Read = Callable[[str], bytes | None]  # a small file's content; None if there is none


def gather(where: str, names: Sequence[str], read: Read) -> Evidence:
    """What the files say; a file that cannot be read says nothing here."""
    license = next((data for name in layout.LICENSE_NAMES if (data := read(name))), None)
    config = read("config.json")
    document = _document(config, where)
    origin = document.get("_name_or_path")
    is_name = isinstance(origin, str) and len(origin) < 300 and origin.isprintable()
    return Evidence(
        where=where,
        names=(*names, str(origin)) if is_name and origin else tuple(names),
        card=model_card.read(read("README.md")),
        license_text=None if license is None else license.decode("utf-8", "replace"),
        architecture=_architecture(config, where),
    )


def entry(
    model: ModelId,
    evidence: Evidence,
    license: str,
    fmt: Format,
    files: Collection[str],
    **more: Any,
) -> catalogs.Model:
    """What a catalogue would say of the model."""
    shards = sum(name.startswith("consolidated.") and name.endswith(".pth") for name in files)
    names = " ".join(evidence.names).lower()
    family: catalogs.Family = "code-llama" if "codellama" in names.replace("-", "") else "llama-2"
    speaks = "chat_template.jinja" in files or is_chat(model)
    fields: dict[str, Any] = (
        {"context": evidence.architecture.context} if evidence.architecture else {}
    )
    return catalogs.Model(
        id=model,
        family="llama-1" if license == LLAMA_1 else family,
        variant="chat" if speaks else "base",
        folder=".",
        shards=max(1, shards) if fmt == "meta" else 1,
        license=license,
        layout="hf" if fmt == "hf" else "meta",
        architecture=evidence.architecture,
        **fields | more,
    )


def _document(data: bytes | None, where: str) -> dict[str, Any]:
    try:
        document = parse_json(data, where, CONFIG) if data else {}
    except LlamaHubError:
        return {}
    return document if isinstance(document, dict) else {}


def _architecture(data: bytes | None, where: str) -> Architecture | None:
    try:
        return parse_config(data, where).architecture if data else None
    except LlamaHubError:
        return None

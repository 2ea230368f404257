"""The choice of a source, from what the command line says or what a manifest recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from llama_hub.errors import UsageError
from llama_hub.hub.catalog import SOURCES, Model
from llama_hub.hub.manifest import Format, Manifest
from llama_hub.hub.sources.base import Source

FORMATS: dict[str, Format] = {"original": "meta", "meta": "meta", "hf": "hf"}


@dataclass(frozen=True)
class SourceRequest:
    """What a person said about the source; secrets are never shown (``repr`` included)."""

    source: str | None = None
    format: Format | None = None
    url: str | None = None  # Meta's signed URL, or a mirror's base
    token: str | None = None  # Hugging Face
    revision: str | None = None  # Hugging Face
    file: str | None = None  # a GGUF file there, or its type
    allow_hosts: tuple[str, ...] = ()  # for Meta's signed URL
    ask_url: Callable[[str], str] | None = None  # asks a person for Meta's URL; None without one

    def __repr__(self) -> str:
        return f"SourceRequest(source={self.source!r}, format={self.format!r})"


def choose(model: Model, wanted: SourceRequest) -> tuple[Source, Format]:
    """The source for ``model``, and the format in which it will come.

    ``UsageError`` if the model does not come from there.
    """
    kind = wanted.source or _guess(model, wanted)
    if kind not in model.sources:
        raise UsageError(
            f"{model.id} does not come from the source {kind!r}",
            hint=f"--source {' | '.join(model.sources)}",
        )
    return _MAKERS[kind](model, wanted)


def named(wanted: SourceRequest) -> bool:
    """Whether anything was said about the source."""
    return bool(wanted.source or wanted.url or wanted.revision)


def recorded(model: Model, manifest: Manifest, wanted: SourceRequest) -> Source:
    """The source that ``manifest`` names, unless ``wanted`` names another.

    ``UsageError`` if it was made here.
    """
    origin = manifest.source
    same = replace(
        wanted,
        source=wanted.source or origin.get("kind"),
        format=manifest.format,
        url=wanted.url or origin.get("base"),
        revision=wanted.revision or origin.get("commit"),
        file=wanted.file or origin.get("file"),
    )
    if same.source not in SOURCES:
        raise UsageError(
            f"{manifest.model} was made here ({manifest.made_by.get('operation')}), not downloaded",
            hint="name a source that has it with --source and --url, or make it again",
        )
    if wanted.source is None:
        repository = origin.get("repository")
        model = replace(
            model,
            huggingface=repository or model.huggingface,
            huggingface_original=repository or model.huggingface_original,
        )
    return choose(model, same)[0]


def _guess(model: Model, wanted: SourceRequest) -> str:
    from llama_hub.hub.sources.signed_url import looks_signed

    if wanted.url:
        return "meta" if "meta" in model.sources and looks_signed(wanted.url) else "mirror"
    if len(model.sources) == 1 or "builtin" in model.sources:
        return model.sources[0]
    if wanted.token and "huggingface" in model.sources:
        return "huggingface"
    raise UsageError(
        f"{model.id} can come from {', '.join(model.sources)}",
        hint=f"--source {' | '.join(model.sources)}; meta and mirror take --url as well",
    )


def _only_meta_format(wanted: SourceRequest, kind: str) -> Format:
    if wanted.format not in (None, "meta"):
        raise UsageError(
            f"the source {kind} has Meta's original format only",
            hint="leave --format out; llama-hub convert makes the other",
        )
    return "meta"


def _meta(model: Model, wanted: SourceRequest) -> tuple[Source, Format]:
    from llama_hub.hub.sources.meta import MetaSource

    fmt = _only_meta_format(wanted, "meta")
    return MetaSource(wanted.url, allow_hosts=wanted.allow_hosts, ask=wanted.ask_url), fmt


def _huggingface(model: Model, wanted: SourceRequest) -> tuple[Source, Format]:
    from llama_hub.hub.sources.hub_gguf import HubGguf
    from llama_hub.hub.sources.huggingface import HuggingFace

    fmt = wanted.format or ("hf" if model.huggingface else "meta")
    repository = model.huggingface if fmt == "hf" else model.huggingface_original
    if repository is None:
        raise UsageError(
            f"the catalogue knows no repository of {model.id} in that format",
            hint="leave --format out, or set huggingface / huggingface_original in its entry",
        )
    source = HuggingFace(repository, fmt, token=wanted.token, revision=wanted.revision)
    return (HubGguf(source, wanted.file) if fmt == "gguf" else source), fmt


def _mirror(model: Model, wanted: SourceRequest) -> tuple[Source, Format]:
    from llama_hub.hub.sources.mirror import mirror

    if not wanted.url:
        raise UsageError(
            "a mirror needs its base", hint="--url https://HOST/PATH | s3://BUCKET/PREFIX | FOLDER"
        )
    fmt: Format = wanted.format or ("hf" if model.layout == "hf" else "meta")
    return mirror(wanted.url, fmt), fmt


def _builtin(model: Model, wanted: SourceRequest) -> tuple[Source, Format]:
    from llama_hub.hub.sources.builtin import builtin

    return builtin(), _only_meta_format(wanted, "builtin")


_MAKERS: dict[str, Callable[[Model, SourceRequest], tuple[Source, Format]]] = {
    "meta": _meta,
    "huggingface": _huggingface,
    "mirror": _mirror,
    "builtin": _builtin,
}

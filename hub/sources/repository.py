"""Any repository of the Llama 2 family on the Hugging Face Hub, in the catalogue or not.

What it is, and under which licence, is told by its configuration, its card, and what it was made
from, before the licence is asked for and before any weights are fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from llama_hub.errors import AccessError, IntegrityError, NotFoundError, UsageError
from llama_hub.hub.catalog import Catalog, Model
from llama_hub.hub.checkpoints import diagnosis
from llama_hub.hub.inspection import check_config
from llama_hub.hub.manifest import Format, Manifest
from llama_hub.hub.model_config import parse_params
from llama_hub.hub.model_id import ModelId, model_id
from llama_hub.hub.repository_id import RepositoryId, is_repository
from llama_hub.hub.sources import evidence
from llama_hub.hub.sources.agreement import WithAgreement, agreement_for
from llama_hub.hub.sources.base import Source, read_small
from llama_hub.hub.sources.hub_gguf import HubGguf, is_gguf_only
from llama_hub.hub.sources.huggingface import HuggingFace
from llama_hub.hub.sources.licensing import Evidence, license_of
from llama_hub.hub.sources.model_card import Card
from llama_hub.hub.sources.resolve import SourceRequest, choose
from llama_hub.licenses import terms
from llama_hub.licenses.gate import Gate, Texts

MAX_BASES = 6  # repositories that are asked what they were made from
_MARKS: dict[Format, str] = {"hf": "config.json", "meta": "params.json"}


@dataclass(frozen=True)
class Request:
    """A repository, and what a person said of it."""

    repository: RepositoryId
    source: SourceRequest
    license: str | None = None  # where it cannot be told
    name: str | None = None  # in the store, if not the repository's


def find(
    request: Request, catalog: Catalog, gate: Gate | None = None
) -> tuple[Model, Source, Format]:
    """The model in the repository, its source, and the format in which it will come.

    ``IntegrityError`` for what is not of the family or cannot be served; ``LicenseError`` where its
    licence has to be stated (or is stated too loosely), ``AccessError`` for a gate. ``UsageError``
    if the request states another licence than the catalogue.
    """
    wanted = _wanted(request)
    own = request.name or request.repository.file
    listed = None if own else _listed(request.repository.name, catalog)
    if listed is not None:
        model, fmt = listed
        if request.license not in (None, model.license):
            raise UsageError(
                f"{request.repository.name} is {model.id} of the catalogue, whose licence is "
                f"{model.license}",
                hint="leave --license out",
            )
        return model, choose(model, replace(wanted, source="huggingface", format=fmt))[0], fmt
    return _unlisted(request, wanted, catalog, gate or Gate())


def of_manifest(manifest: Manifest) -> Model | None:
    """The entry of a model that came from a repository which no catalogue lists."""
    name = manifest.source.get("repository")
    if manifest.source.get("kind") != "huggingface" or not is_repository(name):
        return None
    evidence_of_name = Evidence("", (str(name),), Card())
    files = [entry.path for entry in manifest.files]
    return evidence.entry(
        model_id(manifest.model), evidence_of_name, manifest.license, manifest.format, files,
        sources=("huggingface",), huggingface=name, huggingface_original=name,
    )  # fmt: skip


def _wanted(request: Request) -> SourceRequest:
    asked, repository = request.source, request.repository
    if asked.source not in (None, "huggingface"):
        raise UsageError(
            f"{repository.name} is a repository on the Hugging Face Hub, not of the source "
            f"{asked.source!r}",
            hint="leave --source out",
        )
    if repository.revision and asked.revision and repository.revision != asked.revision:
        raise UsageError(
            f"two revisions are named: {repository.revision} and {asked.revision}",
            hint="leave one of them out",
        )
    return replace(asked, revision=repository.revision or asked.revision)


def _listed(name: str, catalog: Catalog) -> tuple[Model, Format] | None:
    for model in catalog:
        if name.lower() == str(model.huggingface).lower():
            return model, "hf"
        if name.lower() == str(model.huggingface_original).lower():
            return model, "meta"
    return None


def _unlisted(
    request: Request, wanted: SourceRequest, catalog: Catalog, gate: Gate
) -> tuple[Model, Source, Format]:
    name = request.repository.name
    hub = HuggingFace(name, "hf", token=wanted.token, revision=wanted.revision)
    bases = _Bases(hub)
    try:
        return _described(request, hub, bases, wanted.format, catalog, gate)
    except BaseException:
        hub.close()
        raise
    finally:
        bases.close()


def _described(
    request: Request, hub: HuggingFace, bases: _Bases, asked: Format | None,
    catalog: Catalog, gate: Gate,
) -> tuple[Model, Source, Format]:  # fmt: skip
    """The model, once everything small was read."""
    name = request.repository.name
    files = frozenset(hub.commit.files)
    fmt = _format(request.repository, hub.where, files, asked)
    hub = hub.in_format(fmt)
    place: Source = hub
    variant = ""
    if fmt == "gguf":
        place = one = HubGguf(hub, request.repository.file)
        variant = one.file.type
    else:
        _check_configuration(hub, fmt)
    model = _named(request, variant, catalog)
    known = evidence.gather(name, (name,), lambda path: _read(hub, path))
    license = license_of(known, catalog, bases.lookup, request.license)
    entry = evidence.entry(
        model, known, license, fmt, files,
        sources=("huggingface",), huggingface=name, huggingface_original=name,
    )  # fmt: skip
    own = hub.texts(replace(entry, license="other-open"))
    agreement = agreement_for(terms.load(license), name, own, gate, bases.texts(known, catalog))
    return entry, place if agreement is None else WithAgreement(place, agreement), fmt


def _named(request: Request, variant: str, catalog: Catalog) -> ModelId:
    """What the model will be called; ``UsageError`` for a name of the catalogue's."""
    if request.name:
        model = model_id(request.name, "--name")
    else:
        model = request.repository.variant_id(variant)
    if model in catalog:
        raise UsageError(
            f"{model} is a model of the catalogue", hint="give another --name, or leave it out"
        )
    return model


def _format(
    repository: RepositoryId, where: str, files: frozenset[str], asked: Format | None
) -> Format:
    """Hugging Face's layout before Meta's before GGUF, which may be asked for by file.

    ``NotFoundError`` that says what is there instead.
    """
    if repository.file or (asked is None and is_gguf_only(files)):
        return "gguf"
    present = [fmt for fmt, mark in _MARKS.items() if mark in files]
    if asked is not None and asked not in present and present:
        raise NotFoundError(f"{where} has no {_MARKS.get(asked, asked)}", hint="leave --format out")
    if not present:
        raise diagnosis.no_model(where, files)
    return asked or present[0]


def _check_configuration(hub: HuggingFace, fmt: Format) -> None:
    """Family and sizes, before anything else of the repository is believed."""
    mark = _MARKS[fmt]
    data, where = _read(hub, mark) or b"", f"{hub.where} ({mark})"
    if fmt == "hf":
        check_config(data, where)
    else:
        parse_params(data, where)


def _read(hub: HuggingFace, path: str) -> bytes | None:
    return read_small(hub, path) if path in hub.commit.files else None


@dataclass
class _Bases:
    """The repositories that a model was made from, each asked once, a few in all."""

    hub: HuggingFace
    sources: dict[str, HuggingFace | None] = field(default_factory=dict)

    def lookup(self, name: str) -> Evidence | None:
        """What the repository says of itself; ``None`` if it may not be read."""
        source = self._source(name)
        if source is None:
            return None
        try:
            return evidence.gather(name, (name,), lambda path: _read(source, path))
        except (AccessError, NotFoundError, IntegrityError):
            return None

    def texts(self, known: Evidence, catalog: Catalog) -> Iterator[Texts]:
        """Licence and policy of each base that hands them out."""
        for name in (*known.card.base_models, *known.names[1:]):
            source = self._source(name)
            model = next(iter(catalog))
            try:
                if source is not None:
                    yield source.texts(replace(model, license="other-open"))
            except (AccessError, NotFoundError, IntegrityError):
                continue

    def close(self) -> None:
        """Let idle connections go."""
        for source in self.sources.values():
            if source is not None:
                source.close()

    def _source(self, name: str) -> HuggingFace | None:
        if name not in self.sources:
            self.sources[name] = None
            if is_repository(name) and len(self.sources) <= MAX_BASES:
                self.sources[name] = self._asked(name)
        return self.sources[name]

    def _asked(self, name: str) -> HuggingFace | None:
        source = self.hub.beside(name)
        try:
            return source if source.commit else None
        except (AccessError, NotFoundError, IntegrityError):
            source.close()
            return None

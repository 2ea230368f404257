"""The artifact of a deployment: the folder that is served, found, judged by licence, or made."""

from __future__ import annotations

from dataclasses import dataclass

from llama_hub.deploy.backend import Artifact, Step
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import IntegrityError, LicenseError, NotFoundError
from llama_hub.hub import catalog
from llama_hub.hub.architecture import DTYPE_BYTES, Architecture
from llama_hub.hub.manifest import FileEntry, Manifest
from llama_hub.hub.model_config import read_config
from llama_hub.hub.model_id import ModelId
from llama_hub.hub.store import Store, StoredModel, Variant, variant
from llama_hub.inference import memory
from llama_hub.licenses.gate import Gate
from llama_hub.progress import NO_PROGRESS, Progress


def find(spec: DeploymentSpec) -> Artifact:
    """The served folder of ``spec.model`` if it is ready; nothing is downloaded or converted.

    ``NotFoundError`` names the command that makes it; ``LicenseError`` without a valid receipt.
    """
    store = Store()
    stored = _quantised(store, spec) if spec.quantization else _plain(store, spec.model)
    if stored.manifest.format != "hf" or stored.manifest.quantization != spec.quantization:
        raise NotFoundError(
            f"{spec.model} is in the store, but not in the form that is served: "
            f"{spec.quantization or 'unquantised'}, in Hugging Face's layout",
            hint="llama-hub deploy … without --plan makes it",
        )
    return _licensed(stored)


def is_ready(spec: DeploymentSpec) -> bool:
    """Whether ``find`` finds it; ``LicenseError`` as there."""
    try:
        find(spec)
    except NotFoundError:
        return False
    return True


def prepare(spec: DeploymentSpec, progress: Progress = NO_PROGRESS) -> Artifact:
    """The same, converting (and quantising) what was downloaded where that is still to do."""
    from llama_hub.hub.conversion.convert import as_weights, into_store, served

    store = Store()
    source = store.find(spec.model)
    Gate().require(source.manifest.license)
    if spec.quantization is None:
        return _licensed(served(store, spec.model, progress=progress))
    if source.manifest.quantization == spec.quantization:
        return _licensed(source)
    way = as_weights(source)
    into_store(store, source, to="hf", quantize=spec.quantization, progress=progress, **way)
    return find(spec)


def _plain(store: Store, model: str) -> StoredModel:
    """The served folder in the model's own type; says so if only the download is there."""
    try:
        here = store.find(model, "hf")
    except NotFoundError:
        here = store.find(model)
    if here.manifest.format == "hf":
        return here
    converted = _made_from(store, here, "hf")
    if converted is None:
        raise NotFoundError(
            f"{model} is in the store in the format {here.manifest.format}; "
            "what is served is not made yet",
            hint=f"llama-hub convert {model}   (deploy without --plan does it by itself)",
        )
    return converted


def _quantised(store: Store, spec: DeploymentSpec) -> StoredModel:
    """The quantised variant in the store, or the folder that is named if it is quantised itself."""
    source = store.find(spec.model)
    if source.manifest.quantization == spec.quantization:
        return source
    quantised = _made_from(store, source, variant("hf", spec.quantization))
    if quantised is None:
        raise NotFoundError(
            f"{spec.model} is not quantised to {spec.quantization} yet",
            hint="llama-hub deploy … without --plan does it",
        )
    return quantised


def _made_from(store: Store, source: StoredModel, place: Variant) -> StoredModel | None:
    """What the store has in that place, if it is made of this model."""
    stored = store.complete(source.id, place)
    return stored if stored and stored.is_of(source) else None


def _licensed(stored: StoredModel) -> Artifact:
    gate = Gate()
    receipt = gate.require(stored.manifest.license)
    return Artifact(stored.path, stored.manifest, receipt.id, gate.ledger.head)


UNKNOWN = "0" * 64  # in place of a SHA-256 that nobody can know before the bytes are here


class ExpectedManifest(Manifest):
    """Of a folder that is not made yet: its bytes are known, its digest is not."""

    @property
    def digest(self) -> str:
        """Zeros, which no folder has."""
        return f"sha256:{UNKNOWN}"


@dataclass(frozen=True, kw_only=True)
class ExpectedArtifact(Artifact):
    """A model that still has to be downloaded or converted; enough to plan with, not to apply."""

    architecture: Architecture
    dtype: str
    steps: tuple[Step, ...]  # what comes before the platform's own steps


def expected(spec: DeploymentSpec, missing: NotFoundError) -> ExpectedArtifact:
    """What ``find`` would return after download and conversion; nothing is made.

    Sizes come from the downloaded files, else from the catalogue; ``missing`` is raised where
    neither knows the model.
    """
    store = Store()
    try:
        here = store.find(spec.model)
    except NotFoundError:
        return _of_catalog(spec, store, missing)
    architecture, dtype = _sizes(here)
    receipt = Gate().require(here.manifest.license).id
    steps = (_conversion(spec, here.id, _bytes(architecture, dtype, spec)),)
    return _expected(
        spec, store, here.id, here.manifest.license, receipt, architecture, dtype, steps
    )


def _of_catalog(spec: DeploymentSpec, store: Store, missing: NotFoundError) -> ExpectedArtifact:
    entry = catalog.listed(spec.model)
    if entry is None or entry.architecture is None:
        raise missing
    dtype = _dtype(entry, entry.architecture)
    download, receipt = _download(entry)
    steps = [download]
    if spec.quantization or set(entry.sources) != {"huggingface"}:
        size = _bytes(entry.architecture, dtype, spec)
        may_be_served = spec.quantization is None and "huggingface" in entry.sources
        note = "; not needed for what comes from Hugging Face" if may_be_served else ""
        steps.append(_conversion(spec, entry.id, size, (download.id,), note))
    return _expected(
        spec, store, entry.id, entry.license, receipt, entry.architecture, dtype, tuple(steps)
    )


def _expected(
    spec: DeploymentSpec,
    store: Store,
    model: str,
    license: str,
    receipt: str,
    architecture: Architecture,
    dtype: str,
    steps: tuple[Step, ...],
) -> ExpectedArtifact:
    weights = FileEntry("model.safetensors", _bytes(architecture, dtype, spec), UNKNOWN)
    manifest = ExpectedManifest(
        model=ModelId(model),
        format="hf",
        license=license,
        files=(weights,),
        made_by={"parameters": {"quantize": spec.quantization}} if spec.quantization else {},
        source={"commit": UNKNOWN[:40]},
    )
    folder = store.folder(manifest.model, variant("hf", spec.quantization))
    return ExpectedArtifact(
        folder, manifest, receipt, architecture=architecture, dtype=dtype, steps=steps
    )


def _sizes(here: StoredModel) -> tuple[Architecture, str]:
    """The sizes and the type of the weights that are served, read from the files themselves."""
    from llama_hub.hub.checkpoints import open_checkpoint
    from llama_hub.hub.conversion.convert import as_weights
    from llama_hub.hub.conversion.origin import origin_of

    origin = origin_of(here.path)
    with open_checkpoint(origin.path, context=origin.context, dequantize=True) as source:
        return source.architecture, as_weights(here).get("dtype") or source.dtype


def _dtype(entry: catalog.Model, architecture: Architecture) -> str:
    """The weights' type, by the bytes that the catalogue states."""
    return "float32" if (entry.bytes or 0) >= 3 * architecture.parameters else "bfloat16"


def _bytes(architecture: Architecture, dtype: str, spec: DeploymentSpec) -> int:
    """Of the served weights, by the arithmetic of the memory that they take."""
    return memory.plan(architecture, dtype, spec.quantization, 1, 1, None).weights_bytes


def _download(entry: catalog.Model) -> tuple[Step, str]:
    """The step, and the id of the licence's receipt, if it is accepted already."""
    try:
        receipt, consent = Gate().require(entry.license).id, ""
    except LicenseError:
        receipt, consent = "", f"; asks you to accept the licence {entry.license}"
    command = f"llama-hub download {entry.id} --source {'|'.join(entry.sources)}"
    step = Step(
        "create",
        "download",
        entry.id,
        "it is not on this machine",
        {"bytes": entry.bytes, "sources": list(entry.sources), "license": entry.license},
        undo=False,
        long=True,
        note=f"{entry.bytes or 'an unknown number of'} bytes{consent}; {command}",
    )
    return step, receipt


def _conversion(
    spec: DeploymentSpec, model: str, size: int, after: tuple[str, ...] = (), note: str = ""
) -> Step:
    """The step that makes the served folder, which ``prepare`` does."""
    return Step(
        "create",
        "conversion",
        f"{model}/{variant('hf', spec.quantization)}",
        f"not {'quantised' if spec.quantization else 'converted'} yet",
        {"bytes": size},
        after,
        undo=False,
        long=True,
        note=f"{size} bytes to write on this machine{note}",
    )


def dimensions(artifact: Artifact) -> tuple[Architecture, str]:
    """The model's sizes and the type of its weights, from the folder's ``config.json``.

    ``IntegrityError`` for a type that is none of ours.
    """
    if isinstance(artifact, ExpectedArtifact):
        return artifact.architecture, artifact.dtype
    config = read_config(artifact.folder)
    if config.weight_type not in DTYPE_BYTES:
        raise IntegrityError(f"{artifact.folder}/config.json says dtype {config.weight_type!r}")
    return config.architecture, config.weight_type

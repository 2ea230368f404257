"""From a model's name to the folder that is served: found, verified to be licensed, or made."""

from __future__ import annotations

from llama_hub.deploy.backend import Artifact
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub.architecture import DTYPE_BYTES, Architecture
from llama_hub.hub.model_config import read_config
from llama_hub.hub.store import Store, StoredModel, Variant, variant
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
            f"{spec.model} is here, but not in the form that is served: "
            f"{spec.quantization or 'unquantised'}, in Hugging Face's layout",
            hint="llama-hub deploy … without --plan makes it",
        )
    return _licensed(stored)


def prepare(spec: DeploymentSpec, progress: Progress = NO_PROGRESS) -> Artifact:
    """The same, converting (and quantising) what was downloaded where that is still to do."""
    from llama_hub.hub.conversion.convert import into_store, served

    store = Store()
    source = store.find(spec.model)
    Gate().require(source.manifest.license)
    if spec.quantization is None:
        return _licensed(served(store, spec.model, progress=progress))
    if source.manifest.quantization == spec.quantization:
        return _licensed(source)
    into_store(store, source, to="hf", quantize=spec.quantization, progress=progress)
    return find(spec)


def _plain(store: Store, model: str) -> StoredModel:
    """The served folder in the model's own type; says so if only the download is there."""
    try:
        here = store.find(model, "hf")
    except NotFoundError:
        here = store.find(model)
    if here.manifest.format == "hf":
        return here
    made = _made_from(store, here, "hf")
    if made is None:
        raise NotFoundError(
            f"{model} is here in the format {here.manifest.format}; what is served is not made yet",
            hint=f"llama-hub convert {model}   (deploy without --plan does it by itself)",
        )
    return made


def _quantised(store: Store, spec: DeploymentSpec) -> StoredModel:
    """The quantised variant in the store, or the folder that is named if it is quantised itself."""
    source = store.find(spec.model)
    if source.manifest.quantization == spec.quantization:
        return source
    made = _made_from(store, source, variant("hf", spec.quantization))
    if made is None:
        raise NotFoundError(
            f"{spec.model} is not quantised to {spec.quantization} yet",
            hint="llama-hub deploy … without --plan does it",
        )
    return made


def _made_from(store: Store, source: StoredModel, place: Variant) -> StoredModel | None:
    """What the store has in that place, if it is made of this model."""
    made = store.complete(source.id, place)
    return made if made and made.is_of(source) else None


def _licensed(stored: StoredModel) -> Artifact:
    gate = Gate()
    receipt = gate.require(stored.manifest.license)
    return Artifact(stored.path, stored.manifest, receipt.id, gate.ledger.head)


def dimensions(artifact: Artifact) -> tuple[Architecture, str]:
    """The model's sizes and the type of its weights, from the folder's ``config.json``."""
    config = read_config(artifact.folder)
    if config.weight_type not in DTYPE_BYTES:
        raise IntegrityError(f"{artifact.folder}/config.json says dtype {config.weight_type!r}")
    return config.architecture, config.weight_type

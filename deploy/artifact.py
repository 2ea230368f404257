"""From a model's name to the folder that is served: found, verified to be licensed, or made."""

from __future__ import annotations

import shutil
from pathlib import Path

from llama_hub.deploy.backend import Artifact
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub.architecture import DTYPE_BYTES, Architecture
from llama_hub.hub.manifest import MANIFEST_NAME, Manifest, read
from llama_hub.hub.model_config import read_config
from llama_hub.hub.store import Store, Stored
from llama_hub.licenses.gate import Gate
from llama_hub.progress import NO_PROGRESS, Progress


def find(spec: DeploymentSpec) -> Artifact:
    """The served folder of ``spec.model`` if it is ready; nothing is downloaded or converted.

    ``NotFoundError`` names the command that makes it; ``LicenseError`` without a valid receipt.
    """
    store = Store()
    stored = _quantised(store, spec) if spec.quantization else _plain(store, spec.model)
    if stored.manifest.format != "hf" or quantization(stored.manifest) != spec.quantization:
        raise NotFoundError(
            f"{spec.model} is here, but not in the form that is served: "
            f"{spec.quantization or 'unquantised'}, in Hugging Face's layout",
            hint="llama-hub deploy … without --plan makes it",
        )
    return _licensed(stored)


def prepare(spec: DeploymentSpec, progress: Progress = NO_PROGRESS) -> Artifact:
    """The same, converting (and quantising) what was downloaded where that is still to do."""
    from llama_hub.hub.conversion.convert import convert, served

    store = Store()
    source = store.find(spec.model)
    Gate().require(source.manifest.license)
    if spec.quantization is None:
        return _licensed(served(store, spec.model, progress=progress))
    if quantization(source.manifest) == spec.quantization:
        return _licensed(source)
    folder = _variant(store, source.manifest.model, spec.quantization)
    if not _is_made_from(folder, source.manifest):
        shutil.rmtree(folder, ignore_errors=True)
        convert(source.path, folder, to="hf", quantize=spec.quantization, progress=progress)
    return find(spec)


def _plain(store: Store, model: str) -> Stored:
    """The served folder in the model's own type; says so if only the download is there."""
    try:
        return store.find(model, "hf")
    except NotFoundError:
        here = store.find(model)
    raise NotFoundError(
        f"{model} is here in the format {here.manifest.format}; what is served is not made yet",
        hint=f"llama-hub convert {model}   (deploy without --plan does it by itself)",
    )


def _quantised(store: Store, spec: DeploymentSpec) -> Stored:
    """The quantised variant in the store, or the folder that is named if it is quantised itself."""
    source = store.find(spec.model)
    if quantization(source.manifest) == spec.quantization:
        return source
    folder = _variant(store, source.manifest.model, str(spec.quantization))
    if not _is_made_from(folder, source.manifest):
        raise NotFoundError(
            f"{spec.model} is not quantised to {spec.quantization} yet",
            hint="llama-hub deploy … without --plan does it",
        )
    return Stored(folder, read(folder))


def _variant(store: Store, model: str, kind: str) -> Path:
    """Where the store keeps a quantised model: beside its other formats."""
    return store.root / "models" / model / f"hf-{kind}"


def _is_made_from(folder: Path, source: Manifest) -> bool:
    return (folder / MANIFEST_NAME).is_file() and read(folder).parent == source.digest


def quantization(manifest: Manifest) -> str | None:
    """int8, int4 or ``None``, as the manifest says how the folder was made."""
    found = manifest.made_by.get("parameters", {}).get("quantize")
    return str(found) if found else None


def _licensed(stored: Stored) -> Artifact:
    receipt = Gate().require(stored.manifest.license)
    return Artifact(stored.path, stored.manifest, receipt.id)


def dimensions(artifact: Artifact) -> tuple[Architecture, str]:
    """The model's sizes and the type of its weights, from the folder's ``config.json``."""
    config = read_config(artifact.folder)
    if config.weight_type not in DTYPE_BYTES:
        raise IntegrityError(f"{artifact.folder}/config.json says dtype {config.weight_type!r}")
    return config.architecture, config.weight_type

"""The public Python API; ``import llama_hub`` offers the same names, each loaded at first use.

::

    import llama_hub

    llama_hub.download("llama-demo-chat")
    assert llama_hub.verify("llama-demo-chat").ok
    with llama_hub.serve("llama-demo-chat") as service:
        print(service.url)

    spec = llama_hub.DeploymentSpec(name="chat", backend="local", model="llama-demo-chat")
    deployed = llama_hub.deploy(spec)
    print(deployed.url, llama_hub.attest("chat").ok)

Everything else of the package is private: it may change in any release. Every function raises
subclasses of ``llama_hub.errors.LlamaHubError``, which carry a message, a hint and an exit code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama_hub.errors import UsageError
from llama_hub.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from llama_hub.deploy.attest import Attestation
    from llama_hub.deploy.backend import Deployed
    from llama_hub.deploy.spec import DeploymentSpec
    from llama_hub.hub.conversion.run import Conversion
    from llama_hub.hub.download import Downloaded
    from llama_hub.hub.verify import Verification
    from llama_hub.licenses.gate import Acceptance

SourceKind = Literal["meta", "huggingface", "mirror", "builtin"]
FormatName = Literal["meta", "hf", "gguf"]

__all__ = [
    "Service",
    "attest",
    "convert",
    "deploy",
    "download",
    "serve",
    "verify",
]


def download(
    model: str,
    *,
    source: SourceKind | None = None,
    format: Literal["meta", "hf"] | None = None,
    url: str | None = None,
    token: str | None = None,
    revision: str | None = None,
    license: str | None = None,
    name: str | None = None,
    accept: Acceptance | None = None,
    catalog: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> Downloaded:
    """Download ``model`` into the store, verified; an interrupted run goes on.

    ``model``: a catalogue id, or a repository on the Hugging Face Hub as ``ORG/NAME[@REV]`` (one
    GGUF file of it: ``ORG/NAME:Q4_K_M``), whose ``license`` (an id) has to be given where it cannot
    be told; ``name``: what it is to be called in the store, if not ``org--name``.

    ``url``: Meta's signed URL, or a mirror's base. ``token``: of Hugging Face. ``accept``: what
    the licensee states, where the licence has no receipt yet; without it and without a receipt
    ``LicenseError``. ``AccessError``: expired URL, gated repository. ``IntegrityError``: a wrong
    byte. ``NotFoundError``: no such model.
    """
    from llama_hub.hub import catalog as catalogs
    from llama_hub.hub.download import Job
    from llama_hub.hub.download import download as run
    from llama_hub.hub.repository_id import parse
    from llama_hub.hub.sources.repository import Request, find
    from llama_hub.hub.sources.resolve import SourceRequest, choose

    catalogue = catalogs.load(catalog)
    asked = SourceRequest(source=source, format=format, url=url, token=token, revision=revision)
    named = parse(model)
    if named is None:
        if license or name:
            raise UsageError(f"license and name are for repositories, not for {model!r}")
        entry = catalogue.get(model)
        chosen, fmt = choose(entry, asked)
    else:
        entry, chosen, fmt = find(Request(named, asked, license, name), catalogue)
    with closing(chosen):
        stated = None if accept is None else lambda _license, _texts: accept
        return run(Job(entry, chosen, fmt, accept=stated, progress=progress))


def verify(
    model: str | Path,
    *,
    format: FormatName | None = None,
    deep: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Verification:
    """Compare every file of a model with its manifest, offline; ``.ok`` says whether all are right.

    ``model``: a catalogue id or a folder. ``deep`` reads every tensor too. ``NotFoundError``: it is
    not in the store.
    """
    from llama_hub.hub.store import Store
    from llama_hub.hub.verify import verify as check

    return check(Store().find(str(model), format).path, deep=deep, progress=progress)


def convert(
    source: str | Path,
    destination: Path | None = None,
    *,
    to: FormatName | None = None,
    progress: Progress = NO_PROGRESS,
    **options: Any,
) -> Conversion:
    """Convert a model into the new folder ``destination``, or within the store without one.

    ``source``: a catalogue id, folder or GGUF file. ``destination`` may be ``NAME.gguf``; ``to``
    is gguf for such a file, else hf, unless it is given.
    ``options`` are those of ``llama_hub.hub.conversion.convert.convert``: ``dtype``, ``quantize``,
    ``group_size``, ``max_shard_size``, ``model_parallel``, ``verify``, ``dry_run`` and more.
    ``LicenseError`` without a receipt, ``UsageError`` for a destination that is not empty,
    ``IntegrityError`` for an unsound source, ``DiskFullError`` before anything is written.
    """
    from llama_hub.hub.conversion import convert as conversion
    from llama_hub.hub.store import Store

    store = Store()
    if to is None:
        to = "gguf" if destination and destination.suffix.lower() == ".gguf" else "hf"
    if destination is None:
        stored = store.find(str(source))
        return conversion.into_store(store, stored, to=to, progress=progress, **options)
    return conversion.convert(
        store.source(str(source)), destination, to=to, progress=progress, **options
    )


@dataclass(frozen=True)
class Service:
    """A service that runs and answers."""

    url: str
    model: str
    manifest: str  # digest of what is served
    device: str
    dtype: str


@contextmanager
def serve(
    model: str | Path, *, port: int = 0, api_key: str = "", arguments: Sequence[str] = ()
) -> Iterator[Service]:
    """Serve ``model`` on loopback in a process of its own while the block runs.

    ``port`` 0 takes a free one. ``arguments``: further options of ``llama-hub serve``, for example
    ``("--quantize", "int8")``. ``LlamaHubError`` with the service's words if it does not start.
    """
    from llama_hub.inference.service.launch import launched

    with launched([str(model), "--port", str(port), *arguments], api_key=api_key) as ready:
        yield Service(*(str(ready[key]) for key in Service.__dataclass_fields__))


def deploy(spec: DeploymentSpec, *, progress: Progress = NO_PROGRESS) -> Deployed:
    """Bring the deployment that ``spec`` describes into being, and wait until it is ready.

    What was downloaded is converted and quantised first where the spec needs it. To look at a
    plan before it is applied use ``Deployer``: ``plan`` only reads, ``apply`` does it.
    ``ProvisioningError``: the platform failed; what was made is removed again.
    """
    from llama_hub.backends.lookup import deployer_for
    from llama_hub.deploy import artifact

    deployer = deployer_for(spec)
    artifact.prepare(spec, progress)
    return deployer.apply(deployer.plan(spec))


def attest(
    name: str, *, backend: str | None = None, where: Mapping[str, str] | None = None
) -> Attestation:
    """Collect the proof that deployment ``name`` serves what was deployed; ``.ok`` is the verdict.

    ``where``: region, account and so on, for one that was deployed from another machine.
    ``NotFoundError``: there is no such deployment.
    """
    from llama_hub.backends.lookup import find
    from llama_hub.deploy import artifact
    from llama_hub.deploy.attest import attest as collect

    return collect(find(name, backend, where or {}), name, artifact.find)

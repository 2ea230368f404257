"""``llama-hub doctor``: whether this machine, and a backend, are ready to work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_hub.cli import completion
from llama_hub.cli.options import Json, Quiet
from llama_hub.cli.output import output
from llama_hub.errors import ExitCode

if TYPE_CHECKING:
    from llama_hub.deploy.backend import Backend, Check
    from llama_hub.deploy.spec import DeploymentSpec

app = typer.Typer(add_completion=False)

EXTRAS = {
    "serve": ("torch", "safetensors", "sentencepiece", "uvicorn", "starlette"),
    "azure": ("azure.ai.ml", "azure.identity"),
    "sagemaker": ("boto3",),
}
LITTLE_DISK = 20 << 30  # bytes; a 7B model takes 13 GiB


@app.command()
def doctor(
    backend: Annotated[
        str | None,
        typer.Argument(help="Look at this backend too.", autocompletion=completion.backends),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Spec in YAML of what is to be deployed.")
    ] = None,
    region: Annotated[str | None, typer.Option(help="Region of the cloud.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As deploy takes it.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look at this machine, the store, the ledger and a backend; exit 1 if a check fails."""
    from llama_hub.cli.plan_view import columns

    out = output(json, quiet)
    given = _given(backend, file, region, set_ or [])
    backend = backend or given.get("backend")
    checks = [*_machine(), *(_backend(backend, given) if backend else [])]
    rows = [("ok" if one.ok else "FAIL", one.name, one.detail) for one in checks]
    hints = [f"  {one.name}: {one.hint}" for one in checks if one.hint and not one.ok]
    document = {
        "checks": [
            {"name": one.name, "ok": one.ok, "detail": one.detail}
            | ({"hint": one.hint} if one.hint else {})
            for one in checks
        ]
    }
    out.result(document, "\n".join([columns(rows), *hints]))
    if not all(one.ok for one in checks):
        raise typer.Exit(int(ExitCode.UNEXPECTED))


def _machine() -> list[Check]:
    return [
        _python(),
        _distribution(),
        _home(),
        _disk(),
        _ledger(),
        _settings(),
        _gpu(),
        _kernels(),
        *_extras(),
    ]


def _python() -> Check:
    import platform

    from llama_hub import __version__
    from llama_hub.deploy.backend import Check

    return Check(
        "python", True, f"{platform.python_version()}, llama-hub {__version__}, {platform.system()}"
    )


def _distribution() -> Check:
    """Whether another project's package of the same import name is installed as well."""
    from importlib.metadata import PackageNotFoundError, version

    from llama_hub.deploy.backend import Check
    from llama_hub.distribution import NAME

    try:
        foreign = version("llama-hub")
    except PackageNotFoundError:
        return Check("distribution", True, NAME)
    from llama2_hub import REPAIR

    detail = f"llama-hub {foreign} from PyPI, another project, also installs llama_hub"
    return Check("distribution", False, detail, REPAIR)


def _home() -> Check:
    import os

    from llama_hub.deploy.backend import Check
    from llama_hub.home import home

    folder = home()
    base = next(path for path in (folder, *folder.parents) if path.exists())
    ok = base.is_dir() and os.access(base, os.W_OK)
    state = "writable" if ok else f"not writable ({base})"
    return Check("home", ok, f"{folder}, {state}", "" if ok else "set LLAMA_HUB_HOME")


def _disk() -> Check:
    import shutil

    from llama_hub.deploy.backend import Check
    from llama_hub.deploy.sizing import gib
    from llama_hub.home import home

    base = next(path for path in (home(), *home().parents) if path.exists())
    free = shutil.disk_usage(base).free
    detail = f"{gib(free)} free"
    if free < LITTLE_DISK:
        return Check("disk", True, f"{detail}; a 7B model takes 13 GiB, twice while converting")
    return Check("disk", True, detail)


def _settings() -> Check:
    from llama_hub.deploy import config
    from llama_hub.deploy.backend import Check
    from llama_hub.errors import LlamaHubError

    try:
        stated = config.read()
    except LlamaHubError as error:
        return Check("settings", False, error.message, error.hint)
    tables = ["deploy"] if stated.deploy else []
    tables += [f"backends.{name}" for name in stated.backends]
    return Check("settings", True, f"config.toml: {', '.join(tables) or 'nothing set'}")


def _ledger() -> Check:
    from llama_hub.deploy.backend import Check
    from llama_hub.errors import LlamaHubError
    from llama_hub.licenses.ledger import Ledger

    try:
        audit = Ledger().verify()
    except LlamaHubError as error:
        return Check("ledger", False, error.message, error.hint)
    return Check("ledger", True, f"{audit.count} receipts, chain intact")


def _gpu() -> Check:
    """The devices; a card that torch cannot use is a fault: everything would run on the CPU."""
    from llama_hub.backends.local.gpus import gpus
    from llama_hub.deploy.backend import Check
    from llama_hub.deploy.sizing import gib

    cards = gpus()
    devices = [f"{one.name} ({gib(one.memory_bytes)}, {one.used:.0%} in use)" for one in cards]
    if not cards or not _importable("torch"):
        return Check("gpu", True, ", ".join(devices) or "none; models run on the CPU")
    from llama_hub.inference.devices import driver_version, operations, why_no_cuda

    ways = operations()
    if not ways:
        hint = "install a torch build for this driver, or a newer driver"
        return Check("gpu", False, f"{', '.join(devices)}; torch sees none: {why_no_cuda()}", hint)
    about = f"driver {driver_version()}, steps by {' or '.join(ways)}"
    return Check("gpu", True, f"{', '.join(devices)}; {about}")


def _kernels() -> Check:
    """Which library decodes on the CPU; without one torch does, several times slower."""
    from llama_hub.deploy.backend import Check
    from llama_hub.inference.native.library import KERNELS
    from llama_hub.kernels import NO_KERNELS

    described = KERNELS.describe()
    hint = "" if described else "apt install gcc, or install a wheel that was built with kernels"
    return Check("kernels", bool(described), described or NO_KERNELS, hint)


def _extras() -> list[Check]:
    """One line each; an extra that is not installed is no fault."""
    from llama_hub.deploy.backend import Check
    from llama_hub.distribution import install_command

    lines = []
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if not _importable(name)]
        detail = (
            f"not installed ({', '.join(missing)}): {install_command(extra)}"
            if missing
            else "installed"
        )
        lines.append(Check(f"extra {extra}", True, detail))
    return lines


def _importable(name: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _given(
    backend: str | None, file: Path | None, region: str | None, assignments: list[str]
) -> dict[str, Any]:
    """What is said about a deployment, as ``deploy`` reads it; empty if nothing is."""
    from llama_hub.deploy import spec
    from llama_hub.errors import UsageError

    flags = {"region": region} if region else {}
    told = [spec.from_file(file)] if file else []
    merged = spec.merge(*told, flags, spec.from_assignments(assignments) if assignments else {})
    if merged and not (backend or merged.get("backend")):
        raise UsageError("which backend?", hint="llama-hub doctor BACKEND …; llama-hub backends")
    return merged


def _backend(name: str, given: dict[str, Any]) -> list[Check]:
    """The backend's own lines, at the place and for the deployment that are meant."""
    from llama_hub.deploy.backend import Check, ChecksSpec
    from llama_hub.errors import LlamaHubError

    backend, built = _meant(name, given)
    try:
        checks = list(backend.check())
        if built is not None and isinstance(backend, ChecksSpec):
            checks += backend.check_for(built)
    except LlamaHubError as error:
        return [Check(name, False, error.message, error.hint)]
    return [Check(f"{name}: {one.name}", one.ok, one.detail, one.hint) for one in checks]


def _meant(name: str, given: dict[str, Any]) -> tuple[Backend, DeploymentSpec | None]:
    """The backend where it is meant, and the deployment as far as it is told."""
    from llama_hub.backends import registry
    from llama_hub.deploy import config, rollout, spec
    from llama_hub.deploy.options import check_options

    if not given:
        return registry.get(name), None
    meant = {"name": "doctor", "model": "llama-demo", **config.spec_defaults(spec.KEYS), **given}
    built = spec.build(meant | {"backend": name})
    backend = registry.at(name, rollout.location(built, registry.backend_class(name).location))
    check_options(built, backend)
    return backend, built

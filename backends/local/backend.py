"""Deployments on this machine: a supervised service behind a stable address.

An update starts the new revision beside the old one, leads the address to it
when it is ready, and stops the old one when its requests are answered; the old
one's settings and files are kept for ``rollback`` (see ``held``). It survives
the command that made it; after a reboot ``deploy`` with the same spec starts it again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_hub.backends.local import further_models, view
from llama_hub.backends.local import plan as planning
from llama_hub.backends.local.gpus import Claim, claims, gpus
from llama_hub.backends.local.held import place
from llama_hub.backends.local.host import host_memory
from llama_hub.backends.local.logs import follow as follow_lines
from llama_hub.backends.local.logs import last_lines
from llama_hub.backends.local.options import LocalOptions
from llama_hub.backends.local.runner import StepRunner, absent
from llama_hub.backends.local.state import Folder
from llama_hub.deploy.backend import (
    TAG_DEPLOYMENT,
    Check,
    Context,
    Deployed,
    Endpoint,
    Observed,
    Proof,
    Resource,
    Step,
    Target,
)
from llama_hub.deploy.environment import has_bfloat16
from llama_hub.deploy.offer import Offer
from llama_hub.deploy.sizing import Need, gib
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.distribution import install_command
from llama_hub.errors import NotFoundError, ProvisioningError
from llama_hub.home import home
from llama_hub.hub.manifest import MANIFEST_NAME, Manifest

SERVICE = (sys.executable, "-m", "llama_hub", "serve")


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


class LocalBackend:
    """The backend ``local``."""

    name = "local"
    location: tuple[str, ...] = ()
    options_model = LocalOptions

    def __init__(self, *, root: str = "", command: Sequence[str] = SERVICE) -> None:
        """``root``: where deployments are kept. ``command``: what serves; takes serve's options."""
        self._root = Path(root).absolute() if root else home() / "deployments" / "local"
        self._command = tuple(command)
        self._steps = StepRunner(self._root)

    def configured(self) -> bool:
        """Always; nothing is needed."""
        return True

    def check(self) -> Sequence[Check]:
        """Memory, accelerators, and whether the service can be imported."""
        from importlib.util import find_spec

        devices = gpus()
        missing = [one for one in ("torch", "uvicorn", "sentencepiece") if find_spec(one) is None]
        return [
            Check("memory", True, f"{gib(host_memory())} of host memory"),
            Check("accelerators", True, ", ".join(one.name for one in devices) or "none"),
            Check(
                "service",
                not missing,
                f"missing: {', '.join(missing)}" if missing else "the inference core is installed",
                install_command("serve") if missing else "",
            ),
        ]

    def offers(self, spec: DeploymentSpec, need: Need) -> Sequence[Offer]:
        """One or more accelerators; the host where there is none, or where ``cpu`` is named."""
        devices = gpus()
        if not devices or spec.instance == "cpu":
            return [Offer("cpu", "this machine", 0, host_memory(), None)]
        # CUDA computes on one MIG instance at a time.
        most = 1 if any(one.uuid.startswith("MIG-") for one in devices) else len(devices)
        return [
            Offer(
                instance=f"gpu-{count}",
                region="this machine",
                accelerators=count,
                memory_bytes=min(one.memory_bytes for one in devices),
                price_per_hour=None,
                note=devices[0].name,
                bfloat16=all(has_bfloat16(one.name) for one in devices),
            )
            for count in range(1, most + 1)
        ]

    def observe(self, name: str) -> Observed:
        """The address and the revisions."""
        folder = self._steps.folder(name)
        desired = folder.desired()
        if desired is not None:
            return view.observed(name, desired, folder.state())
        if not folder.is_there:
            return Observed()
        return Observed((Resource("service", name, view.DAMAGED, {TAG_DEPLOYMENT: name}),))

    def plan(self, target: Target, observed: Observed) -> Sequence[Step]:
        """Address, new revision, traffic, stop the old one, drop older ones."""
        folder = self._steps.folder(target.spec.name).path
        if target.offer.accelerators == 0:
            return planning.plan(target, observed, self._command, folder)
        return planning.plan(target, observed, self._command, folder, gpus(), self._claims())

    def _claims(self) -> Sequence[Claim]:
        """What the running revisions of all deployments hold of this machine's devices."""
        found: list[Claim] = []
        for path in sorted(self._root.glob("*/service")):
            desired = Folder(path).read_desired()
            if desired is not None and not desired.deleted:
                found += claims(path.parent.name, desired.revisions.values())
        return found

    def plan_delete(self, name: str, observed: Observed) -> Sequence[Step]:
        """Revisions first, then the address."""
        revisions = [one for one in observed.all("revision")]
        steps = [Step("delete", one.kind, one.name, "asked for") for one in revisions]
        done = tuple(step.id for step in steps)
        for one in observed.all("service"):
            steps.append(Step("delete", one.kind, one.name, "asked for", after=done))
        return steps

    def plan_rollback(self, name: str, observed: Observed) -> Sequence[Step]:
        """Start the revision before, lead traffic to it, stop the present one."""
        return planning.rollback(name, observed)

    def execute(self, step: Step, context: Context) -> Mapping[str, Any]:
        """Write down what is wanted, and wait until the supervisor says that it is so."""
        return self._steps.run(step, context)

    def held(self, name: str, manifest: str) -> Path | None:
        """The deployment's own folder of that model."""
        folder = place(self._steps.folder(name).path, manifest)
        return folder if (folder / MANIFEST_NAME).is_file() else None

    def status(self, name: str) -> Deployed:
        """From what is wanted and what the supervisor says."""
        folder = self._steps.folder(name)
        desired = folder.desired()
        if desired is not None:
            deployed = view.deployed(name, desired, folder.state())
            active = desired.revisions.get(desired.active)
            if deployed.url is None or active is None or not further_models.is_several(active):
                return deployed
            key = folder.key() if desired.api_key else None
            told = further_models.states(Endpoint(deployed.url, _headers(key)))
            detail = "; ".join(each for each in (deployed.detail, told) if each)
            return replace(deployed, detail=detail)
        if folder.is_there:
            return view.damaged(name)
        raise absent(name)

    def list(self) -> Iterator[Deployed]:
        """Every deployment that has a folder."""
        for path in sorted(self._root.glob("*/service")):
            folder = Folder(path)
            with suppress(NotFoundError):  # removed meanwhile, or no name of ours
                if folder.has_desired or folder.is_supervised:
                    yield self.status(path.parent.name)

    def logs(self, name: str, *, tail: int = 100, follow: bool = False) -> Iterator[str]:
        """What the replicas print; each line begins with the replica's name."""
        folder = self._steps.folder(name)
        if not folder.is_there:
            raise absent(name)
        yield from last_lines(folder.service_log, tail)
        if follow:
            yield from follow_lines(folder.service_log, lambda: folder.is_there)

    def prove(self, name: str, manifest: Manifest) -> Sequence[Proof]:
        """For each further model: whether the service states the one that the deployment holds."""
        desired = self._steps.folder(name).desired()
        active = desired.revisions.get(desired.active) if desired else None
        if active is None or not active.models:
            return []
        return further_models.proofs(self.endpoint(name), active.models)

    def endpoint(self, name: str) -> Endpoint:
        """The address, and the key where there is one; ``ProvisioningError`` if it does not run."""
        url = self.status(name).url
        if url is None:
            raise ProvisioningError(
                f"{name!r} does not run: its supervisor is not running, as after a reboot",
                hint="deploy it again: the same command starts it",
            )
        folder = self._steps.folder(name)
        desired = folder.desired()
        if desired is None or not desired.api_key:
            return Endpoint(url)
        key = folder.key()
        if key is None:
            raise ProvisioningError(
                f"the key of {name!r} cannot be read", hint="deploy it again, which makes a new one"
            )
        return Endpoint(url, _headers(key))

    def orphans(self) -> Iterator[Resource]:
        """Folders of deployments whose making or removal was cut off."""
        for path in sorted(self._root.glob("*/service")):
            folder = Folder(path)
            desired = folder.desired()
            if desired.deleted if desired else not folder.has_desired:
                yield Resource("service", path.parent.name, "deleting")

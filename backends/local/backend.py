"""Deployments on this machine: a supervised service behind a stable address.

An update starts the new revision beside the old one, leads the address to it
when it is ready, and stops the old one when its requests are answered; the old
one's settings are kept for ``rollback``. It survives the command that made it;
after a reboot ``deploy`` with the same spec starts it again.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llama_hub.backends.local import plan as planning
from llama_hub.backends.local.host import gpus, host_memory
from llama_hub.backends.local.options import LocalOptions
from llama_hub.backends.local.state import Folder, kill_group, last_lines
from llama_hub.backends.local.view import children, deployed, revision_state
from llama_hub.child_environment import child_environment
from llama_hub.deploy.backend import (
    Check,
    Context,
    Deployed,
    Endpoint,
    Observed,
    Offer,
    Resource,
    Step,
    Target,
)
from llama_hub.deploy.environment import has_bfloat16
from llama_hub.deploy.journal import now
from llama_hub.deploy.sizing import Need, gib
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.deploy.waiting import wait_for
from llama_hub.errors import NotFoundError, ProvisioningError
from llama_hub.files import private_folder
from llama_hub.home import home

POLL = 0.05  # seconds between two looks at what the supervisor says
SUPERVISOR_START = 30.0  # seconds
REMOVAL = 180.0  # seconds for requests under way and the service's own end
SERVICE = (sys.executable, "-m", "llama_hub", "serve")


class LocalBackend:
    """The backend ``local``."""

    name = "local"
    location: tuple[str, ...] = ()
    options_model = LocalOptions

    def __init__(self, *, root: str = "", command: Sequence[str] = SERVICE) -> None:
        """``root``: where deployments are kept. ``command``: what serves; takes serve's options."""
        self._root = Path(root).absolute() if root else home() / "deployments" / "local"
        self._command = tuple(command)

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
            Check("accelerators", True, ", ".join(name for _, name, _ in devices) or "none"),
            Check(
                "service",
                not missing,
                f"missing: {', '.join(missing)}" if missing else "the inference core is installed",
                "pip install 'llama-hub[serve]'" if missing else "",
            ),
        ]

    def offers(self, spec: DeploymentSpec, need: Need) -> Sequence[Offer]:
        """One or more accelerators; the host where there is none, or where ``cpu`` is named."""
        devices = gpus()
        if not devices or spec.instance == "cpu":
            return [Offer("cpu", "here", 0, host_memory(), None)]
        return [
            Offer(
                instance=f"gpu-{count}",
                region="here",
                accelerators=count,
                memory_bytes=min(memory for _, _, memory in devices[:count]),
                price_per_hour=None,
                note=devices[0][1],
                bfloat16=all(has_bfloat16(name) for _, name, _ in devices[:count]),
            )
            for count in range(1, len(devices) + 1)
        ]

    def observe(self, name: str) -> Observed:
        """The address and the revisions."""
        folder = self._folder(name)
        desired = folder.desired()
        if not desired or desired.get("deleted"):
            leftover = bool(desired)
            return Observed((Resource("service", name, "deleting"),) if leftover else ())
        state = folder.state() if folder.supervisor() else {}
        service = Resource(
            "service",
            name,
            "running" if state.get("address") else "down",
            desired["tags"],
            {key: desired[key] for key in ("host", "port", "api_key", "active", "previous")},
        )
        revisions = [
            Resource(
                "revision",
                f"{name}-{generation}",
                revision_state(revision, generation, state),
                revision["tags"],
                {key: value for key, value in revision.items() if key not in ("tags", "attempt")},
            )
            for generation, revision in desired["revisions"].items()
        ]
        return Observed((service, *revisions))

    def plan(self, target: Target, observed: Observed) -> Sequence[Step]:
        """Address, new revision, traffic, stop the old one, drop older ones."""
        return planning.plan(target, observed, self._command)

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
        if step.action == "delete":
            return self._delete(step)
        does: Mapping[str, Callable[[Step, Context], Mapping[str, Any]]] = {
            "service": self._serve,
            "revision": self._revise,
            "traffic": self._switch,
        }
        return does[step.kind](step, context)

    def status(self, name: str) -> Deployed:
        """From what is wanted and what the supervisor says."""
        folder = self._folder(name)
        desired = folder.desired()
        if not desired:
            raise self._absent(name)
        return deployed(name, desired, folder.state() if folder.supervisor() else {})

    def list(self) -> Iterator[Deployed]:
        """Every deployment that has a folder."""
        for path in sorted(self._root.glob("*/service/desired.json")):
            yield self.status(path.parent.parent.name)

    def logs(self, name: str, *, tail: int = 100, follow: bool = False) -> Iterator[str]:
        """What the replicas print; each line begins with the replica's name."""
        folder = self._folder(name)
        if not folder.desired():
            raise self._absent(name)
        yield from last_lines(folder.service_log, tail)
        if follow:
            yield from _follow(folder)

    def endpoint(self, name: str) -> Endpoint:
        """The address, and the key where there is one."""
        url = self.status(name).url
        if url is None:
            raise ProvisioningError(
                f"{name!r} does not run: its supervisor is gone, as after a reboot",
                hint="deploy it again: the same command starts it",
            )
        key = self._folder(name).key()
        return Endpoint(url, {"Authorization": f"Bearer {key}"} if key else {})

    def orphans(self) -> Iterator[Resource]:
        """Folders of deployments whose removal was cut off."""
        for path in sorted(self._root.glob("*/service")):
            desired = Folder(path).desired()
            if not desired or desired.get("deleted"):
                yield Resource("service", path.parent.name, "deleting")

    def _folder(self, name: str) -> Folder:
        return Folder(self._root / name / "service")

    def _absent(self, name: str) -> NotFoundError:
        return NotFoundError(
            f"there is no deployment {name!r} on this machine", hint="llama-hub ps"
        )

    def _serve(self, step: Step, context: Context) -> Mapping[str, Any]:
        folder = self._folder(step.name)
        private_folder(folder.path, self._root)
        body = dict(step.body)
        if body["api_key"] and folder.key() is None:
            import secrets

            folder.write_key(f"llh-{secrets.token_urlsafe(32)}")
        with folder.change() as desired:
            fresh = {"revisions": {}, "active": "", "previous": "", "created": now()}
            known = dict(desired) if not desired.get("deleted") else {}
            desired.clear()
            desired.update(fresh | known | body)
        return {"port": self._supervised(folder)["address"][1]}

    def _revise(self, step: Step, context: Context) -> Mapping[str, Any]:
        name, generation = step.name.rsplit("-", 1)
        folder = self._folder(name)
        with folder.change() as desired:
            known = desired["revisions"].get(generation, {"attempt": 0})
            if step.action == "replace":
                known["attempt"] += 1
            desired["revisions"][generation] = known | step.body
        self._supervised(folder)
        if not context.wait:
            return {}
        wait_for(
            lambda: _reached(folder, generation),
            f"revision {generation}",
            timeout=context.timeout,
            every=POLL,
            why=lambda: "; ".join(last_lines(folder.service_log, 3)),
        )
        return {}

    def _switch(self, step: Step, context: Context) -> Mapping[str, Any]:
        folder = self._folder(step.name)
        with folder.change() as desired:
            desired.update(step.body)
        active = step.body["active"]
        self._supervised(folder)
        if context.wait:
            wait_for(
                lambda: True if folder.state().get("serving") == active else None,
                f"traffic to revision {active}",
                timeout=context.timeout,
                every=POLL,
            )
        return {}

    def _delete(self, step: Step) -> Mapping[str, Any]:
        if step.kind == "service":
            return self._remove(self._folder(step.name))
        name, generation = step.name.rsplit("-", 1)
        folder = self._folder(name)
        if not folder.desired():
            return {}
        with folder.change() as desired:
            desired["revisions"].pop(generation, None)
            if desired["active"] == generation:
                desired["active"] = ""
        wait_for(
            lambda: True if _is_gone(folder, generation) else None,
            f"the end of revision {generation}",
            timeout=REMOVAL,
            every=POLL,
        )
        return {}

    def _remove(self, folder: Folder) -> Mapping[str, Any]:
        """End supervisor and replicas, then delete the folder."""
        if not folder.path.exists():
            return {}
        with folder.change() as desired:
            desired["deleted"] = True
        wait_for(
            lambda: None if folder.supervisor() else True,
            "the end of the supervisor",
            timeout=REMOVAL,
            every=POLL,
        )
        for child in folder.state().get("children", ()):
            kill_group(child["pid"], child["identity"], signal.SIGKILL)
        shutil.rmtree(folder.path)
        with suppress(OSError):  # the journal may be in it
            folder.path.parent.rmdir()
        return {}

    def _supervised(self, folder: Folder) -> Mapping[str, Any]:
        """Make sure that a supervisor lives and has read what is wanted; returns what it says."""
        wanted = (folder.path / "desired.json").stat().st_mtime_ns

        def said() -> dict[str, Any] | None:
            if not folder.supervisor():
                _start_supervisor(folder)
                time.sleep(POLL)
                return None
            state = folder.state()
            if state.get("trouble"):
                raise ProvisioningError(
                    f"{state['trouble']}", hint="--set options.port=0 takes a free one"
                )
            return state if state["address"] and state["seen"] >= wanted else None

        return wait_for(said, "the supervisor", timeout=SUPERVISOR_START, every=POLL)


def _start_supervisor(folder: Folder) -> None:
    """It puts itself into the background; a second one ends at once."""
    subprocess.run(
        [sys.executable, "-m", "llama_hub.backends.local.supervisor", str(folder.path)],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=child_environment(LLAMA_HUB_HOME=str(home())),  # absolute: it leaves this folder
    )


def _reached(folder: Folder, generation: str) -> bool | None:
    """Whether the revision is as wanted; ``ProvisioningError`` if it has failed."""
    state = folder.state()
    revision = folder.desired()["revisions"][generation]
    mine = children(state, generation)
    failed = next((one for one in mine if one["state"] == "failed"), None)
    if failed and _has_seen(folder, state):
        said = last_lines(folder.service_log, 200)
        lines = [line for line in said if line.startswith(f"[{generation}.")][-8:]
        raise ProvisioningError(
            "\n  ".join([f"the service {failed['error']}; it said:", *lines]),
            hint="llama-hub doctor local",
        )
    ready = [one for one in mine if one["state"] == "ready"]
    wanted = revision["replicas"] if revision["run"] else 0
    done = len(ready) == len(mine) == wanted and not (wanted == 0 and state["stopping"])
    return True if done else None


def _has_seen(folder: Folder, state: Mapping[str, Any]) -> bool:
    return bool(state["seen"] == (folder.path / "desired.json").stat().st_mtime_ns)


def _is_gone(folder: Folder, generation: str) -> bool:
    if not folder.supervisor():
        return True
    state = folder.state()
    return not children(state, generation) and not state["stopping"]


def _follow(folder: Folder) -> Iterator[str]:
    """New lines as they come, across rotation, until the deployment is gone."""
    place = folder.service_log.stat().st_size if folder.service_log.exists() else 0
    rest = ""
    while folder.desired():
        size = folder.service_log.stat().st_size if folder.service_log.exists() else 0
        if size < place:
            place = 0  # rotated
        if size == place:
            time.sleep(0.2)
            continue
        with folder.service_log.open(encoding="utf-8", errors="replace") as file:
            file.seek(place)
            text = rest + file.read()
            place = file.tell()
        *lines, rest = text.split("\n")
        yield from lines

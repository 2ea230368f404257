"""The steps of a local deployment: write down what is wanted, wait until it is so."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from os import kill
from pathlib import Path
from typing import Any

from llama_hub.backends.local import further_models, held
from llama_hub.backends.local.documents import DesiredState, Revision, SupervisorState
from llama_hub.backends.local.logs import last_lines
from llama_hub.backends.local.processes import is_supervisor, kill_replica
from llama_hub.backends.local.state import Folder
from llama_hub.child_environment import child_environment
from llama_hub.deploy.backend import Context, Step
from llama_hub.deploy.journal import now
from llama_hub.deploy.spec import is_name
from llama_hub.deploy.waiting import wait_for
from llama_hub.errors import NotFoundError, ProvisioningError
from llama_hub.files import FULL, delete, keep_folder, private_folder
from llama_hub.home import home

POLL = 0.05  # seconds between two looks at what the supervisor says
SUPERVISOR_START = 30.0  # seconds
EXIT = 5.0  # seconds
REMOVAL = 180.0  # seconds for requests under way and the service's own end


class StepRunner:
    """Does the steps of a plan for deployments below ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, name: str) -> Folder:
        """The files of the deployment ``name``; ``NotFoundError`` for what is no name."""
        if not is_name(name):
            raise absent(name)
        return Folder(self._root / name / "service")

    def run(self, step: Step, context: Context) -> Mapping[str, Any]:
        """Do one step; it may have been done before."""
        if step.action == "delete":
            return self._delete(step, context)
        kinds: Mapping[str, Callable[[Step, Context], Mapping[str, Any]]] = {
            "service": self._serve,
            "revision": self._revise,
            "traffic": self._switch,
        }
        return kinds[step.kind](step, context)

    def _serve(self, step: Step, context: Context) -> Mapping[str, Any]:
        """Have a supervisor that listens."""
        folder = self.folder(step.name)
        for path in (folder.path.parent, folder.path):
            keep_folder(path)
        private_folder(folder.path, self._root)
        body = dict(step.body)
        if body["api_key"] and folder.key() is None:
            from llama_hub.inference.service.api_key import new_key

            folder.write_key(new_key())
        fresh = DesiredState(body["host"], body["port"], api_key=body["api_key"], created=now())
        with folder.change(fresh) as desired:
            if desired.deleted:
                vars(desired).update(vars(fresh))
            desired.host, desired.port = body["host"], body["port"]
            desired.api_key, desired.tags = body["api_key"], dict(body["tags"])
        port = self._address(folder)[1]
        with folder.change() as desired:
            desired.taken_port = port
        return {"port": port}

    def _revise(self, step: Step, context: Context) -> Mapping[str, Any]:
        """Have a revision run, or stand by."""
        name, generation = step.name.rsplit("-", 1)
        folder = self.folder(name)
        if context.target is not None and "folder" in step.body:
            held.hold(context.target.artifact, Path(step.body["folder"]), context.progress)
            further_models.hold(context.target.spec, step.body["models"], context.progress)
        with folder.change() as desired:
            revision = desired.revisions.get(generation)
            if revision is not None:
                revision = replace(revision, **step.body)
                revision.attempt += step.action == "replace"
            elif "argv" in step.body:
                revision = Revision(**step.body)
            else:
                raise NotFoundError(f"what {step.name!r} runs is not known any more")
            desired.revisions[generation] = revision
        self._address(folder)
        if context.wait:
            wait_for(
                lambda: _reached(folder, generation),
                f"revision {generation}",
                timeout=context.timeout,
                every=POLL,
                why=lambda: "; ".join(last_lines(folder.service_log, 3)),
            )
        return {}

    def _switch(self, step: Step, context: Context) -> Mapping[str, Any]:
        """Lead the address to a revision."""
        folder = self.folder(step.name)
        active = step.body["active"]
        with folder.change() as desired:
            desired.active, desired.previous = active, step.body["previous"]
            desired.tags = dict(step.body["tags"])
        self._address(folder)
        if context.wait:
            wait_for(
                lambda: True if _serves(folder, active) else None,
                f"traffic to revision {active}",
                timeout=context.timeout,
                every=POLL,
            )
        return {}

    def _delete(self, step: Step, context: Context) -> Mapping[str, Any]:
        if step.kind == "service":
            self._remove(self.folder(step.name))
            return {}
        name, generation = step.name.rsplit("-", 1)
        folder = self.folder(name)
        if folder.desired() is None:
            return {}
        try:
            with folder.change() as desired:
                desired.revisions.pop(generation, None)
                if desired.active == generation:
                    desired.active = ""
        except OSError as error:
            if error.errno not in FULL:
                raise
            context.progress.say(f"{step.id} goes with its deployment: the disk is full")
            return {}
        wait_for(
            lambda: True if _is_gone(folder, generation) else None,
            f"the end of revision {generation}",
            timeout=REMOVAL,
            every=POLL,
        )
        if (desired_now := folder.desired()) is not None:
            revisions = desired_now.revisions.values()
            further = [path for one in revisions for path in one.models.values()]
            held.release(folder.path, [*(one.folder for one in revisions), *further])
        return {}

    def _remove(self, folder: Folder) -> None:
        """End supervisor and replicas, then delete the folder."""
        if not folder.is_there:
            return
        _ask_to_end(folder)
        wait_for(
            lambda: None if folder.is_supervised else True,
            "the end of the supervisor",
            timeout=REMOVAL,
            every=POLL,
        )
        state = folder.last_state()
        if state is not None:
            _await_exit(state, folder)
            for child in state.children:
                kill_replica(child.pid, child.identity, folder.path)
        delete(folder.path)
        with suppress(OSError):  # the journal may be in it
            folder.path.parent.rmdir()

    def _address(self, folder: Folder) -> tuple[str, int]:
        """Where the supervisor listens, once one lives and has read what is wanted."""
        desired = folder.desired()
        wanted = desired.digest if desired else ""

        def listening() -> tuple[str, int] | None:
            if not folder.is_supervised:
                _start_supervisor(folder)
                return None
            state = folder.living_state()
            if state is None or state.seen != wanted:
                return None
            if state.trouble:
                raise ProvisioningError(state.trouble, hint="--set options.port=0 takes a free one")
            return state.address

        return wait_for(listening, "the supervisor", timeout=SUPERVISOR_START, every=POLL)


def absent(name: str) -> NotFoundError:
    """The error for a deployment that is not there."""
    return NotFoundError(f"there is no deployment {name!r} on this machine", hint="llama-hub ps")


def _ask_to_end(folder: Folder) -> None:
    """Say that nothing is wanted any more; by a signal where that cannot be written."""
    try:
        with folder.change(DesiredState("127.0.0.1", 0, api_key=False)) as desired:
            desired.deleted = True
    except OSError:  # the disk is full: removing frees space, so it must work
        state: SupervisorState | None = folder.living_state()
        if state is None and folder.is_supervised:
            raise
        if state is not None:
            with suppress(ProcessLookupError):
                kill(state.pid, signal.SIGTERM)


def _await_exit(state: SupervisorState, folder: Folder) -> None:
    """The supervisor gave its lock back; its process is gone a moment later."""
    end = time.monotonic() + EXIT
    while is_supervisor(state.pid, state.identity, folder.path) and time.monotonic() < end:
        time.sleep(POLL)


def _start_supervisor(folder: Folder) -> None:
    """It puts itself into the background, holding its lock; a second one ends at once."""
    subprocess.run(
        [sys.executable, "-m", "llama_hub.backends.local.supervisor", str(folder.path)],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=child_environment(LLAMA_HUB_HOME=str(home())),  # absolute: it leaves this folder
    )


def _reached(folder: Folder, generation: str) -> bool | None:
    """Whether the revision is as wanted; ``ProvisioningError`` if it has failed."""
    state, desired = folder.living_state(), folder.desired()
    if state is None or desired is None or state.seen != desired.digest:
        return None
    revision = desired.revisions[generation]
    mine = state.of(generation)
    failed = next((one for one in mine if one.state == "failed"), None)
    if failed:
        said = last_lines(folder.service_log, 200)
        lines = [line for line in said if line.startswith(f"[{generation}.")][-8:]
        raise ProvisioningError(
            "\n  ".join([f"the service {failed.error}; it said:", *lines]),
            hint="llama-hub doctor local",
        )
    wanted = revision.replicas if revision.run else 0
    ready = sum(1 for one in mine if one.state == "ready")
    done = ready == len(mine) == wanted and not (wanted == 0 and state.stopping)
    return True if done else None


def _serves(folder: Folder, generation: str) -> bool:
    state = folder.living_state()
    return state is not None and state.serving == generation


def _is_gone(folder: Folder, generation: str) -> bool:
    """Whether no process of the revision is left."""
    if not folder.is_supervised:
        return True
    state = folder.living_state()
    return state is not None and not state.of(generation) and not state.stopping

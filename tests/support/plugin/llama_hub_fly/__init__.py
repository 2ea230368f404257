"""A third-party backend, as docs/backends.md walks through it.

Its platform is a folder with one JSON file per machine, so that it can be tried without an
account; everything else is what a real one needs and no more: no revisions beside each other, no
rollback of its own, no free HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llama_hub.deploy.backend import (
    TAG_DEPLOYMENT,
    TAG_MANIFEST,
    TAG_MODEL,
    TAG_SPEC,
    Check,
    Context,
    Deployed,
    Endpoint,
    Observed,
    Offer,
    Proof,
    Resource,
    Step,
    Target,
)  # fmt: skip
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import NotFoundError


class FlyOptions(BaseModel):
    """The ``options`` block of a spec."""

    model_config = ConfigDict(extra="forbid")

    platform: str = Field(description="The folder that stands for the platform.")
    size: int = Field(2, ge=1, description="Sizes of machines begin at 1.")


class FlyBackend:
    """One machine per deployment."""

    name = "fly"
    location = ("platform",)
    options_model = FlyOptions

    def __init__(self, *, platform: str = "") -> None:
        self._folder = Path(platform) if platform else None

    def configured(self) -> bool:
        return self._folder is not None

    def check(self) -> Sequence[Check]:
        return [Check("platform", self.configured(), str(self._folder), "set options.platform")]

    def offers(self, spec: DeploymentSpec, need: Any) -> Sequence[Offer]:
        return [Offer("machine", "ams", 0, 4 << 30, 0.0, "free of charge", 10)]

    def observe(self, name: str) -> Observed:
        found = self._read(name)
        return Observed((_resource(name, found),) if found else ())

    def plan(self, target: Target, observed: Observed) -> Sequence[Step]:
        name = target.spec.name
        body = {
            "folder": str(target.artifact.folder),
            "replicas": target.spec.replicas_min,
            "environment": dict(target.spec.environment),
            "tags": target.tags,
        }
        there = observed.find("machine")
        if there is None:
            return [Step("create", "machine", name, "there is none", body)]
        if {**there.body, "tags": dict(there.tags)} == body:
            return [Step("noop", "machine", name, "as wanted", body)]
        return [Step("update", "machine", name, "it differs", body, reversible=False)]

    def plan_delete(self, name: str, observed: Observed) -> Sequence[Step]:
        return [Step("delete", one.kind, one.name, "asked for") for one in observed.resources]

    def execute(self, step: Step, context: Context) -> Mapping[str, Any]:
        if step.action == "delete":
            self._path(step.name).unlink(missing_ok=True)
        else:
            self._path(step.name).parent.mkdir(parents=True, exist_ok=True)
            self._path(step.name).write_text(json.dumps(step.body))
        return {}

    def status(self, name: str) -> Deployed:
        found = self._read(name)
        if found is None:
            raise NotFoundError(f"there is no machine {name!r} on fly")
        tags = found["tags"]
        return Deployed(
            name, "fly", "ready", f"fly://{name}", tags[TAG_MANIFEST], tags[TAG_MODEL], None,
            0.0, tags[TAG_SPEC], tags=tags, instance="machine", replicas=found["replicas"],
        )  # fmt: skip

    def list(self) -> Iterator[Deployed]:
        for path in sorted(self._folder.glob("*.json")) if self._folder else []:
            yield self.status(path.stem)

    def logs(self, name: str, *, tail: int = 100, follow: bool = False) -> Iterator[str]:
        yield from ["started", "ready"][-tail:]

    def endpoint(self, name: str) -> Endpoint:
        return Endpoint(str(self.status(name).url))

    def invoke(self, name: str, body: Mapping[str, Any], *, stream: bool) -> Iterator[bytes]:
        self.status(name)
        said = "bonjour"
        message = {"role": "assistant", "content": said}
        if stream:
            yield f"data: {json.dumps({'choices': [{'delta': {'content': said}}]})}\n\n".encode()
            yield b"data: [DONE]\n\n"
        else:
            yield json.dumps({"choices": [{"message": message}]}).encode()

    def prove(self, name: str, manifest: Any) -> Sequence[Proof]:
        served = self.status(name).tags[TAG_MANIFEST]
        return [Proof("manifest", served == manifest.digest, served)]

    def _path(self, name: str) -> Path:
        return (self._folder or Path("nowhere")) / f"{name}.json"

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self._path(name).read_text())
        except FileNotFoundError:
            return None
        assert found["tags"][TAG_DEPLOYMENT] == name
        return found


def _resource(name: str, found: Mapping[str, Any]) -> Resource:
    body = {key: value for key, value in found.items() if key != "tags"}
    return Resource("machine", name, "started", found["tags"], body)

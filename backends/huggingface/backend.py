"""Hugging Face Inference Endpoints: ``llama-hub deploy huggingface``.

One deployment is one endpoint of the same name, and the private repository that
it takes its weights from (or a gated one, unchanged). The platform changes an
endpoint beside the running one and switches over when the new one is healthy.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llama_hub.backends.huggingface import bodies, doctor, machines, planning
from llama_hub.backends.huggingface.client import Client
from llama_hub.backends.huggingface.inventory import Inventory
from llama_hub.backends.huggingface.options import Options, read
from llama_hub.backends.huggingface.runner import FAILED, StepRunner, extra_files
from llama_hub.backends.huggingface.storage import check, check_weights, tree
from llama_hub.deploy import client, sizing, waiting
from llama_hub.deploy.backend import (
    TAG_MANIFEST,
    TAG_MODEL,
    TAG_SPEC,
    Check,
    Context,
    Deployed,
    Endpoint,
    Observed,
    Proof,
    Resource,
    Status,
    Step,
    Target,
)
from llama_hub.deploy.offer import Offer
from llama_hub.errors import LlamaHubError, NotFoundError

if TYPE_CHECKING:
    from llama_hub.deploy.sizing import Need
    from llama_hub.deploy.spec import DeploymentSpec
    from llama_hub.hub.manifest import Manifest

TAIL = 1000  # lines of the log that are asked for at least

STATES: Mapping[str, Status] = {
    "pending": "pending",
    "initializing": "pending",
    "updating": "updating",
    "updateFailed": "failed",
    "running": "ready",
    "scaledToZero": "ready",
    "paused": "stopped",
    "failed": "failed",
}


class HuggingFaceBackend:
    """Deployments in one namespace."""

    name = "huggingface"
    location = ("namespace",)
    options_model = Options

    def __init__(
        self,
        namespace: str | None = None,
        *,
        token: str | None = None,
        plane: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Not given: ``HF_NAMESPACE`` (else the token's user), ``HF_TOKEN`` or hf's login."""
        self._namespace = namespace or os.environ.get("HF_NAMESPACE") or None
        self._token, self._plane = token, plane
        self._sleep = sleep

    @cached_property
    def inventory(self) -> Inventory:
        """What the namespace holds."""
        return Inventory(Client(self._token, self._plane, self._sleep), self._namespace)

    def configured(self) -> bool:
        """Whether a token can be found here."""
        try:
            return bool(self.inventory.client.token)
        except LlamaHubError:
            return False

    # --- planning -------------------------------------------------------------------------

    def check(self) -> Sequence[Check]:
        """See ``doctor``."""
        return list(doctor.checks(self.inventory))

    def offers(self, spec: DeploymentSpec, need: Need) -> Sequence[Offer]:
        """Machines of the live list that hold a replica, cheapest first."""
        options = read(spec)
        listed = self.inventory.client.hardware(self.inventory.namespace)
        found = machines.offers(listed, options.vendor, spec.region)
        priced = [one for one in found if one.price_per_hour is not None]
        return sizing.cheapest_first(one for one in priced if sizing.fits(one, need))

    def observe(self, name: str) -> Observed:
        """The endpoint and the repositories of ``name``."""
        return self.inventory.observe(name)

    def plan(self, target: Target, observed: Observed) -> Sequence[Step]:
        """See ``planning``."""
        options = read(target.spec)
        extra = bodies.extra_digest(extra_files(options))
        return planning.steps(target, observed, options, self.inventory.namespace, extra)

    def plan_delete(self, name: str, observed: Observed) -> Sequence[Step]:
        """Endpoint, then repositories; those that are kept only lose our marker."""
        return planning.deletions(observed)

    def execute(self, step: Step, context: Context) -> Mapping[str, Any]:
        """See ``runner``."""
        return StepRunner(self.inventory, step, context, self._sleep).run()

    # --- running --------------------------------------------------------------------------

    def _found(self, name: str) -> Resource:
        found = self.inventory.endpoint(name)
        if found is None:
            raise NotFoundError(
                f"there is no deployment {name!r} in huggingface", hint="llama-hub ps"
            )
        return found

    def status(self, name: str) -> Deployed:
        """One deployment; one that has only got as far as its weights is pending."""
        found = self.inventory.endpoint(name)
        if found is not None:
            return self._deployed(found)
        weights = self.inventory.observe(name).find("repository")
        if weights is None:
            return self._deployed(self._found(name))
        return self._begun(name, weights)

    def _begun(self, name: str, weights: Resource) -> Deployed:
        return Deployed(
            name=name,
            backend=self.name,
            status="pending",
            url=None,
            manifest=weights.tags.get(TAG_MANIFEST),
            model=weights.tags.get(TAG_MODEL),
            created=None,
            detail=f"only its weights are there: {weights.name} is {weights.state}",
            tags=dict(weights.tags),
        )

    def list(self) -> Iterator[Deployed]:
        """Every endpoint with our tags."""
        for one in self.inventory.endpoints():
            yield self._deployed(one)

    def _deployed(self, found: Resource) -> Deployed:
        body, status = found.body, found.body["status"]
        compute = body["compute"]
        replicas = status.get("readyReplica")
        count = replicas if replicas is not None else compute["scaling"]["minReplica"]
        vendor = str((body.get("provider") or {}).get("vendor", ""))
        price = machines.price(self._hardware, compute, vendor)
        asleep = found.state == "scaledToZero"
        return Deployed(
            name=found.name,
            backend=self.name,
            status=STATES.get(found.state, "pending"),
            url=status.get("url"),
            manifest=found.tags.get(TAG_MANIFEST),
            model=found.tags.get(TAG_MODEL),
            created=status.get("createdAt"),
            cost_per_hour=None if price is None else price * (0 if asleep else count),
            generation=found.tags.get(TAG_SPEC),
            detail=_detail(found),
            tags=dict(found.tags),
            instance=f"{compute['instanceType']}-{compute['instanceSize']}",
            replicas=count,
        )

    @cached_property
    def _hardware(self) -> Mapping[str, Any]:
        return self.inventory.client.hardware(self.inventory.namespace)

    def logs(self, name: str, *, tail: int = 100, follow: bool = False) -> Iterator[str]:
        """Lines of the endpoint's log, oldest first."""
        self._found(name)

        def served() -> list[str]:
            return self.inventory.client.logs(self.inventory.namespace, name, max(tail, TAIL))

        shown = served()
        yield from shown[-tail:]
        if follow:
            yield from waiting.follow(served, shown, sleep=self._sleep)

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint's URL; the token opens it."""
        found = self._found(name)
        url = str(found.body["status"].get("url") or "")
        if found.body.get("type") == "public":
            return Endpoint(url)
        return Endpoint(url, {"Authorization": f"Bearer {self.inventory.client.token}"})

    def invoke(self, name: str, body: Mapping[str, Any], *, stream: bool) -> Iterator[bytes]:
        """An OpenAI chat body; the stock image takes it as ``inputs`` and cannot stream."""
        at = self.endpoint(name)
        if not self._is_stock(name):
            yield from client.post(at, client.CHAT, {**body, "stream": stream})
            return
        asked = {**body, "stream": False}
        whole = b"".join(client.post(at, "/", {"inputs": asked}))
        yield from _as_events(whole) if stream else [whole]

    def _is_stock(self, name: str) -> bool:
        return "huggingface" in self._found(name).body["model"]["image"]

    def prove(self, name: str, manifest: Manifest) -> Sequence[Proof]:
        """What the service and the repository state of ``manifest``."""
        model = self._found(name).body["model"]
        return [self._served(name, manifest), self._stored(model, manifest)]

    def _served(self, name: str, manifest: Manifest) -> Proof:
        at = self.endpoint(name)
        if self._is_stock(name):
            said = json.loads(b"".join(client.post(at, "/", {"inputs": {"manifest": True}})))
            served = str(said.get("manifest"))
        else:
            served = str(client.get(at, "/manifest").get("manifest"))
        return Proof("manifest", served == manifest.digest, served)

    def _stored(self, model: Mapping[str, Any], manifest: Manifest) -> Proof:
        repository, revision = model["repository"], model["revision"]
        what = "the Hub's digests of every file equal the manifest's"
        try:
            stored = tree(self.inventory.client, repository, revision)
            if repository.partition("/")[2].startswith(f"{bodies.PREFIX}-"):
                check(stored, manifest, None)
            else:
                check_weights(stored, manifest, repository)
        except LlamaHubError as error:
            return Proof(what, False, error.message)
        return Proof(what, True, f"{repository} at {revision}")

    def pause(self, name: str) -> None:
        """Stop it; it keeps its name, costs nothing and frees its quota."""
        self._found(name)
        self.inventory.client.act(self.inventory.namespace, name, "pause")

    def resume(self, name: str) -> None:
        """Start it again after ``pause``."""
        if self._found(name).state == "paused":
            self.inventory.client.act(self.inventory.namespace, name, "resume")

    def orphans(self) -> Iterator[Resource]:
        """Marked repositories that no endpoint uses."""
        return self.inventory.orphans()


def _detail(found: Resource) -> str:
    if found.state == "scaledToZero":
        return "scaled to zero; the first request wakes it"
    return str(found.body["status"].get("message") or "") if found.state in FAILED else ""


def _as_events(answer: bytes) -> Iterator[bytes]:
    """A whole completion as the one event of a stream."""
    whole = json.loads(answer)
    choices = [
        {"index": 0, "delta": choice["message"], "finish_reason": choice["finish_reason"]}
        for choice in whole["choices"]
    ]
    event = {**whole, "object": "chat.completion.chunk", "choices": choices}
    yield b"data: " + json.dumps(event).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"

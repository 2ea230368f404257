"""Hugging Face Inference Endpoints: ``llama-hub deploy huggingface``.

One deployment is one endpoint of the same name, and the private repository that
it takes its weights from (or a gated one, unchanged). The platform changes an
endpoint beside the running one and switches over when the new one is healthy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llama_hub.backends.huggingface import (
    bodies,
    doctor,
    invoke,
    judging,
    machines,
    planning,
    runner,
    status,
)
from llama_hub.backends.huggingface.client import Client
from llama_hub.backends.huggingface.inventory import Inventory
from llama_hub.backends.huggingface.options import Options, read
from llama_hub.backends.huggingface.runner import StepRunner, extra_files
from llama_hub.backends.huggingface.storage import check, check_weights, tree
from llama_hub.deploy import sizing, waiting
from llama_hub.deploy.artifact import ExpectedArtifact
from llama_hub.deploy.backend import (
    SERVED,
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
from llama_hub.deploy.offer import Offer
from llama_hub.deploy.status import unfinished
from llama_hub.errors import AccessError, LlamaHubError, NotFoundError

if TYPE_CHECKING:
    from llama_hub.deploy.sizing import Need
    from llama_hub.deploy.spec import DeploymentSpec
    from llama_hub.hub.manifest import Manifest

WAKING = 570  # seconds that a request waits for a sleeping endpoint; less than its own time limit
TAIL = 1000  # lines of the log that are asked for at least


class HuggingFaceBackend:
    """Deployments in one namespace."""

    name = "huggingface"
    location = ("namespace",)
    access: tuple[str, ...] = ()
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

    def place(self) -> Mapping[str, str | None]:
        """The namespace: that of the token where none is named."""
        return {"namespace": self.inventory.namespace}

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

    def check_for(self, spec: DeploymentSpec) -> Sequence[Check]:
        """Its cloud and region, its secrets, the gate of the repository that it serves."""
        return list(doctor.checks_for(self.inventory, read(spec), spec.region))

    def offers(self, spec: DeploymentSpec, need: Need) -> Sequence[Offer]:
        """Machines of the live list that hold a replica, cheapest first."""
        options = read(spec)
        listed = self.inventory.client.hardware(self.inventory.namespace)
        judging.place(listed, options.vendor, spec.region)
        found = machines.offers(listed, options.vendor, spec.region)
        fitting = [
            one for one in found if one.price_per_hour is not None and sizing.fits(one, need)
        ]
        return sizing.cheapest_first(options.suitable(fitting, spec))

    def observe(self, name: str) -> Observed:
        """The endpoint and the repositories of ``name``."""
        return self.inventory.observe(name)

    def plan(self, target: Target, observed: Observed) -> Sequence[Step]:
        """See ``planning``."""
        asked = read(target.spec)
        options = asked.on(target.offer)
        name = target.spec.name
        wanted = planning.Wanted(
            target,
            options,
            self.inventory.namespace,
            bodies.extra_digest(extra_files(options)),
            planning.why_run(asked, target.offer.accelerators),
            runner.secrets_digest(name, options, observed.find("endpoint", name)),
        )
        return planning.steps(wanted, observed)

    def validate(self, target: Target, observed: Observed) -> None:
        """Scopes, secrets, gate and digests of a gated repository, a public one of our name."""
        options = read(target.spec).on(target.offer)
        client, namespace = self.inventory.client, self.inventory.namespace
        judging.token(client.whoami(), namespace, uploads=not options.gated_repository)
        runner.secret_values(options, client)
        steps = self.plan(target, observed)
        endpoint = next(step for step in steps if step.kind == "endpoint")
        if isinstance(target.artifact, ExpectedArtifact):
            return
        if options.gated_repository:
            runner.check_gated(client, endpoint.body["model"], target)
        else:
            judging.private(client, endpoint.body["model"]["repository"])

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
        weights = self.inventory.observe(name).all("repository")
        if weights:
            return unfinished(self.name, name, weights)
        return self._deployed(self._found(name))

    def list(self) -> Iterator[Deployed]:
        """Every endpoint with our tags."""
        for one in self.inventory.endpoints():
            yield self._deployed(one)

    def _deployed(self, found: Resource) -> Deployed:
        return status.deployed(found, self._hardware)

    @cached_property
    def _hardware(self) -> Mapping[str, Any]:
        """The list of machines; empty where it may not be read, so that prices are unknown."""
        try:
            return self.inventory.client.hardware(self.inventory.namespace)
        except AccessError:
            return {}

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
        """The endpoint's URL; the token opens it, and who asks a sleeping one waits."""
        found = self._found(name)
        url = found.body["status"].get("url")
        if not url or found.state in status.CLOSED:
            raise status.no_address(found)
        waits = {"X-Scale-Up-Timeout": str(WAKING)}
        if found.body.get("type") == "public":
            return Endpoint(str(url), waits)
        token = self.inventory.client.token
        return Endpoint(str(url), waits | {"Authorization": f"Bearer {token}"})

    def invoke(self, name: str, body: Mapping[str, Any], *, stream: bool) -> Iterator[bytes]:
        """Send an OpenAI-style body."""
        return invoke.call(self.endpoint(name), self._is_stock(name), body, stream=stream)

    def _is_stock(self, name: str) -> bool:
        return "huggingface" in self._found(name).body["model"]["image"]

    def prove(self, name: str, manifest: Manifest) -> Sequence[Proof]:
        """What the service and the repository state of ``manifest``."""
        found = self._found(name)
        stored = self._stored(found.body["model"], manifest)
        return [self._served(found, manifest, stored), stored]

    def _served(self, found: Resource, manifest: Manifest, stored: Proof) -> Proof:
        """The service's own word; where it has none, what follows from the storage."""
        import httpx

        image = found.body["model"]["image"]
        silent = status.SILENT.get(found.state)
        if silent is None and "vLLM" in image:
            silent = "vLLM states no manifest"
        if silent is not None:
            told = f"{silent}; it serves the repository at the commit whose digests are compared"
            return Proof(SERVED, stored.ok, told)
        try:
            served = invoke.manifest(self.endpoint(found.name), "huggingface" in image)
        except (LlamaHubError, OSError, ValueError, httpx.HTTPError) as error:
            return Proof(SERVED, False, str(getattr(error, "message", error)))
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

"""Azure ML managed online endpoints: ``llama-hub deploy azure``.

One deployment of llama-hub is one endpoint of the same name; each revision is a
deployment below it. What is planned stands in ``planning``, what is sent in
``bodies``; here is how a step is done, and done again after a crash.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llama_hub.backends.azure import (
    bodies,
    doctor,
    export,
    images,
    invoke,
    machines,
    planning,
    status,
    validation,
)
from llama_hub.backends.azure.client import Client
from llama_hub.backends.azure.inventory import Inventory
from llama_hub.backends.azure.options import Options
from llama_hub.backends.azure.options import read as read_options
from llama_hub.backends.azure.runner import StepRunner
from llama_hub.deploy import sizing, waiting
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
from llama_hub.errors import AccessError, NotFoundError, UsageError

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

    from llama_hub.deploy.sizing import Need
    from llama_hub.deploy.spec import DeploymentSpec
    from llama_hub.hub.manifest import Manifest

VARIABLES = {
    "subscription": ("AZURE_SUBSCRIPTION_ID", "AZUREML_ARM_SUBSCRIPTION"),
    "resource_group": ("AZURE_RESOURCE_GROUP", "AZUREML_ARM_RESOURCEGROUP"),
    "workspace": ("AZUREML_WORKSPACE_NAME", "AZUREML_ARM_WORKSPACE_NAME"),
}
TAIL = 1000  # lines of the server's log that are asked for at least


class AzureBackend:
    """Deployments in one Azure ML workspace."""

    name = "azure"
    location = ("subscription", "resource_group", "workspace")
    access: tuple[str, ...] = ()
    options_model = Options

    def __init__(
        self,
        subscription: str | None = None,
        resource_group: str | None = None,
        workspace: str | None = None,
        *,
        credential: TokenCredential | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """What is not given comes from the environment, see ``VARIABLES``."""
        given = (subscription, resource_group, workspace)
        named = dict(zip(self.location, given, strict=True))
        self._settings = {key: value or _from_environment(key) for key, value in named.items()}
        self._credential = credential
        self._sleep = sleep

    def configured(self) -> bool:
        """Whether subscription, resource group and workspace are all named."""
        return all(self._settings.values())

    def place(self) -> Mapping[str, str | None]:
        """Subscription, resource group and workspace, as far as they are named."""
        return self._settings

    @cached_property
    def client(self) -> Client:
        """The management plane; ``UsageError`` if the workspace is not named."""
        missing = [key for key, value in self._settings.items() if not value]
        if missing:
            raise UsageError(
                f"Azure ML needs to know the {' and the '.join(missing)}",
                hint="set "
                + ", ".join(VARIABLES[key][0] for key in missing)
                + ", or --set options.workspace=… and so on",
            )
        scope = bodies.WorkspaceScope(*(str(self._settings[key]) for key in self.location))
        return Client(scope, credential=self._credential, sleep=self._sleep)

    @cached_property
    def inventory(self) -> Inventory:
        """What the workspace holds."""
        return Inventory(self.client, self._sleep)

    # --- planning ---------------------------------------------------------------------

    def check(self) -> Sequence[Check]:
        """Credential, subscription, registration, workspace, roles, region, quota."""
        try:
            return list(doctor.checks(self.client))
        except UsageError as error:
            return [Check("settings", False, error.message, error.hint)]

    def check_for(self, spec: DeploymentSpec) -> Sequence[Check]:
        """Where it is, whether its options can be, its identity and its image."""
        return list(doctor.checks_for(self.client, read_options(spec), spec.region))

    def offers(self, spec: DeploymentSpec, need: Need) -> Sequence[Offer]:
        """Machine types of the workspace's region that hold a replica, cheapest first.

        ``UsageError`` if the spec names another region.
        """
        options = read_options(spec)
        region = self.inventory.workspace.region
        if spec.region not in (None, region):
            raise UsageError(
                f"the workspace is in {region}, not in {spec.region}",
                hint="name a workspace of that region: --set options.workspace=…",
            )
        sizes = machines.in_region(readable(lambda: self.client.sizes(region)), region)
        quota = machines.usages(readable(lambda: self.client.usages(region)))
        # An unknown price is not a price of nothing, which is what the core would take it for.
        found = [machines.offer(size, region, quota) for size in sizes if size.price is not None]
        if options.run == "vllm":
            found = [offer for offer in found if offer.accelerators]
        return sizing.cheapest_first(offer for offer in found if sizing.fits(offer, need))

    def observe(self, name: str) -> Observed:
        """Endpoint, deployments, model, environment, weights and autoscale settings of ``name``."""
        return self.inventory.observe(name)

    def plan(self, target: Target, observed: Observed) -> Sequence[Step]:
        """See ``planning``; what it has to know and could not be read ends it."""
        for kind in planning.needed(target):
            if kind in observed.unread:
                raise observed.unread[kind]
        return planning.steps(self._desired(target, observed))

    def validate(self, target: Target, observed: Observed) -> None:
        """See ``validation``."""
        validation.check(self.inventory, self._desired(target, observed))

    def _desired(self, target: Target, observed: Observed) -> planning.DesiredState:
        options = read_options(target.spec)
        built = images.is_built(options)
        context = bodies.context_digest(self.inventory.build_context(options)) if built else ""
        return planning.DesiredState(target, observed, self.inventory.workspace, options, context)

    def plan_delete(self, name: str, observed: Observed) -> Sequence[Step]:
        """Endpoint with deployments first, because they bill; then what they referred to."""
        return planning.deletions(observed)

    def execute(self, step: Step, context: Context) -> Mapping[str, Any]:
        """See ``runner``."""
        return StepRunner(self.inventory, step, context).run()

    # --- running ------------------------------------------------------------------------

    def status(self, name: str) -> Deployed:
        """One deployment; ``NotFoundError`` if there is none of that name."""
        found = self.inventory.endpoint(name)
        if found is not None:
            return status.deployed(found, self.inventory.deployments(name), self._price)
        parts = self.observe(name).resources
        if not parts:
            raise NotFoundError(f"there is no deployment {name!r} in azure", hint="llama-hub ps")
        return unfinished(self.name, name, parts)

    def list(self) -> Iterator[Deployed]:
        """Every endpoint of the workspace that carries our tags."""
        for endpoint in self.inventory.endpoints():
            yield status.deployed(endpoint, self.inventory.deployments(endpoint.name), self._price)

    def _price(self, instance: str) -> float | None:
        return self._prices.get(instance.lower())

    @cached_property
    def _prices(self) -> dict[str, float]:
        """By machine type; those of the table where the region's own may not be read."""
        reported: Sequence[Mapping[str, Any]] = []
        region = ""
        with suppress(AccessError):
            region = self.inventory.workspace.region
            reported = self.client.sizes(region)
        sizes = machines.in_region(reported, region)
        return {size.name.lower(): size.price for size in sizes if size.price is not None}

    def logs(self, name: str, *, tail: int = 100, follow: bool = False) -> Iterator[str]:
        """Lines of the storage initialiser, then of the server, of the newest revision."""
        revision = self._newest(name)
        begun = self.client.log(revision, "StorageInitializer", tail).splitlines()

        def served() -> list[str]:
            return self.client.log(revision, "InferenceServer", max(tail, TAIL)).splitlines()

        shown = served()
        yield from [*begun, *shown][-tail:]
        if follow:
            yield from waiting.follow(served, shown, sleep=self._sleep)

    def _newest(self, name: str) -> str:
        found = self.inventory.deployments(name) if self.inventory.endpoint(name) else []
        if not found:
            raise NotFoundError(f"{name!r} has no deployment in azure", hint="llama-hub ps")
        live = max(found, key=lambda one: (str(one.body.get("createdAt", "")), one.name))
        return live.name

    def endpoint(self, name: str) -> Endpoint:
        """The scoring URL and a header that opens it (a key, or a token that lasts an hour).

        ``NotFoundError`` if there is none of that name.
        """
        found = self.inventory.endpoint(name)
        if found is None:
            raise NotFoundError(f"there is no deployment {name!r} in azure", hint="llama-hub ps")
        properties = found.body["properties"]
        headers = self.client.opens(name, str(properties.get("authMode", "")))
        return Endpoint(str(properties.get("scoringUri", "")), headers)

    def invoke(self, name: str, body: Mapping[str, Any], *, stream: bool) -> Iterator[bytes]:
        """Send an OpenAI-style body to the scoring URL."""
        at = self.endpoint(name)
        sent = dict(body) | ({"stream": True} if stream else {})
        return invoke.call(at.url, at.headers, sent, stream=stream, sleep=self._sleep)

    def prove(self, name: str, manifest: Manifest) -> Sequence[Proof]:
        """What the service, the registry and the storage say of ``manifest``."""
        stored = self.inventory.proofs(self.observe(name), manifest)
        if urlsplit(self.endpoint(name).url).path == images.CONTRACTS["vllm"].scoring:
            return [_unstated(stored), *stored]
        answer = b"".join(self.invoke(name, {"manifest": True}, stream=False))
        served = str(json.loads(answer).get("manifest"))
        return [Proof("manifest", served == manifest.digest, served), *stored]

    def export(self, steps: Sequence[Step], form: str) -> Mapping[str, str]:
        """``az-yaml``, ``bicep``, ``roles``; ``score``: with what the stock server needs."""
        return export.files(steps, form)

    def orphans(self) -> Iterator[Resource]:
        """Models, environments, weights and settings that no endpoint of ours uses."""
        return self.inventory.orphans()


def _unstated(stored: Sequence[Proof]) -> Proof:
    """In place of the service's own word: vLLM knows of no manifest, only of a name."""
    return Proof(
        SERVED,
        all(one.ok for one in stored),
        "vLLM does not state which bytes it serves; the deployment refers to the registered model, "
        "and that to what storage holds",
    )


def readable(look: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What a read of the subscription shows; nothing to whoever has only a workspace."""
    with suppress(AccessError):
        return look()
    return []


def _from_environment(key: str) -> str | None:
    return next((os.environ[name] for name in VARIABLES[key] if os.environ.get(name)), None)

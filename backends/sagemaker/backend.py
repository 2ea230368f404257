"""SageMaker real-time endpoints: ``llama-hub deploy sagemaker``.

One deployment is one endpoint of the same name; a revision is a model and an endpoint
configuration, both named by their content. What is planned stands in ``planning``, what is sent in
``bodies``; how a step is done, and done again after a crash, in ``runner``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llama_hub.backends.sagemaker import (
    images,
    invoke,
    logs,
    machines,
    planning,
    proving,
    quotas,
    status,
)
from llama_hub.backends.sagemaker.bodies import DesiredState
from llama_hub.backends.sagemaker.client import Aws
from llama_hub.backends.sagemaker.errors import quota_hint
from llama_hub.backends.sagemaker.inventory import Inventory
from llama_hub.backends.sagemaker.options import Options
from llama_hub.backends.sagemaker.options import read as read_options
from llama_hub.backends.sagemaker.runner import StepRunner
from llama_hub.deploy import sizing
from llama_hub.deploy.backend import (
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
    from llama_hub.deploy.sizing import Need
    from llama_hub.deploy.spec import DeploymentSpec
    from llama_hub.hub.manifest import Manifest


class SageMakerBackend:
    """Deployments in one AWS account and region."""

    name = "sagemaker"
    location = ("region", "account", "profile", "assume_role", "bucket")
    access = ("profile", "assume_role")
    options_model = Options

    def __init__(
        self,
        region: str | None = None,
        account: str | None = None,
        profile: str | None = None,
        assume_role: str | None = None,
        bucket: str | None = None,
        *,
        aws: Aws | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """What is not given comes from the AWS configuration; ``aws`` replaces all but the bucket.

        ``account``: the only one that anything is asked of or done in.
        """
        self._aws = aws or Aws(region, profile, assume_role, account=account, sleep=sleep)
        self._bucket = bucket
        self._used: Mapping[str, int] | None = None  # instances, as the last offers counted them

    def configured(self) -> bool:
        """Whether there are credentials and a region."""
        return self._aws.has_credentials()

    def place(self) -> Mapping[str, str | None]:
        """Region and account as they are, and the profile that led there."""
        aws = self._aws
        return {
            "region": aws.region,
            "account": aws.account,
            "profile": aws.profile,
            "assume_role": aws.assume_role,
            "bucket": self._bucket,
        }

    @cached_property
    def inventory(self) -> Inventory:
        """What the account holds."""
        return Inventory(self._aws, self._bucket)

    # --- planning -------------------------------------------------------------------------

    def check(self) -> Sequence[Check]:
        """Identity, permissions, quotas, role, bucket and image."""
        from llama_hub.backends.sagemaker import doctor

        return list(doctor.checks(self.inventory))

    def check_for(self, spec: DeploymentSpec) -> Sequence[Check]:
        """Region, role, key, network, bucket and image of ``spec``, and what it must be allowed."""
        from llama_hub.backends.sagemaker import doctor

        return list(doctor.checks_for(self.inventory, spec, read_options(spec)))

    def offers(self, spec: DeploymentSpec, need: Need) -> Sequence[Offer]:
        """Machine types that hold a replica, cheapest first; one without a price only by name.

        ``UsageError`` if the spec names another region.
        """
        if spec.region not in (None, self._aws.region):
            raise UsageError(f"this looks at {self._aws.region}, not at {spec.region}")
        options = read_options(spec)
        self._used = used = quotas.used(self.inventory)
        found = [self._offer(machine, spec, used) for machine in machines.table().values()]
        return sizing.cheapest_first(
            one
            for one in found
            if sizing.fits(one, need) and _is_apt(one, spec, need) and _runs(one, options)
        )

    def _offer(
        self, machine: machines.Machine, spec: DeploymentSpec, used: Mapping[str, int]
    ) -> Offer:
        quota = quotas.left(self._quotas, used, machine.name)
        hint = quota_hint(f"{machine.name} for endpoint usage", spec.replicas_max)
        return machines.offer(machine, self._aws.region, self._prices, quota, hint)

    @cached_property
    def _quotas(self) -> Mapping[str, int] | None:
        return quotas.quotas(self._aws)

    @cached_property
    def _prices(self) -> Mapping[str, float]:
        return quotas.prices(self._aws)

    def observe(self, name: str) -> Observed:
        """Everything that exists of ``name``."""
        return self.inventory.observe(name)

    def plan(self, target: Target, observed: Observed) -> Sequence[Step]:
        """See ``planning``; what it has to know and could not be read ends it."""
        desired = self._wanted(target)
        for kind in sorted(planning.needed(desired) & set(observed.unread)):
            raise observed.unread[kind]
        return planning.Planner(desired, observed).steps()

    def _wanted(self, target: Target) -> DesiredState:
        options = read_options(target.spec)
        self._check_image(options.image)
        context = self._context if images.is_built(options) else ""
        return DesiredState(target, options, self.inventory.account, context)

    def _check_image(self, image: str | None) -> None:
        """SageMaker pulls images from its own region only."""
        if image is not None and f".ecr.{self._aws.region}." not in image:
            raise UsageError(
                f"the image {image} must be in {self._aws.region}, as the endpoint is",
                hint="copy it to a repository there, or leave options.image out",
            )

    @cached_property
    def _context(self) -> str:
        from llama_hub.backends.sagemaker import image

        return image.digest()

    def validate(self, target: Target, observed: Observed) -> None:
        """See ``validation``."""
        from llama_hub.backends.sagemaker import validation

        desired, used = self._wanted(target), self._used
        if used is None:
            used = quotas.used(self.inventory)
        validation.check(self.inventory, desired, observed, self._quotas, used)

    def plan_delete(self, name: str, observed: Observed) -> Sequence[Step]:
        """Scaling, components and endpoint first, because they bill; the role last.

        Where nothing is seen and something may not be read, the error that says so.
        """
        steps = planning.deletions(name, observed)
        for error in observed.unread.values():
            if not steps:
                raise error
        return steps

    def execute(self, step: Step, context: Context) -> Mapping[str, Any]:
        """See ``runner``."""
        return StepRunner(self.inventory, step, context).run()

    # --- running --------------------------------------------------------------------------

    def _endpoint(self, name: str) -> Resource:
        found = self.inventory.endpoint(name)
        if found is None:
            raise NotFoundError(
                f"there is no deployment {name!r} in sagemaker ({self._aws.region})",
                hint="llama-hub ps; another region: --region",
            )
        return found

    def status(self, name: str) -> Deployed:
        """One deployment; pending where there is something of it, but no endpoint."""
        found = self.inventory.endpoint(name)
        if found is not None:
            return self._deployed(found)
        pieces = self.inventory.observe(name).resources
        if pieces:
            return unfinished(self.name, name, pieces)
        return self._deployed(self._endpoint(name))

    def _deployed(self, endpoint: Resource) -> Deployed:
        components: Sequence[Resource] | None = []
        if not status.has_model(endpoint):
            try:
                components = self.inventory.components(endpoint.name)
            except AccessError:
                components = None
        return status.deployed(endpoint, components, self._price, self._url(endpoint.name))

    def _price(self, instance: str) -> float | None:
        if instance in self._prices:
            return self._prices[instance]
        known = machines.table().get(instance)
        return known.price if known else None

    def _url(self, name: str) -> str:
        base = str(self._aws.client("sagemaker-runtime").meta.endpoint_url)
        return f"{base}/endpoints/{name}/invocations"

    def list(self) -> Iterator[Deployed]:
        """Every endpoint of the account and region that carries our tags."""
        for endpoint in self.inventory.endpoints():
            yield self._deployed(endpoint)

    def logs(self, name: str, *, tail: int = 100, follow: bool = False) -> Iterator[str]:
        """The container's lines from CloudWatch."""
        yield from logs.last(self.inventory, name, tail)
        if follow:
            yield from logs.follow(self.inventory, name)

    def endpoint(self, name: str) -> Endpoint:
        """The invocation URL; requests must be signed, so ``invoke`` is the way to call it."""
        self._endpoint(name)
        return Endpoint(self._url(name))

    def invoke(self, name: str, body: Mapping[str, Any], *, stream: bool) -> Iterator[bytes]:
        """Send an OpenAI-style body."""
        return invoke.invoke(self.inventory, self._endpoint(name), body, stream=stream)

    def prove(self, name: str, manifest: Manifest) -> Sequence[Proof]:
        """What the service says, what S3 computes, and what the model refers to."""
        return proving.proofs(
            self.inventory,
            self._endpoint(name),
            manifest,
            lambda: b"".join(self.invoke(name, {"manifest": True}, stream=False)),
        )

    def export(self, steps: Sequence[Step], form: str) -> Mapping[str, str]:
        """``cloudformation``: the plan as one template; ``policies``: what it must be allowed."""
        from llama_hub.backends.sagemaker import export

        return export.files(steps, form)

    def orphans(self) -> Iterator[Resource]:
        """What no endpoint of ours uses; see ``orphans``."""
        from llama_hub.backends.sagemaker.orphans import Orphans

        return Orphans(self.inventory).find()


def _runs(offer: Offer, options: Options) -> bool:
    """AWS's images with vLLM have no code for CPUs, and do not start on a T4."""
    return options.run == "container" or (offer.accelerators > 0 and offer.bfloat16)


def _is_apt(offer: Offer, spec: DeploymentSpec, need: Need) -> bool:
    """Whether ``auto`` may take it: of known price, and a CPU only for small models."""
    if offer.instance == spec.instance:
        return True
    small = need.weights_bytes <= machines.CPU_WEIGHTS
    return offer.price_per_hour is not None and (offer.accelerators > 0 or small)

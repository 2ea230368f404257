"""``llama-hub doctor sagemaker``: what has to be in order before a deployment, one line each.

Permissions are tried by reading, and what writes is asked of IAM's simulator, so that nothing is
made; a failed line never hides those after it, except where it makes them meaningless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec

from llama_hub.backends.sagemaker import machines, permissions, quotas, validation
from llama_hub.backends.sagemaker.bodies import ROLE_PATH, ROOT, marker_prefix
from llama_hub.backends.sagemaker.errors import LOGIN, quota_hint
from llama_hub.backends.sagemaker.inventory import Inventory
from llama_hub.backends.sagemaker.options import Options
from llama_hub.deploy.backend import Check
from llama_hub.deploy.checks import line
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.distribution import install_command
from llama_hub.errors import AccessError, NotFoundError

READS: Mapping[str, tuple[str, str, dict[str, object]]] = {
    "SageMaker endpoints": ("sagemaker", "list_endpoints", {"MaxResults": 1}),
    "SageMaker models": ("sagemaker", "list_models", {"MaxResults": 1}),
    "SageMaker configurations": ("sagemaker", "list_endpoint_configs", {"MaxResults": 1}),
    "autoscaling": (
        "application-autoscaling",
        "describe_scalable_targets",
        {"ServiceNamespace": "sagemaker"},
    ),
    "alarms": ("cloudwatch", "describe_alarms", {"AlarmNamePrefix": f"{ROOT}/"}),
    "roles": ("iam", "list_roles", {"PathPrefix": ROLE_PATH}),
    "images": ("ecr", "describe_repositories", {}),
    "builds": ("codebuild", "list_projects", {}),
    "logs": ("logs", "describe_log_streams", {"logGroupName": "/aws/sagemaker/Endpoints/none"}),
}

POLICY_HINT = "llama-hub export PLAN policies DIR writes the policy that is needed"
DOES: Mapping[str, tuple[tuple[str, ...], str]] = {  # line → purposes, what is missed without
    "may deploy": (("deploy",), ""),
    "may make a role": (("role",), "needed without options.role; "),
    "may build an image": (("image",), "needed without options.image; "),
    "may scale": (("scale", "alarms"), "only a fixed count and no alarms; "),
    "may ask": (("ask",), ""),
    "may stop the costs": (("end",), ""),
    "may clean up": (("clean up",), "something will stay; "),
}


def checks(inventory: Inventory) -> Iterator[Check]:
    """All lines, in the order in which things depend on one another."""
    found = find_spec("boto3") is not None
    yield Check("boto3", found, "installed" if found else "not installed", _extra(found))
    if not found:
        return
    who = line("identity", lambda: _identity(inventory))
    yield who
    if not who.ok:
        return
    for name in READS:
        yield line(f"may read {name}", partial(_read, inventory, name))
    for name, (purposes, cost) in DOES.items():
        yield line(name, partial(_may, inventory, name, purposes, cost))
    yield line("bucket", lambda: _bucket(inventory))
    yield line("execution roles", lambda: _roles(inventory))
    yield line("quota", lambda: _quota(inventory))
    yield line("prices", lambda: _prices(inventory))


def _extra(found: bool) -> str:
    return "" if found else install_command("sagemaker")


def _identity(inventory: Inventory) -> Check:
    try:
        who = inventory.aws.identity
    except AccessError as error:
        return Check("identity", False, error.message, error.hint or LOGIN)
    return Check("identity", True, f"{who['Arn']} in {inventory.aws.region}")


def _read(inventory: Inventory, name: str) -> Check:
    service, operation, request = READS[name]
    try:
        inventory.aws.call(service, operation, **request)
    except NotFoundError:  # the place that was asked for need not be there
        pass
    return Check(f"may read {name}", True, f"{service}: {operation}")


def checks_for(inventory: Inventory, spec: DeploymentSpec, options: Options) -> Iterator[Check]:
    """Lines about one deployment's region, options and permissions."""
    if spec.region:
        yield line("its region", lambda: _region(inventory, str(spec.region)))
    for name, look in validation.looks(inventory, options):
        yield line(name, partial(_looked, name, look))
    purposes = permissions.purposes_of(spec, options)
    yield line(
        "its permissions",
        lambda: _may(inventory, "its permissions", purposes, "", spec.name, options.role),
    )


def _region(inventory: Inventory, wanted: str) -> Check:
    here = inventory.aws.region
    hint = "" if here == wanted else f"--region {wanted}"
    return Check("its region", here == wanted, f"this looks at {here}", hint)


def _looked(name: str, look: Callable[[], str]) -> Check:
    return Check(name, True, validation.judge(look))


def _may(
    inventory: Inventory,
    name: str,
    purposes: Sequence[str],
    cost: str,
    deployment: str = "x",
    role: str | None = None,
) -> Check:
    """``cost``: what one does without who may not; empty where nothing works then."""
    lacking = permissions.missing(inventory, deployment, purposes, role)
    if lacking is None:
        detail = "not known: IAM's simulator may not be asked; a refusal names what is missing"
        return Check(name, True, detail)
    if lacking:
        return Check(name, bool(cost), f"{cost}not allowed: {', '.join(lacking)}", POLICY_HINT)
    return Check(name, True, "allowed, as far as IAM's simulator knows")


def _bucket(inventory: Inventory) -> Check:
    """There in the right region, or free to be made."""
    told = validation.bucket(inventory)
    inventory.bucket.keys(marker_prefix())  # raises where it may not be listed
    return Check("bucket", True, told)


def _roles(inventory: Inventory) -> Check:
    """Those that we made must still trust SageMaker."""
    roles = list(inventory.aws.pages("iam", "list_roles", "Roles", PathPrefix=ROLE_PATH))
    wrong = [
        str(one["RoleName"])
        for one in roles
        if "amazonaws.com" not in str(one.get("AssumeRolePolicyDocument", ""))
    ]
    if wrong:
        return Check(
            "execution roles",
            False,
            f"{', '.join(wrong)} do not trust sagemaker.amazonaws.com",
            "llama-hub deploy … again: it puts the trust policy right",
        )
    return Check(
        "execution roles", True, f"{len(roles)} made by llama-hub, all trust their service"
    )


def _quota(inventory: Inventory) -> Check:
    limits = quotas.quotas(inventory.aws)
    if limits is None:
        return Check(
            "quota",
            False,
            "the quotas may not be read",
            "allow servicequotas:ListServiceQuotas to the identity that you use",
        )
    used = quotas.used(inventory)
    free = {
        name: quotas.left(limits, used, name)
        for name, machine in machines.table().items()
        if machine.accelerators
    }
    room = [f"{count} x {name}" for name, count in free.items() if count]
    if room:
        busy = ", ".join(f"{count} x {name}" for name, count in used.items()) or "nothing"
        return Check("quota", True, f"room for {', '.join(room)}; in use: {busy}")
    hint = quota_hint("ml.g5.2xlarge for endpoint usage", 1)
    return Check("quota", False, "no machine with a GPU is allowed for endpoints", hint)


def _prices(inventory: Inventory) -> Check:
    """Not needed to deploy: without them the dated table is used."""
    found = quotas.prices(inventory.aws)
    if found:
        return Check("prices", True, f"{len(found)} from the Pricing API")
    return Check("prices", True, f"the Pricing API may not be asked; {machines.dated()}")

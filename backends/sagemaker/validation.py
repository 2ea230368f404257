"""Validation by reads, before anything is made: an upload of hours must not end in a refusal.

A read that is itself denied judges nothing; the service then has the last word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping

from llama_hub.backends.sagemaker import machines, permissions, planning, quotas
from llama_hub.backends.sagemaker.bodies import DesiredState
from llama_hub.backends.sagemaker.errors import quota_hint
from llama_hub.backends.sagemaker.inventory import Inventory
from llama_hub.backends.sagemaker.options import Options
from llama_hub.deploy.backend import Observed, Step
from llama_hub.errors import AccessError, LlamaHubError, NotFoundError, QuotaError, UsageError

_AES = "SYMMETRIC_DEFAULT"
_IMAGE = re.compile(
    r"(?P<owner>\d{12})\.dkr\.ecr\.[^/]+/(?P<name>[^:@]+)(?::(?P<tag>[^@]+)|@(?P<digest>.+))"
)


def check(
    inventory: Inventory,
    desired: DesiredState,
    observed: Observed,
    limits: Mapping[str, int] | None,
    used: Mapping[str, int],
) -> None:
    """Raise what the service would refuse later; ``limits``, ``used``: see ``quotas``."""
    steps = planning.Planner(desired, observed).steps()
    if all(step.action == "noop" for step in steps):
        return
    _fallback(desired)
    for _, look in looks(inventory, desired.options):
        judge(look)
    _quota(desired, _more_instances(desired, steps, observed), limits, used)
    _allowed(inventory, desired)


def looks(inventory: Inventory, options: Options) -> Iterator[tuple[str, Callable[[], str]]]:
    """What the options name: each a look that says what is there, or raises what is wrong."""
    yield "its bucket", lambda: bucket(inventory)
    if options.role:
        yield "its role", lambda: role(inventory, str(options.role))
    if options.kms_key:
        yield "its key", lambda: key(inventory, str(options.kms_key))
    if options.subnets:
        yield "its network", lambda: network(inventory, options.subnets, options.security_groups)
    if options.image:
        yield "its image", lambda: image(inventory, str(options.image))


def judge(look: Callable[[], str]) -> str:
    """What a look says; where it may not or cannot be made, that: then it judges nothing."""
    try:
        return look()
    except UsageError:
        raise
    except LlamaHubError as error:
        return f"not looked at: {error.message}"


def bucket(inventory: Inventory) -> str:
    """In the endpoint's region, or free to be made; ``UsageError`` if it is elsewhere."""
    name, region = inventory.account.bucket, inventory.aws.region
    found = inventory.aws.find("s3", "head_bucket", Bucket=name)
    if found is None:
        return f"{name} is not there yet; the first deployment makes it"
    where = str(found.get("BucketRegion") or region)
    if where != region:
        raise UsageError(
            f"the bucket {name} is in {where}; SageMaker reads weights from its own region only",
            hint=f"name a bucket in {region}: --set options.bucket=…",
        )
    return f"{name} in {where}"


def role(inventory: Inventory, arn: str) -> str:
    """There, and trusting SageMaker; ``UsageError`` if not."""
    account, name = arn.split(":")[4], arn.rpartition("/")[2]
    if account != inventory.account.id:
        raise UsageError(
            f"the role {arn} is of account {account}; an endpoint takes one of its own account, "
            f"{inventory.account.id}",
            hint="leave options.role out, so that one is made",
        )
    found = inventory.aws.find("iam", "get_role", RoleName=name)
    if found is None or found["Role"]["Arn"] != arn:
        known = f"; there is {found['Role']['Arn']}" if found else ""
        raise UsageError(
            f"there is no role {arn}{known}", hint="aws iam list-roles --query 'Roles[].Arn'"
        )
    trust = json.dumps(found["Role"].get("AssumeRolePolicyDocument", {}))
    if "sagemaker.amazonaws.com" not in trust:
        raise UsageError(
            f"the role {arn} does not trust sagemaker.amazonaws.com, which has to assume it",
            hint=f"aws iam update-assume-role-policy --role-name {name} --policy-document …; "
            "llama-hub export PLAN policies writes one",
        )
    return f"{name} trusts sagemaker.amazonaws.com"


def key(inventory: Inventory, given: str) -> str:
    """There, of this region, and enabled; ``UsageError`` if not."""
    region = inventory.aws.region
    if given.startswith("arn:") and given.split(":")[3] != region:
        raise UsageError(
            f"the key {given} is of another region than the endpoint, {region}",
            hint="name a key of this region, or a multi-Region key's replica in it",
        )
    try:
        found = inventory.aws.once("kms", "describe_key", KeyId=given)["KeyMetadata"]
    except NotFoundError as error:
        problem = f"there is no key {given} in {region}"
        raise UsageError(problem, hint="aws kms list-keys") from error
    state, kind = found.get("KeyState", "Enabled"), found.get("KeySpec", _AES)
    if state != "Enabled" or kind != _AES:
        raise UsageError(
            f"the key {given} cannot encrypt: it is {state}, {kind}",
            hint="name an enabled symmetric key",
        )
    return f"{given} is enabled"


def network(inventory: Inventory, subnets: tuple[str, ...], groups: tuple[str, ...]) -> str:
    """There, and all in one VPC; ``UsageError`` if not."""
    asked = {
        "Subnets": ("describe_subnets", "SubnetIds", "SubnetId", subnets),
        "SecurityGroups": ("describe_security_groups", "GroupIds", "GroupId", groups),
    }
    vpcs: dict[str, list[str]] = {}
    for answered, (operation, given, id_, ids) in asked.items():
        try:
            found = inventory.aws.once("ec2", operation, **{given: list(ids)})[answered]
        except NotFoundError as error:
            raise UsageError(
                f"cannot find all of {', '.join(ids)} in {inventory.aws.region}: {error.message}",
                hint=f"aws ec2 {operation.replace('_', '-')}",
            ) from error
        for one in found:
            vpcs.setdefault(str(one["VpcId"]), []).append(str(one[id_]))
    if len(vpcs) > 1:
        told = "; ".join(f"{', '.join(ids)} in {vpc}" for vpc, ids in sorted(vpcs.items()))
        raise UsageError(
            f"subnets and security groups are of different VPCs: {told}",
            hint="name subnets and groups of one VPC",
        )
    return f"{len(subnets)} subnets and {len(groups)} groups of {', '.join(vpcs)}"


def image(inventory: Inventory, uri: str) -> str:
    """There, in the account's own registry; ``UsageError`` if not. Others answer to pulls only."""
    match = _IMAGE.fullmatch(uri)
    if match is None or match["owner"] != inventory.account.id:
        return f"{uri} is in another account's registry, which is not looked at"
    id_ = {"imageTag": match["tag"]} if match["tag"] else {"imageDigest": match["digest"]}
    try:
        inventory.aws.once(
            "ecr",
            "describe_images",
            repositoryName=match["name"],
            imageIds=[id_],
        )
    except NotFoundError as error:
        raise UsageError(
            f"there is no image {uri}: {error.message}",
            hint=f"aws ecr describe-images --repository-name {match['name']}",
        ) from error
    return f"{uri} is there"


def _fallback(desired: DesiredState) -> None:
    """All types of a pool run the same container, which is told the accelerators of the first."""
    first = desired.machine
    for one in desired.options.fallback:
        other = machines.find(one)
        if other.accelerators != first.accelerators or other.memory < first.memory:
            raise UsageError(
                f"{one} cannot stand in for {first.name}: it has {other.accelerators} accelerators "
                f"of {other.memory} MiB, not {first.accelerators} of {first.memory}",
                hint="--set options.fallback=[…] with as many accelerators, as large at least",
            )


def _quota(
    desired: DesiredState,
    more: int,
    limits: Mapping[str, int] | None,
    used: Mapping[str, int],
) -> None:
    """Both revisions of an update count, and so do more instances."""
    if not more:
        return
    types = planning.types_of(desired.config)
    rooms = {one: quotas.left(limits, used, one) for one in types}
    if any(room is None or room >= more for room in rooms.values()):
        return
    first = types[0]
    raise QuotaError(
        f"{first} x {more} more are needed, beside what runs, and the quota leaves room for "
        f"{rooms[first]}",
        hint=quota_hint(f"{first} for endpoint usage", used.get(first, 0) + more)
        + _gradually(desired),
    )


def _gradually(desired: DesiredState) -> str:
    is_gradual = desired.options.update == "rolling"
    return "" if is_gradual or desired.count < 2 else "; or --set options.update=rolling"


def _more_instances(desired: DesiredState, steps: list[Step], observed: Observed) -> int:
    """Instances that run for a while beside those that run now."""
    changed = {step.kind: step for step in steps if step.action in ("create", "update", "replace")}
    there = planning.desired_count(observed.find("endpoint", desired.name))
    if "endpoint" in changed and changed["endpoint"].why in ("there is none", "new configuration"):
        count = max(desired.count, there or 0)  # RetainAllVariantProperties keeps what scaling made
        if desired.options.update == "rolling" and changed["endpoint"].action == "update":
            return max(1, count * desired.options.step // 100)
        return count
    if "capacity" in changed:
        return max(0, desired.count - (there or 0))
    return 0


def _allowed(inventory: Inventory, desired: DesiredState) -> None:
    """``AccessError`` that names every permission which this deployment lacks."""
    spec, options = desired.target.spec, desired.options
    purposes = permissions.purposes_of(spec, options)
    asked = (desired.name, *purposes, options.role)
    if asked not in inventory.lacking:  # a plan is judged again when it is applied
        inventory.lacking[asked] = permissions.missing(
            inventory, desired.name, purposes, options.role, lists=False
        )
    lacking = inventory.lacking[asked]
    if lacking:
        raise AccessError(
            f"this deployment needs permissions that you do not have: {', '.join(lacking)}",
            hint="llama-hub export PLAN policies writes the policy that is needed; "
            "llama-hub doctor sagemaker",
        )

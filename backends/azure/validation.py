"""Validation by reads, before anything is made: an upload of hours must not end in a refusal.

A read that is itself denied judges nothing; the service then has the last word.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llama_hub.backends.azure import images, machines, permissions
from llama_hub.backends.azure.errors import BLOB_ROLE, ROLE, NotRegisteredError
from llama_hub.backends.azure.planning import DesiredState, steps
from llama_hub.backends.azure.tags import from_cloud
from llama_hub.backends.azure.values import agrees
from llama_hub.deploy.backend import TAG_DEPLOYMENT, Step
from llama_hub.errors import (
    AccessError,
    NotOursError,
    QuotaError,
    UsageError,
)

if TYPE_CHECKING:
    from llama_hub.backends.azure.inventory import Inventory


def check(inventory: Inventory, desired: DesiredState) -> None:
    """Raise what the service would refuse later."""
    changes = [step for step in steps(desired) if step.action != "noop"]
    if not changes:
        return
    _identity_stays(desired)
    _quota(desired, changes)
    for step in changes:
        if step.action == "create" and step.kind in ("model", "environment", "autoscale"):
            _free(inventory, step)
    _allowed(inventory, desired)
    if any(step.kind == "environment" for step in changes):
        _can_be_built(inventory, desired)
    if any((step.action, step.kind) == ("create", "endpoint") for step in changes):
        _identity_may(inventory, desired)


def _identity_stays(desired: DesiredState) -> None:
    found = desired.observed.find("endpoint")
    (wanted,) = (step.body["identity"] for step in steps(desired) if step.kind == "endpoint")
    if found is not None and not agrees(wanted, found.body.get("identity")):
        raise UsageError(
            f"the endpoint {desired.endpoint} has another identity, and an endpoint keeps its own",
            hint=f"leave options.identity as it is, or choose another --name; or llama-hub delete "
            f"{desired.endpoint} first",
        )


def _quota(desired: DesiredState, changes: list[Step]) -> None:
    """A new revision stands beside the live one, so that both count; more instances count, too."""
    offer = desired.target.offer
    size = machines.find(offer.instance)
    if offer.quota_left is None or size is None:
        return
    more = _more_instances(desired, changes)
    if more > offer.quota_left:
        cures = "ask for more: https://ml.azure.com/quota"
        if desired.live is not None:
            cures += "; or --set options.strategy=in-place, which interrupts the service"
        raise QuotaError(
            f"{size.name} x {more} more need {size.cores_for(more)} cores, and the quota in "
            f"{offer.region} leaves room for {offer.quota_left}",
            hint=cures,
        )


def _more_instances(desired: DesiredState, changes: list[Step]) -> int:
    """How many instances the service will have to find besides those that run."""
    step = next((one for one in changes if one.kind == "deployment"), None)
    if step is None or step.action == "delete" or "sku" not in step.body:
        return 0
    found = desired.observed.find("deployment", step.name)
    running = int((found.body.get("sku") or {}).get("capacity", 0)) if found else 0
    return max(0, int(step.body["sku"]["capacity"]) - running)


def _free(inventory: Inventory, step: Step) -> None:
    """What others have registered under the very name and version of ours is not overwritten."""
    scope = inventory.client.scope
    if step.kind == "autoscale":
        path, version = scope.autoscale(step.name), "autoscale"
    else:
        path, version = scope.asset(f"{step.kind}s", step.name), "ml"
    found = _read(inventory, path, version) or {}
    tags = from_cloud(found.get("tags") or (found.get("properties") or {}).get("tags"))
    if found and TAG_DEPLOYMENT not in tags:
        raise NotOursError(
            f"{step.id} exists and was not made by llama-hub", hint="choose another --name"
        )


def _read(inventory: Inventory, path: str, version: str) -> dict[str, Any] | None:
    """What is at ``path``; ``None`` if there is nothing, or it may not be read."""
    with suppress(AccessError, NotRegisteredError):
        return inventory.client.get(path, version)
    return None


def _allowed(inventory: Inventory, desired: DesiredState) -> None:
    """Whether the caller's roles suffice, if they can be read."""
    client = inventory.client
    wanted = (*permissions.DEPLOY, permissions.ASK[desired.options.auth])
    lacking = permissions.missing(client, client.scope.id, wanted)
    if lacking:
        raise AccessError(f"not allowed in the workspace: {', '.join(lacking)}", hint=ROLE)
    account = str(getattr(client.workspace(), "storage_account", "") or "")
    data = permissions.missing(client, account, permissions.DEPLOY_DATA, data=True)
    if account and data:
        raise AccessError(f"not allowed in the storage account: {', '.join(data)}", hint=BLOB_ROLE)


def _can_be_built(inventory: Inventory, desired: DesiredState) -> None:
    """ACR Tasks, which build images, do not reach a registry behind a private network."""
    if not images.is_built(desired.options):
        return
    workspace = inventory.client.workspace()
    registry = str(getattr(workspace, "container_registry", "") or "")
    if not registry or getattr(workspace, "image_build_compute", None):
        return
    found = _read(inventory, registry, "registry") or {}
    if (found.get("properties") or {}).get("publicNetworkAccess") == "Disabled":
        raise UsageError(
            f"the registry {registry.rpartition('/')[2]} is private, so that it cannot build the "
            "image",
            hint="az ml workspace update --image-build-compute <cluster>, or give a ready image: "
            "--set options.image=<registry>/<name>:<tag>",
        )


def _identity_may(inventory: Inventory, desired: DesiredState) -> None:
    """Whether an identity of one's own is there and has the roles that it needs beforehand."""
    identity = desired.options.identity
    if not identity:
        return
    try:
        found = inventory.client.get(identity, "identity")
    except (AccessError, NotRegisteredError):
        return
    if found is None:
        raise UsageError(
            f"there is no identity {identity}",
            hint="az identity list --query '[].id' shows yours",
        )
    principal = str((found.get("properties") or {}).get("principalId", ""))
    lacking = permissions.lacking_roles(inventory.client, principal)
    if lacking:
        raise AccessError(
            f"the identity {identity.rpartition('/')[2]} may not start the service: "
            + ", ".join(f"it has no {role} on the {what}" for what, (role, _) in lacking.items()),
            hint="; ".join(
                f"az role assignment create --role '{role}' --assignee {principal} --scope {scope}"
                for role, scope in lacking.values()
            ),
        )

"""Permissions that the caller and the endpoint's identity need, and whether they have them.

The lists are what this backend calls, with the reason for each; the tests compare them with the
calls of a whole life of a deployment. ``export`` writes them as custom roles, ``doctor`` and the
plan compare them with what the caller has.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_hub.errors import LlamaHubError

if TYPE_CHECKING:
    from llama_hub.backends.azure.client import Client

ML = "Microsoft.MachineLearningServices"
ONLINE = f"{ML}/workspaces/onlineEndpoints"
BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"

# Without these, a deployment cannot be made.
DEPLOY = (
    f"{ML}/workspaces/read",
    f"{ML}/workspaces/datastores/read",
    f"{ML}/workspaces/models/versions/read",
    f"{ML}/workspaces/models/versions/write",
    f"{ML}/workspaces/environments/versions/read",
    f"{ML}/workspaces/environments/versions/write",
    f"{ONLINE}/read",
    f"{ONLINE}/write",
    f"{ONLINE}/deployments/read",
    f"{ONLINE}/deployments/write",
)
DEPLOY_DATA = (f"{BLOBS}/read", f"{BLOBS}/write")
# To ask it, by its authentication mode.
ASK = {"key": f"{ONLINE}/listKeys/action", "aad": f"{ONLINE}/score/action"}
# To end what bills; the first is all that an endpoint's removal needs besides reading it.
DELETE = (f"{ONLINE}/delete", f"{ONLINE}/deployments/delete")
# To remove what costs next to nothing as well.
CLEAN_UP = (
    f"{ML}/workspaces/models/read",
    f"{ML}/workspaces/models/versions/delete",
    f"{ML}/workspaces/environments/read",
    f"{ML}/workspaces/environments/versions/delete",
)
CLEAN_UP_DATA = (f"{BLOBS}/delete",)
# Where replicas_max is more than replicas_min; of the resource group.
SCALE = tuple(
    f"Microsoft.Insights/autoscaleSettings/{verb}" for verb in ("read", "write", "delete")
)
# Denied, they cost a line of the plan: prices, quota, logs, what is told of the registry.
OPTIONAL = (
    f"{ML}/locations/vmSizes/read",
    f"{ML}/locations/usages/read",
    f"{ONLINE}/deployments/getLogs/action",
    "Microsoft.Resources/subscriptions/read",
    "Microsoft.Resources/subscriptions/providers/read",
    "Microsoft.ContainerRegistry/registries/read",
    "Microsoft.ManagedIdentity/userAssignedIdentities/read",
    "Microsoft.Authorization/permissions/read",
    "Microsoft.Authorization/roleAssignments/read",
)
# What the endpoint's identity needs; the service gives it to an identity that it makes itself.
WORKLOAD = {
    "registry": ("AcrPull", "7f951dda-4ed3-4680-a7ca-43fe172d538d"),
    "storage account": ("Storage Blob Data Reader", "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1"),
}
# Built-in roles that include one of those.
STRONGER = {
    "registry": (
        "8311e382-0749-4cb8-b61a-304f252e45ec",  # AcrPush
        "b24988ac-6180-42a0-ab88-20f7382dd24c",  # Contributor
        "8e3af657-a8ff-443c-a75c-2fe8c4bcb635",  # Owner
    ),
    "storage account": (
        "ba92f5b4-2d11-453d-a403-e96b0029c9fe",  # Storage Blob Data Contributor
        "b7e6dc6d-f1e8-4753-8033-0f276bb0955b",  # Storage Blob Data Owner
    ),
}


def caller_role(name: str, scopes: Sequence[str], *, scale: bool = True) -> dict[str, Any]:
    """A custom role for ``az role definition create``: what this backend calls, nothing else."""
    actions = {*DEPLOY, *ASK.values(), *DELETE, *CLEAN_UP, *OPTIONAL, *(SCALE if scale else ())}
    return {
        "Name": name,
        "IsCustom": True,
        "Description": "Deploys, asks and removes llama-hub's endpoints in Azure ML.",
        "Actions": sorted(actions),
        "NotActions": [],
        "DataActions": sorted({*DEPLOY_DATA, *CLEAN_UP_DATA}),
        "NotDataActions": [],
        "AssignableScopes": list(scopes),
    }


def missing(
    client: Client, scope: str, wanted: Iterable[str], *, data: bool = False
) -> list[str] | None:
    """Those of ``wanted`` that no role of the caller allows at ``scope``.

    ``None`` where that may not be read, which says nothing.
    """
    path = f"{scope}/providers/Microsoft.Authorization/permissions"
    try:
        grants = list(client.pages(path, "permissions"))
    except LlamaHubError:
        return None
    keys = ("dataActions", "notDataActions") if data else ("actions", "notActions")
    return [action for action in wanted if not _allowed(grants, action, *keys)]


def workload_scopes(client: Client) -> dict[str, str]:
    """Where the endpoint's identity needs a role: resource id by what it is."""
    workspace = client.workspace()
    known = {
        "registry": str(getattr(workspace, "container_registry", "") or ""),
        "storage account": str(getattr(workspace, "storage_account", "") or ""),
    }
    return {what: scope for what, scope in known.items() if scope}


def lacking_roles(client: Client, principal: str) -> dict[str, tuple[str, str]]:
    """Roles that an identity does not have: role and scope, by what the scope is.

    Empty where role assignments may not be read.
    """
    lacking = {}
    for what, scope in workload_scopes(client).items():
        role, id_ = WORKLOAD[what]
        path = f"{scope}/providers/Microsoft.Authorization/roleAssignments"
        # Those of the scopes above count as well, and are shown with it.
        query = {"$filter": f"assignedTo('{principal}')"}
        try:
            document = client.send("GET", path, "roles", None, **query) or {}
        except LlamaHubError:
            continue
        given = {
            str(one.get("properties", {}).get("roleDefinitionId", "")).rpartition("/")[2]
            for one in document.get("value", [])
        }
        if not given & {id_, *STRONGER[what]}:
            lacking[what] = role, scope
    return lacking


def _allowed(grants: Sequence[Mapping[str, Any]], action: str, yes: str, no: str) -> bool:
    return any(_matches(grant, yes, action) and not _matches(grant, no, action) for grant in grants)


def _matches(grant: Mapping[str, Any], key: str, action: str) -> bool:
    """Azure's wildcard also stands for a level that is not there: workspaces/*/read."""
    names = (action.lower(), action.lower().replace("/workspaces/", "/workspaces//", 1))
    patterns = [str(pattern).lower() for pattern in grant.get(key) or []]
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns for name in names)

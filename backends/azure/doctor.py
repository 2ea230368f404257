"""``llama-hub doctor azure``: what has to be in order before a deployment, one line each.

Every line is looked at on its own; a failed one never hides those after it,
except where it makes them meaningless.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

from llama_hub.backends.azure import machines
from llama_hub.backends.azure.client import MANAGEMENT_SCOPE, Client
from llama_hub.backends.azure.errors import BLOB_ROLE, ROLE
from llama_hub.deploy.backend import Check
from llama_hub.deploy.checks import line
from llama_hub.distribution import install_command
from llama_hub.errors import LlamaHubError

PROVIDERS = ("Microsoft.MachineLearningServices", "Microsoft.Insights")
ACTIONS = (
    "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/write",
    "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments/write",
    "Microsoft.MachineLearningServices/workspaces/models/versions/write",
    "Microsoft.MachineLearningServices/workspaces/environments/versions/write",
)
BLOB_WRITE = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write"


def checks(client: Client) -> Iterator[Check]:
    """All lines, in the order in which things depend on one another."""
    yield from _tools()
    if find_spec("azure.ai") is None:
        return
    login = line("credential", lambda: _credential(client))
    yield login
    if not login.ok:
        return
    yield line("subscription", lambda: _subscription(client))
    for provider in PROVIDERS:
        yield line(f"provider {provider}", partial(_provider, client, provider))
    workspace = line("workspace", lambda: _workspace(client))
    yield workspace
    if workspace.ok:
        yield line("role", lambda: _role(client))
        yield line("storage role", lambda: _storage_role(client))
        yield from _capacity(client)


def _tools() -> Iterator[Check]:
    for package, module in (("azure-ai-ml", "azure.ai"), ("azure-identity", "azure.identity")):
        try:
            found = find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        hint = "" if found else install_command("azure")
        yield Check(package, found, "installed" if found else "not installed", hint)


def _credential(client: Client) -> Check:
    client.token(MANAGEMENT_SCOPE)
    return Check("credential", True, "a token for the management plane was given")


def _subscription(client: Client) -> Check:
    id_ = client.scope.subscription
    found = client.get(f"/subscriptions/{id_}", "account")
    if found is None:
        return Check(
            "subscription", False, f"{id_} was not found", "az account set --subscription <id>"
        )
    return Check("subscription", True, f"{found.get('displayName', id_)} ({id_})")


def _provider(client: Client, name: str) -> Check:
    path = f"/subscriptions/{client.scope.subscription}/providers/{name}"
    state = str((client.get(path, "providers") or {}).get("registrationState", "NotRegistered"))
    good = state == "Registered"
    hint = "" if good else f"az provider register --namespace {name} --wait"
    return Check(f"provider {name}", good, state, hint)


def _workspace(client: Client) -> Check:
    scope, found = client.scope, client.workspace()
    if found is None:
        return Check(
            "workspace",
            False,
            f"{scope.workspace} was not found in resource group {scope.group}",
            f"az ml workspace create --name {scope.workspace} --resource-group {scope.group}",
        )
    return Check("workspace", True, f"{scope.workspace} in {found.location}")


def _role(client: Client) -> Check:
    missing = [
        action
        for action in ACTIONS
        if not _allowed(client, client.scope.id, action, "actions", "notActions")
    ]
    if missing:
        return Check("role", False, f"not allowed: {', '.join(missing)}", ROLE)
    return Check("role", True, "may register models and create endpoints and deployments")


def _storage_role(client: Client) -> Check:
    account = str(getattr(client.workspace(), "storage_account", ""))
    if _allowed(client, account, BLOB_WRITE, "dataActions", "notDataActions"):
        return Check("storage role", True, f"may write blobs of {account.rpartition('/')[2]}")
    return Check("storage role", False, f"may not write blobs of {account}", BLOB_ROLE)


def _allowed(client: Client, scope: str, action: str, yes: str, no: str) -> bool:
    path = f"{scope}/providers/Microsoft.Authorization/permissions"
    grants = list(client.pages(path, "permissions"))
    return any(_matches(grant, yes, action) and not _matches(grant, no, action) for grant in grants)


def _matches(grant: Mapping[str, Any], key: str, action: str) -> bool:
    patterns = grant.get(key) or []
    return any(fnmatch.fnmatch(action.lower(), str(pattern).lower()) for pattern in patterns)


def _capacity(client: Client) -> Iterator[Check]:
    region = str(getattr(client.workspace(), "location", ""))
    try:
        sizes = machines.in_region(client.sizes(region), region)
        quota = machines.usages(client.usages(region))
    except LlamaHubError as error:
        yield Check("region", False, error.message, error.hint)
        return
    gpus = [size for size in sizes if size.accelerators]
    yield Check(
        "region",
        bool(sizes),
        f"{region} has {len(sizes)} of the known machine types, {len(gpus)} with GPUs",
        "" if sizes else "choose a workspace in another region",
    )
    yield _gpu_quota(gpus, quota, region)


def _gpu_quota(
    gpus: list[machines.Size], quota: Mapping[str, machines.Usage], region: str
) -> Check:
    room = {size.name: _room(size, quota) for size in gpus}
    allowed = [f"{count} x {name}" for name, count in room.items() if count]
    if allowed:
        return Check("GPU quota", True, f"room for {', '.join(allowed)}")
    if not gpus:
        return Check("GPU quota", False, f"{region} has no GPU machines", "choose another region")
    first = gpus[0]
    hint = machines.quota_hint(first, 1, region, quota.get(first.family.lower()))
    return Check("GPU quota", False, f"no GPU machine is allowed in {region}", hint)


def _room(size: machines.Size, quota: Mapping[str, machines.Usage]) -> int:
    usage = quota.get(size.family.lower())
    return size.instances_within(usage.left) if usage else 0

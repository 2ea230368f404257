"""``llama-hub doctor azure``: what has to be in order before a deployment, one line each.

Every line is looked at on its own; a failed one never hides those after it,
except where it makes them meaningless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec

from llama_hub.backends.azure import machines, permissions
from llama_hub.backends.azure.client import MANAGEMENT_SCOPE, Client
from llama_hub.backends.azure.errors import BLOB_ROLE, ROLE
from llama_hub.backends.azure.options import Options
from llama_hub.deploy.backend import Check
from llama_hub.deploy.checks import line
from llama_hub.distribution import install_command
from llama_hub.errors import AccessError, LlamaHubError

PROVIDERS = ("Microsoft.MachineLearningServices", "Microsoft.Insights")


def checks(client: Client) -> Iterator[Check]:
    """All lines, in the order in which things depend on one another."""
    yield from _tools()
    if find_spec("azure.ai") is None:
        return
    login = line("credential", lambda: _credential(client))
    yield login
    if not login.ok:
        return
    yield _optional("subscription", lambda: _subscription(client))
    for provider in PROVIDERS:
        yield _optional(f"provider {provider}", partial(_provider, client, provider))
    workspace = line("workspace", lambda: _workspace(client))
    yield workspace
    if workspace.ok:
        yield line("role", lambda: _role(client))
        yield line("storage role", lambda: _storage_role(client))
        yield line("asking", lambda: _asking(client))
        yield line("removing", lambda: _ending(client))
        yield line("autoscaling", lambda: _scaling(client))
        yield _optional("registry", lambda: _registry(client))
        yield from _capacity(client)


def checks_for(client: Client, options: Options, region: str | None) -> Iterator[Check]:
    """Lines about one deployment's options."""
    if region:
        yield line("its region", lambda: _region(client, region))
    if options.identity:
        yield _optional("its identity", lambda: _identity(client, str(options.identity)))
    action = permissions.ASK[options.auth]
    yield line("its auth", lambda: _auth(client, options.auth, action))


def _region(client: Client, wanted: str) -> Check:
    there = str(getattr(client.workspace(), "location", ""))
    hint = "" if there == wanted else "name a workspace of that region: options.workspace"
    return Check("its region", there == wanted, f"the workspace is in {there}", hint)


def _identity(client: Client, id_: str) -> Check:
    found = client.get(id_, "identity")
    if found is None:
        hint = "az identity list --query '[].id' shows yours"
        return Check("its identity", False, f"there is no {id_}", hint)
    principal = str((found.get("properties") or {}).get("principalId", ""))
    lacking = permissions.lacking_roles(client, principal)
    if lacking:
        told = ", ".join(f"{role} on the {what}" for what, (role, _) in lacking.items())
        hint = "; ".join(
            f"az role assignment create --role '{role}' --assignee {principal} --scope {scope}"
            for role, scope in lacking.values()
        )
        return Check("its identity", False, f"it has not: {told}", hint)
    return Check("its identity", True, "may pull the image and read the weights")


def _auth(client: Client, mode: str, action: str) -> Check:
    if permissions.missing(client, client.scope.id, [action]):
        return Check("its auth", False, f"with {mode} you need {action}", ROLE)
    return Check("its auth", True, f"{mode}: you may ask it")


def _optional(name: str, look: Callable[[], Check]) -> Check:
    """A line about what one may deploy without being allowed to read."""
    try:
        return look()
    except AccessError:
        return Check(name, True, "may not be read, which a deployment does not need")
    except LlamaHubError as error:
        return Check(name, False, error.message, error.hint)


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
        # az account set changes what az looks at; this command goes by the variable.
        hint = "export AZURE_SUBSCRIPTION_ID=<id>; az account list -o table shows yours"
        return Check("subscription", False, f"{id_} was not found", hint)
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
    """All that a deployment needs, and to ask it in either way."""
    scope = client.scope.id
    lacking = permissions.missing(client, scope, permissions.DEPLOY)
    if lacking is None:
        return _unknown("role")
    if lacking:
        return Check("role", False, f"not allowed: {', '.join(lacking)}", ROLE)
    return Check("role", True, "may register models and create endpoints and deployments")


def _unknown(name: str) -> Check:
    return Check(
        name, True, "not known: your roles may not be read; a refusal names what is missing"
    )


def _asking(client: Client) -> Check:
    """Keys and tokens need two permissions; without the second the endpoint refuses a token."""
    lacking = permissions.missing(client, client.scope.id, permissions.ASK.values())
    if lacking is None:
        return _unknown("asking")
    if lacking:
        modes = [mode for mode, action in permissions.ASK.items() if action in lacking]
        told = f"an endpoint with auth {' or '.join(modes)} would not answer you: no "
        return Check("asking", False, told + ", ".join(lacking), ROLE)
    return Check("asking", True, "may read an endpoint's keys, and call it with a token")


def _ending(client: Client) -> Check:
    """Whoever deploys has to be able to end what it costs."""
    lacking = permissions.missing(client, client.scope.id, permissions.DELETE)
    if lacking is None:
        return _unknown("removing")
    if lacking:
        return Check("removing", False, f"could not stop the costs: no {', '.join(lacking)}", ROLE)
    return Check("removing", True, "may delete endpoints and deployments")


def _scaling(client: Client) -> Check:
    lacking = permissions.missing(client, client.scope.group_id, permissions.SCALE)
    if lacking is None:
        return _unknown("autoscaling")
    if lacking:
        detail = f"only replicas_max = replicas_min: no {', '.join(lacking)} in the resource group"
        return Check("autoscaling", True, detail)
    return Check("autoscaling", True, "may write autoscale settings")


def _storage_role(client: Client) -> Check:
    account = str(getattr(client.workspace(), "storage_account", "") or "")
    name = account.rpartition("/")[2]
    lacking = permissions.missing(client, account, permissions.DEPLOY_DATA, data=True)
    if lacking is None:
        return _unknown("storage role")
    if lacking:
        return Check("storage role", False, f"may not write blobs of {name}", BLOB_ROLE)
    return Check("storage role", True, f"may write blobs of {name}")


def _registry(client: Client) -> Check:
    """Where Azure ML builds the image, unless one is given."""
    workspace = client.workspace()
    id_ = str(getattr(workspace, "container_registry", "") or "")
    if not id_:
        return Check("registry", True, "none yet: the first image build makes one")
    name = id_.rpartition("/")[2]
    found = client.get(id_, "registry")
    if found is None:
        hint = "az ml workspace update --container-registry <an existing registry's id>"
        return Check("registry", False, f"{name} of the workspace is not there", hint)
    private = (found.get("properties") or {}).get("publicNetworkAccess") == "Disabled"
    if private and not getattr(workspace, "image_build_compute", None):
        return Check(
            "registry",
            False,
            f"{name} is private, and the workspace has no compute that could build in it",
            "az ml workspace update --image-build-compute <cluster>, or --set options.image=…",
        )
    detail = (
        f"{name}; a free subscription may not build in it (ACR Tasks): give options.image there"
    )
    return Check("registry", True, detail)


def _capacity(client: Client) -> Iterator[Check]:
    region = str(getattr(client.workspace(), "location", ""))
    try:
        sizes = machines.in_region(client.sizes(region), region)
        quota = machines.usages(client.usages(region))
    except AccessError:
        yield Check(
            "region", True, f"{region}; its machine types, prices and quota may not be read"
        )
        return
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
    hint = machines.quota_hint(first, 1, region, quota)
    return Check("GPU quota", False, f"no GPU machine is allowed in {region}", hint)


def _room(size: machines.Size, quota: Mapping[str, machines.Usage]) -> int:
    usage = machines.tightest(size, quota)
    known = size.family.lower() in quota
    return size.instances_within(usage.left) if usage and known else 0

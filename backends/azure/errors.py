"""Azure's answers in plain words: what happened, why, and the command that fixes it.

Quota refusals come as JSON inside the message of an inner error; they are taken apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llama_hub.deploy.cloud_error import SERVER_ERRORS, ErrorResponse, Rule, first_line
from llama_hub.deploy.cloud_error import explain as first_match
from llama_hub.errors import (
    AccessError,
    LlamaHubError,
    NotFoundError,
    NotOursError,
    ProvisioningError,
    QuotaError,
    TransientError,
)

_QUOTA = re.compile(
    r"Not enough quota available for (?P<size>\S+)"
    r".*?Current usage/limit: (?P<used>\d+)/(?P<limit>\d+)"
    r".*?Additional needed: (?P<needed>\d+)",
    re.DOTALL,
)
LOGIN = "az login   (or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET)"
ROLE = (
    "az role assignment create --role 'AzureML Data Scientist' --assignee <you> "
    "--scope <the workspace's id>"
)
SCALE_ROLE = (
    "az role assignment create --role 'Monitoring Contributor' --assignee <you> "
    "--scope <the resource group's id>, or ask for as many replicas at least as at most"
)
BLOB_ROLE = (
    "az role assignment create --role 'Storage Blob Data Contributor' --assignee <you> "
    "--scope <the storage account's id>"
)


class NotRegisteredError(ProvisioningError):
    """The subscription does not use a resource provider, so nothing of it can be there."""


BUSY = "{what}: Azure is busy ({said})"
REFUSED = "{what}: Azure refuses it ({said})"
AGAIN = "run the same command again"


def _cause(
    code: str, meaning: str, cure: str, error: type[LlamaHubError] = ProvisioningError
) -> Rule:
    return Rule(error, f"{{what}}: {meaning} ({{said}})", cure, codes=(code,))


RULES = (
    _cause(
        "OutOfCapacity",
        "the region has no free machines of this type now",
        "try again later, another instance, or a workspace in another region",
        QuotaError,
    ),
    *(
        _cause(code, "a quota is used up", "llama-hub doctor azure shows what is left", QuotaError)
        for code in ("OutOfQuota", "QuotaExceeded")
    ),
    Rule(
        TransientError,
        BUSY,
        AGAIN,
        statuses=(409,),
        words=r"in \w+ provisioning state|being (updated|modified)|(another|active) operation"
        r"|operation .*in progress|already running|try again later",
    ),
    Rule(
        TransientError,
        "{what}: what arrived at the storage was not what was sent",
        AGAIN,
        codes=("Md5Mismatch",),
    ),
    Rule(TransientError, BUSY, AGAIN, codes=("OperationCanceled",)),
    Rule(TransientError, BUSY, AGAIN, statuses=(408, 429, *SERVER_ERRORS)),
    Rule(
        NotOursError,
        "{what}: {said}",
        "choose another --name; names of endpoints are unique in a region, over all workspaces",
        words="already an endpoint with this name",
    ),
    Rule(
        ProvisioningError,
        "{what}: the workspace's registry may not build images ({said})",
        "a free subscription's registry never may; behind a private network it needs a compute "
        "cluster: az ml workspace update --image-build-compute <cluster>; or give a ready image: "
        "--set options.image=<registry>/<name>:<tag>",
        words="ACR Tasks requests|TasksOperationsNotAllowed",
    ),
    Rule(
        AccessError,
        "{what}: the endpoint's identity may not pull the image ({said})",
        "az role assignment create --role AcrPull --assignee <the identity> --scope <the "
        "registry's id>; it counts after some minutes",
        words="does not have pull permission",
    ),
    Rule(
        AccessError,
        "{what}: the endpoint's identity may not read the weights ({said})",
        "az role assignment create --role 'Storage Blob Data Reader' --assignee <the identity> "
        "--scope <the storage account's id>; it counts after some minutes",
        words="does not have read permission on the storage",
    ),
    _cause(
        "ImageBuildFailure",
        "the container image could not be built",
        "the build log is in the workspace under Environments; or give a ready image: "
        "--set options.image=<registry>/<name>:<tag>",
    ),
    _cause("BadArgument", "the platform does not accept a setting", "look at the message above"),
    _cause(
        "ResourceNotReady",
        "the container did not become ready in time or ended",
        "llama-hub logs shows its last lines; more memory: --set instance=<a larger one>",
    ),
    _cause(
        "SecretsInjectionError",
        "the endpoint's identity may not read a secret",
        "give it the role 'Key Vault Secrets User', or take the secret out of environment",
    ),
    _cause(
        "KeyBasedAuthenticationNotPermitted",
        "the storage account forbids shared keys",
        BLOB_ROLE,
        AccessError,
    ),
    Rule(
        NotRegisteredError,
        "{what}: the subscription is not registered for it ({said})",
        lambda response: f"az provider register --namespace {_namespace(response)} --wait",
        codes=("MissingSubscriptionRegistration",),
    ),
    _cause(
        "MissingDriverProgram",
        "the environment has neither code nor routes",
        "give an image that serves /health/live, /health/ready and /score on port 8080",
    ),
    _cause(
        "ModelFileNotFound",
        "files of the model are missing in storage",
        "run the same command again: it uploads what is missing",
    ),
    Rule(AccessError, REFUSED, LOGIN, statuses=(401,)),
    Rule(
        AccessError,
        "{what}: the storage account takes no calls from this network ({said})",
        "run this where the workspace's network can be reached, or let this machine in: az storage "
        "account network-rule add --account-name <account> --ip-address <your address>",
        statuses=(403,),
        codes=("AuthorizationFailure",),
    ),
    Rule(
        AccessError,
        REFUSED,
        BLOB_ROLE,
        statuses=(403,),
        codes=("AuthorizationPermissionMismatch", "InsufficientAccountPermissions"),
    ),
    Rule(AccessError, REFUSED, SCALE_ROLE, statuses=(403,), words=r"action 'Microsoft\.Insights/"),
    Rule(AccessError, REFUSED, ROLE, statuses=(403,)),
    Rule(NotFoundError, "{what}: {said}", "llama-hub doctor azure", statuses=(404,)),
    Rule(ProvisioningError, "{what}: {said}", "llama-hub doctor azure"),
)


def _namespace(response: ErrorResponse) -> str:
    named = re.search(r"Microsoft\.\w+", response.message)
    return named[0] if named else "Microsoft.MachineLearningServices"


def explain(response: ErrorResponse, what: str) -> LlamaHubError:
    """The error to raise for ``response`` while doing ``what``."""
    error = quota_error(response.message) or first_match(response, what, RULES)
    assert error is not None, "the last rule matches every answer"
    return error


def quota_error(message: str) -> QuotaError | None:
    """A quota refusal in numbers; ``None`` if ``message`` is none."""
    found = _QUOTA.search(_embedded(message))
    if found is None:
        return None
    size, used, limit, needed = found["size"], found["used"], found["limit"], found["needed"]
    return QuotaError(
        f"the quota of cores does not allow {size}: {needed} more are needed (a fifth more than "
        f"the machines have is held in reserve), {used} of {limit} are in use",
        hint=f"ask for a limit of {int(used) + int(needed)} cores: https://ml.azure.com/quota; "
        "or choose another instance: llama-hub doctor azure",
    )


def whole(error: Any, depth: int = 3) -> str:
    """All that an error of the SDK (or one inside it) says, the JSON inside it taken apart.

    ``The request is invalid.`` is what the service says first; why stands in the details.
    """
    inner = [whole(one, depth - 1) for one in (error.details or [])[:10]] if depth else []
    told = [text for text in inner if text]
    own = str(error.message or "")
    if told and own.rstrip(".").lower() in ("the request is invalid", ""):
        return " ".join(told)
    return " ".join([_embedded(own), *told])


def _embedded(message: str) -> str:
    """The refusals in the JSON document inside a message, or the message itself."""
    start, end = message.find("{"), message.rfind("}")
    try:
        document = json.loads(message[start : end + 1]) if start >= 0 else None
    except (ValueError, RecursionError):
        document = None
    errors = document.get("errors", document) if isinstance(document, dict) else document
    return " ".join(_texts(errors)) or message


def _texts(document: Any) -> list[str]:
    if isinstance(document, str):
        return [document]
    inner = document.values() if isinstance(document, Mapping) else document
    return [text for value in inner for text in _texts(value)] if _is_nested(document) else []


def _is_nested(document: Any) -> bool:
    return isinstance(document, Mapping | list)


def login_failed(message: str) -> AccessError:
    """No token could be had; ``DefaultAzureCredential`` says so in fifteen lines."""
    lines = [line.strip() for line in message.splitlines()]
    told = [line for line in lines if "AADSTS" in line or "Authentication failed" in line]
    said = told[0] if told else first_line(message)
    return AccessError(f"Azure did not accept the login: {said[:300]}", hint=LOGIN)

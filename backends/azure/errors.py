"""Azure's answers in plain words: what happened, why, and the command that fixes it.

Works on status, code and message alone, so that the SDK's exception classes stay
in ``client``. Quota refusals come as JSON inside a message; they are taken apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama_hub.errors import (
    AccessError,
    LlamaHubError,
    NotFoundError,
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
_BUSY = re.compile(r"in (\w+) provisioning state|being (updated|modified)|another operation", re.I)
LOGIN = "az login   (or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET)"
ROLE = (
    "az role assignment create --role 'AzureML Data Scientist' --assignee <you> "
    "--scope <the workspace's id>"
)
BLOB_ROLE = (
    "az role assignment create --role 'Storage Blob Data Contributor' --assignee <you> "
    "--scope <the storage account's id>"
)

# code (lower case) → what it means, what to do
CAUSES: Mapping[str, tuple[str, str]] = {
    "imagebuildfailure": (
        "the container image could not be built",
        "the build log is in the workspace under Environments; or give a ready image: "
        "--set options.image=<registry>/<name>:<tag>",
    ),
    "badargument": ("the platform does not accept a setting", "look at the message above"),
    "resourcenotready": (
        "the container did not become ready in time or ended",
        "llama-hub logs shows its last lines; more memory: --set instance=<a larger one>",
    ),
    "operationcanceled": ("another change came in between", "run the same command again"),
    "secretsinjectionerror": (
        "the endpoint's identity may not read a secret",
        "give it the role 'Key Vault Secrets User', or take the secret out of environment",
    ),
    "keybasedauthenticationnotpermitted": (
        "the storage account forbids shared keys",
        BLOB_ROLE,
    ),
    "missingsubscriptionregistration": (
        "the subscription is not registered for Azure ML",
        "az provider register --namespace Microsoft.MachineLearningServices --wait",
    ),
    "missingdriverprogram": (
        "the environment has neither code nor routes",
        "give an image that serves /health/live, /health/ready and /score on port 8080",
    ),
    "outofcapacity": (
        "the region has no free machines of this type now",
        "try again later, another instance, or a workspace in another region",
    ),
    "modelfilenotfound": (
        "files of the model are missing in storage",
        "run the same command again: it uploads what is missing",
    ),
}


@dataclass(frozen=True)
class Refusal:
    """One answer that is no success, stripped of the SDK."""

    status: int | None  # HTTP; None for a long-running operation that failed
    code: str
    message: str
    retry_after: float | None = None  # seconds


def explain(refusal: Refusal, what: str) -> LlamaHubError:
    """The error to raise for ``refusal`` while doing ``what``."""
    return (
        quota_error(refusal.message)
        or _capacity(refusal, what)
        or _busy(refusal, what)
        or _known(refusal, what)
        or _denied(refusal, what)
        or _by_status(refusal, what)
    )


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


def _embedded(message: str) -> str:
    """The texts of the JSON document inside a message, or the message itself."""
    start, end = message.find("{"), message.rfind("}")
    try:
        document = json.loads(message[start : end + 1]) if start >= 0 else None
    except ValueError:
        document = None
    return " ".join(_texts(document)) or message


def _texts(document: Any) -> list[str]:
    if isinstance(document, str):
        return [document]
    inner = document.values() if isinstance(document, Mapping) else document
    return [text for value in inner for text in _texts(value)] if _is_nested(document) else []


def _is_nested(document: Any) -> bool:
    return isinstance(document, Mapping | list)


def _capacity(refusal: Refusal, what: str) -> QuotaError | None:
    if refusal.code.lower() not in ("outofquota", "outofcapacity", "quotaexceeded"):
        return None
    meaning, cure = CAUSES["outofcapacity"]
    if refusal.code.lower() != "outofcapacity":
        meaning, cure = "a quota is used up", "llama-hub doctor azure shows what is left"
    return QuotaError(f"{what}: {meaning} ({first_line(refusal.message)})", hint=cure)


def _busy(refusal: Refusal, what: str) -> TransientError | None:
    """Being changed by somebody else, throttled, or out of order: asking again may help."""
    conflict = refusal.status == 409 and _BUSY.search(refusal.message)
    cancelled = refusal.code.lower() == "operationcanceled"
    ailing = refusal.status is not None and (refusal.status in (408, 429) or refusal.status >= 500)
    if not (conflict or cancelled or ailing):
        return None
    said = first_line(refusal.message) or f"HTTP {refusal.status}"
    return TransientError(
        f"{what}: Azure is busy ({said})",
        hint="run the same command again",
        retry_after=refusal.retry_after,
    )


def _known(refusal: Refusal, what: str) -> LlamaHubError | None:
    cause = CAUSES.get(refusal.code.lower())
    if cause is None:
        return None
    meaning, cure = cause
    kind = AccessError if refusal.code.lower().startswith("keybased") else ProvisioningError
    return kind(f"{what}: {meaning} ({first_line(refusal.message)})", hint=cure)


def _denied(refusal: Refusal, what: str) -> AccessError | None:
    if refusal.status not in (401, 403):
        return None
    storage = refusal.code in ("AuthorizationPermissionMismatch", "InsufficientAccountPermissions")
    cure = LOGIN if refusal.status == 401 else BLOB_ROLE if storage else ROLE
    said = first_line(refusal.message) or refusal.code
    return AccessError(f"{what}: Azure refuses it ({said})", hint=cure)


def _by_status(refusal: Refusal, what: str) -> LlamaHubError:
    said = first_line(refusal.message) or refusal.code or "no reason given"
    if refusal.status == 404:
        return NotFoundError(f"{what}: {said}", hint="llama-hub doctor azure")
    return ProvisioningError(f"{what}: {said}", hint="llama-hub doctor azure")


def first_line(text: str) -> str:
    """The first line that says something, without the SDK's prefix ``(Code) ``."""
    for line in text.splitlines():
        if line.strip():
            return re.sub(r"^\(\w+\)\s*", "", line.strip())
    return ""


def login_failed(message: str) -> AccessError:
    """No token could be had; ``DefaultAzureCredential`` says so in fifteen lines."""
    lines = [line.strip() for line in message.splitlines()]
    told = [line for line in lines if "AADSTS" in line or "Authentication failed" in line]
    said = told[0] if told else first_line(message)
    return AccessError(f"Azure did not accept the login: {said[:300]}", hint=LOGIN)

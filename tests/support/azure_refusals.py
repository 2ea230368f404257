"""Every refusal of the loopback Azure: status, code, words, and where they were recorded.

``OURS`` marks a sentence that nobody recorded: its status and code are documented or likely, its
words are made up. A client may go by a recorded sentence; by one of ours only as far as the code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from tests.support.azure_wire import Reply

OURS = "ours: nobody recorded the words"
_GITHUB = "https://github.com/"


@dataclass(frozen=True)
class Refusal:
    """One answer that is no success; texts have ``str.format`` fields."""

    status: int
    code: str
    message: str
    source: str
    inner: tuple[str, str] | None = None  # code and message of ``details[0]``
    headers: dict[str, str] = field(default_factory=dict)

    def reply(self, **known: object) -> Reply:
        """As Resource Manager sends it."""
        error: dict[str, object] = {"code": self.code, "message": self.message.format(**known)}
        if self.inner:
            code, message = self.inner
            error["details"] = [{"code": code, "message": message.format(**known)}]
        return Reply(self.status, {"error": error}, dict(self.headers))

    def as_failure(self, **known: object) -> dict[str, str]:
        """As the error of a long-running operation."""
        return {"code": self.code, "message": self.message.format(**known)}

    def xml(self) -> Reply:
        """As Blob Storage sends it."""
        inner = f"<Code>{self.code}</Code><Message>{escape(self.message)}</Message>"
        document = f'<?xml version="1.0" encoding="utf-8"?><Error>{inner}</Error>'
        headers = {"x-ms-error-code": self.code, "Content-Type": "application/xml"}
        return Reply(self.status, document.encode(), headers)


def embedded(**errors: str) -> str:
    """What Azure ML puts into the message of an inner error: the answer of a service behind it."""
    document = {
        "errors": {key: [text] for key, text in errors.items()},
        "type": "https://tools.ietf.org/html/rfc7231#section-6.5.1",
        "title": "One or more validation errors occurred.",
        "status": 400,
        "traceId": "00-a95a95afd7040aa9217f2d51d95c71c1-894d1cf3aba15e15-01",
    }
    return f"InferencingClient HttpRequest error, error detail: {json.dumps(document)}"


QUOTA = (
    "Not enough quota available for {size} in SubscriptionId {subscription}. Current usage/limit: "
    "{used}/{limit}. Additional needed: {needed} Please see troubleshooting guide, available here: "
    "https://aka.ms/oe-tsg#error-outofquota"
)

REFUSALS = {
    # --- Resource Manager ---------------------------------------------------------------
    "denied": Refusal(
        403,
        "AuthorizationFailed",
        "The client '{client}' with object id '{client}' does not have authorization to perform "
        "action '{action}' over scope '{scope}' or the scope is invalid. If access was recently "
        "granted, please refresh your credentials.",
        _GITHUB + "Azure/llmops-gha-demo/pull/8",
    ),
    "no subscription": Refusal(
        404,
        "SubscriptionNotFound",
        "The subscription '{subscription}' could not be found.",
        _GITHUB + "Azure/azure-cli/issues/19479 and many more",
    ),
    "not found": Refusal(
        404,
        "ResourceNotFound",
        "The Resource '{what}' was not found. For more details please go to "
        "https://aka.ms/ARMResourceNotFoundFix",
        "https://aka.ms/ARMResourceNotFoundFix",
    ),
    "not registered": Refusal(
        409,
        "MissingSubscriptionRegistration",
        "The subscription is not registered to use namespace '{namespace}'. See "
        "https://aka.ms/rps-not-found for how to register subscriptions.",
        "https://learn.microsoft.com/azure/azure-resource-manager/troubleshooting/"
        "error-register-resource-provider",
    ),
    "throttled": Refusal(429, "TooManyRequests", "Too many requests.", OURS),
    # --- endpoints and deployments ---------------------------------------------------------
    "quota": Refusal(
        400,
        "BadRequest",
        "The request is invalid.",
        _GITHUB + "MicrosoftLearning/mslearn-azure-ml/issues/30",
        ("InferencingClientCreateDeploymentFailed", "{embedded}"),
    ),
    "name taken": Refusal(
        400,
        "BadRequest",
        "The request is invalid.",
        _GITHUB + "Azure/azureml-examples/pull/1930",
        ("InferencingClientCreateEndpointFailed", "{embedded}"),
    ),
    "endpoint moves": Refusal(
        409,
        "Conflict",
        "Cannot create a deployment in endpoint {name} because it is in {state} provisioning "
        "state.",
        _GITHUB + "Azure/azure-sdk-for-net/issues/36961 (the words; status and code are ours)",
    ),
    "active operation": Refusal(
        409,
        "Conflict",
        "There is already an active operation on {name}.",
        "recorded without its end: There is already an active operation",
    ),
    "invalid": Refusal(400, "BadRequest", "{problem}", OURS),
    "identity": Refusal(
        400,
        "BadRequest",
        "The identity of the endpoint {name} cannot be changed.",
        OURS + "; that it is fixed: hashicorp/terraform-provider-azurerm#32011 (ForceNew)",
    ),
    "live traffic": Refusal(
        400, "BadRequest", "Deployment {name} has {share}% of live traffic.", OURS
    ),
    "asset is fixed": Refusal(409, "Conflict", "{name} cannot be changed.", OURS),
    "asset in use": Refusal(409, "Conflict", "{name} is in use.", OURS),
    # --- how a deployment fails --------------------------------------------------------------
    "no pull": Refusal(
        400,
        "BadArgument",
        "Endpoint identity does not have pull permission on the registry..",
        _GITHUB + "MicrosoftDocs/azure-docs/issues/107890",
    ),
    "no blob read": Refusal(
        400,
        "BadArgument",
        "Endpoint identity does not have read permission on the storage account.",
        OURS + "; the role it needs: Azure/azureml-examples#747",
    ),
    "tasks": Refusal(
        400,
        "ImageBuildFailure",
        "Image build failed: (TasksOperationsNotAllowed) ACR Tasks requests for the registry "
        "{registry} and {subscription} are not permitted. Please file an Azure support request "
        "at http://aka.ms/azuresupport for assistance.",
        _GITHUB + "Azure-Samples/azure-search-openai-demo/issues/2220 (the code around it is ours)",
    ),
    "no dockerfile": Refusal(400, "ImageBuildFailure", "no Dockerfile in the context", OURS),
    "no model file": Refusal(400, "ModelFileNotFound", "{file} is not in storage", OURS),
    # --- storage ---------------------------------------------------------------------------------
    "storage role": Refusal(
        403,
        "AuthorizationPermissionMismatch",
        "This request is not authorized to perform this operation using this permission.",
        "https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes",
    ),
    "storage firewall": Refusal(
        403,
        "AuthorizationFailure",
        "This request is not authorized to perform this operation.",
        "https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes",
    ),
    "block damaged": Refusal(
        400,
        "Md5Mismatch",
        "The MD5 value specified in the request did not match with the MD5 value calculated by "
        "the server.",
        "https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes",
    ),
}


def refusal(which: str, /, **known: object) -> Reply:
    """The answer called ``which`` in the table."""
    return REFUSALS[which].reply(**known)

"""AWS's refusals and failures in plain words: what happened, why, and the command that fixes it.

Works on code, status and message alone, so that botocore's classes stay in ``client``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llama_hub.errors import (
    AccessError,
    IntegrityError,
    LlamaHubError,
    NotFoundError,
    ProvisioningError,
    QuotaError,
    TransientError,
    UsageError,
)
from llama_hub.hub.redaction import redact

BUSY = {
    "ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded",
    "SlowDown", "ServiceUnavailable", "InternalFailure", "InternalError", "InternalServerError",
    "RequestTimeout", "ModelNotReadyException", "LimitExceededException.Throttle",
    "ConcurrentUpdateException", "OperationAborted", "ServiceUnavailableException",
}  # fmt: skip
DENIED = {
    "AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError",
    "UnrecognizedClientException", "InvalidClientTokenId", "ExpiredToken", "ExpiredTokenException",
    "NotAuthorized", "SignatureDoesNotMatch", "InvalidAccessKeyId", "403", "Forbidden",
}  # fmt: skip
SKEWED = {"RequestTimeTooSkewed", "RequestExpired", "InvalidSignatureException"}
ABSENT = {
    "404", "NoSuchKey", "NoSuchBucket", "NoSuchUpload", "NoSuchEntity", "ResourceNotFound",
    "ResourceNotFoundException", "RepositoryNotFoundException", "ImageNotFoundException",
    "ObjectNotFoundException", "NoSuchLifecycleConfiguration", "NoSuchTagSet",
}  # fmt: skip
DAMAGED = {"BadDigest", "XAmzContentSHA256Mismatch", "InvalidDigest", "IncompleteBody"}
LOGIN = "aws sts get-caller-identity   (then aws configure, or aws sso login)"
_MISSING = re.compile(r"Could not find|does not exist|not found", re.IGNORECASE)
_QUOTA = re.compile(
    r"limit '(?P<what>[^']+)' is (?P<limit>\d+) Instances.*?utilization of (?P<used>\d+)"
    r".*?delta of (?P<wanted>\d+)",
    re.DOTALL,
)
_ACTION = re.compile(r"not authorized to perform: ([\w:-]+)")

# part of a FailureReason or refusal → what it means, what fixes it
CAUSES: Mapping[str, tuple[str, str]] = {
    "InsufficientInstanceCapacity": (
        "AWS has no free machine of this type in the region now",
        "--set options.fallback=[ml.g5.12xlarge,…], another --region, or try again later",
    ),
    "CannotStartContainerError": (
        "the container could not be started: the host's driver does not fit the image's CUDA, or "
        "the image has no entry point",
        "--set options.cuda=… of the image, or --set options.ami=…; see docs/sagemaker.md",
    ),
    "ping health check": (
        "the container started, but GET /ping did not answer 200 in time",
        "its last log lines say why; more memory: --instance, more time: a smaller model",
    ),
    "Could not assume role": (
        "SageMaker may not assume the execution role (or it is seconds old)",
        "llama-hub doctor sagemaker   (shows the trust policy that is needed)",
    ),
    "Could not find model data": (
        "the weights are not where the model says",
        "run the same command again: it uploads what is missing",
    ),
    "Access denied": (
        "the execution role may not do something that the start needs",
        "leave options.role out, so that a role with the right policy is made",
    ),
    "Alarm(s)": (
        "an alarm went off while the new revision took over, and the old one is back",
        "llama-hub logs NAME; --set options.alarms=false updates without alarms",
    ),
    "already registered for autoscaling": (
        "the type of an autoscaled variant cannot change",
        "run the same command again: it takes the scaling target away first",
    ),
    "in-progress endpoint": (
        "another change of this endpoint is under way",
        "wait until llama-hub status says ready, then run the command again",
    ),
}


@dataclass(frozen=True)
class Refusal:
    """One error answer, stripped of botocore."""

    code: str
    message: str
    status: int
    date: str = ""  # the service's clock, as its answer had it


def explain(refusal: Refusal, what: str) -> LlamaHubError:
    """The error to raise for ``refusal`` while doing ``what``."""
    message = redact(refusal.message)
    return (
        quota_error(message)
        or _by_container(refusal.code, message)
        or _by_code(refusal, message, what)
        or _by_message(message, what)
        or ProvisioningError(f"AWS refused to {what}: {refusal.code}: {message}")
    )


def _by_container(code: str, message: str) -> LlamaHubError | None:
    """What the container itself answered: ``status: text``."""
    if code != "ModelError":
        return None
    told = f"the container answered {message}"
    if message.startswith("4") and not message.startswith("429"):
        return UsageError(told)
    if message.startswith(("429", "503")):
        return TransientError(told)
    return ProvisioningError(told, hint="llama-hub logs NAME")


def quota_error(message: str) -> QuotaError | None:
    """A quota refusal in numbers; ``None`` if ``message`` is none."""
    found = _QUOTA.search(message)
    if found is None:
        return None
    return QuotaError(
        f"the quota '{found['what']}' is {found['limit']}; {found['used']} are in use and "
        f"{found['wanted']} more are wanted",
        hint=quota_hint(found["what"], int(found["used"]) + int(found["wanted"])),
    )


def quota_hint(what: str, wanted: int) -> str:
    """Where to ask for more."""
    return (
        f"ask for {wanted} of '{what}' at https://console.aws.amazon.com/servicequotas/home/"
        "services/sagemaker/quotas, or choose another --instance or --region"
    )


def _by_code(refusal: Refusal, message: str, what: str) -> LlamaHubError | None:
    code = refusal.code
    if code in SKEWED:
        return AccessError(
            f"AWS refused to {what} because this machine's clock is wrong "
            f"(there it is {refusal.date or 'another time'}): {message}",
            hint="set the clock: sudo timedatectl set-ntp true",
        )
    if code in BUSY or refusal.status >= 500:
        return TransientError(f"AWS is busy and did not {what}: {code}")
    if code in DENIED:
        return _denied(message, what)
    if code in ABSENT:
        return NotFoundError(f"could not {what}: {message or code}")
    if code in DAMAGED:
        return IntegrityError(
            f"S3 received other bytes than were meant while it should {what}: {code}",
            hint="llama-hub verify --deep; then run the same command again",
        )
    return None


def _denied(message: str, what: str) -> AccessError:
    action = _ACTION.search(message)
    hint = f"allow {action[1]} to the identity that you use" if action else LOGIN
    return AccessError(f"AWS does not allow to {what}: {message}", hint=hint)


def _by_message(message: str, what: str) -> LlamaHubError | None:
    for part, (meaning, cure) in CAUSES.items():
        if part in message:
            kind = QuotaError if part == "InsufficientInstanceCapacity" else ProvisioningError
            return kind(f"could not {what}: {meaning} ({message})", hint=cure)
    if _MISSING.search(message):
        return NotFoundError(f"could not {what}: {message}")
    if "already existing" in message or "already exists" in message:
        return ExistsError(f"could not {what}: {message}")
    if "validation error" in message:
        return UsageError(f"AWS does not accept the request to {what}: {message}")
    return None


class ExistsError(ProvisioningError):
    """Something of that name is there already."""


def failed(what: str, reason: str, lines: list[str]) -> LlamaHubError:
    """The error for a resource whose state is Failed: AWS's reason and the last log lines."""
    shown = redact(reason) or "AWS gives no reason"
    found = quota_error(shown) or _by_message(shown, what)
    error = found or ProvisioningError(f"could not {what}: {shown}")
    if lines:
        error.message += "\nthe container's last lines:\n" + "\n".join(redact(x) for x in lines)
    elif "ping health check" in shown or "CannotStart" in shown:
        error.message += "\nthere is no log: the container never wrote a line"
    error.args = (error.message,)
    return error

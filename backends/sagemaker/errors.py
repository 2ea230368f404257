"""AWS's refusals and failures in plain words: what happened, why, and the command that fixes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from llama_hub.deploy.cloud_error import SERVER_ERRORS, ErrorResponse, Rule
from llama_hub.deploy.cloud_error import explain as first_match
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
    "NotFoundException", "InvalidSubnetID.NotFound", "InvalidGroup.NotFound",
}  # fmt: skip
DAMAGED = {"BadDigest", "XAmzContentSHA256Mismatch", "InvalidDigest", "IncompleteBody"}
CONTAINER = "the container answered {said}"
LOGIN = "aws sts get-caller-identity   (then aws configure, or aws sso login)"
_QUOTA = re.compile(
    r"limit '(?P<what>[^']+)' is (?P<limit>\d+) Instances.*?utilization of (?P<used>\d+)"
    r".*?delta of (?P<wanted>\d+)",
    re.DOTALL,
)
_ACTION = re.compile(r"not authorized to perform: ([\w:-]+)")


class ExistsError(ProvisioningError):
    """Something of that name is there already."""


class YoungRoleError(ProvisioningError):
    """A service cannot assume or use a role, which passes if the role is seconds old."""


# part of a FailureReason or refusal → what it means, what mends it
CAUSES: Mapping[str, tuple[type[LlamaHubError], str, str]] = {
    "InsufficientInstanceCapacity": (
        QuotaError,
        "AWS has no free machine of this type in the region now",
        "--set options.fallback=[ml.g5.12xlarge,…], another --region, or try again later",
    ),
    "CannotStartContainerError": (
        ProvisioningError,
        "the container could not be started: the host's driver does not fit the image's CUDA, or "
        "the image has no entry point",
        "--set options.cuda=… of the image, or --set options.ami=…; see docs/sagemaker.md",
    ),
    "ping health check": (
        ProvisioningError,
        "the container started, but GET /ping did not answer 200 in time",
        "its last log lines say why; more memory: --instance, more time: a smaller model",
    ),
    # Three sentences of three years, and CodeBuild's own.
    "Could not assume role|The execution role ARN .* is invalid|sts:AssumeRole on ": (
        YoungRoleError,
        "the service may not assume the role (or it is seconds old)",
        "llama-hub doctor sagemaker --set options.role=…   (looks at its trust policy)",
    ),
    "Could not access model data": (
        YoungRoleError,
        "the execution role may not read the weights (or its policy is seconds old)",
        "allow s3:GetObject and s3:ListBucket to it: llama-hub export PLAN policies; "
        "or leave options.role out, so that a role with the right policy is made",
    ),
    "does not have BatchGetImage permission|The repository of your image": (
        AccessError,
        "the image may not be pulled",
        "allow ecr:BatchGetImage, ecr:GetDownloadUrlForLayer and ecr:BatchCheckLayerAvailability "
        "to the execution role, and in the repository's policy if it is another account's",
    ),
    "make sure all images included in the model": (
        ProvisioningError,
        "the image is not there, or the execution role may not pull it",
        "look at it: aws ecr describe-images; leave options.image out to have one built",
    ),
    "Requested image .* not found": (
        NotFoundError,
        "there is no such image in the registry of this region",
        "look at its tags: aws ecr describe-images; leave options.image out to have one built",
    ),
    "scalable target exists for a variant being deleted": (
        AccessError,
        "its scaling target has to go first",
        "allow application-autoscaling:DeregisterScalableTarget to the identity that you use",
    ),
    "ManagedInstanceScaling is only supported": (
        UsageError,
        "only inference components scale their machines",
        "scale_to_zero: true deploys one",
    ),
    "Could not find model data": (
        ProvisioningError,
        "the weights are not where the model says",
        "run the same command again: it uploads what is missing",
    ),
    "Access denied": (
        ProvisioningError,
        "the execution role may not do something that the start needs",
        "leave options.role out, so that a role with the right policy is made",
    ),
    r"Alarm\(s\)": (
        ProvisioningError,
        "an alarm went off while the new revision took over, and the old one is back",
        "llama-hub logs NAME; --set options.alarms=false updates without alarms",
    ),
    "already registered for autoscaling": (
        ProvisioningError,
        "the type of an autoscaled variant cannot change",
        "run the same command again: it takes the scaling target away first",
    ),
    "in-progress endpoint": (
        ProvisioningError,
        "another change of this endpoint is under way",
        "wait until llama-hub status says ready, then run the command again",
    ),
}


def _permission(response: ErrorResponse) -> str:
    action = _ACTION.search(response.message)
    if action and "explicit deny" in response.message:
        return f"your organisation denies {action[1]}: ask whoever keeps its policies"
    return f"allow {action[1]} to the identity that you use" if action else LOGIN


CODES = (
    # What the container itself answered comes as "status: text".
    Rule(TransientError, CONTAINER, codes=("ModelError",), words="^(429|503)"),
    Rule(UsageError, CONTAINER, codes=("ModelError",), words="^4"),
    Rule(ProvisioningError, CONTAINER, "llama-hub logs NAME", codes=("ModelError",)),
    Rule(
        AccessError,
        "AWS refused to {what} because this machine's clock is wrong: {said}",
        lambda response: (
            f"there it is {response.headers.get('date') or 'another time'}; "
            "set the clock: sudo timedatectl set-ntp true"
        ),
        codes=SKEWED,
    ),
    Rule(TransientError, "AWS is busy and did not {what}: {code}", codes=BUSY),
    Rule(TransientError, "AWS is busy and did not {what}: {code}", statuses=SERVER_ERRORS),
    Rule(
        AccessError,
        "S3 does not allow to {what}: {said}; the bucket may be another account's",
        "name one of yours: --set options.bucket=…; if it is yours: llama-hub doctor sagemaker",
        codes=DENIED | {"BucketAlreadyExists"},
        words="^(Access Denied|The requested bucket name is not available.*|Forbidden)$",
    ),
    Rule(AccessError, "AWS does not allow to {what}: {said}", _permission, codes=DENIED),
    Rule(NotFoundError, "could not {what}: {said}", codes=ABSENT),
    Rule(
        IntegrityError,
        "S3 received other bytes than were meant while it should {what}: {code}",
        "llama-hub verify --deep; then run the same command again",
        codes=DAMAGED,
    ),
)
WORDS = (
    *(
        Rule(error, f"could not {{what}}: {meaning} ({{said}})", cure, words=words)
        for words, (error, meaning, cure) in CAUSES.items()
    ),
    Rule(
        NotFoundError, "could not {what}: {said}", words="Could not find|does not exist|not found"
    ),
    Rule(ExistsError, "could not {what}: {said}", words="already existing|already exists"),
    Rule(
        UsageError,
        "AWS does not accept the request to {what}: {said}",
        words="validation error",
    ),
)


def explain(response: ErrorResponse, what: str) -> LlamaHubError:
    """The error to raise for ``response`` while doing ``what``."""
    response = replace(response, message=redact(response.message))
    return (
        quota_error(response.message)
        or first_match(response, what, (*CODES, *WORDS))
        or ProvisioningError(f"AWS refused to {what}: {response.code}: {response.message}")
    )


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


def failed(what: str, reason: str, lines: list[str]) -> LlamaHubError:
    """The error for a resource whose state is Failed: AWS's reason and the last log lines."""
    shown = redact(reason) or "AWS gives no reason"
    found = quota_error(shown) or first_match(ErrorResponse(None, "", shown), what, WORDS)
    error = found or ProvisioningError(f"could not {what}: {shown}")
    if lines:
        error.message += "\nthe container's last lines:\n" + "\n".join(redact(x) for x in lines)
    elif "ping health check" in shown or "CannotStart" in shown:
        error.message += "\nthere is no log: the container never wrote a line"
    error.args = (error.message,)
    return error

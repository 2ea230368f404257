"""Every refusal of the loopback AWS: status, code, words, and where they were recorded.

``OURS`` marks a sentence that nobody recorded: its status and code are documented or likely, its
words are made up. A client may go by a recorded sentence; by one of ours only as far as the code.
"""

from __future__ import annotations

from dataclasses import dataclass

OURS = "ours: nobody recorded the words"
_GITHUB = "https://github.com/"
_STACK = "https://stackoverflow.com/questions/"


class ApiError(Exception):
    """A refusal on its way out: type, words and HTTP status."""

    def __init__(self, kind: str, message: str, status: int = 400) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.message, self.status = kind, message, status


@dataclass(frozen=True)
class Refusal:
    """One answer that is no success; the text has ``str.format`` fields."""

    code: str
    message: str
    source: str
    status: int = 400

    def error(self, **known: object) -> ApiError:
        """As the service sends it."""
        return ApiError(self.code, self.message.format(**known), self.status)


@dataclass(frozen=True)
class Failure:
    """Why an endpoint is Failed or was rolled back: its ``FailureReason``."""

    message: str
    source: str


INVALID = "ValidationException"
_TRUST = (
    "Please ensure that the role {quoted} exists and that its trust relationship policy allows the "
    'action "sts:AssumeRole" for the service principal "sagemaker.amazonaws.com".'
)

REFUSALS = {
    # --- who may do what ------------------------------------------------------------------------
    "denied": Refusal(
        "AccessDeniedException",
        "User: {who} is not authorized to perform: {action} on resource: {resource} because no "
        "identity-based policy allows the {action} action",
        _GITHUB + "philschmid/cdk-samples/issues/2",
    ),
    "denied by an organisation": Refusal(
        "AccessDeniedException",
        "User: {who} is not authorized to perform: {action} on resource: {resource} with an "
        "explicit deny in a service control policy",
        _GITHUB + "aws/amazon-sagemaker-examples-community/issues/13",
    ),
    "may not pass": Refusal(
        "AccessDeniedException",
        "User: {who} is not authorized to perform: iam:PassRole on resource: {role}",
        _GITHUB + "cloudposse/terraform-aws-cicd/issues/61",
    ),
    "autoscaled and no right to deregister": Refusal(
        "AccessDeniedException",
        "An Application AutoScaling scalable target exists for a variant being deleted, and the "
        "IAM identity used to invoke DeleteEndpoint does not have "
        "application-autoscaling:DeregisterScalableTarget permission to deregister the scalable "
        "target.",
        _GITHUB + "awslabs/stable-diffusion-aws-extension/issues/161 (the code is ours)",
    ),
    "simulated apart": Refusal(
        "InvalidInput",
        "Invalid Input Actions: [{some}] and [{others}] require different authorization "
        "information. Please refer to the documentation for more details: "
        "https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html",
        "recorded in the sources of several programs that call it; which actions: partly ours",
    ),
    # --- roles that are young, absent or closed -------------------------------------------------
    "role of a build": Refusal(
        "InvalidInputException",
        "CodeBuild is not authorized to perform: sts:AssumeRole on service role. Please verify "
        "that: 1) The provided service role exists, 2) The role name is case-sensitive and matches "
        "exactly, and 3) The role has the necessary trust policy configured.",
        _STACK + "79238541; until 2024 it ended in \"on ROLE\": rstudio/vetiver-r#215",
    ),
    "no role": Refusal(
        INVALID,
        'The execution role ARN "{role}" is invalid. ' + _TRUST.replace(" {quoted}", ""),
        _GITHUB + "bentoml/BentoML/issues/892; in full in the READMEs of several AWS samples",
    ),
    "role not assumed": Refusal(
        INVALID,
        "Could not assume role {role}. Please ensure that the role exists and allows principal "
        "'sagemaker.amazonaws.com' to assume the role.",
        _GITHUB + "awslabs/predictive-maintenance-using-machine-learning/issues/3",
    ),
    "no access to model data": Refusal(
        INVALID,
        "Could not access model data at {uri}. "
        + _TRUST.replace("{quoted}", '"{role}"')
        + ' Also ensure that the role has "s3:GetObject" permissions and that the object is '
        "located in {region}. If your Model uses multiple models or uncompressed models, please "
        'ensure that the role has "s3:ListBucket" permission.',
        _GITHUB + "philschmid/llm-sagemaker-sample/issues/2",
    ),
    # --- what is there, what is not -------------------------------------------------------------
    "exists": Refusal(
        INVALID,
        'Cannot create already existing {what} "{arn}".',
        _GITHUB + "aws/sagemaker-python-sdk/issues/101",
    ),
    "not found": Refusal(
        INVALID,
        'Could not find {what} "{arn}".',
        _GITHUB + "aws/amazon-sagemaker-examples/issues/2402",
    ),
    "no model data": Refusal(
        INVALID,
        "Could not find model data at {uri}.",
        _GITHUB + "aws-ia/ecs-blueprints/issues/223",
    ),
    "no image": Refusal(
        INVALID,
        "Requested image {image} not found.",
        _GITHUB + "aws-samples/easy-amazon-sagemaker-deployments/issues/4",
    ),
    "repository closed": Refusal(
        INVALID,
        "The repository of your image {image} does not grant ecr:GetDownloadUrlForLayer, "
        "ecr:BatchGetImage, ecr:BatchCheckLayerAvailability permission to sagemaker.amazonaws.com "
        "service principal.",
        _GITHUB + "aws/deep-learning-containers/issues/5657",
    ),
    "no resource": Refusal(INVALID, "Could not find resource {arn}", OURS),
    # --- endpoints ------------------------------------------------------------------------------
    "quota": Refusal(
        "ResourceLimitExceeded",
        "The account-level service limit '{instance} for endpoint usage' is {limit} Instances, "
        "with current utilization of {used} Instances and a request delta of {wanted} Instances. "
        "Please use AWS Service Quotas to request an increase for this quota.",
        _GITHUB + "aws-samples/aws-genai-llm-chatbot/issues/244",
    ),
    "no managed scaling": Refusal(
        INVALID,
        "ManagedInstanceScaling is only supported for inference component endpoints.",
        _GITHUB + "hashicorp/terraform-provider-aws/pull/45926",
    ),
    "in progress": Refusal(
        INVALID,
        'Cannot update in-progress endpoint "{arn}".',
        _GITHUB + "aws/amazon-sagemaker-operator-for-k8s (its controllers' table of refusals)",
    ),
    "autoscaled": Refusal(
        INVALID,
        "The variant is registered for autoscaling; deregister it first",
        OURS + "; that it fails: SageMaker Developer Guide, endpoint-scaling-update",
    ),
    "has components": Refusal(
        INVALID,
        "the endpoint has inference components; delete them first",
        OURS + "; that it fails: aws/amazon-sagemaker-feedback#143",
    ),
    "invalid": Refusal(INVALID, "{problem}", OURS),
    "throttled": Refusal("ThrottlingException", "Rate exceeded", "AWS General Reference"),
    "not there": Refusal("ValidationError", "Endpoint {name} of account {account} not found.",
                         _GITHUB + "aws/amazon-sagemaker-examples/issues/559"),
}  # fmt: skip

FAILURES = {
    "no role": Failure(
        REFUSALS["no role"].message,
        _GITHUB + "hashicorp/terraform-provider-aws (its resource aws_sagemaker_endpoint)",
    ),
    "no capacity": Failure(
        "Unable to provision requested ML compute capacity due to InsufficientInstanceCapacity "
        "error.",
        _GITHUB + "aws/deep-learning-containers/pull/6673",
    ),
    "no pull": Failure(
        "The role '{role}' does not have BatchGetImage permission for the image: '{image}'.",
        _GITHUB + "aws/sagemaker-python-sdk/issues/2002",
    ),
    "no image": Failure(
        "Please make sure all images included in the model for the production variant {variant} "
        "exist, and that the execution role used to create the model has permissions to access "
        "them.",
        _GITHUB + "aws/sagemaker-python-sdk/issues/1835",
    ),
    "ping": Failure(
        "The primary container for production variant {variant} did not pass the ping health "
        "check. Please check CloudWatch logs for this endpoint.",
        _GITHUB + "awslabs/llm-hosting-container/issues/18",
    ),
    "container": Failure(
        "CannotStartContainerError. Please ensure the model container for variant {variant} "
        "starts correctly when invoked with 'docker run <image> serve'",
        _GITHUB + "aws-samples/comfyui-on-amazon-sagemaker/issues/2",
    ),
    "no device": Failure("there are not enough accelerators for the copies", OURS),
    "alarm": Failure("Alarm(s) {alarms} went off during the deployment", OURS),
}


def refusal(which: str, /, **known: object) -> ApiError:
    """The refusal called ``which`` in the table."""
    return REFUSALS[which].error(**known)


def failure(which: str, /, **known: object) -> str:
    """The ``FailureReason`` called ``which`` in the table."""
    return FAILURES[which].message.format(**known)

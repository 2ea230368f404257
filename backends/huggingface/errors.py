"""Hugging Face's answers in plain words: what happened, why, and the command that mends it."""

from __future__ import annotations

from llama_hub.deploy.cloud_error import ErrorResponse, Rule
from llama_hub.deploy.cloud_error import explain as first_match
from llama_hub.errors import (
    AccessError,
    LlamaHubError,
    NotFoundError,
    ProvisioningError,
    QuotaError,
    TransientError,
)

LOGIN = "hf auth login   (or set HF_TOKEN)"
QUOTA_PAGE = "https://endpoints.huggingface.co/settings/quotas"
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})

RULES = (
    Rule(TransientError, "{what}: Hugging Face answered {status}", statuses=BUSY),
    Rule(
        NotFoundError,
        "{what}: {said}",
        "look at options.gated_repository and options.revision: https://huggingface.co/models",
        statuses=(401, 404),
        words="(Revision|Repository) Not Found",
    ),
    Rule(NotFoundError, "{what}: not found: {said}", "llama-hub ps", statuses=(404,)),
    Rule(
        QuotaError,
        "{what}: {said}",
        f"ask for more: {QUOTA_PAGE}",
        statuses=(401, 403),
        words="quota",
    ),
    Rule(AccessError, "{what}: the token is not valid: {said}", LOGIN, statuses=(401,)),
    Rule(
        AccessError,
        "{what}: refused: {said}",
        "the token needs 'Manage Inference Endpoints' and write access to the repository: "
        "https://huggingface.co/settings/tokens",
        statuses=(403,),
    ),
    Rule(ProvisioningError, "{what}: {said}", "choose another name with --name", statuses=(409,)),
    Rule(ProvisioningError, "{what}: Hugging Face answered {status}: {said}"),
)


def explain(response: ErrorResponse, what: str) -> LlamaHubError:
    """The error to raise for ``response`` while doing ``what``."""
    error = first_match(response, what, RULES)
    assert error is not None, "the last rule matches every answer"
    return error

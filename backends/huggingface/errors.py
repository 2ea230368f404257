"""Hugging Face's answers in plain words; works on status, text and headers alone."""

from __future__ import annotations

from collections.abc import Mapping

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


def explain(what: str, status: int, text: str, headers: Mapping[str, str]) -> LlamaHubError:
    """The error for an answer with ``status``; ``what`` was asked for."""
    words = " ".join(text.split())[:400]
    if status in BUSY:
        return TransientError(
            f"{what}: Hugging Face answered {status}", retry_after=_seconds(headers)
        )
    if status == 404:
        return NotFoundError(f"{what}: not found: {words}", hint="llama-hub ps")
    if status in (401, 403):
        return _refused(what, status, words)
    if status == 409:
        return ProvisioningError(f"{what}: {words}", hint="choose another name with --name")
    return ProvisioningError(f"{what}: Hugging Face answered {status}: {words}")


def _refused(what: str, status: int, words: str) -> LlamaHubError:
    if "quota" in words.lower():
        return QuotaError(f"{what}: {words}", hint=f"ask for more: {QUOTA_PAGE}")
    if status == 401:
        return AccessError(f"{what}: the token is not valid: {words}", hint=LOGIN)
    return AccessError(
        f"{what}: refused: {words}",
        hint="the token needs 'Manage Inference Endpoints' and write access to the repository: "
        "https://huggingface.co/settings/tokens",
    )


def _seconds(headers: Mapping[str, str]) -> float | None:
    given = {key.lower(): value for key, value in headers.items()}.get("retry-after", "")
    return float(given) if given.replace(".", "", 1).isdigit() else None

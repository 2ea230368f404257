"""What Hugging Face answers when it refuses: one table for the loopback Hub and control plane.

``source`` is the public record of the words; ``OURS`` marks an answer that nobody recorded, whose
status and words are this project's guess. No test asserts the words of a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OURS = "ours: nobody recorded it"
SDK = "huggingface_hub"


@dataclass(frozen=True)
class Refusal:
    """One answer that is no success."""

    status: int
    error: str
    source: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def answer(self) -> tuple[int, Any, Mapping[str, str]]:
        """Status, document and headers as they are sent."""
        return self.status, {"error": self.error}, self.headers


REFUSALS: Mapping[str, Refusal] = {
    # The token.
    "bad token": Refusal(
        401, "Invalid credentials in Authorization header", "huggingface/transformers#38289"
    ),
    "no scope to manage": Refusal(
        403,
        "This authentication method does not have sufficient permissions to manage Inference "
        "Endpoints",
        "huggingface/agents-course#558 has these words of Inference Providers",
    ),
    "no scope to infer": Refusal(
        403,
        "This authentication method does not have sufficient permissions to call this endpoint",
        "huggingface/agents-course#558 has these words of Inference Providers",
    ),
    "anonymous": Refusal(401, "Unauthorized", OURS),
    "another namespace": Refusal(403, "You are not allowed to manage this namespace", OURS),
    "denied": Refusal(403, "Forbidden: pass a token with the right permissions", OURS),
    # Rates.
    "rate limit": Refusal(
        429,
        "Too Many Requests",
        f"{SDK} utils/_http.py: parse_ratelimit_headers and its tests",
        {"ratelimit": '"api";r=0;t=240', "ratelimit-policy": '"fixed window";"api";q=500;w=300'},
    ),
    "unavailable": Refusal(503, "Service Temporarily Unavailable", f"{SDK}#2913"),
    # Creating and changing.
    "gated": Refusal(500, "Internal Server Error", f"{SDK}#2338"),
    "taken": Refusal(409, "Endpoint name is already taken", OURS),
    "quota": Refusal(403, "You have reached your quota of accelerators for this instance", OURS),
    "engine": Refusal(
        400, "The engine of an endpoint cannot be changed", "hf-endpoints-documentation engines/tgi"
    ),
    "failed": Refusal(
        400,
        "Bad Request: Invalid state",
        "hf-endpoints-documentation#29: make it again",
    ),
    "no revision": Refusal(400, "Revision not found", OURS),
    "no such machine": Refusal(400, "This instance is not available in this region", OURS),
    "running": Refusal(
        400,
        "Bad Request: Endpoint is already running",
        f"{SDK} hf_api.py: resume_inference_endpoint",
    ),
    # The endpoint's own address.
    "paused": Refusal(400, "Bad Request: Invalid state", "elastic/elasticsearch#112033"),
    "asleep": Refusal(503, "503 Service Unavailable", "hf-endpoints-documentation autoscaling"),
    "no endpoint": Refusal(404, "Endpoint not found", OURS),
}

"""``options`` of a spec for Azure ML, and what is checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llama_hub.backends.azure.tags import OWN_TAGS
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import UsageError

NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9]*(-[a-zA-Z0-9]+)*")
TAGS = 15  # tags of one resource that Azure ML is sure to keep
# One more than is common to all: what a deployment was asked for with, what may stay.
OWN_LIMIT = TAGS - len(OWN_TAGS) - 1
TAG_LENGTH = (512, 256)  # characters of a name, of a value


class Options(BaseModel):
    """Settings that only Azure ML knows."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    subscription: str | None = None
    """Subscription id; none: AZURE_SUBSCRIPTION_ID."""
    resource_group: str | None = None
    """Resource group; none: AZURE_RESOURCE_GROUP."""
    workspace: str | None = None
    """Azure ML workspace; none: AZUREML_WORKSPACE_NAME."""
    auth: Literal["key", "aad"] = "key"
    """How callers prove who they are: the endpoint's key, or a Microsoft Entra token."""
    network: Literal["public", "private"] = "public"
    """Whether the scoring URL answers on the internet or only in the workspace's network."""
    egress: Literal["public", "private"] = "public"
    """Whether the container may reach the internet or only the workspace's network."""
    identity: str | None = None
    """Resource id of a user-assigned identity; none: one that the endpoint gets of its own."""
    run: Literal["container", "vllm"] = "container"
    """Our own service, or vLLM's official image, which needs a machine with a GPU."""
    image: str | None = None
    """Container image of the service; none: Azure ML builds it in the cloud. With run vllm: the
    image that it builds on, if not the official one."""
    request_timeout: int = Field(180, ge=1, le=180)
    """Seconds until the platform cuts a request off; 180 is its maximum."""
    strategy: Literal["blue-green", "in-place"] = "blue-green"
    """How a new revision comes: beside the old one, or over it (a new machine type never)."""
    mirror: int = Field(0, ge=0, le=50)
    """Percent of live requests that a new revision gets as a copy before it answers any."""
    canary: int = Field(10, ge=0, le=99)
    """Percent of live requests that a new revision answers first; 0: none."""
    soak: int = Field(0, ge=0, le=86400)
    """Seconds between the looks at a mirrored and at a canary revision."""
    keep_previous: bool = False
    """Leave the old revision running without traffic; it goes on billing."""
    keep_weights: bool = False
    """Leave the uploaded weights in storage when the deployment is deleted."""
    app_insights: bool = False
    """Send the container's traces to Application Insights."""
    scale_metric: str | None = None
    """Metric of the deployment that autoscaling follows; none: use of the GPU, or of the CPU."""
    scale_out: int = Field(70, ge=1, le=100)
    """An instance is added above this average over five minutes."""
    scale_in: int = Field(30, ge=0, le=99)
    """An instance is taken away below this average over five minutes."""

    @model_validator(mode="after")
    def _in_order(self) -> Options:
        if self.scale_in >= self.scale_out:
            raise ValueError("scale_in must be less than scale_out")
        return self


def read(spec: DeploymentSpec) -> Options:
    """The options of ``spec``; ``UsageError`` for what the platform would refuse later."""
    for problem, found in _problems(spec).items():
        if found:
            raise UsageError(f"Azure ML: {problem}", hint="docs/azure.md lists what is possible")
    return Options.model_validate(dict(spec.options))


def _problems(spec: DeploymentSpec) -> dict[str, bool]:
    return {
        f"the name {spec.name!r} must have 3 to 32 letters, digits and single hyphens": not (
            3 <= len(spec.name) <= 32 and NAME.fullmatch(spec.name)
        ),
        "an endpoint always asks for a key or a token: access must be private": spec.access
        != "private",
        "a deployment cannot be scaled to zero: replicas_min must be at least 1": spec.replicas_min
        < 1
        or spec.scale_to_zero,
        "a deployment has at most 50 instances": spec.replicas_max > 50,
    } | _tag_problems(spec.tags)


def _tag_problems(tags: Mapping[str, str]) -> dict[str, bool]:
    longest_name, longest_value = TAG_LENGTH
    return {
        f"at most {OWN_LIMIT} tags of your own are possible": len(tags) > OWN_LIMIT,
        "a tag's name may not contain < > % & \\ ? /": any(
            set(name) & set("<>%&\\?/") for name in tags
        ),
        f"a tag's name has at most {longest_name} characters, its value {longest_value}": any(
            len(name) > longest_name or len(value) > longest_value for name, value in tags.items()
        ),
        "tags that begin with llama-hub- belong to llama-hub": any(
            name.lower().startswith("llama-hub-") for name in tags
        ),
    }

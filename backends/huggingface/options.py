"""``options`` of a spec for Inference Endpoints, and what is checked before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llama_hub.deploy.offer import Offer
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import UsageError

REPOSITORY = r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"


Run = Literal["container", "handler", "vllm"]


class Options(BaseModel):
    """Settings that only Inference Endpoints knows."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    namespace: str | None = None
    """User or organisation that owns and pays; none: HF_NAMESPACE, else the token's user."""
    gated_repository: str | None = Field(None, pattern=REPOSITORY)
    """Serve this gated repository instead of uploading; its digests must equal the manifest's."""
    revision: str | None = Field(None, pattern="^[0-9a-f]{40}$")
    """Commit of the gated repository; none: the one that the model was downloaded from."""
    run: Run | None = None
    """What answers: our service in a container, our core behind the stock image, or vLLM; none:
    container where an image is given, else vllm on a GPU machine and handler on a CPU one."""
    image: str | None = None
    """Container image of the service; needed for run: container."""
    port: int = Field(8080, ge=1, le=65535)
    """Port that the container listens on."""
    registry_username: str | None = None
    """For a private registry; its password comes from LLAMA_HUB_REGISTRY_PASSWORD."""
    vendor: str = "aws"
    """Cloud below the endpoint: aws, azure or gcp."""
    secrets: tuple[str, ...] = ()
    """Names of environment variables of this machine to pass as secrets of the container."""
    keep_repository: bool = True
    """Leave the private repository with the weights when the deployment is deleted."""

    @model_validator(mode="after")
    def _whole(self) -> Options:
        if self.run == "container" and not self.image:
            raise ValueError(
                "image is missing: run 'container' needs the address of the service's image "
                "(llama-hub image write makes its context; run 'handler' needs none)"
            )
        if self.gated_repository and self.run not in (None, "vllm"):
            raise ValueError(
                "a gated_repository holds no llama-hub.json, which our service states as its "
                "identity: serve it with run 'vllm', or leave it out to upload a private copy"
            )
        return self

    def running(self, accelerators: int) -> Run:
        """What answers on a machine with so many accelerators."""
        if self.run is not None:
            return self.run
        if self.gated_repository:
            return "vllm"
        if self.image:
            return "container"
        return "vllm" if accelerators else "handler"

    def on(self, offer: Offer) -> Options:
        """The same, with ``run`` decided for the machine that was chosen."""
        return self.model_copy(update={"run": self.running(offer.accelerators)})

    def suitable(self, offers: Sequence[Offer], spec: DeploymentSpec) -> list[Offer]:
        """The machines that can run it: vLLM's image has no code for CPUs.

        Where nothing says what runs, GPUs come before CPUs as long as one can be had.
        """
        gpus = [one for one in offers if one.accelerators]
        if self.run == "vllm" or self.gated_repository:
            return gpus
        if self.run is not None or self.image or spec.instance != "auto":
            return list(offers)
        most = spec.replicas_max
        return [one for one in gpus if one.quota_left is None or one.quota_left >= most] or list(
            offers
        )


def read(spec: DeploymentSpec) -> Options:
    """The options of ``spec``; ``UsageError`` for what the platform would refuse later."""
    try:
        return Options.model_validate(dict(spec.options))
    except ValueError as error:
        raise UsageError(
            f"Inference Endpoints: {error}", hint="docs/huggingface.md lists what is possible"
        ) from error

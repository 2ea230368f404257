"""Models and endpoint configurations of a revision: made once, tagged, removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from llama_hub.backends.sagemaker import bodies
from llama_hub.backends.sagemaker.actions import Actions
from llama_hub.backends.sagemaker.errors import ExistsError, YoungRoleError
from llama_hub.backends.sagemaker.scaler import listed
from llama_hub.deploy.waiting import wait_for
from llama_hub.errors import NotFoundError, ProvisioningError

T = TypeVar("T")

ROLE_WAIT = 180.0  # seconds that a new role may take until a service can assume and use it
ROLE_LOOK = 5.0
CREATE = {
    "model": "create_model",
    "config": "create_endpoint_config",
    "component": "create_inference_component",
}
DELETE = {
    "model": ("delete_model", "ModelName"),
    "config": ("delete_endpoint_config", "EndpointConfigName"),
}


def with_young_role(call: Callable[[], T], what: str, sleep: Callable[[float], None]) -> T:
    """``call``, again while a service cannot use a role that was made a moment ago."""
    refused = ""

    def once() -> tuple[T] | None:
        nonlocal refused
        try:
            return (call(),)
        except YoungRoleError as error:
            refused = error.message
            return None

    return wait_for(
        once, what, timeout=ROLE_WAIT, every=ROLE_LOOK, sleep=sleep, why=lambda: refused
    )[0]


class RevisionActions(Actions):
    """A model, a configuration or a component: never changed, only made again."""

    def make(self) -> None:
        """Create it, or give it its tags if it is there."""
        if self.step.action == "update" and self._only_tagged():
            return
        if self.step.kind == "model":
            self._prove_weights()
        if self._has_own_role():
            with_young_role(self._create, self.step.id, self.aws.sleep)
        else:
            self._create()

    def _only_tagged(self) -> bool:
        """Whether it was there, so that new tags were all it needed."""
        try:
            self.tag(self.step.body["tags"])
        except NotFoundError:
            return False
        return True

    def _create(self) -> None:
        body = self.step.body
        try:
            self.aws.call(
                "sagemaker", CREATE[self.step.kind], **body["request"], Tags=listed(body["tags"])
            )
        except ExistsError:
            self.tag(body["tags"])

    def _has_own_role(self) -> bool:
        """Whether it uses a role that we made, perhaps a moment ago."""
        return bodies.ROLE_PATH in str(self.step.body["request"].get("ExecutionRoleArn", ""))

    def _prove_weights(self) -> None:
        """S3 must state the manifest's digests before a model refers to the files."""
        target = self.context.target
        if target is None:
            return
        manifest = target.artifact.manifest
        prefix = bodies.weights_prefix(bodies.digest_of(manifest))
        wrong = [
            f"{path} {words}"
            for path, ok, words in self.inventory.bucket.prove(manifest, prefix)
            if not ok
        ]
        if wrong:
            raise ProvisioningError(
                f"S3 does not hold what the manifest says: {'; '.join(wrong)}",
                hint="run the same command again: it uploads what is missing",
            )

    def remove(self) -> None:
        """Delete it; what is absent is well."""
        operation, key = DELETE[self.step.kind]
        self.aws.find("sagemaker", operation, **{key: self.step.name})

"""The service's image, built in the account by CodeBuild: no container engine is needed here.

Context, build project and its role are removed as soon as the image is in the repository; its tag
is the digest of the context, so that the same release is built once.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from functools import cache
from typing import Any

from llama_hub.backends.sagemaker import bodies, iam
from llama_hub.backends.sagemaker.bodies import ROOT, Account
from llama_hub.backends.sagemaker.inventory import Inventory
from llama_hub.backends.sagemaker.revisions import with_young_role
from llama_hub.backends.sagemaker.roles import ensure_role, remove_role
from llama_hub.deploy import image as packed
from llama_hub.deploy.waiting import wait_for
from llama_hub.errors import LlamaHubError, ProvisioningError
from llama_hub.progress import Progress

MACHINE = "BUILD_GENERAL1_LARGE"  # the layers with PyTorch do not fit into less
STANDARD = "aws/codebuild/amazonlinux2-x86_64-standard:5.0"
MINUTES = 60
LOOK = 15.0  # seconds between two looks at a build
WORKING = "IN_PROGRESS"
MOST_BUILDS = 100  # that can be asked for in one call; the newest come first

DOCKERFILE = """\
# llama-hub: `docker run IMAGE serve` answers /ping and /invocations on port 8080
FROM {base}
RUN pip install --no-cache-dir {requirements}
ADD llama_hub.tar.bz2 /opt/llama-hub/
ENV PYTHONPATH=/opt/llama-hub PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8080
ENTRYPOINT ["python", "-m", "llama_hub"]
CMD ["serve"]
"""
BUILDSPEC = """\
version: 0.2
phases:
  build:
    commands:
      - aws ecr get-login-password | docker login --username AWS --password-stdin "${IMAGE%%/*}"
      - docker build --platform linux/amd64 -t "$IMAGE" .
      - docker push "$IMAGE"
"""


@cache
def context() -> bytes:
    """The build context as a ZIP file, the same byte for byte wherever it is made."""
    text = DOCKERFILE.format(base=packed.CPU_BASE, requirements=" ".join(packed.requirements()))
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {
            "Dockerfile": text.encode(),
            "buildspec.yml": BUILDSPEC.encode(),
            packed.ARCHIVE: packed.archive(),
        }.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return raw.getvalue()


@cache
def digest() -> str:
    """Of the context."""
    return hashlib.sha256(context()).hexdigest()


class Builder:
    """The image of one deployment."""

    def __init__(self, inventory: Inventory, name: str) -> None:
        self._inventory, self._name = inventory, name
        self._aws = inventory.aws
        self._project = f"{ROOT}-{name}"
        self._key = f"{bodies.build_prefix(name)}{digest()}.zip"

    def build(self, body: Mapping[str, Any], timeout: float, progress: Progress) -> dict[str, Any]:
        """Put the image into the repository; what is needed only for that is removed."""
        self._ensure_repository(body["tags"])
        tag = str(body["image"]).rpartition(":")[2]
        if not self._is_built(tag):
            self._run(self._running() or self._start(body), body, timeout, progress)
        return {"image": body["image"]}

    def _ensure_repository(self, tags: Mapping[str, str]) -> None:
        name = bodies.repository(self._name)
        if self._aws.find("ecr", "describe_repositories", repositoryNames=[name]) is None:
            self._aws.call(
                "ecr",
                "create_repository",
                repositoryName=name,
                imageTagMutability="IMMUTABLE",
                imageScanningConfiguration={"scanOnPush": True},
                tags=[{"Key": key, "Value": value} for key, value in tags.items()],
            )

    def _is_built(self, tag: str) -> bool:
        found = self._aws.find(
            "ecr",
            "describe_images",
            repositoryName=bodies.repository(self._name),
            imageIds=[{"imageTag": tag}],
        )
        return found is not None

    def _running(self) -> str | None:
        """A build that a run which was cut off has left working; a second one would collide."""
        found = self._aws.find("codebuild", "list_builds_for_project", projectName=self._project)
        ids = list((found or {}).get("ids", []))[:MOST_BUILDS]
        if not ids:
            return None
        builds = self._aws.call("codebuild", "batch_get_builds", ids=ids)["builds"]
        return next((str(one["id"]) for one in builds if one["buildStatus"] == WORKING), None)

    def _start(self, body: Mapping[str, Any]) -> str:
        try:
            self._inventory.container().ensure()
            self._inventory.bucket.put(self._key, context())
            role = iam.build_role(self._name, self._inventory.account)
            ensure_role(self._inventory, role, body["tags"])
            self._ensure_project(role, body)
            started = self._aws.call("codebuild", "start_build", projectName=self._project)
        except LlamaHubError:
            self._clean_up()
            raise
        return str(started["build"]["id"])

    def _run(self, id_: str, body: Mapping[str, Any], timeout: float, progress: Progress) -> None:
        """Wait for the end; a wait that is cut off leaves the build to the next run."""
        progress.say(f"CodeBuild builds {body['image']} ({id_})")
        found = wait_for(
            lambda: self._ended(id_),
            f"the build {id_}",
            timeout=timeout,
            every=LOOK,
            sleep=self._aws.sleep,
        )
        self._clean_up()
        # Somebody else's build may have put the same image there in the meantime.
        if found["buildStatus"] != "SUCCEEDED" and not self._is_built(
            str(body["image"]).rpartition(":")[2]
        ):
            where = found.get("logs", {}).get("deepLink", "the console of CodeBuild")
            raise ProvisioningError(
                f"the image could not be built: {found['buildStatus']} in {found['currentPhase']}",
                hint=f"its log: {where}; or give a ready one: --set options.image=…",
            )

    def _ensure_project(self, role: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        """One that a run which was cut off has left is made anew: it may be another release's."""
        self._aws.find("codebuild", "delete_project", name=self._project)
        request = project(self._project, role["arn"], self._inventory.account, self._key, body)
        with_young_role(
            lambda: self._aws.call("codebuild", "create_project", **request),
            "the role of the build",
            self._aws.sleep,
        )

    def _ended(self, id_: str) -> Mapping[str, Any] | None:
        found = self._aws.call("codebuild", "batch_get_builds", ids=[id_])["builds"][0]
        return None if found["buildStatus"] == WORKING else dict(found)

    def _clean_up(self) -> None:
        self._aws.find("codebuild", "delete_project", name=self._project)
        remove_role(self._inventory, iam.build_role(self._name, self._inventory.account)["role"])
        self._inventory.bucket.delete(self._key)

    def remove(self) -> None:
        """Repository with its images, and what a cut-off build left."""
        name = bodies.repository(self._name)
        self._aws.find("ecr", "delete_repository", repositoryName=name, force=True)
        self._clean_up()


def project(
    name: str, role: str, account: Account, key: str, body: Mapping[str, Any]
) -> dict[str, Any]:
    """``CreateProject``."""
    return {
        "name": name,
        "source": {"type": "S3", "location": f"{account.bucket}/{key}"},
        "artifacts": {"type": "NO_ARTIFACTS"},
        "environment": {
            "type": "LINUX_CONTAINER",
            "image": STANDARD,
            "computeType": MACHINE,
            "privilegedMode": True,  # docker build needs it
            "environmentVariables": [{"name": "IMAGE", "value": body["image"]}],
        },
        "serviceRole": role,
        "timeoutInMinutes": MINUTES,
        "tags": [{"key": key_, "value": value} for key_, value in body["tags"].items()],
    }

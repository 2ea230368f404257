"""What llama-hub has on Hugging Face, and the exact bodies that are sent for it.

===============  =============================================================
``repository``   private model repository ``NAMESPACE/llama-hub-NAME-DIGEST``:
                 the served folder, plus ``MARKER``, which says whose it is
``endpoint``     the Inference Endpoint, named as the deployment
===============  =============================================================

An endpoint's tags are plain texts: ``llama-hub:deployment=chat``. A repository
has none, so ``MARKER`` holds them; it is written first with the state
``uploading`` and last with ``ready``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_hub.backends.huggingface.machines import split
from llama_hub.backends.huggingface.options import Options
from llama_hub.deploy import reconcile
from llama_hub.deploy.backend import TAG_SPEC, Resource, Target
from llama_hub.deploy.environment import service_environment, tensor_parallel

MARKER = "llama-hub-deployment.json"
PREFIX = "llama-hub"
DIGEST = 10  # hexadecimal digits of the manifest's digest in a repository's name
MOUNT = "/repository"
BRANCH = "main"  # of a repository that only we write
COMMIT = re.compile("[0-9a-f]{40}")
HEALTH = "/health"
VLLM_PORT = 8000
VLLM_IMAGE = "vllm/vllm-openai:v0.23.0"  # the one that huggingface-hub 2.4 names
ACCESS = {"private": "private", "authenticated": "authenticated", "public": "public"}
IDLE_MINUTES = 15  # until an idle endpoint stops its last replica, where the spec says nothing


def repository_name(deployment: str, digest: str) -> str:
    """Name of the private repository, without its namespace."""
    return f"{PREFIX}-{deployment}-{digest.removeprefix('sha256:')[:DIGEST]}"


def to_tags(tags: Mapping[str, str]) -> list[str]:
    """Tags in the form of an endpoint."""
    return [f"{key}={value}" for key, value in sorted(tags.items())]


def from_tags(tags: Sequence[str]) -> dict[str, str]:
    """The reverse; texts of other form are somebody else's."""
    return dict(tag.split("=", 1) for tag in tags if "=" in tag)


@dataclass(frozen=True)
class Weights:
    """Where the endpoint takes its model from."""

    repository: str  # NAMESPACE/NAME
    revision: str  # commit, or ``main`` for a repository that only we write


def marker(target: Target, state: str, options: Options, extra: str) -> dict[str, Any]:
    """The content of ``MARKER``; ``extra``: digest of the files beside the weights."""
    tags = {key: value for key, value in target.tags.items() if key != TAG_SPEC}
    return {"state": state, "keep": options.keep_repository, "extra": extra, "tags": tags}


def repository_resource(name: str, content: Mapping[str, Any]) -> Resource:
    """A private repository as its marker describes it."""
    return Resource(
        "repository",
        name,
        str(content.get("state", "unknown")),
        dict(content.get("tags", {})),
        {"keep": bool(content.get("keep")), "extra": str(content.get("extra", ""))},
    )


def endpoint_resource(found: Mapping[str, Any]) -> Resource:
    """An endpoint as the control plane shows it."""
    return Resource(
        "endpoint",
        found["name"],
        found["status"]["state"],
        from_tags(found.get("tags") or []),
        found,
    )


def endpoint_body(target: Target, options: Options, weights: Weights) -> dict[str, Any]:
    """The body of create and update, except for the values of secrets."""
    return {
        "name": target.spec.name,
        "type": ACCESS[target.spec.access],
        "compute": _compute(target),
        "model": _model(target, options, weights),
        "provider": {"vendor": options.vendor, "region": target.offer.region},
        "tags": to_tags(target.tags),
    }


def _compute(target: Target) -> dict[str, Any]:
    spec = target.spec
    kind, size = split(target.offer.instance)
    idle = spec.scale_to_zero_minutes or (IDLE_MINUTES if spec.scale_to_zero else None)
    return {
        "accelerator": "gpu" if target.offer.accelerators else "cpu",
        "instanceType": kind,
        "instanceSize": size,
        "scaling": {
            "minReplica": 0 if spec.scale_to_zero else spec.replicas_min,
            "maxReplica": spec.replicas_max,
            "scaleToZeroTimeout": idle,
        },
    }


def _model(target: Target, options: Options, weights: Weights) -> dict[str, Any]:
    return {
        "repository": weights.repository,
        "revision": weights.revision,
        "framework": "custom",
        "task": "custom" if options.run == "handler" else "text-generation",
        "image": _image(target, options),
        "env": _environment(target, options),
        "secrets": dict.fromkeys(options.secrets, ""),
    }


def _image(target: Target, options: Options) -> dict[str, Any]:
    if options.run == "handler":
        return {"huggingface": {}}
    if options.run == "vllm":
        image = options.image or VLLM_IMAGE
        return {
            "vLLM": {
                "url": image,
                "port": VLLM_PORT,
                "healthRoute": HEALTH,
                "tensorParallelSize": tensor_parallel(target),
            }
        }
    custom: dict[str, Any] = {"url": options.image, "port": options.port, "healthRoute": HEALTH}
    if options.registry_username:
        custom["credentials"] = {"username": options.registry_username, "password": ""}
    return {"custom": custom}


def _environment(target: Target, options: Options) -> dict[str, str]:
    """What our service is told; vLLM reads none of it."""
    if options.run == "vllm":
        return dict(target.spec.environment)
    return service_environment(target, "huggingface", port=options.port)


def with_secrets(
    body: Mapping[str, Any], secrets: Mapping[str, str], password: str | None
) -> dict[str, Any]:
    """The body as sent, now with the values that no plan, journal or message holds."""
    sent: dict[str, Any] = json.loads(json.dumps(body))
    sent["model"]["secrets"] = dict(secrets)
    credentials = sent["model"]["image"].get("custom", {}).get("credentials")
    if credentials and password:
        credentials["password"] = password
    return sent


def differences(body: Mapping[str, Any], shown: Mapping[str, Any]) -> list[str]:
    """The parts of ``body`` that the endpoint does not have as wanted, as ``model.env``.

    Values of secrets are never shown; a plan holds them as empty, which is no difference.
    """
    parts = reconcile.differences({key: body[key] for key in ("type", "provider")}, shown)
    for key in ("compute", "model"):
        inner = reconcile.differences(body[key], shown.get(key), _same)
        parts += [f"{key}.{part}" for part in inner]
    if sorted(body["tags"]) != sorted(shown.get("tags") or []):
        parts.append("tags")
    return parts


def _same(wanted: Any, shown: Any) -> bool:
    """Equal values; a branch may be shown as the commit that it is at, a secret as anything."""
    if wanted == "" or wanted == shown:
        return True
    return wanted == BRANCH and bool(COMMIT.fullmatch(str(shown)))


def must_replace(parts: Sequence[str], body: Mapping[str, Any], shown: Mapping[str, Any]) -> bool:
    """Whether a change is one that an endpoint cannot make in place: its cloud or its engine."""
    engine = set(body["model"]["image"]) != set(shown.get("model", {}).get("image", {}))
    return "provider" in parts or engine


def extra_digest(files: Mapping[str, bytes]) -> str:
    """One digest of the files that go beside the weights; empty for none."""
    if not files:
        return ""
    known = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]

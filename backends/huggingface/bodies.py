"""Bodies that are sent to Hugging Face, and the names of what llama-hub has there.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_hub.backends.huggingface.machines import split
from llama_hub.backends.huggingface.options import Options
from llama_hub.deploy import reconcile
from llama_hub.deploy.backend import TAG_SPEC, Resource, Target
from llama_hub.deploy.environment import (
    refuse_moderation,
    service_environment,
    tensor_parallel,
    vllm_arguments,
)
from llama_hub.errors import ProvisioningError

MARKER = "llama-hub-deployment.json"
PREFIX = "llama-hub"
DIGEST = 10  # hexadecimal digits of the manifest's digest in a repository's name
MOUNT = "/repository"
PENDING = ""  # in place of the commit that an upload makes
TAG_SECRETS = "llama-hub:secrets"  # one-way digest of the values of secrets: whether they changed
HUB_TOKEN = "HF_TOKEN"  # what vLLM reads a gated repository with
ROUNDS = 50_000  # of the one-way digest
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
    revision: str  # commit; PENDING before the upload has made it


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
        {
            "keep": bool(content.get("keep")),
            "extra": str(content.get("extra", "")),
            "commit": str(content.get("commit", "")),
        },
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


def endpoint_body(
    target: Target, options: Options, weights: Weights, secrets: str = ""
) -> dict[str, Any]:
    """The body of create and update, except for the values of secrets; ``secrets``: their digest.

    ``options.run`` is decided already, see ``Options.on``.
    """
    tags = target.tags | ({TAG_SECRETS: secrets} if secrets else {})
    return {
        "name": target.spec.name,
        "type": ACCESS[target.spec.access],
        "compute": _compute(target),
        "model": _model(target, options, weights),
        "provider": {"vendor": options.vendor, "region": target.offer.region},
        "tags": to_tags(tags),
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
    body = {
        "repository": weights.repository,
        "revision": weights.revision,
        "framework": "custom",
        "task": "custom" if options.run == "handler" else "text-generation",
        "image": _image(target, options),
        "env": _environment(target, options),
        "secrets": dict.fromkeys(secret_names(options), ""),
    }
    return body | ({"args": _arguments(target)} if options.run == "vllm" else {})


def secret_names(options: Options) -> list[str]:
    """Secrets of the container: those that were asked for, and a gated repository's token."""
    needed = [HUB_TOKEN] if options.gated_repository else []
    return sorted({*options.secrets, *needed})


def secrets_digest(name: str, values: Mapping[str, str]) -> str:
    """Whether the values of secrets have changed, and nothing of the values; empty for none.

    Many rounds, so that a short value is not found by trying.
    """
    if not values:
        return ""
    told = json.dumps(dict(sorted(values.items()))).encode()
    return hashlib.pbkdf2_hmac("sha256", told, f"llama-hub/{name}".encode(), ROUNDS, 8).hex()


def _arguments(target: Target) -> list[str]:
    """vLLM's command line; how many devices share the model says the image's own field."""
    told = vllm_arguments(target)
    del told["tensor-parallel-size"]
    return [part for key, value in sorted(told.items()) for part in (f"--{key}", value)]


def _image(target: Target, options: Options) -> dict[str, Any]:
    if options.run == "handler":
        return {"huggingface": {}}
    if options.run == "vllm":
        return {
            "vLLM": {
                "url": options.image or VLLM_IMAGE,
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
    if options.run == "handler":
        refuse_moderation(target, "the platform's image with our handler")
    return service_environment(target, "huggingface", port=options.port)


def with_secrets(
    body: Mapping[str, Any], secrets: Mapping[str, str], password: str | None
) -> dict[str, Any]:
    """The body as sent, now with the values that no plan, journal or message holds.

    ``ProvisioningError`` if the commit of the weights is not known.
    """
    sent: dict[str, Any] = json.loads(json.dumps(body))
    sent["model"]["secrets"] = dict(secrets)
    if sent["model"].get("revision") == PENDING:
        raise ProvisioningError("the commit of the weights is not known; they are not uploaded")
    credentials = sent["model"]["image"].get("custom", {}).get("credentials")
    if credentials and password:
        credentials["password"] = password
    return sent


def differences(body: Mapping[str, Any], shown: Mapping[str, Any]) -> list[str]:
    """The parts of ``body`` that the endpoint does not have as wanted, as ``model.env``.

    Only what we set is compared. Values of secrets are never shown: whether they have changed
    says the tag with their digest.
    """
    parts = reconcile.differences({key: body[key] for key in ("type", "provider")}, shown)
    for key in ("compute", "model"):
        inner = reconcile.differences(body[key], shown.get(key), _is_secret)
        parts += [f"{key}.{part}" for part in inner]
    if body["model"]["revision"] == PENDING:
        parts.append("model.revision")
    if not _tags_hold(body["tags"], shown.get("tags") or []):
        parts.append("tags")
    return parts


def _tags_hold(wanted: Sequence[str], shown: Sequence[str]) -> bool:
    """Whether all of ours are there, and none that is ours no longer; others' tags are theirs."""
    ours = {tag for tag in shown if tag in wanted or tag.startswith(f"{PREFIX}:")}
    return ours == set(wanted)


def _is_secret(wanted: Any, shown: Any) -> bool:
    """Whether the plan leaves the value open: secrets, and a commit that is not made yet."""
    return bool(wanted == "")


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

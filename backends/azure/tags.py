"""Our tags in the spelling that Resource Manager accepts, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_hub.deploy.backend import (
    TAG_DEPLOYMENT,
    TAG_LICENSE,
    TAG_MANIFEST,
    TAG_MODEL,
    TAG_SPEC,
    TAG_TTL,
)

# Resource Manager forbids some characters in the names of tags; ours lose their colon.
OWN_TAGS = {
    tag: tag.replace(":", "-")
    for tag in (TAG_DEPLOYMENT, TAG_MANIFEST, TAG_SPEC, TAG_LICENSE, TAG_MODEL, TAG_TTL)
}
_BACK = {theirs: ours for ours, theirs in OWN_TAGS.items()}


def to_cloud(tags: Mapping[str, str]) -> dict[str, str]:
    """Our tags in the spelling that Resource Manager accepts; all values are strings."""
    return {OWN_TAGS.get(name, name): str(value) for name, value in tags.items()}


def from_cloud(tags: Mapping[str, Any] | None) -> dict[str, str]:
    """The tags of a resource in our spelling."""
    return {_BACK.get(name, name): str(value) for name, value in (tags or {}).items()}

"""Making and removing roles; waiting until a service may assume a new one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llama_hub.backends.sagemaker.bodies import ROLE_PATH
from llama_hub.backends.sagemaker.iam import POLICY
from llama_hub.backends.sagemaker.inventory import Inventory


def ensure_role(inventory: Inventory, wanted: Mapping[str, Any], tags: Mapping[str, str]) -> None:
    """Make the role what ``wanted`` says; each call again does no harm."""
    name, aws = wanted["role"], inventory.aws
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    trust = json.dumps(wanted["trust"])
    if aws.find("iam", "get_role", RoleName=name) is None:
        aws.call(
            "iam",
            "create_role",
            RoleName=name,
            Path=ROLE_PATH,
            AssumeRolePolicyDocument=trust,
            Description="made by llama-hub",
            Tags=listed,
        )
    else:
        aws.call("iam", "update_assume_role_policy", RoleName=name, PolicyDocument=trust)
        _retag(inventory, name, tags, listed)
    policy = json.dumps(wanted["policy"])
    aws.call("iam", "put_role_policy", RoleName=name, PolicyName=POLICY, PolicyDocument=policy)


def _retag(
    inventory: Inventory, name: str, tags: Mapping[str, str], listed: list[dict[str, str]]
) -> None:
    found = inventory.role(name)
    stale = [key for key in (found.tags if found else {}) if key not in tags]
    if stale:
        inventory.aws.call("iam", "untag_role", RoleName=name, TagKeys=stale)
    inventory.aws.call("iam", "tag_role", RoleName=name, Tags=listed)


def remove_role(inventory: Inventory, name: str) -> None:
    """The inline policy, then the role; absent ones are well."""
    inventory.aws.find("iam", "delete_role_policy", RoleName=name, PolicyName=POLICY)
    inventory.aws.find("iam", "delete_role", RoleName=name)

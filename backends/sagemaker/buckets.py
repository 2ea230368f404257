"""The bucket of the weights: closed, encrypted, and rid of unfinished uploads after a week.

One that is there is used as it is, but for one lifecycle rule on our own prefix; one that we made
goes when nothing is left in it.
"""

from __future__ import annotations

from typing import Any

from llama_hub.backends.sagemaker.bodies import ROOT, marker_prefix
from llama_hub.backends.sagemaker.inventory import Inventory
from llama_hub.errors import AccessError

RULE = "llama-hub-unfinished-uploads"
DAYS = 7
OURS = {"Key": "llama-hub:made", "Value": "yes"}
CLOSED = {
    "BlockPublicAcls": True,
    "IgnorePublicAcls": True,
    "BlockPublicPolicy": True,
    "RestrictPublicBuckets": True,
}


def ensure(inventory: Inventory) -> None:
    """Make the bucket if it is missing, and have unfinished uploads removed."""
    name, aws = inventory.account.bucket, inventory.aws
    if aws.find("s3", "head_bucket", Bucket=name) is None:
        where = {"CreateBucketConfiguration": {"LocationConstraint": inventory.account.region}}
        aws.call("s3", "create_bucket", Bucket=name, **(where if _names_region(inventory) else {}))
        _claim(inventory)
    elif inventory.has_default_bucket and not inventory.bucket.keys("") and not _tags(inventory):
        _claim(inventory)  # a run that was cut off here has made it
    _ensure_rule(inventory)


def _claim(inventory: Inventory) -> None:
    """Close the bucket, and say that it is ours."""
    name, aws = inventory.account.bucket, inventory.aws
    aws.call("s3", "put_public_access_block", Bucket=name, PublicAccessBlockConfiguration=CLOSED)
    aws.call("s3", "put_bucket_tagging", Bucket=name, Tagging={"TagSet": [OURS]})


def _names_region(inventory: Inventory) -> bool:
    return inventory.account.region != "us-east-1"


def _rules(inventory: Inventory) -> list[dict[str, Any]]:
    found = inventory.aws.find(
        "s3", "get_bucket_lifecycle_configuration", Bucket=inventory.account.bucket
    )
    return list((found or {}).get("Rules", []))


def _ensure_rule(inventory: Inventory) -> None:
    """Other rules of the bucket stay as they are."""
    rules = _rules(inventory)
    if any(rule.get("ID") == RULE for rule in rules):
        return
    ours = {
        "ID": RULE,
        "Status": "Enabled",
        "Filter": {"Prefix": f"{ROOT}/"},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": DAYS},
    }
    _put_rules(inventory, [*rules, ours])


def _put_rules(inventory: Inventory, rules: list[dict[str, Any]]) -> None:
    inventory.aws.call(
        "s3",
        "put_bucket_lifecycle_configuration",
        Bucket=inventory.account.bucket,
        LifecycleConfiguration={"Rules": rules},
        ChecksumAlgorithm="SHA256",
    )


def release(inventory: Inventory) -> None:
    """When no deployment is left: our rule goes; the bucket too if we made it and it is empty."""
    name, aws = inventory.account.bucket, inventory.aws
    if aws.find("s3", "head_bucket", Bucket=name) is None or inventory.bucket.keys(marker_prefix()):
        return
    if is_ours(inventory) and not inventory.bucket.keys("") and not inventory.bucket.uploads(""):
        aws.find("s3", "delete_bucket", Bucket=name)
        return
    others = [rule for rule in _rules(inventory) if rule.get("ID") != RULE]
    if others:
        _put_rules(inventory, others)
    else:
        aws.find("s3", "delete_bucket_lifecycle", Bucket=name)


def is_ours(inventory: Inventory) -> bool:
    """Whether we made the bucket."""
    try:
        return OURS in _tags(inventory)
    except AccessError:
        return False


def _tags(inventory: Inventory) -> list[dict[str, str]]:
    found = inventory.aws.find("s3", "get_bucket_tagging", Bucket=inventory.account.bucket)
    return list((found or {}).get("TagSet", []))

"""The bucket of the weights: closed, encrypted, and rid of unfinished uploads after a week.

One that is there is used as it is, but for one lifecycle rule on our own prefix; one that we made
goes when nothing is left in it.
"""

from __future__ import annotations

from typing import Any

from llama_hub.backends.sagemaker.resources import ROOT, marker_prefix
from llama_hub.backends.sagemaker.world import World
from llama_hub.errors import AccessError, NotFoundError

RULE = "llama-hub-unfinished-uploads"
DAYS = 7
OURS = {"Key": "llama-hub:made", "Value": "yes"}
CLOSED = {
    "BlockPublicAcls": True,
    "IgnorePublicAcls": True,
    "BlockPublicPolicy": True,
    "RestrictPublicBuckets": True,
}


def ensure(world: World) -> None:
    """Make the bucket if it is missing, and have unfinished uploads removed."""
    name, aws = world.site.bucket, world.aws
    if aws.find("s3", "head_bucket", Bucket=name) is None:
        where = {"CreateBucketConfiguration": {"LocationConstraint": world.site.region}}
        aws.call("s3", "create_bucket", Bucket=name, **(where if _names_region(world) else {}))
        aws.call(
            "s3", "put_public_access_block", Bucket=name, PublicAccessBlockConfiguration=CLOSED
        )
        aws.call("s3", "put_bucket_tagging", Bucket=name, Tagging={"TagSet": [OURS]})
    _ensure_rule(world)


def _names_region(world: World) -> bool:
    return world.site.region != "us-east-1"


def _rules(world: World) -> list[dict[str, Any]]:
    found = world.aws.find("s3", "get_bucket_lifecycle_configuration", Bucket=world.site.bucket)
    return list((found or {}).get("Rules", []))


def _ensure_rule(world: World) -> None:
    """Other rules of the bucket stay as they are."""
    rules = _rules(world)
    if any(rule.get("ID") == RULE for rule in rules):
        return
    ours = {
        "ID": RULE,
        "Status": "Enabled",
        "Filter": {"Prefix": f"{ROOT}/"},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": DAYS},
    }
    _put_rules(world, [*rules, ours])


def _put_rules(world: World, rules: list[dict[str, Any]]) -> None:
    world.aws.call(
        "s3",
        "put_bucket_lifecycle_configuration",
        Bucket=world.site.bucket,
        LifecycleConfiguration={"Rules": rules},
        ChecksumAlgorithm="SHA256",
    )


def release(world: World) -> None:
    """When no deployment is left: our rule goes; the bucket too if we made it and it is empty."""
    name, aws = world.site.bucket, world.aws
    if aws.find("s3", "head_bucket", Bucket=name) is None or world.bucket.keys(marker_prefix()):
        return
    if _is_ours(world) and not world.bucket.keys("") and not world.bucket.uploads(""):
        aws.find("s3", "delete_bucket", Bucket=name)
        return
    others = [rule for rule in _rules(world) if rule.get("ID") != RULE]
    if others:
        _put_rules(world, others)
    else:
        aws.find("s3", "delete_bucket_lifecycle", Bucket=name)


def _is_ours(world: World) -> bool:
    try:
        found = world.aws.find("s3", "get_bucket_tagging", Bucket=world.site.bucket)
    except (AccessError, NotFoundError):
        return False
    return OURS in (found or {}).get("TagSet", [])

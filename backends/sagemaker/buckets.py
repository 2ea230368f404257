"""The bucket of the weights: closed, encrypted, and rid of unfinished uploads after a week.

One that is there is used as it is, but for one lifecycle rule on our own prefix; one that we made
goes when nothing is left in it.
"""

from __future__ import annotations

from typing import Any

from llama_hub.backends.sagemaker.resources import ROOT, marker_prefix
from llama_hub.backends.sagemaker.world import World
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


def ensure(world: World) -> None:
    """Make the bucket if it is missing, and have unfinished uploads removed."""
    name, aws = world.site.bucket, world.aws
    if aws.find("s3", "head_bucket", Bucket=name) is None:
        where = {"CreateBucketConfiguration": {"LocationConstraint": world.site.region}}
        aws.call("s3", "create_bucket", Bucket=name, **(where if _names_region(world) else {}))
        _claim(world)
    elif world.has_default_bucket and not world.bucket.keys("") and not _tags(world):
        _claim(world)  # a run that was cut off here has made it
    _ensure_rule(world)


def _claim(world: World) -> None:
    """Close the bucket, and say that it is ours."""
    name, aws = world.site.bucket, world.aws
    aws.call("s3", "put_public_access_block", Bucket=name, PublicAccessBlockConfiguration=CLOSED)
    aws.call("s3", "put_bucket_tagging", Bucket=name, Tagging={"TagSet": [OURS]})


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
    if is_ours(world) and not world.bucket.keys("") and not world.bucket.uploads(""):
        aws.find("s3", "delete_bucket", Bucket=name)
        return
    others = [rule for rule in _rules(world) if rule.get("ID") != RULE]
    if others:
        _put_rules(world, others)
    else:
        aws.find("s3", "delete_bucket_lifecycle", Bucket=name)


def is_ours(world: World) -> bool:
    """Whether we made the bucket."""
    try:
        return OURS in _tags(world)
    except AccessError:
        return False


def _tags(world: World) -> list[dict[str, str]]:
    found = world.aws.find("s3", "get_bucket_tagging", Bucket=world.site.bucket)
    return list((found or {}).get("TagSet", []))

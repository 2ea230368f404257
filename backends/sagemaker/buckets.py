"""The bucket of the weights: closed, encrypted, and rid of unfinished uploads after a week.

One that is there is used as it is, but for one lifecycle rule on our own prefix; one that we made
goes when nothing is left in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llama_hub.backends.sagemaker.bodies import ROOT, marker_prefix
from llama_hub.backends.sagemaker.client import Aws
from llama_hub.backends.sagemaker.storage import Bucket
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


@dataclass(frozen=True)
class Container:
    """The bucket as something that is made and removed."""

    bucket: Bucket
    region: str
    is_default: bool  # nobody has named another one

    @property
    def _aws(self) -> Aws:
        return self.bucket.aws

    @property
    def _name(self) -> str:
        return self.bucket.name

    def ensure(self) -> None:
        """Make the bucket if it is missing, and have unfinished uploads removed."""
        if self._aws.find("s3", "head_bucket", Bucket=self._name) is None:
            where = {"CreateBucketConfiguration": {"LocationConstraint": self.region}}
            given = where if self.region != "us-east-1" else {}
            self._aws.call("s3", "create_bucket", Bucket=self._name, **given)
            self._claim()
        elif self.is_default and not self.bucket.keys("") and not self._tags():
            self._claim()  # a run that was cut off here has made it
        self._ensure_rule()

    def release(self) -> None:
        """When no deployment is left: our rule goes; the bucket too if it is ours and empty."""
        if self._aws.find("s3", "head_bucket", Bucket=self._name) is None:
            return
        if self.bucket.keys(marker_prefix()):
            return
        if self.is_ours() and not self.bucket.keys("") and not self.bucket.uploads(""):
            self._aws.find("s3", "delete_bucket", Bucket=self._name)
            return
        others = [rule for rule in self._rules() if rule.get("ID") != RULE]
        if others:
            self._put_rules(others)
        else:
            self._aws.find("s3", "delete_bucket_lifecycle", Bucket=self._name)

    def is_ours(self) -> bool:
        """Whether we made the bucket."""
        try:
            return OURS in self._tags()
        except AccessError:
            return False

    def _claim(self) -> None:
        """Close the bucket, and say that it is ours."""
        self._aws.call(
            "s3",
            "put_public_access_block",
            Bucket=self._name,
            PublicAccessBlockConfiguration=CLOSED,
        )
        self._aws.call("s3", "put_bucket_tagging", Bucket=self._name, Tagging={"TagSet": [OURS]})

    def _rules(self) -> list[dict[str, Any]]:
        found = self._aws.find("s3", "get_bucket_lifecycle_configuration", Bucket=self._name)
        return list((found or {}).get("Rules", []))

    def _ensure_rule(self) -> None:
        """Other rules of the bucket stay as they are."""
        rules = self._rules()
        if any(rule.get("ID") == RULE for rule in rules):
            return
        ours = {
            "ID": RULE,
            "Status": "Enabled",
            "Filter": {"Prefix": f"{ROOT}/"},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": DAYS},
        }
        self._put_rules([*rules, ours])

    def _put_rules(self, rules: list[dict[str, Any]]) -> None:
        self._aws.call(
            "s3",
            "put_bucket_lifecycle_configuration",
            Bucket=self._name,
            LifecycleConfiguration={"Rules": rules},
            ChecksumAlgorithm="SHA256",
        )

    def _tags(self) -> list[dict[str, str]]:
        found = self._aws.find("s3", "get_bucket_tagging", Bucket=self._name)
        return list((found or {}).get("TagSet", []))

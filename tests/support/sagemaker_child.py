"""A process of its own that deploys or deletes on a plane, to be killed in the middle of it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import boto3
import botocore.session

from llama_hub.backends.sagemaker.client import Aws
from tests.support.sagemaker_bench import Bench

SERVICES = (
    "sagemaker", "s3", "iam", "sts", "cloudwatch", "application-autoscaling", "logs", "ecr",
    "pricing", "service-quotas", "sagemaker-runtime",
)  # fmt: skip
_core = botocore.session.get_session()
for _name in SERVICES:  # parse the descriptions once, not in every process
    _core.get_service_model(_name)


def _pause(seconds: float) -> None:
    time.sleep(0.02)


class _Aws(Aws):
    """With the parsed descriptions."""

    @property
    def _session(self) -> object:  # type: ignore[override]
        return boto3.Session(botocore_session=_core, region_name="us-east-1")


def _bench(environment: Mapping[str, str], root: str) -> Bench:
    os.environ.update(environment)
    return Bench(None, _Aws(sleep=_pause), Path(root))


def deploy(environment: Mapping[str, str], root: str) -> None:
    """Plan and apply."""
    _bench(environment, root).deploy()


def delete(environment: Mapping[str, str], root: str) -> None:
    """Plan and remove."""
    _bench(environment, root).delete()

"""A process of its own that deploys or deletes on a plane, to be killed in the middle of it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.sagemaker_bench import Bench, QuickAws, core

SERVICES = (
    "sagemaker", "s3", "iam", "sts", "cloudwatch", "application-autoscaling", "logs", "ecr",
    "pricing", "service-quotas", "sagemaker-runtime",
)  # fmt: skip
for _name in SERVICES:  # parse the descriptions once, not in every process
    core()._session.get_service_model(_name)


def _pause(seconds: float) -> None:
    time.sleep(0.02)


def _bench(environment: Mapping[str, str], root: str) -> Bench:
    os.environ.update(environment)
    return Bench(None, QuickAws(sleep=_pause), Path(root))


def deploy(environment: Mapping[str, str], root: str) -> None:
    """Plan and apply."""
    _bench(environment, root).deploy()


def delete(environment: Mapping[str, str], root: str) -> None:
    """Plan and remove."""
    _bench(environment, root).delete()

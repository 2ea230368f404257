"""Machine types, their prices, and which AMI runs which CUDA: the dated table and its readers."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from llama_hub.deploy.image import CUDA
from llama_hub.deploy.offer import Offer
from llama_hub.errors import UsageError

MIB = 1 << 20
CPU_WEIGHTS = 4 << 30  # bytes above which a CPU cannot answer within SageMaker's 60 seconds
BUILT_CUDA = float(CUDA)  # of the image that we build
_TAGGED = re.compile(r"cu(?:da)?[-_]?(\d{2})\.?(\d)(?!\d)")


@dataclass(frozen=True)
class Machine:
    """A machine type."""

    name: str
    accelerators: int
    memory: int  # MiB per accelerator, or of the host
    nvme: int  # GB of local disk; 0 if there is none
    price: float | None = None  # US dollars per hour
    bfloat16: bool = True  # whether the accelerator computes in it

    @property
    def memory_bytes(self) -> int:
        """Per accelerator, or of the host."""
        return self.memory * MIB


@functools.cache
def _document() -> Mapping[str, Any]:
    text = (files("llama_hub.backends.sagemaker") / "machines.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@functools.cache
def table() -> Mapping[str, Machine]:
    """Every known type by its name."""
    return {entry["name"]: Machine(**entry) for entry in _document()["machine"]}


def dated() -> str:
    """Where the table's prices come from."""
    return f"table for {_document()['region']}, {_document()['dated']}"


def find(name: str) -> Machine:
    """One type; ``UsageError`` if it is not in the table."""
    found = table().get(name)
    if found is None:
        raise UsageError(
            f"the machine type {name!r} is not known", hint=f"one of {', '.join(table())}"
        )
    return found


def offer(
    machine: Machine, region: str, prices: Mapping[str, float], quota: int | None, hint: str
) -> Offer:
    """The type as the deploy core compares it; ``prices`` are today's where they could be read."""
    today = prices.get(machine.name)
    return Offer(
        instance=machine.name,
        region=region,
        accelerators=machine.accelerators,
        memory_bytes=machine.memory_bytes,
        price_per_hour=machine.price if today is None else today,
        price_source=dated() if today is None else f"Pricing API for {region}, today",
        quota_left=quota,
        note=hint if quota == 0 else "",
        bfloat16=machine.bfloat16,
    )


def cuda_of(image: str, stated: float | None) -> float | None:
    """CUDA version of an image: as stated, as known, as its tag says; ``None`` if none does."""
    if stated is not None:
        return stated
    for known, version in _document()["cuda"].items():
        if image.endswith(known):
            return float(version)
    found = _TAGGED.search(image.rpartition("/")[2])
    return float(f"{found[1]}.{found[2]}") if found else None


def ami_for(machine: Machine, image: str | None, cuda: float | None) -> str | None:
    """The AMI whose driver runs the image; ``None`` for machines without an accelerator.

    ``UsageError`` where it cannot be told: a wrong pair ends without a single log line.
    """
    if machine.accelerators == 0:
        return None
    version = BUILT_CUDA if image is None else cuda_of(image, cuda)
    for ami in _document()["ami"]:
        if version is not None and ami["least"] <= version <= ami["most"]:
            return str(ami["name"])
    told = "is not known" if version is None else f"{version} has no matching AMI"
    raise UsageError(
        f"the CUDA version of {image} {told}",
        hint="--set options.cuda=12.4 (of the image) or --set options.ami=… (of the host)",
    )

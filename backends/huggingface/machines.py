"""Machines of Inference Endpoints, from the live list with its prices and quota.

The list is the only truth: a table in a file would be wrong soon, so there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from llama_hub.deploy.environment import has_bfloat16
from llama_hub.deploy.offer import Offer

GB = 1 << 30  # the platform's lists say GB and mean GiB: an L4 has 24, a T4 16 of them
AVAILABLE = "available"


def offers(hardware: Mapping[str, Any], vendor: str, region: str | None) -> Iterator[Offer]:
    """Every machine of ``vendor`` (in ``region``, if given) that can be had today."""
    for cloud in hardware.get("vendors", []):
        if cloud["name"] != vendor:
            continue
        for place in cloud["regions"]:
            if place.get("status", AVAILABLE) == AVAILABLE and region in (None, place["name"]):
                yield from _in_region(place)


def _in_region(place: Mapping[str, Any]) -> Iterator[Offer]:
    for machine in place["computes"]:
        if machine.get("status", AVAILABLE) == AVAILABLE:
            yield _offer(machine, place["name"])


def _offer(machine: Mapping[str, Any], region: str) -> Offer:
    devices = int(machine.get("numAccelerators") or 0) if machine["accelerator"] != "cpu" else 0
    total = machine.get("gpuMemoryGb") if devices else machine["memoryGb"]
    return Offer(
        instance=f"{machine['instanceType']}-{machine['instanceSize']}",
        region=region,
        accelerators=devices,
        memory_bytes=int(total or 0) * GB // max(devices, 1),
        price_per_hour=machine.get("pricePerHour"),
        price_source=f"Inference Endpoints' live list, {date.today().isoformat()}",
        quota_left=_left(machine, max(devices, 1)),
        note=str(machine.get("architecture", "")),
        bfloat16=has_bfloat16(f"{machine['instanceType']} {machine.get('architecture', '')}"),
    )


def _left(machine: Mapping[str, Any], devices: int) -> int | None:
    quota = machine.get("quota") or {}
    if quota.get("maxAccelerators") is None:
        return None
    return (
        max(0, int(quota["maxAccelerators"]) - int(quota.get("usedAccelerators") or 0)) // devices
    )


def split(instance: str) -> tuple[str, str]:
    """``nvidia-l4-x1`` → type ``nvidia-l4``, size ``x1``."""
    kind, _, size = instance.rpartition("-")
    return kind, size


def price(
    hardware: Mapping[str, Any], compute: Mapping[str, Any], provider: Mapping[str, Any]
) -> float | None:
    """US dollars an hour for one replica of an endpoint's ``compute``, in its cloud and region.

    What runs is paid for, also on a machine that can no longer be had.
    """
    kind = (compute.get("instanceType"), compute.get("instanceSize"))
    for cloud in hardware.get("vendors", []):
        for place in cloud["regions"] if cloud["name"] == provider.get("vendor") else []:
            for machine in place["computes"] if place["name"] == provider.get("region") else []:
                if (machine["instanceType"], machine["instanceSize"]) == kind:
                    stated = machine.get("pricePerHour")
                    return None if stated is None else float(stated)
    return None


def known_vendors(hardware: Mapping[str, Any]) -> list[str]:
    """Names of the clouds in the list."""
    return [str(cloud["name"]) for cloud in hardware.get("vendors", [])]


def known_regions(hardware: Mapping[str, Any], vendor: str) -> list[str]:
    """Names of a cloud's regions in the list."""
    clouds = [cloud for cloud in hardware.get("vendors", []) if cloud["name"] == vendor]
    return [str(place["name"]) for cloud in clouds for place in cloud["regions"]]

"""Machine types, their prices, and how many of them a quota of cores allows.

The table is ``machines.toml``; what a workspace reports about its region (``vmSizes``,
``usages``) goes over it. Quota counts cores of a family, and most types need
``ceil(1.2 n)`` instances' worth of them for ``n`` instances.
"""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_hub.deploy.offer import Offer

TOTAL = "total cluster dedicated regional vcpus"  # counts the cores of all families
TABLE = Path(__file__).with_name("machines.toml")
GB = 10**9


@dataclass(frozen=True)
class Size:
    """One machine type."""

    name: str
    family: str  # what the quota counts
    cores: int
    accelerators: int  # 0 for CPU
    memory_bytes: int  # per accelerator, or of the host where there is none
    price: float | None  # US dollars per hour
    price_source: str
    reserve: bool  # whether a fifth more counts against the quota
    bfloat16: bool = True  # whether the accelerator computes in it
    note: str = ""

    def cores_for(self, instances: int) -> int:
        """Cores of quota that ``instances`` need."""
        return (math.ceil(1.2 * instances) if self.reserve else instances) * self.cores

    def instances_within(self, cores: int) -> int:
        """How many instances ``cores`` free cores of quota allow."""
        whole = max(0, cores) // self.cores
        return next(n for n in range(whole, -1, -1) if self.cores_for(n) <= max(0, cores))


@dataclass(frozen=True)
class Usage:
    """Cores of one family in a region."""

    used: int
    limit: int

    @property
    def left(self) -> int:
        """Cores that nobody uses yet."""
        return self.limit - self.used


@functools.cache
def table() -> tuple[Size, ...]:
    """The types of ``machines.toml``."""
    document = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    source = f"East US list prices, snapshot of {document['dated']}"
    return tuple(
        Size(
            name=entry["name"],
            family=entry["family"],
            cores=entry["cores"],
            accelerators=entry["accelerators"],
            memory_bytes=entry["memory"] * GB,
            price=entry.get("price"),
            price_source=source,
            reserve=entry["reserve"],
            bfloat16=entry.get("bfloat16", True),
            note=entry.get("note", ""),
        )
        for entry in document["size"]
    )


def in_region(reported: Sequence[Mapping[str, Any]], region: str) -> tuple[Size, ...]:
    """The known types that ``vmSizes`` of a region reports, with that region's own prices.

    A region that reports nothing (no permission) is taken to have all of them.
    """
    if not reported:
        return table()
    by_name = {str(entry.get("name", "")).lower(): entry for entry in reported}
    known = [(size, by_name.get(size.name.lower())) for size in table()]
    return tuple(_as_reported(size, entry, region) for size, entry in known if entry is not None)


def _as_reported(size: Size, entry: Mapping[str, Any], region: str) -> Size:
    price = _price(entry.get("estimatedVMPrices") or {})
    family = str(entry.get("family") or size.family)
    if price is None:
        return replace(size, family=family)
    return replace(size, family=family, price=price, price_source=f"Azure ML in {region}, today")


def _price(prices: Mapping[str, Any]) -> float | None:
    """US dollars per hour on Linux without discount; ``None`` in another currency."""
    if prices.get("billingCurrency") != "USD" or prices.get("unitOfMeasure") != "OneHour":
        return None
    for value in prices.get("values") or []:
        if value.get("osType") == "Linux" and value.get("vmTier") == "Standard":
            with suppress(KeyError, TypeError, ValueError):  # one odd price drops no other
                return float(value["retailPrice"])
    return None


def usages(reported: Sequence[Mapping[str, Any]]) -> dict[str, Usage]:
    """Family (lower case) → cores, from the answer of ``usages``."""
    return {
        _family(entry).lower(): Usage(int(entry.get("currentValue", 0)), int(entry["limit"]))
        for entry in reported
        if "limit" in entry
    }


def _family(entry: Mapping[str, Any]) -> str:
    name = entry.get("name") or {}
    return str(name.get("value", "")) if isinstance(name, Mapping) else str(name)


def tightest(size: Size, quota: Mapping[str, Usage]) -> Usage | None:
    """Of the family's and the region's cores, whichever are fewer; ``None`` if neither is known."""
    known = [quota[key] for key in (size.family.lower(), TOTAL) if key in quota]
    return min(known, key=lambda usage: usage.left, default=None)


def offer(size: Size, region: str, quota: Mapping[str, Usage]) -> Offer:
    """The type as the deploy core compares it."""
    usage = tightest(size, quota)
    left = size.instances_within(usage.left) if usage else None
    return Offer(
        instance=size.name,
        region=region,
        accelerators=size.accelerators,
        memory_bytes=size.memory_bytes,
        price_per_hour=size.price,
        price_source=size.price_source,
        quota_left=left,
        note=size.note if left != 0 else quota_hint(size, 1, region, quota),
        bfloat16=size.bfloat16,
    )


def quota_hint(size: Size, instances: int, region: str, quota: Mapping[str, Usage]) -> str:
    """How many cores to ask for, and where."""
    usage, total = quota.get(size.family.lower()), quota.get(TOTAL)
    cores = size.cores_for(instances)
    wanted = [f"{cores + (usage.used if usage else 0)} cores of {size.family}"]
    if usage and usage.left >= cores:
        wanted = []
    if total and total.left < cores:
        wanted.append(f"{cores + total.used} cores in all (Total Cluster Dedicated Regional vCPUs)")
    return (
        f"ask for a limit of {' and of '.join(wanted)} in {region}: "
        "https://ml.azure.com/quota, or az ml compute list-usage shows today's"
    )


def find(name: str) -> Size | None:
    """A type of the table by its name, in any case."""
    return next((size for size in table() if size.name.lower() == name.lower()), None)

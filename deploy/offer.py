"""A machine type that could run a deployment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Offer:
    """A machine type that could run the deployment."""

    instance: str
    region: str
    accelerators: int  # devices per instance; 0 for CPU
    memory_bytes: int  # per accelerator, or of the host where there is none
    price_per_hour: float | None  # US dollars for one instance; None where running costs nothing
    price_source: str = ""  # where the price comes from and of which date
    quota_left: int | None = None  # instances that the quota still allows; None if unknown
    note: str = ""
    bfloat16: bool = True  # whether the accelerator computes in it (T4 and V100 do not)

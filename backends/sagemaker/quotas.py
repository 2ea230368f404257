"""Quotas of the account and today's prices, both only read.

What may not be read is not known, which is neither a quota of nothing nor a price of nothing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from llama_hub.backends.sagemaker import machines
from llama_hub.backends.sagemaker.client import Aws
from llama_hub.backends.sagemaker.inventory import Inventory
from llama_hub.backends.sagemaker.planning import types_of
from llama_hub.errors import LlamaHubError

QUOTA = re.compile(r"(ml\.[\w.-]+) for endpoint usage")
ALL = "Number of instances across active endpoints"  # counts beside the quota of each type
# The account's own values; a quota that was never changed may stand in the defaults alone.
LISTS = ("list_service_quotas", "list_aws_default_service_quotas")
_HOSTED = re.compile(r"Host:(ml\.[\w.-]+)$")


def quotas(aws: Aws) -> Mapping[str, int] | None:
    """Machine type (or ``ALL``) → instances that endpoints may have; ``None`` if none is known."""
    found: dict[str, int] = {}
    for operation in LISTS:
        if set(machines.table()) <= set(found):
            break  # so many pages need not be read
        with suppress(LlamaHubError):
            look = aws.pages if operation == LISTS[0] else aws.pages_once
            pages = look("service-quotas", operation, "Quotas", ServiceCode="sagemaker")
            found = dict(_quotas(pages)) | found
    return found or None


def _quotas(entries: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    """Those of endpoints: machine type or ``ALL``, and instances."""
    for entry in entries:
        name = str(entry["QuotaName"])
        match = QUOTA.fullmatch(name)
        if match or name == ALL:
            yield match[1] if match else ALL, int(entry["Value"])


def left(limits: Mapping[str, int] | None, used: Mapping[str, int], instance: str) -> int | None:
    """Instances of a type that may still be had, by its own quota and that of all types.

    ``None`` where its own is not known, unless nothing is left of that of all.
    """
    known = limits or {}
    whole = known[ALL] - sum(used.values()) if ALL in known else None
    if instance not in known:
        return 0 if whole is not None and whole <= 0 else None
    own = known[instance] - used.get(instance, 0)
    return max(0, own if whole is None else min(own, whole))


def used(inventory: Inventory) -> Mapping[str, int]:
    """Machine type → instances of the account's endpoints, ours or not, as far as may be read."""
    count: Counter[str] = Counter()
    with suppress(LlamaHubError):
        for entry in inventory.aws.pages("sagemaker", "list_endpoints", "Endpoints"):
            with suppress(LlamaHubError):  # others' endpoints need not be readable
                count.update(_instances(inventory, str(entry["EndpointName"])))
    return count


def _instances(inventory: Inventory, name: str) -> Mapping[str, int]:
    found = inventory.state(name)
    if found is None:
        return {}
    config = inventory.config(str(found["EndpointConfigName"]))
    variants = found.get("ProductionVariants", [])
    running = sum(int(one.get("DesiredInstanceCount", 0)) for one in variants)
    return {instance: running or 1 for instance in types_of(config)[:1]}


def prices(aws: Aws) -> Mapping[str, float]:
    """Machine type → US dollars per hour of real-time inference; empty if it may not be read.

    Products of another shape are passed over: the list has more than machines.
    """
    found: dict[str, float] = {}
    with suppress(LlamaHubError):
        for text in _products(aws):
            with suppress(KeyError, ValueError, TypeError, AttributeError):
                name, price = _price(json.loads(text))
                found[name] = price
    return found


def _products(aws: Aws) -> Iterator[str]:
    return aws.pages(
        "pricing",
        "get_products",
        "PriceList",
        ServiceCode="AmazonSageMaker",
        Filters=[
            {"Type": "TERM_MATCH", "Field": "regionCode", "Value": aws.region},
            {"Type": "TERM_MATCH", "Field": "component", "Value": "Hosting"},
        ],
    )


def _price(document: Mapping[str, Any]) -> tuple[str, float]:
    """Name and price of a product; ``KeyError`` or ``ValueError`` if it is no machine by the hour.

    A price of nothing (a free tier) is none.
    """
    attributes = document["product"]["attributes"]
    match = _HOSTED.search(str(attributes.get("usagetype", "")))
    name = match[1] if match else str(attributes["instanceName"])
    (term,) = document["terms"]["OnDemand"].values()
    (dimension,) = term["priceDimensions"].values()
    price = float(dimension["pricePerUnit"]["USD"])
    if not price > 0 or dimension.get("unit", "Hrs") not in ("Hrs", "Hours"):
        raise ValueError(f"{name} has no price by the hour")
    return name, price

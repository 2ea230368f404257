"""Quotas of the account and today's prices, both only read."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from llama_hub.backends.sagemaker.client import Aws
from llama_hub.backends.sagemaker.inventory import Inventory
from llama_hub.backends.sagemaker.planning import types_of
from llama_hub.errors import LlamaHubError

QUOTA = re.compile(r"(ml\.[\w.-]+) for endpoint usage")
_HOSTED = re.compile(r"Host:(ml\.[\w.-]+)$")


def quotas(aws: Aws) -> Mapping[str, int] | None:
    """Machine type → instances that endpoints may have; ``None`` if it may not be read."""
    try:
        pages = aws.pages(
            "service-quotas", "list_service_quotas", "Quotas", ServiceCode="sagemaker"
        )
        found = {str(one["QuotaName"]): int(one["Value"]) for one in pages}
    except LlamaHubError:
        return None
    matches = [(QUOTA.fullmatch(name), value) for name, value in found.items()]
    return {match[1]: value for match, value in matches if match}


def used(inventory: Inventory) -> Mapping[str, int]:
    """Machine type → instances of all endpoints of the account, ours or not."""
    count: Counter[str] = Counter()
    for entry in inventory.aws.pages("sagemaker", "list_endpoints", "Endpoints"):
        found = inventory.state(str(entry["EndpointName"]))
        if found is None:
            continue
        config = inventory.config(str(found["EndpointConfigName"]))
        variants = found.get("ProductionVariants", [])
        running = sum(int(one.get("DesiredInstanceCount", 0)) for one in variants)
        count[types_of(config)[0]] += running or 1
    return count


def prices(aws: Aws) -> Mapping[str, float]:
    """Machine type → US dollars per hour of real-time inference; empty if it may not be read."""
    try:
        pages = aws.pages(
            "pricing",
            "get_products",
            "PriceList",
            ServiceCode="AmazonSageMaker",
            Filters=[
                {"Type": "TERM_MATCH", "Field": "regionCode", "Value": aws.region},
                {"Type": "TERM_MATCH", "Field": "component", "Value": "Hosting"},
            ],
        )
        return dict(_price(json.loads(text)) for text in pages)
    except (LlamaHubError, KeyError, ValueError, TypeError):
        return {}


def _price(document: Mapping[str, Any]) -> tuple[str, float]:
    attributes = document["product"]["attributes"]
    match = _HOSTED.search(str(attributes.get("usagetype", "")))
    name = match[1] if match else str(attributes["instanceName"])
    (term,) = document["terms"]["OnDemand"].values()
    (dimension,) = term["priceDimensions"].values()
    return name, float(dimension["pricePerUnit"]["USD"])

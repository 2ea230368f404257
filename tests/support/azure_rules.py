"""What Azure refuses: published schemas, and rules that only its documentation states."""

from __future__ import annotations

import functools
import json
import math
import re
from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).with_name("azure_schemas")
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9]*(-[a-zA-Z0-9]+)*")
_DURATION = re.compile(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?")

# size → family, cores, exempt from the 20 % reserve, GPUs, memory in GB, US dollars per hour
SIZES: dict[str, tuple[str, int, bool, int, float, float]] = {
    "Standard_DS3_v2": ("standardDSv2Family", 4, False, 0, 14, 0.27),
    "Standard_F4s_v2": ("standardFSv2Family", 4, False, 0, 8, 0.19),
    "Standard_E16s_v3": ("standardESv3Family", 16, False, 0, 128, 1.01),
    "Standard_NC4as_T4_v3": ("Standard NCASv3_T4 Family", 4, False, 1, 28, 0.526),
    "Standard_NC24ads_A100_v4": ("StandardNCADSA100v4Family", 24, True, 1, 220, 3.673),
    "Standard_NC48ads_A100_v4": ("StandardNCADSA100v4Family", 48, True, 2, 440, 7.346),
}
QUOTA = {
    "standardDSv2Family": 24,
    "standardFSv2Family": 24,
    "standardESv3Family": 0,
    "Standard NCASv3_T4 Family": 8,
    "StandardNCADSA100v4Family": 48,
}


def sizes() -> list[dict[str, Any]]:
    """The answer of ``vmSizes``, with the service's spelling of the keys."""
    return [
        {
            "name": name,
            "family": family,
            "vCPUs": cores,
            "gpus": gpus,
            "memoryGB": memory,
            "osVhdSizeMB": 1047552,
            "maxResourceVolumeMB": 65536,
            "lowPriorityCapable": True,
            "premiumIO": True,
            "estimatedVMPrices": {
                "billingCurrency": "USD",
                "unitOfMeasure": "OneHour",
                "values": [
                    {"retailPrice": price * 1.4, "osType": "Windows", "vmTier": "Standard"},
                    {"retailPrice": price, "osType": "Linux", "vmTier": "Standard"},
                    {"retailPrice": price / 5, "osType": "Linux", "vmTier": "LowPriority"},
                ],
            },
            "supportedComputeTypes": ["AmlCompute", "ComputeInstance"],
        }
        for name, (family, cores, _, gpus, memory, price) in SIZES.items()
    ]


def reserved(instances: int, cores: int, exempt: bool) -> int:
    """Cores that a deployment holds of its family's quota."""
    return (instances if exempt else math.ceil(1.2 * instances)) * cores


@functools.cache
def _schema(version: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((SCHEMAS / f"{version}.json").read_text())
    return document


def schema_problems(version: str, resource: str, name: str, body: dict[str, Any]) -> list[str]:
    """What Microsoft's schema of this API version finds wrong with a PUT body."""
    import jsonschema

    document = _schema(version)
    schema = document["resourceDefinitions"][resource] | {"definitions": document["definitions"]}
    kind = "Microsoft.MachineLearningServices/" + resource.replace("_", "/")
    whole = body | {"apiVersion": version, "type": kind, "name": name}
    found = jsonschema.Draft7Validator(schema).iter_errors(whole)
    return [f"{resource} {name}: {error.json_path}: {error.message}" for error in found]


def name_problem(name: str) -> str | None:
    """The rule of endpoint and deployment names."""
    if 3 <= len(name) <= 32 and _NAME.fullmatch(name):
        return None
    return f"The name {name} is invalid."


def endpoint_problem(name: str, body: dict[str, Any], deployments: set[str]) -> str | None:
    """Why the service refuses an endpoint."""
    properties = body["properties"]
    traffic, mirror = properties.get("traffic") or {}, properties.get("mirrorTraffic") or {}
    if set(traffic) - deployments or set(mirror) - deployments:
        return "Traffic names a deployment that does not exist."
    if sum(traffic.values()) not in (0, 100):
        return "Traffic must sum up to 0 or 100."
    if sum(mirror.values()) > 50 or len(mirror) > 1:
        return "Mirror traffic must be at most 50 and go to one deployment."
    if set(mirror) & {known for known, share in traffic.items() if share}:
        return "A deployment cannot take live and mirrored traffic."
    return name_problem(name)


def deployment_problem(name: str, body: dict[str, Any], old: dict[str, Any] | None) -> str | None:
    """Why the service refuses a deployment, quota apart."""
    properties = body["properties"]
    if properties["instanceType"] not in SIZES:
        return f"The VM size {properties['instanceType']} is not supported."
    if old and old["properties"]["instanceType"] != properties["instanceType"]:
        return "instanceType cannot be changed."
    if seconds(properties.get("requestSettings", {}).get("requestTimeout", "PT5S")) > 180:
        return "requestTimeout must be at most 180 seconds."
    if not 1 <= body["sku"]["capacity"] <= 50:
        return "The capacity must be between 1 and 50."
    return name_problem(name)


def seconds(duration: str) -> float:
    """Seconds of an ISO 8601 duration without days."""
    match = _DURATION.fullmatch(duration)
    assert match, duration
    hours, minutes, rest = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + rest


def autoscale_problem(body: dict[str, Any]) -> str | None:
    """Why Azure Monitor refuses an autoscale setting."""
    profiles = body.get("properties", {}).get("profiles", [])
    if not 1 <= len(profiles) <= 20:
        return "There must be between one and twenty profiles."
    for profile in profiles:
        capacity = profile["capacity"]
        if not all(isinstance(value, str) for value in capacity.values()):
            return "Capacity values must be strings."
        if not int(capacity["minimum"]) <= int(capacity["default"]) <= int(capacity["maximum"]):
            return "The capacity is not in order."
        directions = {rule["scaleAction"]["direction"] for rule in profile["rules"]}
        if directions != {"Increase", "Decrease"}:
            return "A profile needs a rule for scaling out and one for scaling in."
    return None

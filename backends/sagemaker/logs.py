"""The container's log in CloudWatch: last lines, and following."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llama_hub.backends.sagemaker.inventory import Inventory
from llama_hub.errors import LlamaHubError

ENDPOINTS = "/aws/sagemaker/Endpoints/"
COMPONENTS = "/aws/sagemaker/InferenceComponents/"
FOLLOW = 5.0  # seconds between two looks
MOST = 10_000  # events of one answer


def groups(inventory: Inventory, name: str) -> list[str]:
    """Log groups that may have lines of deployment ``name``."""
    components = [f"{COMPONENTS}{one.name}" for one in inventory.components(name)]
    return [f"{ENDPOINTS}{name}", *components]


def streams(inventory: Inventory, group: str) -> list[str]:
    """Streams of a group, the one with the newest line last; none if the group is not there."""
    found = inventory.aws.find(
        "logs", "describe_log_streams", logGroupName=group, orderBy="LastEventTime", descending=True
    )
    return [str(one["logStreamName"]) for one in reversed((found or {}).get("logStreams", []))]


def events(
    inventory: Inventory, group: str, stream: str, *, tail: int = MOST, token: str | None = None
) -> tuple[list[Mapping[str, Any]], str | None]:
    """The newest ``tail`` events, or those after ``token``; and the token of what follows."""
    more: dict[str, Any] = {"nextToken": token} if token else {}
    found = inventory.aws.find(
        "logs",
        "get_log_events",
        logGroupName=group,
        logStreamName=stream,
        startFromHead=token is not None,
        limit=max(1, min(MOST, tail)),
        **more,
    )
    if found is None:
        return [], token
    return list(found["events"]), found.get("nextForwardToken")


def last(inventory: Inventory, name: str, tail: int) -> list[str]:
    """The last lines of all streams, oldest first; none where they cannot be read."""
    try:
        found = [
            event
            for group in groups(inventory, name)
            for stream in streams(inventory, group)
            for event in events(inventory, group, stream, tail=tail)[0]
        ]
    except LlamaHubError:
        return []
    ordered = sorted(found, key=lambda event: int(event.get("timestamp", 0)))
    lines = [line for event in ordered for line in str(event["message"]).splitlines()]
    return lines[-tail:]


def follow(inventory: Inventory, name: str) -> Iterator[str]:
    """New lines, for ever."""
    places: dict[tuple[str, str], str | None] = {}
    for group in groups(inventory, name):
        for stream in streams(inventory, group):
            places[group, stream] = events(inventory, group, stream, tail=1)[1]
    while True:
        inventory.aws.sleep(FOLLOW)
        for place, token in list(places.items()):
            fresh, places[place] = events(inventory, *place, token=token)
            for event in fresh:
                yield from str(event["message"]).splitlines()

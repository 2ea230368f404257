"""The container's log in CloudWatch: last lines, and following."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llama_hub.backends.sagemaker.inventory import Inventory
from llama_hub.backends.sagemaker.status import has_model

ENDPOINTS = "/aws/sagemaker/Endpoints/"
COMPONENTS = "/aws/sagemaker/InferenceComponents/"
FOLLOW = 5.0  # seconds between two looks
MOST = 10_000  # events of one answer


def groups(inventory: Inventory, name: str) -> list[str]:
    """Log groups that may have lines of deployment ``name``."""
    endpoint = inventory.endpoint(name)
    if endpoint is not None and has_model(endpoint):
        return [f"{ENDPOINTS}{name}"]  # without asking for components, which it has none of
    return [
        f"{ENDPOINTS}{name}",
        *(f"{COMPONENTS}{one.name}" for one in inventory.components(name)),
    ]


def streams(inventory: Inventory, group: str) -> list[str]:
    """The newest streams of a group, that with the newest line last; none if it is not there."""
    found = inventory.aws.find(
        "logs", "describe_log_streams", logGroupName=group, orderBy="LastEventTime", descending=True
    )
    return [str(one["logStreamName"]) for one in reversed((found or {}).get("logStreams", []))]


def events(
    inventory: Inventory,
    group: str,
    stream: str,
    *,
    tail: int = MOST,
    token: str | None = None,
    from_head: bool = False,
) -> tuple[list[Mapping[str, Any]], str | None]:
    """The newest ``tail`` events, or those after ``token``; and the token of what follows.

    ``from_head``: without a token the oldest come first.
    """
    more: dict[str, Any] = {"nextToken": token} if token else {}
    found = inventory.aws.find(
        "logs",
        "get_log_events",
        logGroupName=group,
        logStreamName=stream,
        startFromHead=from_head or token is not None,
        limit=max(1, min(MOST, tail)),
        **more,
    )
    if found is None:
        return [], token
    return list(found["events"]), found.get("nextForwardToken")


def last(inventory: Inventory, name: str, tail: int) -> list[str]:
    """The last lines of all streams, oldest first; ``AccessError`` where they may not be read."""
    found = [
        event
        for group, stream in places(inventory, name)
        for event in events(inventory, group, stream, tail=tail)[0]
    ]
    ordered = sorted(found, key=lambda event: int(event.get("timestamp", 0)))
    lines = [line for event in ordered for line in str(event["message"]).splitlines()]
    return lines[-tail:]


def places(inventory: Inventory, name: str) -> list[tuple[str, str]]:
    """Group and stream of every log of ``name``."""
    return [
        (group, stream) for group in groups(inventory, name) for stream in streams(inventory, group)
    ]


def follow(inventory: Inventory, name: str) -> Iterator[str]:
    """New lines, for ever; a stream that comes later (another instance) is shown from its start."""
    tokens: dict[tuple[str, str], str | None] = {
        place: events(inventory, *place, tail=1)[1] for place in places(inventory, name)
    }
    while True:
        inventory.aws.sleep(FOLLOW)
        for place in places(inventory, name):
            fresh, tokens[place] = events(
                inventory, *place, token=tokens.get(place), from_head=True
            )
            for event in fresh:
                yield from str(event["message"]).splitlines()

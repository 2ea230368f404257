"""The container's log in CloudWatch: last lines, and following."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llama_hub.backends.sagemaker.world import World
from llama_hub.errors import LlamaHubError

ENDPOINTS = "/aws/sagemaker/Endpoints/"
COMPONENTS = "/aws/sagemaker/InferenceComponents/"
FOLLOW = 5.0  # seconds between two looks
MOST = 10_000  # events of one answer


def groups(world: World, name: str) -> list[str]:
    """Log groups that may have lines of deployment ``name``."""
    components = [f"{COMPONENTS}{one.name}" for one in world.components(name)]
    return [f"{ENDPOINTS}{name}", *components]


def streams(world: World, group: str) -> list[str]:
    """Streams of a group, the one with the newest line last; none if the group is not there."""
    found = world.aws.find(
        "logs", "describe_log_streams", logGroupName=group, orderBy="LastEventTime", descending=True
    )
    return [str(one["logStreamName"]) for one in reversed((found or {}).get("logStreams", []))]


def events(
    world: World, group: str, stream: str, *, tail: int = MOST, token: str | None = None
) -> tuple[list[Mapping[str, Any]], str | None]:
    """The newest ``tail`` events, or those after ``token``; and the token of what follows."""
    more: dict[str, Any] = {"nextToken": token} if token else {}
    found = world.aws.find(
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


def last(world: World, name: str, tail: int) -> list[str]:
    """The last lines of all streams, oldest first; none where they cannot be read."""
    try:
        found = [
            event
            for group in groups(world, name)
            for stream in streams(world, group)
            for event in events(world, group, stream, tail=tail)[0]
        ]
    except LlamaHubError:
        return []
    ordered = sorted(found, key=lambda event: int(event.get("timestamp", 0)))
    lines = [line for event in ordered for line in str(event["message"]).splitlines()]
    return lines[-tail:]


def follow(world: World, name: str) -> Iterator[str]:
    """New lines, for ever."""
    places: dict[tuple[str, str], str | None] = {}
    for group in groups(world, name):
        for stream in streams(world, group):
            places[group, stream] = events(world, group, stream, tail=1)[1]
    while True:
        world.aws.sleep(FOLLOW)
        for place, token in list(places.items()):
            fresh, places[place] = events(world, *place, token=token)
            for event in fresh:
                yield from str(event["message"]).splitlines()

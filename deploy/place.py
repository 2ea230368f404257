"""The place of a deployment: resolved by the plan, written into the journal, held against later.

A place is the arguments of a backend's constructor that its ``location`` names: account, region,
subscription, workspace, namespace. Which of them only say how one gets in there (a profile, a role
to assume) is the backend's ``access``: those may change, and no place differs by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_hub.deploy.backend import Backend, Located
from llama_hub.deploy.journal import History
from llama_hub.errors import UsageError

Location = Mapping[str, Any]  # arguments of a backend's constructor


def resolved(backend: Backend, given: Location) -> dict[str, Any]:
    """``given`` and all that the backend finds out by itself; may ask the platform who calls."""
    place = backend.place() if isinstance(backend, Located) else {}
    stated = [*given.items(), *place.items()]
    return {key: value for key, value in stated if value is not None}


def differing(backend: Backend | type[Any], one: Location, other: Location) -> list[str]:
    """Keys that both state, and differently: then they are two places."""
    access = getattr(backend, "access", ())
    return [
        key
        for key in one
        if key in other and key not in access and _folded(one[key]) != _folded(other[key])
    ]


def where(backend: Backend, location: Location) -> dict[str, str]:
    """What of ``location`` says where it is, comparable."""
    access = getattr(backend, "access", ())
    return {key: _folded(value) for key, value in location.items() if key not in access}


def _folded(value: Any) -> str:
    return str(value).casefold()  # Azure and Hugging Face answer in other case than is asked


def check(backend: Backend, name: str, history: History, here: Location) -> None:
    """``UsageError`` if ``name`` is in another place, as far as this machine has written down."""
    if history.exists:
        check_same(backend, name, history.location, here)


def check_same(
    backend: Backend | type[Any], name: str, recorded: Location, asked: Location
) -> None:
    """``UsageError`` unless ``asked`` can be where ``name`` was deployed to."""
    keys = differing(backend, recorded, asked)
    if keys:
        raise UsageError(
            f"{name!r} was deployed to {shown(recorded, keys)}, not to {shown(asked, keys)}",
            hint=f"llama-hub status {name}   (looks where it is); for a second deployment choose "
            "another --name",
        )


def shown(location: Location, keys: list[str] | None = None) -> str:
    """In words: ``region eu-west-1 of account 123456789012``."""
    return " of ".join(f"{key} {location[key]}" for key in keys or list(location))

"""The door of a service: where it listens, and who may come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_hub.cli.options import secret
from llama_hub.cli.serve_options import DEFAULT_PORT, EVERYWHERE, LOOPBACK
from llama_hub.errors import UsageError

if TYPE_CHECKING:
    from llama_hub.inference.service.platforms.container import Platform


@dataclass(frozen=True)
class Door:
    """Where the server listens and who may come in."""

    host: str
    port: int
    key: str | None
    new_key: bool  # made for this run, so that it has to be shown
    check_host: bool  # only this machine can reach it, so only loopback's names are right


def open_door(
    host: str | None, port: int | None, platform: Platform | None, api_key: str | None, open_: bool
) -> Door:
    """Loopback without a key, or everywhere with one, unless the platform stands guard.

    ``UsageError`` for a key that is not to be asked for.
    """
    from llama_hub.inference.service.api_key import new_key
    from llama_hub.inference.service.auth import is_loopback

    key = secret(api_key, "LLAMA_HUB_API_KEY")
    if key is not None and open_:
        raise UsageError("--no-api-key and an API key exclude each other")
    inside = platform is not None
    address = host or (EVERYWHERE if inside else LOOPBACK)
    number = port if port is not None else (platform.port if platform else DEFAULT_PORT)
    guarded = platform is not None and platform.guarded
    local = is_loopback(address)
    if key is None and not (local or open_ or guarded):
        return Door(address, number, new_key(), new_key=True, check_host=False)
    return Door(address, number, key, new_key=False, check_host=local and not guarded)

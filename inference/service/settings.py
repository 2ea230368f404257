"""Settings of the service at its start: which model it serves, and its limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llama_hub.hub.manifest import Manifest
from llama_hub.inference.service.moderation import Moderator


@dataclass(frozen=True)
class ServedModel:
    """What clients are told about the weights."""

    name: str  # as /v1/models lists it
    license: str  # licence id
    license_name: str
    notice: str  # the attribution that the licence asks to be shown; may be empty
    chat: bool  # trained on the chat format; a base model only continues text
    manifest: Manifest | None = None  # None: a folder without llama-hub.json
    created: int = 0  # seconds since 1970, for /v1/models


@dataclass(frozen=True)
class Moderation:
    """How the moderators are asked, and which policy they come from."""

    mode: Literal["before", "parallel"] = "before"  # parallel: only the answer waits for it
    policy: str | None = None  # digest; None where only installed packages judge


@dataclass(frozen=True)
class ServiceSettings:
    """Limits and safety; every default is safe for an open port."""

    api_key: str | None = field(default=None, repr=False)  # None: open to whoever reaches the port
    check_host: bool = True  # without a key: answer only who calls this machine by a loopback name
    check_model: bool = False  # refuse requests that name another model
    strict: bool = False  # refuse an order of messages or a max_tokens that could be mended
    cors_origins: tuple[str, ...] = ()  # foreign pages that may call; "*" for all
    allowed_hosts: tuple[str, ...] = ()  # names of this server, besides loopback's, without a key
    trusted_proxies: tuple[str, ...] = ("127.0.0.0/8", "::1")  # whose X-Forwarded-… is believed
    root_path: str = ""  # prefix under which a proxy shows the service
    max_body_bytes: int = 6 << 20
    max_prompt_tokens: int | None = None  # None: the context is the only limit
    max_queue: int = 256  # sequences that may wait besides those that decode
    request_timeout: float = 600.0  # seconds from acceptance to the last token
    body_timeout: float = 30.0  # seconds within which the body must have arrived
    head_timeout: float = 10.0  # seconds within which a request's head must have arrived
    write_timeout: float = 30.0  # seconds that a client may leave a full buffer unread
    max_connections: int = 2048  # beyond: who has kept us waiting longest makes room
    drain_timeout: float = 25.0  # seconds between SIGTERM and the end of unfinished answers
    log_prompts: bool = False
    parse_special: bool = True  # names of special tokens in raw prompts are those tokens
    moderators: tuple[Moderator, ...] = ()
    moderation: Moderation = Moderation()

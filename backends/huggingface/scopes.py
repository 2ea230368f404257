"""Scopes that a token needs, by the calls that are made with it.

``NEEDED`` is the document: a test holds it against the calls that the suite records. Names of the
scopes are those of the Hub's own ``whoami``; a token of role ``write`` has them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

TOKENS = "https://huggingface.co/settings/tokens"
INFER = "inference.endpoints.infer.write"
MANAGE = "inference.endpoints.write"
WRITE_REPOSITORIES = "repo.write"
READ_REPOSITORIES = "repo.content.read"
BILLING = "user.billing.read"  # of an organisation: org.billing.read

Server = Literal["hub", "control plane", "endpoint"]


@dataclass(frozen=True)
class Scope:
    """One permission of a fine-grained token."""

    name: str
    title: str  # as the page of tokens has it
    server: Server
    calls: str  # regular expression of METHOD and path
    needed: str  # for what
    optional: bool = False


NEEDED = (
    Scope(
        MANAGE,
        "Manage Inference Endpoints",
        "control plane",
        r"(GET /v2/provider/[^/]+"
        r"|(GET|POST) /v2/endpoint/[^/]+"
        r"|(GET|PUT|DELETE) /v2/endpoint/[^/]+/[^/]+"
        r"|GET /v2/endpoint/[^/]+/[^/]+/logs"
        r"|POST /v2/endpoint/[^/]+/[^/]+/(pause|resume))",
        "deploy, status, logs, delete, ps, gc",
    ),
    Scope(
        INFER,
        "Make calls to your Inference Endpoints",
        "endpoint",
        r"(GET (/health|/manifest)|POST (/|/v1/chat/completions))",
        "invoke, chat, attest, and the health check at the end of a deployment",
    ),
    Scope(
        WRITE_REPOSITORIES,
        "Write access to contents/settings of all repos",
        "hub",
        r"(POST /api/repos/create|DELETE /api/repos/delete"
        r"|POST /api/models/[^/]+/[^/]+/(preupload|commit)/main"
        r"|GET /api/models/[^/]+/[^/]+/xet-write-token/main"
        r"|POST /[^/]+/[^/]+\.git/info/lfs/objects/batch)",
        "the private repository with the weights",
    ),
    Scope(
        READ_REPOSITORIES,
        "Read access to contents of all repos",
        "hub",
        r"(GET /api/models|GET /api/models/[^/]+/[^/]+"
        r"|GET /api/models/[^/]+/[^/]+/(tree|revision)/[^/]+"
        r"|(GET|HEAD) /[^/]+/[^/]+/resolve/[^/]+/.+|GET /api/models/[^/]+/[^/]+/auth-check)",
        "finding and comparing what is there",
    ),
    Scope(
        BILLING,
        "Read access to your billing usage",
        "hub",
        r"(?!)",
        "nothing that llama-hub calls: the account must be able to pay",
        optional=True,
    ),
)
ANYBODY = re.compile(r"GET /api/whoami-v2|POST /api/validate-yaml")  # needs no scope


def scope_of(server: Server, method: str, path: str) -> str | None:
    """The scope that a call needs; empty for one that needs none, ``None`` for an unknown one."""
    call = f"{method} {path}"
    if server == "hub" and ANYBODY.fullmatch(call):
        return ""
    for scope in NEEDED:
        if scope.server == server and re.fullmatch(scope.calls, call):
            return scope.name
    return None


def granted(who: Mapping[str, Any], namespace: str) -> set[str] | None:
    """Scopes of a fine-grained token in ``namespace``; ``None`` for one of another role."""
    token = (who.get("auth") or {}).get("accessToken") or {}
    if token.get("role") != "fineGrained":
        return None
    fine = token.get("fineGrained") or {}
    scoped = fine.get("scoped") or []
    mine = [one for one in scoped if (one.get("entity") or {}).get("name") == namespace]
    return {
        *(str(one) for one in fine.get("global") or []),
        *(str(name) for one in mine for name in one.get("permissions") or []),
    }


def missing(held: Iterable[str]) -> list[Scope]:
    """What is needed and not held; who may write repositories may read them."""
    known = set(held)
    if WRITE_REPOSITORIES in known:
        known.add(READ_REPOSITORIES)
    return [scope for scope in NEEDED if scope.name not in known and not scope.optional]

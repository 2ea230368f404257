"""Who may do what in the loopback Azure: built-in roles, grants with their scope, delays.

Roles are those that Microsoft documents (learn.microsoft.com, "Azure built-in roles"), cut down to
the actions that matter here. A grant holds for its scope and all below. What was granted a moment
ago takes effect late, as in the service.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.support.azure_refusals import refusal
from tests.support.azure_wire import Reply

ML = "Microsoft.MachineLearningServices"
BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
CALLER = "55555555-5555-5555-5555-555555555555"


@dataclass(frozen=True)
class Role:
    """What a role allows."""

    actions: tuple[str, ...] = ()
    not_actions: tuple[str, ...] = ()
    data_actions: tuple[str, ...] = ()

    def allows(self, action: str, *, data: bool) -> bool:
        """Whether it allows ``action``."""
        given = self.data_actions if data else self.actions
        return _any(given, action) and not _any(() if data else self.not_actions, action)

    def to_json(self) -> dict[str, list[str]]:
        """As ``Microsoft.Authorization/permissions`` shows it."""
        return {
            "actions": list(self.actions),
            "notActions": list(self.not_actions),
            "dataActions": list(self.data_actions),
            "notDataActions": [],
        }


OWNER = Role(("*",))
DATA_SCIENTIST = Role(
    tuple(f"{ML}/workspaces/*/{verb}" for verb in ("read", "action", "delete", "write")),
    (f"{ML}/workspaces/delete", f"{ML}/workspaces/write", f"{ML}/workspaces/listKeys/action"),
)
BLOB_CONTRIBUTOR = Role(
    ("Microsoft.Storage/storageAccounts/blobServices/containers/read",),
    data_actions=tuple(f"{BLOBS}/{verb}" for verb in ("read", "write", "delete")),
)


ROLE_IDS = {  # the same in every tenant
    "AcrPull": "7f951dda-4ed3-4680-a7ca-43fe172d538d",
    "Storage Blob Data Reader": "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1",
}


@dataclass
class Grant:
    """A role at a scope; ``delay``: how many questions it does not count for yet."""

    role: Role
    scope: str
    delay: int = 0

    def reaches(self, scope: str) -> bool:
        """Whether it holds at ``scope``."""
        return f"{scope.lower().rstrip('/')}/".startswith(f"{self.scope.lower().rstrip('/')}/")


@dataclass
class Permissions:
    """All grants of the caller, what is denied all the same, and what was asked."""

    grants: list[Grant] = field(default_factory=list)
    denied: list[str] = field(default_factory=list)  # patterns of actions: one row of the matrix
    used: dict[tuple[str, str], str] = field(default_factory=dict)  # action, kind of scope → scope

    def set(self, *grants: tuple[Role, str]) -> None:
        """These and no others."""
        self.grants = [Grant(role, scope) for role, scope in grants]

    def at(self, scope: str) -> list[Role]:
        """Roles that hold at ``scope``."""
        return [grant.role for grant in self.grants if grant.reaches(scope)]

    def problem(self, action: str, scope: str, *, data: bool = False) -> Reply | None:
        """The refusal of ``action`` at ``scope``; ``None`` if it is allowed."""
        self.used[action, "data" if data else "control"] = scope
        if not _any(self.denied, action) and self._granted(action, scope, data=data):
            return None
        return refusal("denied", client=CALLER, action=action, scope=scope)

    def _granted(self, action: str, scope: str, *, data: bool) -> bool:
        granted = False
        for grant in self.grants:
            if grant.reaches(scope) and grant.role.allows(action, data=data):
                granted = granted or grant.delay <= 0
                grant.delay -= 1
        return granted


def _any(patterns: Sequence[str], action: str) -> bool:
    """Azure's wildcard stands for any characters, or for a whole level that may be missing."""
    names = (action.lower(), action.lower().replace("/workspaces/", "/workspaces//", 1))
    return any(fnmatch.fnmatch(name, pattern.lower()) for pattern in patterns for name in names)

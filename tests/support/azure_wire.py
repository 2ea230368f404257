"""What the parts of the loopback Azure pass to one another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Request:
    """One request as it arrived, after TLS; ``path`` is unquoted."""

    method: str
    host: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON; ``{}`` if there is none."""
        return json.loads(self.body) if self.body else {}

    @property
    def line(self) -> str:
        """``METHOD host/path?query`` for patterns and messages."""
        query = "&".join(f"{key}={value}" for key, value in self.query.items())
        return f"{self.method} {self.host}{self.path}" + (f"?{query}" if query else "")


@dataclass
class Reply:
    """What goes back: ``body`` is bytes, a JSON document, or an iterator of chunks."""

    status: int
    body: bytes | dict[str, Any] | Iterator[bytes] | None = None
    headers: dict[str, str] = field(default_factory=dict)


def refused(status: int, code: str, message: str, detail: str = "") -> Reply:
    """An error as Azure Resource Manager writes it; ``detail`` is the code of an inner error."""
    error: dict[str, Any] = {"code": code, "message": message}
    if detail:
        error["details"] = [{"code": detail, "message": message}]
    return Reply(status, {"error": error})

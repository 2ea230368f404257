"""The host of an application: what the server, and all that surrounds the routes, have to know.

``state.Service`` is one, which answers with an engine of its own; the front of several models is
another.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from llama_hub.inference.service.limits import Admission
from llama_hub.inference.service.metrics import Metrics
from llama_hub.inference.service.settings import ServiceSettings


class Host(Protocol):
    """Limits, numbers, and how it begins and ends."""

    settings: ServiceSettings
    metrics: Metrics
    admission: Admission
    started: asyncio.Event  # set when requests will be answered, or never
    failure: Exception | None  # why they never will

    async def start(self) -> None:
        """Get ready; what goes wrong is kept in ``failure``."""

    async def close(self) -> None:
        """End what ``start`` began."""

    async def cut_off(self) -> None:
        """End every answer under way."""

"""Calls to a service that judges texts: one JSON document, bounded in bytes and time, or an error.

Every error ends in a refusal (``moderation.judge``): a filter that cannot be asked must not be an
open one. Texts longer than a window are judged window by window, each with the end of the one
before; an answer that grows is judged from where it was judged last.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llama_hub.errors import ProvisioningError, UsageError
from llama_hub.hub.transfer import bounded_httpx
from llama_hub.inference.service.moderation import Passage
from llama_hub.strict import FileKind, parse_json, read_text, text_kind

if TYPE_CHECKING:
    import httpx

THREADS = 16  # calls at once; more wait, within their own time
MAX_ANSWER = 1 << 20  # bytes
MAX_WINDOWS = 32  # of one text
ANSWER = FileKind("the moderation service's answer", max_bytes=MAX_ANSWER, max_values=10_000)
_KEY = text_kind("the file with the moderation service's key", max_bytes=64 << 10)


class TooLongError(ProvisioningError):
    """A text has more windows than would be judged in time."""


def check_url(url: str) -> None:
    """``UsageError`` unless ``url`` is an absolute http or https address without a password."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
        good = good and not (parts.username or parts.password or parts.fragment or parts.query)
        _ = parts.port
    except ValueError:
        good = False
    if not good:
        raise UsageError(
            f"{url[:200]!r} is no address of a moderation service",
            hint="https://HOST[:PORT][/PATH], the key in key_variable or key_file",
        )


def key_of(variable: str, file: str | None) -> str:
    """The key for the service; empty where none is set. ``UsageError`` for what no header holds."""
    key = read_text(Path(file).expanduser(), _KEY) if file else os.environ.get(variable, "")
    key = key.strip()
    if not (key.isascii() and (key == "" or key.isprintable())):
        raise UsageError("the moderation service's key holds characters that no key has")
    return key


@dataclass(frozen=True)
class Remote:
    """One service, and how long it may take."""

    url: str
    key: str = field(repr=False, default="")
    timeout: float = 10.0  # seconds for one text, all windows together

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answer; ``ProvisioningError`` for any that is none, ``TimeoutError``."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.timeout):
            return await loop.run_in_executor(self._threads, self._post, path, body)

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        address = self.url.rstrip("/") + path
        answer = self._client.post(address, content=json.dumps(body).encode())
        if answer.status_code != 200:
            raise ProvisioningError(f"{address} answered {answer.status_code}")
        return parse_json(answer.content, address, ANSWER)

    def close(self) -> None:
        """Let go of connections and threads; the next call makes new ones."""
        client, threads = self.__dict__.pop("_client", None), self.__dict__.pop("_threads", None)
        if client is not None:
            client.close()
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    @cached_property
    def _client(self) -> httpx.Client:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return bounded_httpx.client(
            limit=MAX_ANSWER, seconds=self.timeout, timeout=self.timeout, headers=headers
        )

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, "llama-hub-moderation")


def windows(passage: Passage, size: int) -> list[str]:
    """``passage`` in pieces of ``size`` characters, each with a quarter of the one before.

    What was judged before is left out but for such a quarter. ``TooLongError`` for too many.
    """
    overlap = size // 4
    begin = max(0, passage.judged - overlap)
    text = passage.text[begin:]
    step = size - overlap
    count = 1 + max(0, -(-(len(text) - size) // step))
    if count > MAX_WINDOWS:
        raise TooLongError(f"the text has {len(text)} characters, too many to be judged")
    return [text[number * step : number * step + size] for number in range(count)]

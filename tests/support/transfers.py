"""One file and where it is brought."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from llama_hub.hub.sources.web import HttpTree
from llama_hub.hub.transfer.fetch import Fetched, fetch
from llama_hub.hub.transfer.journal import BLOCK
from llama_hub.hub.transfer.remote_file import RemoteFile
from llama_hub.hub.transfer.retry import Cancel, Policy
from llama_hub.progress import NO_PROGRESS
from tests.support.models import MIB, noise

SIZE = 2 * BLOCK + 5 * MIB + 123
DATA = b"PK\x03\x04" + noise(SIZE - 4)
NAME = "consolidated.00.pth"
DIGESTS = {"md5": hashlib.md5(DATA).hexdigest(), "sha256": hashlib.sha256(DATA).hexdigest()}
QUICK = Policy(backoff=0.001, longest_wait=0.01, attempts=4, ramp=0)


class Target:
    """Where one file is brought, as often as a test likes."""

    def __init__(self, folder: Path, url: str, path: str = NAME) -> None:
        self.path = folder / path
        self.journal = folder / "journal"
        self.url = url

    def fetch(
        self,
        digests: Mapping[str, str] = DIGESTS,
        size: int | None = SIZE,
        policy: Policy = QUICK,
    ) -> Fetched:
        with closing(HttpTree(self.url, policy)) as place:
            file = RemoteFile(self.path.name, place.request(self.path.name), size, digests)
            return fetch(
                file, self.path, self.journal, policy, progress=NO_PROGRESS, cancel=Cancel()
            )

    def assert_right(self) -> None:
        assert hashlib.sha256(self.path.read_bytes()).hexdigest() == DIGESTS["sha256"]

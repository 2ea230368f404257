"""The real service behind scoring URLs: ``llama-hub serve`` as a container would run it.

Deployments of one model share a process, since each start loads the framework; what differs
between them (environment variables) is tested elsewhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from llama_hub.hub.manifest import read


@dataclass
class Shared:
    """A running process; closing a deployment leaves it to the next one."""

    url: str

    def close(self) -> None:
        """Nothing: ``Services.close`` ends it."""


class Services:
    """Starts one process for each manifest; ``launch`` is what a plane calls."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[subprocess.Popen[str], Shared]] = {}

    def launch(self, folder: Path, variables: dict[str, str]) -> Shared:
        """The service for the model below ``folder``, with the variables of a deployment."""
        digest = read(folder).digest
        if digest not in self._running:
            self._running[digest] = self._start(folder, variables)
        return self._running[digest][1]

    def _start(
        self, folder: Path, variables: dict[str, str]
    ) -> tuple[subprocess.Popen[str], Shared]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder.parent),
            "OMP_NUM_THREADS": "1",
        }
        environment |= variables | {"LLAMA_HUB_HOST": "127.0.0.1", "LLAMA_HUB_PORT": "0"}
        process = subprocess.Popen(
            [sys.executable, "-m", "llama_hub", "serve", "--json"],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the service ended with {process.wait()}"
        return process, Shared(json.loads(line)["url"])

    def close(self) -> None:
        """End all processes."""
        for process, _ in self._running.values():
            process.terminate()
            process.communicate(timeout=30)

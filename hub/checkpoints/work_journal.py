"""The journal of a conversion: which tensors are written, so that a killed run can go on.

The first line says what is being made from what; another conversion into the same place starts
over. Then one line for each whole tensor, written after its bytes. That is enough against
SIGKILL; against a power loss the bytes are read again on resumption and compared by their sums.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from llama_hub.errors import IntegrityError
from llama_hub.files import PRIVATE, open_own, read_own, write_atomic
from llama_hub.schema import Pattern, conform
from llama_hub.strict import FileKind

NAME = "conversion.journal"
MAX_BYTES = 64 << 20  # some hundred bytes for each tensor
Digest = Annotated[str, Pattern("[0-9a-f]{64}", "64 hexadecimal digits")]
_KIND = FileKind("the journal of a conversion")


@dataclass(frozen=True)
class Done:
    """What is known of a tensor that was written."""

    name: str
    sha256: tuple[Digest, ...]  # canonical; of a quantised tensor, of each place's bytes
    sums: tuple[int, ...]  # for each place, see ``transcribe.Sum``
    crc: tuple[int, ...]  # for each place; 0 where nobody needs it
    changed: int = 0  # values that the cast changed
    overflowed: int = 0  # values that the cast made infinite
    non_finite: int = 0  # NaN and infinite values
    error: float | None = None  # relative error of a quantised tensor


class WorkJournal:
    """An open journal; lines may be added from several threads."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Continue the journal in ``folder`` if it is of the same ``identity``, else begin one."""
        self._path = folder / NAME
        self._lock = threading.Lock()
        self.done = _read(self._path, identity)
        lines = [json.dumps(identity, sort_keys=True), *map(_line, self.done.values())]
        write_atomic(self._path, "".join(line + "\n" for line in lines).encode(), mode=PRIVATE)
        self._descriptor = open_own(self._path, os.O_WRONLY | os.O_APPEND)

    def add(self, done: Done) -> None:
        """Say that a tensor is written."""
        with self._lock:
            os.write(self._descriptor, _line(done).encode() + b"\n")

    def close(self) -> None:
        """Stop writing; the file stays."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """The work is complete."""
        self._path.unlink()


def _line(done: Done) -> str:
    return json.dumps(asdict(done))


def _read(path: Path, identity: Mapping[str, Any]) -> dict[str, Done]:
    try:
        text = read_own(path, MAX_BYTES).decode("ascii", "replace")
        first, *lines = text.split("\n")[:-1]
    except (OSError, IntegrityError, ValueError):
        return {}
    if first != json.dumps(identity, sort_keys=True):
        return {}
    found = [_parsed(line) for line in lines]
    return {done.name: done for done in found if done is not None}


def _parsed(line: str) -> Done | None:
    """A line that was torn is as if it were not there."""
    try:
        return conform(Done, json.loads(line), NAME, _KIND)
    except (ValueError, RecursionError, IntegrityError):
        return None

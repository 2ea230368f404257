"""The journal of one partial file: which bytes are there, and a checksum for each block of them.

A header line (JSON: what file this is) and then one line for each advance, ``<block> <bytes>
<crc32>`` in hexadecimal; the last line about a block counts, and a torn last line is ignored.

A line is written after its bytes, so SIGKILL loses nothing that has a line. ``sync`` is called
after the data was flushed to the disk, so what survives a power loss was preceded by its data.
Neither is relied upon alone: whoever resumes reads the bytes again and compares the checksums.
CRC-32 finds torn and stale blocks; whether the file is right is for its SHA-256 to say.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_hub.errors import IntegrityError
from llama_hub.files import PRIVATE, open_own, read_own, write_atomic
from llama_hub.hub.transfer.remote_file import MAX_FILE

MAX_JOURNAL = 64 << 20  # bytes; a line for each MiB of a file of MAX_FILE bytes is 20 MB
BLOCK = 16 << 20  # bytes; the unit of checksums, of repair and of what one crash can cost


@dataclass
class BlockState:
    """How much of one block is there: its first ``have`` bytes, with this CRC-32."""

    have: int = 0
    crc: int = 0


@dataclass
class Recorded:
    """What a journal says."""

    identity: Mapping[str, Any]  # digests and validator of the file that was being fetched
    total: int  # bytes of the whole file
    blocks: dict[int, BlockState] = field(default_factory=dict)


class Journal:
    """An open journal; lines may be added from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def read(self) -> Recorded | None:
        """What an earlier run left; ``None`` if there is nothing usable."""
        try:
            lines = read_own(self.path, MAX_JOURNAL).decode("ascii", "replace").split("\n")
            recorded = _header(json.loads(lines[0]))
        except (OSError, IntegrityError, ValueError, KeyError, TypeError, RecursionError):
            return None
        for line in lines[1:-1]:  # what follows the last newline is torn or empty
            _read_line(line, recorded)
        return recorded

    def begin(self, recorded: Recorded) -> None:
        """Replace the journal by one that says what is in ``recorded``, and open it."""
        header = json.dumps({"identity": dict(recorded.identity), "total": recorded.total})
        lines = [
            _line(number, state) for number, state in sorted(recorded.blocks.items()) if state.have
        ]
        self.close()
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        write_atomic(self.path, "".join([header + "\n", *lines]).encode(), mode=PRIVATE)
        self._descriptor = open_own(self.path, os.O_WRONLY | os.O_APPEND)

    def add(self, number: int, state: BlockState) -> None:
        """Say that block ``number`` has advanced (or was given up: ``have`` 0)."""
        if self._descriptor is not None:
            os.write(self._descriptor, _line(number, state).encode())

    def sync(self) -> None:
        """Make the lines survive a power loss; flush the data first."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Stop writing; the file stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _header(header: Any) -> Recorded:
    identity, total = header["identity"], header["total"]
    digests, validator = identity["digests"], identity["validator"]
    if not isinstance(digests, dict) or not isinstance(validator, str | None):
        raise ValueError("an identity that is none")
    if type(total) is not int or not 0 <= total <= MAX_FILE:
        raise ValueError("a size that is none")
    return Recorded({"digests": digests, "validator": validator}, total)


def _line(number: int, state: BlockState) -> str:
    return f"{number:x} {state.have:x} {state.crc:08x}\n"


def _read_line(line: str, recorded: Recorded) -> None:
    """Take over one line; a line that makes no sense is as if it were not there."""
    try:
        if len(line) > 64:
            return
        number, have, crc = (int(word, 16) for word in line.split(" "))
    except ValueError:
        return
    length = min(BLOCK, recorded.total - number * BLOCK)
    if 0 <= number and 0 <= have <= length:
        recorded.blocks[number] = BlockState(have, crc)

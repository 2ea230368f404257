"""The form of ``torch.save`` before torch 1.6: pickles one after the other, then raw storages.

A magic number, a protocol number, facts of the machine, the description of the tensors, the keys
of the storages: five pickles. Then for each key its number of elements (int64) and its bytes.
All pickles are read by ``pickle_machine``; none is executed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llama_hub.errors import IntegrityError
from llama_hub.hub.checkpoints.pickle_machine import ITEM_BYTES, Storage, read_pickles

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_PICKLES = 4 << 20  # bytes; Llama 2 70B's need 60 kB
MAX_STORAGES = 20_000


@dataclass(frozen=True)
class Span:
    """The bytes of one storage in the file."""

    offset: int
    size: int


def read(path: Path, file: IO[bytes]) -> tuple[Any, Mapping[str, Span]]:
    """What the file describes, and where each storage lies, by key.

    ``IntegrityError`` unless the file is whole and of that form; ``UnsafePickleError`` if it asks
    for anything but tensors.
    """
    file.seek(0)
    start = file.read(MAX_PICKLES)
    values, storages, end = read_pickles(start, str(path), 5)
    magic, protocol, system, content, keys = values
    if magic != MAGIC or protocol != PROTOCOL:
        raise _damaged(path, "it begins as a pickle, but not as one of torch.save")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise IntegrityError(f"{path} was not written on a little-endian machine")
    if not isinstance(keys, list) or len(keys) > MAX_STORAGES or not keys:
        raise _damaged(path, "its list of storages is none")
    return content, _spans(path, file, keys, storages, end)


def _spans(
    path: Path, file: IO[bytes], keys: Sequence[Any], storages: Mapping[str, Storage], at: int
) -> dict[str, Span]:
    size = os.fstat(file.fileno()).st_size
    spans: dict[str, Span] = {}
    for key in keys:
        storage = storages.get(key) if type(key) is str else None
        if storage is None or key in spans:
            raise _damaged(path, "its list of storages does not fit its tensors")
        count = int.from_bytes(os.pread(file.fileno(), 8, at), "little", signed=True)
        if count != storage.count:
            raise _damaged(path, f"a storage of {storage.count} elements says it has {count}")
        spans[key] = Span(at + 8, count * ITEM_BYTES[storage.dtype])
        at = spans[key].offset + spans[key].size
        if at > size:
            raise _damaged(path, f"it ends at {size} bytes, its tensors need {at} or more")
    if at != size:
        raise _damaged(path, f"it has {size} bytes, its tensors need {at}")
    return spans


def _damaged(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is damaged or incomplete: {why}",
        hint="download it again, or repair it with llama-hub verify --repair",
    )

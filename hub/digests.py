"""Digests of files: which there are, how they are written, and hashing many files at once.

hashlib releases the interpreter's lock while it hashes, so threads use all cores.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from isal.isal_zlib import crc32

from llama_hub.errors import IntegrityError
from llama_hub.files import CHUNK, open_regular
from llama_hub.hub.transfer.journal import BLOCK


class Hash(Protocol):
    """What hashlib's objects have in common."""

    def update(self, data: memoryview, /) -> None:
        """Take in more bytes."""

    def copy(self) -> Hash:
        """The same state, going its own way from here."""

    def hexdigest(self) -> str:
        """Hexadecimal digits of what was taken in."""


class DigestError(IntegrityError):
    """A file's digest is not the one that it must have."""


@dataclass(frozen=True)
class Hashed:
    """What was computed of one file's bytes."""

    size: int
    digests: Mapping[str, str]  # algorithm → hexadecimal
    blocks: tuple[str, ...]  # CRC-32 of each BLOCK bytes


def new(algorithm: str, size: int) -> Hash:
    """A hash for a file of ``size`` bytes: md5, sha256, or git-sha1 (the name git gives a blob)."""
    if algorithm == "git-sha1":
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    if algorithm == "md5":
        return hashlib.md5(usedforsecurity=False)
    return hashlib.sha256()


def parse(text: str) -> tuple[str, str]:
    """``md5:…`` or ``sha256:…`` as algorithm and hexadecimal digits."""
    algorithm, _, value = text.partition(":")
    return algorithm, value


def check(path: str, expected: Mapping[str, str], found: Mapping[str, str], *, hint: str) -> None:
    """``DigestError`` unless every expected digest is the one that was found."""
    for algorithm, value in expected.items():
        if found[algorithm] != value:
            raise DigestError(
                f"{path} is damaged: its {algorithm} is {found[algorithm]}, it must be {value}",
                hint=hint,
            )


def hash_file(
    path: Path,
    algorithms: Sequence[str] = ("sha256",),
    *,
    blocks: bool = True,
    limit: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Hashed:
    """Read a file once; ``advance`` hears of every piece, in bytes.

    ``limit``: bytes after which reading stops, of a file that may be larger or grow.
    """
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        hashes = {name: new(name, size) for name in algorithms}
        checksums: list[int] = []
        view, at = memoryview(bytearray(CHUNK)), 0
        while count := file.readinto(view[: _next(at, limit)]):
            piece = view[:count]
            for one in hashes.values():
                one.update(piece)
            if blocks:
                _add_checksum(checksums, piece, at)
            at += count
            _forget(file.fileno(), at)
            advance(count)
    digests = {name: one.hexdigest() for name, one in hashes.items()}
    return Hashed(at, digests, tuple(f"{crc:08x}" for crc in checksums))


def _next(at: int, limit: int | None) -> int:
    """How many bytes to read at most: no further than the end of the block."""
    left = BLOCK - at % BLOCK
    return left if limit is None else max(0, min(left, limit - at))


def damaged_blocks(path: Path, blocks: Sequence[str]) -> list[int]:
    """Numbers of the blocks whose CRC-32 is not the one in ``blocks``.

    Of a file that is longer, only the first of the blocks that should not be there is named.
    """
    actual = hash_file(path, (), limit=(len(blocks) + 1) * BLOCK).blocks
    paired = [number for number, crc in enumerate(blocks) if actual[number : number + 1] != (crc,)]
    return paired + list(range(len(blocks), len(actual)))


def _add_checksum(checksums: list[int], piece: memoryview, at: int) -> None:
    if at % BLOCK == 0:
        checksums.append(0)
    checksums[-1] = crc32(piece, checksums[-1])


def _forget(descriptor: int, upto: int) -> None:
    """Let the kernel drop what was read, once in a while: models are larger than page caches."""
    if upto % (4 * BLOCK) == 0:
        drop_cache(descriptor, 0, upto)


def drop_cache(descriptor: int, start: int, stop: int) -> None:
    """Tell the kernel that these bytes of the file need not stay in the page cache."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)

"""Chunks of a body whose length is not announced: how finely it may be cut.

Parsing a chunk takes as long as parsing a small request, whatever it holds.
"""

from __future__ import annotations

MAX_CHUNKS = 1 << 16  # of one body
FEW_CHUNKS = 256  # of which each may be as small as it likes
MEAN_CHUNK = 64  # bytes, at least, of more chunks than that


def is_too_fine(size: int, chunks: int) -> bool:
    """Whether a body of ``size`` bytes in ``chunks`` is work for its own sake."""
    return chunks > MAX_CHUNKS or (chunks > FEW_CHUNKS and size < MEAN_CHUNK * chunks)

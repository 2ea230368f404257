"""Canonical digests of the tensors in a folder, computed from its weight files alone.

Defined once: name in Meta's vocabulary, dtype, shape, and the SHA-256 of the little-endian
row-major bytes in Meta's row order. The same weights have the same digests in every unquantised
format. Of a quantised folder the digests are those of the stored bytes.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llama_hub.hub.checkpoints import open_checkpoint
from llama_hub.hub.checkpoints.layout import TensorSpec
from llama_hub.hub.checkpoints.parallel import worker_count
from llama_hub.hub.checkpoints.source import Checkpoint, StoredRun
from llama_hub.hub.checkpoints.transcribe import source_bytes
from llama_hub.hub.manifest import TensorEntry
from llama_hub.progress import NO_PROGRESS, Progress

TASK = "verify tensors"


def tensor_entries(folder: Path, *, progress: Progress = NO_PROGRESS) -> tuple[TensorEntry, ...]:
    """What a manifest of the folder lists as ``tensors``, by name."""
    with open_checkpoint(folder, quantised=True) as checkpoint:
        total = sum(source_bytes(checkpoint, spec) for spec in checkpoint.specs)
        progress.start(TASK, total + sum(run.size for run in checkpoint.stored))
        with ThreadPoolExecutor(worker_count()) as pool:
            entries = pool.map(lambda spec: _entry(checkpoint, spec, progress), checkpoint.specs)
            stored = pool.map(lambda run: _stored(checkpoint, run, progress), checkpoint.stored)
            found = tuple(sorted([*entries, *stored]))
        progress.finish(TASK)
        return found


def _stored(checkpoint: Checkpoint, run: StoredRun, progress: Progress) -> TensorEntry:
    digest = hashlib.sha256()
    for piece in checkpoint.stored_bytes(run):
        digest.update(piece.data)
        progress.advance(TASK, piece.nbytes)
    return TensorEntry(run.name, run.dtype, run.shape, digest.hexdigest())


def _entry(checkpoint: Checkpoint, spec: TensorSpec, progress: Progress) -> TensorEntry:
    digest = hashlib.sha256()
    for block in checkpoint.blocks(spec):
        digest.update(block.data)
        progress.advance(TASK, block.nbytes)
    dtype = checkpoint.dtype_of(spec.name)
    return TensorEntry(spec.name, dtype, spec.shape, digest.hexdigest())

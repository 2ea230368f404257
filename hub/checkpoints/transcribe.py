"""Carrying out a blueprint: read a block, cast, hash, encode, write at its offset.

The unit of work is one tensor, taken by whichever worker is free, so all cores are busy whatever
the number of files. File digests follow behind: whenever the next tensor of a file is complete,
a worker hashes it from the page cache. What is complete is noted in a journal, so that a run
that was killed goes on after the last whole tensor.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llama_hub.errors import IntegrityError
from llama_hub.files import CHUNK
from llama_hub.hub.checkpoints import numeric
from llama_hub.hub.checkpoints.blueprint import Blueprint, FilePlan, Place, Portion, TensorPlan
from llama_hub.hub.checkpoints.layout import TensorSpec
from llama_hub.hub.checkpoints.numeric import Bits
from llama_hub.hub.checkpoints.source import Checkpoint
from llama_hub.hub.checkpoints.work_journal import Done, WorkJournal
from llama_hub.progress import Progress

TASK = "convert"


@dataclass
class Outcome:
    """What a transcription found: per tensor by name, per file by name."""

    done: dict[str, Done] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    md5: dict[str, str] = field(default_factory=dict)
    resumed: int = 0  # tensors that an earlier run had written


def worker_count() -> int:
    """Workers worth having: one per core that this process may use, at most eight."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)


def transcribe(
    source: Checkpoint,
    blueprint: Blueprint,
    folder: Path,
    journal: WorkJournal,
    *,
    progress: Progress,
    workers: int | None = None,
    allow_non_finite: bool = False,
) -> Outcome:
    """Write the files of ``blueprint`` into ``folder``; their names there are the final ones.

    ``IntegrityError`` for NaN or infinite values, unless they are allowed and the source's own.
    """
    with _Outputs(blueprint.files, folder) as outputs:
        job = _Job(source, blueprint, outputs, journal, progress)
        job.allow_non_finite = allow_non_finite
        job.resume()
        progress.start(TASK, job.total, done=job.total - job.left)
        _in_parallel(job.work, workers or worker_count())
        outputs.write_trailers({name: done.crc for name, done in job.outcome.done.items()})
        _in_parallel(job.hash_rest, workers or worker_count())
        outputs.sync()
    return job.outcome


def _in_parallel(work: Callable[[threading.Event], None], workers: int) -> None:
    """Run ``work`` in so many threads; the first failure stops the others and is raised."""
    stop = threading.Event()
    with ThreadPoolExecutor(workers, thread_name_prefix="convert") as pool:
        futures = [pool.submit(work, stop) for _ in range(workers)]
        try:
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    for future in finished:
        future.result()
    for future in futures:
        future.result()


class _Outputs:
    """The output files, made at their full size so that a full disk is met at once."""

    def __init__(self, files: Sequence[FilePlan], folder: Path) -> None:
        self.files = files
        self.folder = folder
        self.descriptors: list[int] = []

    def __enter__(self) -> _Outputs:
        for file in self.files:
            path = self.folder / file.name
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self.descriptors.append(descriptor)
            reserve(descriptor, file.size)
            for offset, content in file.fixed:
                write_at(descriptor, content, offset)
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)

    def write_trailers(self, crcs: dict[str, tuple[int, ...]]) -> None:
        """The last bytes of files that state checksums of their tensors."""
        for number, file in enumerate(self.files):
            if file.trailer is not None and file.trailer_at is not None:
                content = file.trailer({name: crc[number] for name, crc in crcs.items()})
                write_at(self.descriptors[number], content, file.trailer_at)

    def sync(self) -> None:
        """Flush everything to the disk."""
        for descriptor in self.descriptors:
            os.fsync(descriptor)


def reserve(descriptor: int, size: int) -> None:
    """Give a file its size and, where the system can, its disk space."""
    os.ftruncate(descriptor, size)
    if not hasattr(os, "posix_fallocate") or not size:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise


def write_at(descriptor: int, data: Any, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data).cast("B")
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


class _Job:
    """The state that the workers share."""

    def __init__(
        self,
        source: Checkpoint,
        blueprint: Blueprint,
        outputs: _Outputs,
        journal: WorkJournal,
        progress: Progress,
    ) -> None:
        self.source = source
        self.blueprint = blueprint
        self.outputs = outputs
        self.journal = journal
        self.progress = progress
        self.allow_non_finite = False
        self.outcome = Outcome()
        self.total = sum(source_bytes(source, plan.spec) for plan in blueprint.tensors)
        self.left = self.total
        self._queue = list(blueprint.tensors)
        self._lock = threading.Lock()
        self._followers = [_Follower(self, number) for number in range(len(blueprint.files))]

    def resume(self) -> None:
        """Take over what the journal says is written and what really is so in the files."""
        noted = self.journal.done
        known = [plan for plan in self._queue if plan.spec.name in noted]
        checked = _Checks(known, noted, self.outputs)
        _in_parallel(checked.work, worker_count())
        for plan in checked.sound:
            self._queue.remove(plan)
            self.outcome.done[plan.spec.name] = noted[plan.spec.name]
            self.left -= source_bytes(self.source, plan.spec)
        self.outcome.resumed = len(checked.sound)

    def work(self, stop: threading.Event) -> None:
        """Take tensors until there are none."""
        while not stop.is_set():
            with self._lock:
                if not self._queue:
                    return
                plan = self._queue.pop(0)
            done = self._tensor(plan, stop)
            if done is None:
                return
            self._check_values(done, plan.dtype)
            self.journal.add(done)
            with self._lock:
                self.outcome.done[plan.spec.name] = done
            for number in {place.file for place in plan.places}:
                self._followers[number].advance(stop, to_the_end=False)

    def hash_rest(self, stop: threading.Event) -> None:
        """Hash what is left of the files, each by one worker."""
        for follower in self._followers:
            follower.advance(stop, to_the_end=True)

    def is_done(self, name: str) -> bool:
        """Whether the tensor is written."""
        return name in self.outcome.done

    def _check_values(self, done: Done, dtype: str) -> None:
        if done.overflowed:
            raise IntegrityError(
                f"{done.name} holds {done.overflowed} values beyond the range of {dtype}",
                hint="convert to bfloat16 or float32",
            )
        if done.non_finite and not self.allow_non_finite:
            raise IntegrityError(
                f"{done.name} holds {done.non_finite} values that are NaN or infinite",
                hint="the model is damaged; --allow-non-finite converts it all the same",
            )

    def _tensor(self, plan: TensorPlan, stop: threading.Event) -> Done | None:
        writer = _TensorWriter(plan, self.outputs)
        dtype = self.source.dtype_of(plan.spec.name)
        for block in self.source.blocks(plan.spec):
            if stop.is_set():
                return None
            writer.write(block, dtype)
            self.progress.advance(TASK, block.nbytes)
        return writer.finish()


def source_bytes(source: Checkpoint, spec: TensorSpec) -> int:
    """Bytes of a tensor in the source's dtype; what progress counts."""
    return spec.rows * spec.columns * numeric.item_bytes(source.dtype_of(spec.name))


class _TensorWriter:
    """Takes one tensor's blocks from first row to last."""

    def __init__(self, plan: TensorPlan, outputs: _Outputs) -> None:
        self.plan = plan
        self.outputs = outputs
        self.digests = [hashlib.sha256() for _ in plan.stored or (plan,)]
        self.row = 0
        self.changed = self.overflowed = self.non_finite = 0
        self.sums = {id(place): Sum(place) for place in plan.places}

    def write(self, block: Bits, dtype: str) -> None:
        """The next rows."""
        block, changed, overflowed = numeric.cast(block, dtype, self.plan.dtype)
        self.changed += changed
        self.overflowed += overflowed
        self.non_finite += numeric.non_finite(block, self.plan.dtype)
        if not self.plan.stored:
            self.digests[0].update(block.data)
        for portion in self.plan.portions:
            first = max(self.row, portion.first)
            stop = min(self.row + len(block), portion.first + portion.rows)
            if first < stop:
                rows = block[first - self.row : stop - self.row]
                self._write_rows(portion, rows, first - portion.first)
        self.row += len(block)

    def _write_rows(self, portion: Portion, rows: Bits, at: int) -> None:
        encoded = portion.encode(rows)
        for number, (place, array) in enumerate(zip(portion.places, encoded, strict=True)):
            data = np.ascontiguousarray(array)
            if self.plan.stored:
                self.digests[number].update(data.data)
            if data.nbytes != len(rows) * place.row_bytes:
                raise AssertionError(f"{self.plan.spec.name}: the encoder broke its plan")
            write_at(
                self.outputs.descriptors[place.file], data, place.offset + at * place.row_bytes
            )
            self.sums[id(place)].add(data)

    def finish(self) -> Done:
        """Seal the places; what is to be remembered of the tensor."""
        if self.row != self.plan.spec.rows:
            raise IntegrityError(f"{self.plan.spec.name} ended after {self.row} rows")
        crcs = []
        for place in self.plan.places:
            crcs.append(self.sums[id(place)].crc)
            seal(place, crcs[-1], self.outputs)
        return Done(
            name=self.plan.spec.name,
            sha256=tuple(digest.hexdigest() for digest in self.digests),
            sums=tuple(self.sums[id(place)].total for place in self.plan.places),
            crc=tuple(crcs),
            changed=self.changed,
            overflowed=self.overflowed,
            non_finite=self.non_finite,
            error=self.plan.error() if self.plan.error is not None else None,
        )


class Sum:
    """A checksum of what was written to a place, however it was cut into blocks.

    The sum of its machine words modulo 2**64 (many times faster than a hash, enough to notice
    pages that never reached the disk), and the CRC-32 where the file format wants one.
    """

    def __init__(self, place: Place) -> None:
        self.total = 0
        self.crc = 0
        self._seal = place.seal is not None
        width = next(width for width in (8, 4, 2, 1) if place.row_bytes % width == 0)
        self._word = np.dtype(f"<u{width}")

    def add(self, data: npt.NDArray[Any]) -> None:
        """Whole rows."""
        words = data.reshape(-1).view(np.uint8).view(self._word)
        self.total = (self.total + int(np.add.reduce(words, dtype=np.uint64))) % (1 << 64)
        if self._seal:
            self.crc = zlib.crc32(data.data, self.crc)


class _Checks:
    """Compares what a journal says with what is in the files."""

    def __init__(
        self, plans: Iterable[TensorPlan], noted: Mapping[str, Done], outputs: _Outputs
    ) -> None:
        self.sound: list[TensorPlan] = []
        self._todo = list(plans)
        self._noted = noted
        self._outputs = outputs
        self._lock = threading.Lock()

    def work(self, stop: threading.Event) -> None:
        """Take tensors until there are none."""
        while not stop.is_set():
            with self._lock:
                if not self._todo:
                    return
                plan = self._todo.pop()
            if self._is_sound(plan):
                with self._lock:
                    self.sound.append(plan)

    def _is_sound(self, plan: TensorPlan) -> bool:
        noted = self._noted[plan.spec.name]
        sizes = [(portion.rows, place) for portion in plan.portions for place in portion.places]
        if len(noted.sums) != len(sizes) or len(noted.crc) != len(sizes):
            return False
        for (rows, place), total, crc in zip(sizes, noted.sums, noted.crc, strict=True):
            if self._sum(place, rows) != total:
                return False
            seal(place, crc, self._outputs)
        return True

    def _sum(self, place: Place, rows: int) -> int:
        found = Sum(replace(place, seal=None))
        at_once = max(1, CHUNK // place.row_bytes)
        for start in range(0, rows, at_once):
            buffer = np.empty(min(at_once, rows - start) * place.row_bytes, np.uint8)
            read_at(
                self._outputs.descriptors[place.file],
                buffer,
                place.offset + start * place.row_bytes,
            )
            found.add(buffer)
        return found.total


def seal(place: Place, crc: int, outputs: _Outputs) -> None:
    """Write what depends on the checksum of a place."""
    if place.seal is not None:
        offset, content = place.seal(crc)
        write_at(outputs.descriptors[place.file], content, offset)


def read_at(descriptor: int, into: npt.NDArray[np.uint8], offset: int) -> None:
    """Fill ``into`` from ``offset``; the file has its full size."""
    view = into.data
    while view:
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise IntegrityError("an output file was cut short by somebody else")
        view, offset = view[count:], offset + count


class _Follower:
    """Hashes one output file, as far as its tensors are complete."""

    def __init__(self, job: _Job, number: int) -> None:
        self._job = job
        self._number = number
        self._plan = job.blueprint.files[number]
        self._hashes = [hashlib.sha256()]
        if job.blueprint.md5:
            self._hashes.append(hashlib.md5(usedforsecurity=False))
        self._spans = self._sorted_spans()  # (end, tensor), by offset
        self._at = 0
        self._lock = threading.Lock()

    def _sorted_spans(self) -> list[tuple[int, str]]:
        return sorted(
            (place.offset + portion.rows * place.row_bytes, plan.spec.name)
            for plan in self._job.blueprint.tensors
            for portion in plan.portions
            for place in portion.places
            if place.file == self._number
        )[::-1]

    def advance(self, stop: threading.Event, *, to_the_end: bool) -> None:
        """Hash on, unless another worker is at it."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            while self._spans and self._job.is_done(self._spans[-1][1]):
                end, _ = self._spans.pop()
                self._hash_to(end, stop)
            if to_the_end and not stop.is_set() and self._at <= self._plan.size:
                self._hash_to(self._plan.size, stop)
                self._publish()
        finally:
            self._lock.release()

    def _hash_to(self, end: int, stop: threading.Event) -> None:
        buffer = np.empty(CHUNK, np.uint8)
        descriptor = self._job.outputs.descriptors[self._number]
        while self._at < end and not stop.is_set():
            piece = buffer[: min(CHUNK, end - self._at)]
            read_at(descriptor, piece, self._at)
            for one in self._hashes:
                one.update(piece.data)
            self._at += len(piece)

    def _publish(self) -> None:
        name = self._plan.name
        if name not in self._job.outcome.sha256:
            self._job.outcome.sha256[name] = self._hashes[0].hexdigest()
            if len(self._hashes) > 1:
                self._job.outcome.md5[name] = self._hashes[1].hexdigest()

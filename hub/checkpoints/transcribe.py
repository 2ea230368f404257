"""Carrying out a blueprint: read a block, cast, hash, encode, write at its offset.

The unit of work is one tensor, taken by whichever worker is free, so all cores are busy whatever
the number of files; while there are files enough, each worker has one of its own, from front to
end, and hashes it on the way. Where two share a file, its digest follows behind: whenever the next
tensor is complete, a worker hashes it from the page cache. What is complete is noted in a journal,
so that a run that was killed goes on after the last whole tensor.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from llama_hub.errors import IntegrityError
from llama_hub.files import CHUNK, write_at
from llama_hub.hub.checkpoints import numeric
from llama_hub.hub.checkpoints.blueprint import Blueprint, Extent, Portion, TensorPlan
from llama_hub.hub.checkpoints.layout import TensorSpec
from llama_hub.hub.checkpoints.numeric import Bits
from llama_hub.hub.checkpoints.outputs import FileHasher, Outputs, Sum, read_at, seal
from llama_hub.hub.checkpoints.parallel import in_parallel, worker_count
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
    with Outputs(blueprint.files, folder) as outputs:
        job = _Job(source, blueprint, outputs, journal, progress)
        job.allow_non_finite = allow_non_finite
        job.resume()
        progress.start(TASK, job.total, done=job.total - job.left)
        in_parallel(job.work, workers or worker_count())
        outputs.write_trailers({name: done.crc for name, done in job.outcome.done.items()})
        in_parallel(job.hash_rest, workers or worker_count())
        outputs.sync()
        return job.finished()


class _Job:
    """The state that the workers share."""

    def __init__(
        self,
        source: Checkpoint,
        blueprint: Blueprint,
        outputs: Outputs,
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
        self._queues: list[list[TensorPlan]] = [[] for _ in blueprint.files]
        for plan in blueprint.tensors:
            self._queues[_home(plan)].append(plan)
        self._busy = [0] * len(blueprint.files)  # workers at each file
        self._lock = threading.Lock()
        self._followers = [
            FileHasher(blueprint, number, outputs, self.is_done)
            for number in range(len(blueprint.files))
        ]

    def resume(self) -> None:
        """Take over what the journal says is written and what really is so in the files."""
        noted = self.journal.done
        known = [plan for plan in self.blueprint.tensors if plan.spec.name in noted]
        checked = _Checks(known, noted, self.outputs)
        in_parallel(checked.work, worker_count())
        for plan in checked.sound:
            self._queues[_home(plan)].remove(plan)
            self.outcome.done[plan.spec.name] = noted[plan.spec.name]
            self.left -= source_bytes(self.source, plan.spec)
        self.outcome.resumed = len(checked.sound)

    def work(self, stop: threading.Event) -> None:
        """Take tensors until there are none."""
        while not stop.is_set():
            plan = self._take()
            if plan is None:
                return
            done = self._tensor(plan, stop)
            if done is None:
                return
            self._check_values(done, plan.dtype)
            self.journal.add(done)
            with self._lock:
                self.outcome.done[plan.spec.name] = done
                self._busy[_home(plan)] -= 1
            for number in {place.file for place in plan.places}:
                self._followers[number].advance(stop, to_the_end=False)

    def _take(self) -> TensorPlan | None:
        """The next tensor of the file that fewest workers are at."""
        with self._lock:
            waiting = [number for number, queue in enumerate(self._queues) if queue]
            if not waiting:
                return None
            number = min(waiting, key=lambda number: self._busy[number])
            self._busy[number] += 1
            return self._queues[number].pop(0)

    def hash_rest(self, stop: threading.Event) -> None:
        """Hash what is left of the files, each by one worker."""
        for follower in self._followers:
            follower.advance(stop, to_the_end=True)

    def finished(self) -> Outcome:
        """What was found, file digests included."""
        for file, follower in zip(self.blueprint.files, self._followers, strict=True):
            self.outcome.sha256[file.name] = follower.sha256
            if follower.md5 is not None:
                self.outcome.md5[file.name] = follower.md5
        return self.outcome

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
        writer = _TensorWriter(plan, self.outputs, self._followers)
        dtype = self.source.dtype_of(plan.spec.name)
        row_bytes = source_bytes(self.source, plan.spec) // plan.spec.rows
        read = self.source.packed_blocks if plan.packed else self.source.blocks
        for block in read(plan.spec):
            if stop.is_set():
                return None
            if plan.packed:
                writer.write_rows(block)
            else:
                writer.write(block, dtype)
            self.progress.advance(TASK, len(block) * row_bytes)
        return writer.finish()


def _home(plan: TensorPlan) -> int:
    """The file that a tensor is written to, or the first of them."""
    return min((place.file for place in plan.places), default=0)


def source_bytes(source: Checkpoint, spec: TensorSpec) -> int:
    """Bytes of a tensor in the source's dtype; what progress counts."""
    return spec.rows * spec.columns * numeric.item_bytes(source.dtype_of(spec.name))


class _TensorWriter:
    """Takes one tensor's blocks from first row to last."""

    def __init__(self, plan: TensorPlan, outputs: Outputs, followers: Sequence[FileHasher]) -> None:
        self.plan = plan
        self.outputs = outputs
        self.followers = followers
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
        self.write_rows(block)

    def write_rows(self, block: Bits) -> None:
        """The next rows, as the encoder takes them."""
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
            descriptor = self.outputs.descriptors[place.file]
            offset = place.offset + at * place.row_bytes
            write_at(descriptor, data.data, offset)
            self.followers[place.file].offer(place, offset, data.data)
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


class _Checks:
    """Compares what a journal says with what is in the files."""

    def __init__(
        self, plans: Iterable[TensorPlan], noted: Mapping[str, Done], outputs: Outputs
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

    def _sum(self, place: Extent, rows: int) -> int:
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

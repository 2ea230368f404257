"""Tensor parallelism: one model over several processes, one for each device or group of cores.

The engine's process leads: it sends every step's pieces to the followers, which
it started as ``python -m llama_hub.inference.parallel``, as one frame on their
standard input (``step_message``); then all compute, and meet in two sums for each
layer and one gather of logits through ``torch.distributed`` (NCCL on CUDA, else gloo).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from llama_hub.child_environment import child_environment
from llama_hub.inference.batch import Piece
from llama_hub.inference.config import EngineOptions
from llama_hub.inference.executor import LocalExecutor
from llama_hub.inference.loading import Plan, Shard, load_shard, make_plan
from llama_hub.inference.partition import Partition
from llama_hub.inference.step_message import (
    decode,
    encode,
    encode_give_back,
    frames,
    write_frame,
)

PATIENCE = timedelta(minutes=10)  # the slowest step
GRACE = 10.0  # seconds that a follower has to end


class Distributed:
    """``collective.Collective`` over the default process group."""

    def __init__(self, widths: Sequence[int], device: torch.device) -> None:
        self.size = len(widths)
        self._device = device
        self._widths = widths  # columns of logits that each process computes

    def sum(self, partial: Tensor) -> Tensor:
        dist.all_reduce(partial)
        return partial

    def gather(self, part: Tensor) -> Tensor:
        padded = F.pad(part, (0, max(self._widths) - part.shape[1]))
        parts = [torch.empty_like(padded) for _ in self._widths]
        dist.all_gather(parts, padded)
        return torch.cat([each[:, :n] for each, n in zip(parts, self._widths, strict=True)], dim=-1)

    def least(self, number: int) -> int:
        shared = torch.tensor(number, device=self._device)
        dist.all_reduce(shared, dist.ReduceOp.MIN)
        return int(shared)


class ParallelExecutor:
    """The leader's ``executor.Executor``."""

    def __init__(
        self, local: LocalExecutor, followers: Sequence[subprocess.Popen[bytes]], meeting: Path
    ) -> None:
        self._local = local
        self._followers = followers
        self._meeting = meeting
        self._failed = False

    def run(self, pieces: Sequence[Piece]) -> Tensor:
        """Logits of one step; ``RuntimeError`` once the processes are not in the same step."""
        return self._step(encode(pieces), lambda: self._local.run(pieces))

    def hidden(self, pieces: Sequence[Piece]) -> Tensor:
        """Last hidden states of one step, which every process has; raises as ``run``."""
        return self._step(encode(pieces, hidden=True), lambda: self._local.hidden(pieces))

    def _step(self, payload: bytes, compute: Callable[[], Tensor]) -> Tensor:
        if self._failed:
            raise RuntimeError("the processes of the engine are no longer in the same step")
        self._failed = True  # until all have met: after a failure the others wait in vain
        for follower in self._followers:
            _send(follower, payload)
        rows = compute()
        self._failed = False
        return rows

    def give_back(self, pages: Sequence[int]) -> None:
        """Let the memory of ``pages`` go in every process; ``RuntimeError`` if one has ended."""
        for follower in self._followers:
            _send(follower, encode_give_back(pages))
        self._local.give_back(pages)

    def device_scope(self) -> AbstractContextManager[object]:
        return self._local.device_scope()

    def close(self) -> None:
        """End all processes.

        Recorded steps hold the group's communicators, so each process drops its own before it
        leaves the group.
        """
        for follower in self._followers:
            _hang_up(follower, kill=self._failed)
        self._local.close()
        if dist.is_initialized():
            dist.destroy_process_group()
        for follower in self._followers:
            _reap(follower)
        self._meeting.unlink(missing_ok=True)


def start(plan: Plan, options: EngineOptions) -> tuple[ParallelExecutor, Shard]:
    """Start the followers and load all parts; the executor and this process's own part."""
    handle, name = tempfile.mkstemp(prefix="llama-hub-meeting-")
    os.close(handle)
    meeting = Path(name)
    followers: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, plan.processes):
            followers.append(_spawn())
            _send(followers[-1], json.dumps(_orders(plan, options, rank, meeting)).encode())
        _hear(followers, "joining")
        shard = load_shard(_own(plan, 0), 0, _join(plan, 0, meeting))
        _hear(followers, "loaded")
    except BaseException:
        for follower in followers:
            _hang_up(follower, kill=True)
            _reap(follower)
        meeting.unlink(missing_ok=True)
        if dist.is_initialized():
            dist.destroy_process_group()
        raise
    return ParallelExecutor(shard.executor, followers, meeting), shard


def _spawn() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "llama_hub.inference.parallel"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment()
    )


def _orders(plan: Plan, options: EngineOptions, rank: int, meeting: Path) -> dict[str, Any]:
    """What a follower has to know to make its own part of the same plan."""
    return {
        "folder": str(plan.folder),
        "options": asdict(options) | {"check_memory": False},
        "pages": plan.pages,
        "rank": rank,
        "meeting": str(meeting),
    }


def _send(process: subprocess.Popen[bytes], payload: bytes) -> None:
    if process.stdin is None or process.poll() is not None:
        raise RuntimeError(f"a process of the engine ended with status {process.returncode}")
    write_frame(process.stdin, payload)


def _hear(processes: Sequence[subprocess.Popen[bytes]], word: str) -> None:
    """Wait until every follower has said ``word``; one that ended instead is an error."""
    for process in processes:
        said = process.stdout.readline().strip().decode() if process.stdout else ""
        if said != word:
            raise RuntimeError(f"a process of the engine ended with status {process.wait(GRACE)}")


def _hang_up(process: subprocess.Popen[bytes], *, kill: bool) -> None:
    """Close the follower's input, which ends it; ``kill`` one that may wait for a step's end."""
    if kill:
        process.kill()
    for pipe in (process.stdin, process.stdout):
        with suppress(BrokenPipeError):
            if pipe is not None:
                pipe.close()


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _own(plan: Plan, rank: int) -> Plan:
    """The plan with the process's own device."""
    if plan.device.type != "cuda":
        return plan
    return replace(plan, device=torch.device("cuda", (plan.device.index or 0) + rank))


def _join(plan: Plan, rank: int, meeting: Path) -> Distributed:
    """Meet the other processes."""
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    device = _own(plan, rank).device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=plan.processes,
        timeout=PATIENCE,
    )
    parts = (Partition(plan.architecture, each, plan.processes) for each in range(plan.processes))
    return Distributed([len(part.vocabulary()) for part in parts], device)


def follow(orders: dict[str, Any], steps: IO[bytes], answers: IO[bytes]) -> None:
    """A follower's life: load, then compute every step that comes in, until the end of input."""
    options = EngineOptions(**orders["options"])
    plan = replace(make_plan(Path(orders["folder"]), options), pages=orders["pages"])
    rank = orders["rank"]
    _report(answers, "joining")
    collective = _join(plan, rank, Path(orders["meeting"]))
    executor = load_shard(_own(plan, rank), rank, collective).executor
    _report(answers, "loaded")
    for payload in frames(steps):
        message = decode(payload)
        if message.give_back:
            executor.give_back(message.give_back)
        else:
            (executor.hidden if message.hidden else executor.run)(message.pieces)
    executor.close()
    dist.destroy_process_group()


def _report(answers: IO[bytes], word: str) -> None:
    answers.write(f"{word}\n".encode())
    answers.flush()


if __name__ == "__main__":
    orders = json.loads(next(frames(sys.stdin.buffer)))
    follow(orders, sys.stdin.buffer, sys.stdout.buffer)

"""Tensor parallelism: one model over several processes, one for each device or group of cores.

The engine's process leads: it sends every step's pieces to the followers, which
it started as ``python -m llama_hub.inference.parallel``, as one line of JSON on
their standard input; then all compute, and meet in two sums for each layer and
one gather of logits through ``torch.distributed`` (NCCL on CUDA, else gloo).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
from torch import Tensor

from llama_hub.child_environment import child_environment
from llama_hub.inference.batch import Piece
from llama_hub.inference.config import EngineOptions
from llama_hub.inference.executor import LocalExecutor
from llama_hub.inference.loading import Plan, load_shard, make_plan
from llama_hub.inference.partition import Partition

PATIENCE = timedelta(minutes=10)  # the slowest step
GRACE = 10.0  # seconds that a follower has to end


class Distributed:
    """``collective.Collective`` over the default process group."""

    def __init__(self, rank: int, widths: Sequence[int]) -> None:
        self.size = len(widths)
        self._rank = rank
        self._widths = widths  # columns of logits that each process computes

    def sum(self, partial: Tensor) -> Tensor:
        dist.all_reduce(partial)
        return partial

    def gather(self, part: Tensor) -> Tensor:
        padded = part.new_zeros(len(part), max(self._widths))
        padded[:, : part.shape[1]] = part
        parts = [torch.empty_like(padded) for _ in self._widths]
        dist.all_gather(parts, padded)
        return torch.cat([each[:, :n] for each, n in zip(parts, self._widths, strict=True)], dim=-1)


class ParallelExecutor:
    """The leader's ``executor.Executor``."""

    def __init__(
        self, local: LocalExecutor, followers: Sequence[subprocess.Popen[str]], meeting: Path
    ) -> None:
        self._local = local
        self._followers = followers
        self._meeting = meeting

    def run(self, pieces: Sequence[Piece]) -> Tensor:
        line = json.dumps([asdict(piece) for piece in pieces])
        for follower in self._followers:
            _say(follower, line)
        return self._local.run(pieces)

    def close(self) -> None:
        for follower in self._followers:
            _dismiss(follower)
        self._local.close()
        if dist.is_initialized():
            dist.destroy_process_group()
        self._meeting.unlink(missing_ok=True)


def start(plan: Plan, options: EngineOptions) -> tuple[ParallelExecutor, int]:
    """Start the followers and load all parts; the executor and the bytes of all processes."""
    handle, name = tempfile.mkstemp(prefix="llama-hub-meeting-")
    os.close(handle)
    meeting = Path(name)
    followers: list[subprocess.Popen[str]] = []
    try:
        for rank in range(1, plan.processes):
            followers.append(_spawn())
            _say(followers[-1], json.dumps(_orders(plan, options, rank, meeting)))
        _hear(followers, "joining")
        shard = load_shard(_own(plan, 0), 0, _join(plan, 0, meeting))
        _hear(followers, "loaded")
    except BaseException:
        for follower in followers:
            follower.kill()
            _dismiss(follower)
        meeting.unlink(missing_ok=True)
        if dist.is_initialized():
            dist.destroy_process_group()
        raise
    return ParallelExecutor(shard.executor, followers, meeting), shard.bytes * plan.processes


def _spawn() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llama_hub.inference.parallel"]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env=child_environment(),
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


def _say(process: subprocess.Popen[str], line: str) -> None:
    if process.stdin is None or process.poll() is not None:
        raise RuntimeError(f"a process of the engine ended with status {process.returncode}")
    process.stdin.write(line + "\n")


def _hear(processes: Sequence[subprocess.Popen[str]], word: str) -> None:
    """Wait until every follower has said ``word``; one that ended instead is an error."""
    for process in processes:
        said = process.stdout.readline().strip() if process.stdout else ""
        if said != word:
            raise RuntimeError(f"a process of the engine ended with status {process.wait(GRACE)}")


def _dismiss(process: subprocess.Popen[str]) -> None:
    """Close the follower's input, which ends it."""
    for pipe in (process.stdin, process.stdout):
        with suppress(BrokenPipeError):
            if pipe is not None:
                pipe.close()
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
    return Distributed(rank, [len(part.vocabulary()) for part in parts])


def follow(orders: dict[str, Any], steps: IO[str], answers: IO[str]) -> None:
    """A follower's life: load, then compute every step that comes in, until the end of input."""
    options = EngineOptions(**orders["options"])
    plan = replace(make_plan(Path(orders["folder"]), options), pages=orders["pages"])
    rank = orders["rank"]
    _report(answers, "joining")
    collective = _join(plan, rank, Path(orders["meeting"]))
    executor = load_shard(_own(plan, rank), rank, collective).executor
    _report(answers, "loaded")
    for line in steps:
        executor.run([_piece(each) for each in json.loads(line)])
    dist.destroy_process_group()


def _report(answers: IO[str], word: str) -> None:
    answers.write(word + "\n")
    answers.flush()


def _piece(document: dict[str, Any]) -> Piece:
    lists = {name: tuple(document[name]) for name in ("tokens", "pages")}
    return Piece(**(document | lists))


if __name__ == "__main__":
    follow(json.loads(sys.stdin.readline()), sys.stdin, sys.stdout)

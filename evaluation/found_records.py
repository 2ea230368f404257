"""Records of evaluations on this machine, by the manifest that they are of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

from llama_hub.errors import LlamaHubError
from llama_hub.evaluation import record, redteam
from llama_hub.evaluation.record import Record
from llama_hub.evaluation.redteam import RedTeamRecord
from llama_hub.home import home

T = TypeVar("T")
MAX_FOLDERS = 1000  # newest, that are looked at


def evaluations(manifests: Collection[str]) -> list[Record]:
    """The newest record of each suite and kind of weights, for manifests with these digests."""
    newest: dict[tuple[str, str | None, int | None], Record] = {}
    for each in _all(record.RECORD, record.read):
        if each.subject.manifest in manifests:
            newest.setdefault((each.suite, each.subject.quantization, each.limit), each)
    return list(newest.values())


def replays(manifests: Collection[str]) -> list[RedTeamRecord]:
    """The newest red-team record of each suite, judge and kind of weights."""
    newest: dict[tuple[str, str, str | None], RedTeamRecord] = {}
    for each in _all(redteam.RECORD, redteam.read):
        if each.subject.manifest in manifests:
            newest.setdefault((each.suite, each.judge, each.subject.quantization), each)
    return list(newest.values())


def _all(name: str, read: Callable[[Path], T]) -> Iterator[T]:
    """What can be read, newest first; a folder that holds none is passed over."""
    root = home() / "evaluations"
    folders = sorted(root.iterdir(), reverse=True) if root.is_dir() else []
    for folder in folders[:MAX_FOLDERS]:
        if (folder / name).is_file():
            try:
                yield read(folder)
            except LlamaHubError:
                continue

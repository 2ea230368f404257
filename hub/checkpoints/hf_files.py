"""The weight files of a Hugging Face folder, told by their names and the index."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_hub.errors import IntegrityError
from llama_hub.hub.checkpoints import diagnosis, weight_index
from llama_hub.strict import read_bytes

_OF = re.compile(r".*-(\d+)-of-(\d+)\.\w+")


@dataclass(frozen=True)
class _Kind:
    index: str
    whole: str  # the one file of a model without an index

    def members(self, names: Collection[str]) -> list[str]:
        """The weight files of this kind, those with the usual names before any other."""
        stem, _, ending = self.whole.rpartition(".")
        usual = re.compile(rf"{stem}(-\d+-of-\d+)?\.{ending}")
        matching = sorted(name for name in names if usual.fullmatch(name))
        starting = (name for name in names if name.startswith(stem) and name.endswith(ending))
        return matching or sorted(starting)


_KINDS = (  # in the order of preference
    _Kind(weight_index.NAME, "model.safetensors"),
    _Kind("pytorch_model.bin.index.json", "pytorch_model.bin"),
)


@dataclass(frozen=True)
class Weights:
    """The weight files, and the index that lists them, if there is one."""

    index: str | None
    files: tuple[str, ...]


def weights(
    where: object, names: Collection[str], read: Callable[[str], bytes | None]
) -> Weights | None:
    """Safetensors, else the older ``.bin`` files; ``None`` if there are neither.

    ``IntegrityError`` if one is missing, or where it cannot be told which are meant. ``read``
    gives the content of an index.
    """
    for kind in _KINDS:
        present = kind.members(names)
        data = read(kind.index) if kind.index in names else None
        if data is None and not present:
            continue
        wanted = tuple(present) if data is None else weight_index.files(data, f"in {where}")
        if data is not None:
            _refuse_second(where, kind, present, wanted)
        _refuse_missing(where, wanted, names)
        if adapter := diagnosis.adapter_among(names):
            raise diagnosis.beside_adapter(where, adapter, wanted[0])
        return Weights(kind.index if data is not None else None, wanted)
    return None


def in_folder(folder: Path) -> Weights | None:
    """The same of a folder on this machine."""
    names = {path.name for path in folder.iterdir() if path.is_file()}

    def read(name: str) -> bytes:
        return read_bytes(folder / name, weight_index.KIND)

    return weights(folder, names, read)


def _refuse_second(
    where: object, kind: _Kind, present: Sequence[str], wanted: Sequence[str]
) -> None:
    """One file beside an index of others was written later or earlier than they were."""
    if kind.whole in present and kind.whole not in wanted:
        raise IntegrityError(
            f"{where} holds {kind.whole} beside {kind.index}, which names {wanted[0]} and others: "
            "which of the two is the model cannot be told",
            hint=f"remove the older of them: {kind.whole}, or {kind.index} with its files",
        )


def _refuse_missing(where: object, wanted: Sequence[str], names: Collection[str]) -> None:
    missing = [name for name in wanted if name not in names]
    match = _OF.fullmatch(wanted[0])
    count = int(match[2]) if match else 0
    if not missing and len(wanted) < count <= 10_000:
        missing = [f"{count - len(wanted)} of {count} weight files"]
    if missing:
        raise IntegrityError(
            f"{where} is incomplete, it has no {', '.join(missing[:8])}: a file is missing",
            hint="download it into the same folder; of a repository, tell whoever published it",
        )

"""Reading Meta's own layout: ``params.json`` and ``consolidated.NN.pth``, one per shard."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.checkpoints import layout, rope_tensors
from llama_hub.hub.checkpoints.numeric import DTYPES
from llama_hub.hub.checkpoints.pickle_index import Record, StoredTensor, read_index
from llama_hub.hub.checkpoints.rope_tensors import Frequencies
from llama_hub.hub.checkpoints.safetensors import read_header
from llama_hub.hub.checkpoints.source import Checked, Checkpoint, Location, Segment
from llama_hub.hub.model_config import Params, read_params
from llama_hub.hub.sources import checksum_list as checklist

_SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
WHOLE = "consolidated.safetensors"  # all shards joined, as later families of models have it
Shard = Mapping[str, StoredTensor]


def is_meta(folder: Path) -> bool:
    """Whether the folder looks like Meta's layout."""
    names = (path.name for path in folder.glob("consolidated.*"))
    return any(_SHARD.fullmatch(name) or name == WHOLE for name in names)


def open_meta(folder: Path, *, context: int | None = None) -> Checkpoint:
    """The checkpoint in ``folder``; ``context`` (tokens) where params.json cannot tell it.

    ``IntegrityError`` if shards are missing, are not of one model, or do not have the shapes
    that params.json asks for.
    """
    paths = shard_paths(folder)
    params = read_params(folder)
    shards: list[Shard] = []
    for path in paths:
        shards.append(_whole(path) if path.name == WHOLE else read_index(path))
        layout.check_count(path, sum(map(len, shards)))
    architecture = _architecture(folder, params, shards)
    if context is not None:
        architecture = replace(architecture, context=context)
    layout.check_shards(architecture, len(shards))
    _check_names(paths, shards, architecture)
    locations = {spec.name: _location(spec, paths, shards) for spec in layout.specs(architecture)}
    _check_frequencies(paths, shards, architecture)
    return Checkpoint(folder, "meta", architecture, locations, len(shards))


def shard_paths(folder: Path) -> list[Path]:
    """The shard files in order; a gap in the numbers is an ``IntegrityError``.

    ``NotFoundError`` if there are none.
    """
    found = {int(match[1]): path for path in folder.iterdir() if (match := _shard(path))}
    if (folder / WHOLE).is_file():
        if found:
            raise IntegrityError(
                f"{folder} holds {WHOLE} beside {found[min(found)].name}: which of the two is the "
                "model cannot be told",
                hint="move one of them away",
            )
        return [folder / WHOLE]
    if not found:
        raise NotFoundError(f"{folder} holds no consolidated.NN.pth")
    missing = set(range(max(found) + 1)) - set(found) | _listed_but_absent(folder, set(found))
    if missing:
        names = ", ".join(f"consolidated.{number:02d}.pth" for number in sorted(missing))
        raise IntegrityError(
            f"shards are missing in {folder}: {names}", hint="download them into the same folder"
        )
    return [found[number] for number in sorted(found)]


def _whole(path: Path) -> Shard:
    """The tensors of a safetensors file with Meta's names, in Meta's row order."""
    return {
        name: StoredTensor(
            Record(path, name, entry.offset, entry.size, None),
            entry.dtype,
            entry.shape,
            tuple(math.prod(entry.shape[axis + 1 :]) for axis in range(len(entry.shape))),
            entry.offset,
        )
        for name, entry in read_header(path)[0].items()
    }


def _shard(path: Path) -> re.Match[str] | None:
    return _SHARD.fullmatch(path.name) if path.is_file() else None


def _listed_but_absent(folder: Path, found: set[int]) -> set[int]:
    """Shards that the folder's own checklist names."""
    path = folder / "checklist.chk"
    text = checklist.read(path) if path.is_file() else ""
    return {int(number) for number in _SHARD.findall(text)} - found


def _architecture(folder: Path, params: Params, shards: Sequence[Shard]) -> Architecture:
    """Vocabulary and feed-forward width from the tensors, everything else from params.json."""
    embedding, w1 = (
        _required(folder, shards[0], name).shape
        for name in ("tok_embeddings.weight", "layers.0.feed_forward.w1.weight")
    )
    if len(embedding) != 2 or len(w1) != 2:
        raise IntegrityError(f"the tensors in {folder} are not a Llama model's")
    found = params.architecture(vocab_size=embedding[0], ffn_dim=w1[0] * len(shards))
    if embedding[1] * len(shards) != found.dim:
        cut = found.dim / max(1, embedding[1])
        raise IntegrityError(
            f"{folder} holds {len(shards)} shards, but the tensors and params.json (dim "
            f"{found.dim}) fit {cut:g} shards: shards are missing or belong to another model",
            hint="download all shards and params.json of one model into one folder",
        )
    return found


def _required(folder: Path, shard: Shard, name: str) -> StoredTensor:
    if name not in shard:
        raise IntegrityError(f"{folder} is not a Llama model: the tensor {name} is missing")
    return shard[name]


def _check_names(paths: list[Path], shards: Sequence[Shard], architecture: Architecture) -> None:
    expected = {spec.name for spec in layout.specs(architecture)}
    for path, shard in zip(paths, shards, strict=True):
        found = {name for name in shard if not layout.ignored_in_meta(name)}
        if found != expected:
            odd = sorted(found ^ expected)[0]
            state = "missing" if odd in expected else "unexpected"
            raise IntegrityError(
                f"{path} does not fit params.json: the tensor {odd} is {state}",
                hint="params.json and the shards must be of the same model",
            )


def _check_frequencies(
    paths: list[Path], shards: Sequence[Shard], architecture: Architecture
) -> None:
    for path, shard in zip(paths, shards, strict=True):
        for name in filter(layout.ignored_in_meta, shard):
            one = shard[name]
            found = Frequencies(name, path, one.offset, one.dtype, one.shape)
            rope_tensors.check(found, architecture)


def _location(spec: layout.TensorSpec, paths: list[Path], shards: Sequence[Shard]) -> Location:
    parts = [shard[spec.name] for shard in shards]
    shape = layout.shard_shape(spec, len(shards))
    for path, part in zip(paths, parts, strict=True):
        if part.shape != shape:
            raise IntegrityError(
                f"{spec.name} in {path} has shape {list(part.shape)}; params.json and "
                f"{len(shards)} shards ask for {list(shape)}",
                hint="params.json and the shards must be of the same model",
            )
        if part.dtype not in DTYPES or part.dtype != parts[0].dtype:
            raise IntegrityError(
                f"{spec.name} in {path} has the dtype {part.dtype}; supported are "
                f"{', '.join(DTYPES)}, the same in every shard"
            )
    return Location(parts[0].dtype, tuple(map(segment, parts)))


def segment(part: StoredTensor) -> Segment:
    """A stored tensor, vector or matrix, as a segment."""
    item = part.item_bytes
    rows, columns = part.shape if len(part.shape) == 2 else (1, part.shape[0])
    column_step = part.stride[-1] * item if columns > 1 else item
    row_step = part.stride[0] * item if rows > 1 else columns * item
    record = part.record
    return Segment(
        path=record.path,
        offset=part.offset,
        rows=rows,
        columns=columns,
        row_step=row_step,
        column_step=column_step,
        checked=(
            None
            if record.crc is None
            else Checked(record.path, record.offset, record.size, record.crc)
        ),
        whole=part.is_whole_record,
    )

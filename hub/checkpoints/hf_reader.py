"""Reading a Hugging Face folder: ``config.json`` and safetensors, or the older ``.bin`` files."""

from __future__ import annotations

from pathlib import Path

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub.checkpoints import diagnosis, hf_files, hf_tensors, layout, numeric, rope_tensors
from llama_hub.hub.checkpoints.meta import segment
from llama_hub.hub.checkpoints.pickle_index import read_index
from llama_hub.hub.checkpoints.rope_tensors import Frequencies
from llama_hub.hub.checkpoints.safetensors import ITEM_BYTES, Entry, read_header
from llama_hub.hub.checkpoints.source import Checkpoint, Location, Segment, StoredRun
from llama_hub.hub.model_config import read_config


def is_hf(folder: Path) -> bool:
    """Whether the folder looks like a Hugging Face model."""
    return (folder / "config.json").is_file()


def open_hf(folder: Path, *, quantised: bool = False) -> Checkpoint:
    """The checkpoint in ``folder``: safetensors, or the older ``pytorch_model*.bin``.

    ``IntegrityError`` if files are missing or tensors do not have the shapes of config.json, or
    for a quantised model unless ``quantised``: then only its unquantised tensors can be read, and
    ``stored`` says where the bytes of the others are.
    """
    config = read_config(folder)
    architecture = config.architecture
    diagnosis.refuse_quantised(folder, config.quantization_config)
    segments = _segments(folder)
    stored = _take_quantised(folder, segments)
    if stored and not quantised:
        raise IntegrityError(
            f"{folder} is quantised: the original weights cannot be had from it",
            hint="convert from the original or the unquantised folder",
        )
    if hf_tensors.is_tied(config, segments):
        segments[hf_tensors.OUTPUT] = segments[hf_tensors.EMBEDDING]
    expected = [
        spec for spec in layout.specs(architecture) if spec.name not in {n for n, _ in stored}
    ]
    hf_tensors.check_names(folder, set(segments), expected)
    locations = {
        spec.name: _location(folder, spec, segments[layout.hf_name(spec.name)]) for spec in expected
    }
    for name, (dtype, shape, where) in segments.items():
        if layout.ignored_in_hf(name):
            found = Frequencies(name, where.path, where.offset, dtype, shape)
            rope_tensors.check(found, architecture)
    runs = tuple(run for _, run in stored)
    return Checkpoint(folder, "hf", architecture, locations, stored=runs)


def _take_quantised(folder: Path, segments: dict[str, NamedSegment]) -> list[tuple[str, StoredRun]]:
    """Take quantised tensors out of ``segments``: (canonical name of the weight, stored bytes)."""
    found = []
    for name in [name for name in segments if name.endswith(hf_tensors.QUANTISED)]:
        dtype, shape, where = segments.pop(name)
        stem, _, ending = name.rpartition(".")
        try:
            canonical = layout.canonical_of_hf(f"{stem}.weight")
        except KeyError as error:
            raise IntegrityError(f"{folder} does not fit its config.json: {name}") from error
        if ending != "weight_shape":
            size = where.rows * where.row_step
            run = f"{canonical.removesuffix('weight')}{ending}"
            found.append((canonical, StoredRun(run, dtype, shape, where.path, where.offset, size)))
    return found


NamedSegment = tuple[str, tuple[int, ...], Segment]  # dtype, shape, where


def _segments(folder: Path) -> dict[str, NamedSegment]:
    found: dict[str, NamedSegment] = {}
    for path in _weight_files(folder):
        for wrapped, one in file_segments(path).items():
            name = hf_tensors.unwrapped(wrapped)
            if name in found:
                raise IntegrityError(f"the tensor {name} is in two files of {folder}")
            found[name] = one
        layout.check_count(path, len(found))
    return found


def file_segments(path: Path) -> dict[str, NamedSegment]:
    """The tensors of one file, safetensors or ``.bin``: dtype, shape, where."""
    if path.suffix == ".safetensors":
        return {
            name: (entry.dtype, entry.shape, _segment(entry))
            for name, entry in read_header(path)[0].items()
        }
    return {
        name: (tensor.dtype, tensor.shape, segment(tensor))
        for name, tensor in read_index(path).items()
        if tensor.shape
    }


def _segment(entry: Entry) -> Segment:
    item = ITEM_BYTES[entry.code]
    columns = entry.shape[-1] if entry.shape else 1
    rows = entry.shape[0] if len(entry.shape) == 2 else 1
    return Segment(entry.path, entry.offset, rows, columns, columns * item, item)


def _weight_files(folder: Path) -> list[Path]:
    weights = hf_files.in_folder(folder)
    if weights is None:
        found = diagnosis.no_model(folder, (path.name for path in folder.iterdir()))
        raise NotFoundError(
            f"{folder} has a config.json, but no weights: {found.message}", hint=found.hint
        )
    return [folder / name for name in weights.files]


def _location(folder: Path, spec: layout.TensorSpec, found: NamedSegment) -> Location:
    dtype, shape, where = found
    hf_tensors.check_shape(folder, spec, shape)
    if dtype not in numeric.DTYPES:
        raise IntegrityError(
            f"{layout.hf_name(spec.name)} in {folder} has the dtype {dtype}; supported are "
            f"{', '.join(numeric.DTYPES)}"
        )
    return Location(dtype, (where,), hf_rows=spec.rotary_rows)

"""Planning a Hugging Face folder's weight files: which tensor lies where, in how many files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llama_hub.hub.checkpoints import layout, numeric, weight_index
from llama_hub.hub.checkpoints.blueprint import Blueprint, Extent, FilePlan, Portion, TensorPlan
from llama_hub.hub.checkpoints.safetensors import ITEM_BYTES, NAMES, header


@dataclass(frozen=True)
class OutputTensor:
    """One tensor as it will stand in a file: which place of its ``TensorPlan`` fills it, if any."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: bytes | None = None  # where it does not depend on the weights

    @property
    def bytes(self) -> int:
        """Size of its data."""
        return math.prod(self.shape) * ITEM_BYTES[NAMES[self.dtype]]


@dataclass(frozen=True)
class Form:
    """How one canonical tensor is stored: its file tensors, and the encoder that fills them.

    ``encode`` yields one array for each of ``stored`` without ``content``, in order.
    """

    spec: layout.TensorSpec
    dtype: str
    stored: tuple[OutputTensor, ...]
    encode: Callable[[numeric.Bits], Sequence[Any]]
    quantised: bool = False
    error: Callable[[], float] | None = None  # of a quantised tensor, see ``TensorPlan``
    packed: bool = False  # ``encode`` takes ggml's blocks, see ``TensorPlan``


def plain_form(spec: layout.TensorSpec, dtype: str, head_dim: int) -> Form:
    """A tensor as it is, with Hugging Face's name and row order."""
    stored = (OutputTensor(layout.hf_name(spec.name), dtype, spec.shape),)
    if spec.rotary_rows:
        return Form(spec, dtype, stored, lambda b: (numeric.hf_rows(b, head_dim),))
    return Form(spec, dtype, stored, lambda block: (block,))


def tied_form(spec: layout.TensorSpec, dtype: str) -> Form:
    """The output matrix where it is the embedding: it is read and described, and stored there."""
    return Form(spec, dtype, (), lambda block: ())


def plan(forms: Iterable[Form], max_shard_bytes: int) -> Blueprint:
    """Files, none larger than ``max_shard_bytes`` unless one tensor alone is, and their index."""
    groups = _grouped(forms, max_shard_bytes)
    names = _file_names(len(groups))
    files: list[FilePlan] = []
    tensors: list[TensorPlan] = []
    weight_map: dict[str, str] = {}
    for number, (name, group) in enumerate(zip(names, groups, strict=True)):
        file, plans = _plan_file(number, name, group)
        files.append(file)
        tensors += plans
        weight_map |= {stored.name: name for form in group for stored in form.stored}
    total = sum(stored.bytes for group in groups for form in group for stored in form.stored)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    text = json.dumps(index, indent=2).encode() + b"\n"
    documents = {weight_index.NAME: text} if len(names) > 1 else {}
    return Blueprint(tuple(files), tuple(tensors), documents)


def _grouped(forms: Iterable[Form], limit: int) -> list[list[Form]]:
    groups: list[list[Form]] = [[]]
    size = 0
    for form in forms:
        more = sum(stored.bytes for stored in form.stored)
        if groups[-1] and size + more > limit:
            groups.append([])
            size = 0
        groups[-1].append(form)
        size += more
    return groups


def _file_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _plan_file(number: int, name: str, group: list[Form]) -> tuple[FilePlan, list[TensorPlan]]:
    listed = [(one.name, one.dtype, one.shape) for form in group for one in form.stored]
    head = header(listed, {"format": "pt"})
    fixed = [(0, head)]
    plans: list[TensorPlan] = []
    at = len(head)
    for form in group:
        places: list[Extent] = []
        for one in form.stored:
            if one.content is None:
                places.append(Extent(number, at, one.bytes // form.spec.rows))
            else:
                fixed.append((at, one.content))
            at += one.bytes
        portion = Portion(0, form.spec.rows, tuple(places), form.encode)
        stored = _manifest_entries(form) if form.quantised else ()
        plans.append(TensorPlan(form.spec, form.dtype, (portion,), stored, form.error, form.packed))
    return FilePlan(name, at, tuple(fixed)), plans


def _manifest_entries(form: Form) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """Meta's name with the stored tensor's own ending: ``layers.0.attention.wq.weight_packed``."""
    stem = form.spec.name.removesuffix("weight")
    return tuple(
        (stem + one.name.rsplit(".", 1)[1], one.dtype, one.shape)
        for one in form.stored
        if one.content is None
    )

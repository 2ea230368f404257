"""Weights from a Hugging Face folder straight to their device, fused and split on the way.

Every tensor is read once, through the file's mapping, into its final place; the
mapping's pages are the system's to drop. Under tensor parallelism only the
process's own rows and columns are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama_hub.errors import (
    IntegrityError,
    LlamaHubError,
    MissingExtraError,
    NotFoundError,
    UsageError,
)
from llama_hub.hub.checkpoints import weight_index
from llama_hub.hub.model_config import Config, QuantizationConfig
from llama_hub.inference.config import Quantization
from llama_hub.inference.linear import Dense, Linear
from llama_hub.inference.model import Heads, Layer, Weights
from llama_hub.inference.partition import Partition
from llama_hub.inference.quantization import MakeQuantized, quantize, scale_type


def heads_of(partition: Partition) -> Heads:
    """How many heads a process computes."""
    width = partition.architecture.head_dim
    return Heads(len(partition.queries), len(partition.keys), width)


class TensorFiles:
    """The safetensors files of a folder as one mapping from names to parts of tensors."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = _safe_open()
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self._where = self._names()

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor as it is stored."""
        return tuple(self._slice(name).get_shape())

    def rows(self, name: str, rows: range) -> Tensor:
        """Some rows of a tensor, on the CPU, backed by the file."""
        part: Tensor = self._slice(name)[rows.start : rows.stop]
        return part

    def columns(self, name: str, columns: range) -> Tensor:
        """Some columns of a matrix."""
        part: Tensor = self._slice(name)[:, columns.start : columns.stop]
        return part

    def whole(self, name: str) -> Tensor:
        """A whole tensor."""
        return self.rows(name, range(self.shape(name)[0]))

    def _slice(self, name: str) -> Any:
        try:
            return self._file(self._where[name]).get_slice(name)
        except LlamaHubError:
            raise
        except Exception as error:  # SafetensorError derives from Exception directly
            raise IntegrityError(f"{self._folder} has no tensor {name}") from error

    def _file(self, file: str) -> Any:
        if file not in self._files:
            self._files[file] = self._enter(file)
        return self._files[file]

    def _enter(self, file: str) -> Any:
        path = self._folder / file
        if path.exists() and not path.is_file():
            raise IntegrityError(f"{path} is no file but a folder, a pipe or a device")
        try:
            return self._stack.enter_context(self._open(path, framework="pt", device="cpu"))
        except FileNotFoundError as error:
            raise NotFoundError(f"{self._folder} lacks {file}") from error
        except Exception as error:  # SafetensorError derives from Exception directly
            raise IntegrityError(f"{path} cannot be read: {error}") from error

    def _names(self) -> dict[str, str]:
        index = self._folder / weight_index.NAME
        if index.is_file():
            return dict(weight_index.read(index))
        files = sorted(path.name for path in self._folder.glob("*.safetensors"))
        if not files:
            raise NotFoundError(f"{self._folder} has no *.safetensors files")
        return {name: file for file in files for name in self._file(file).keys()}


@dataclass(frozen=True)
class Target:
    """Where weights go and in which form."""

    dtype: torch.dtype
    device: torch.device
    make: MakeQuantized
    quantize: int | None = None  # bits, for weights that are stored dense

    def place(self, tensor: Tensor) -> Tensor:
        """A copy in the computing type."""
        out = torch.empty(tensor.shape, dtype=self.dtype, device=self.device)
        return out.copy_(tensor)

    def linear(self, weight: Tensor, *, bits: int | None = None) -> Linear:
        """A dense weight that is there already, quantised if asked for."""
        if self.quantize is None:
            return Dense(weight)
        kept = scale_type(self.dtype, self.device)
        return quantize(weight, bits or self.quantize, self.make, kept)


Parts = Sequence[tuple[str, range]]  # names without ".weight", and rows of each


class Loader:
    """Builds the ``Weights`` of one process.

    ``stored``: how the folder's own quantised matrices are stored, if it has any.
    """

    def __init__(
        self, files: TensorFiles, partition: Partition, target: Target, stored: StoredForm | None
    ) -> None:
        self._files = files
        self._partition = partition
        self._target = target
        self._stored = stored

    def load(self) -> Weights:
        """Everything; ``IntegrityError`` if a tensor is missing or has another shape."""
        model = self._partition.architecture
        head = "lm_head" if "lm_head.weight" in self._files else "model.embed_tokens"
        rows = self._dense_rows([(head, self._partition.vocabulary())], model.dim)
        return Weights(
            embedding=self._plain("model.embed_tokens", (model.vocab_size, model.dim)),
            layers=tuple(self._layer(index) for index in range(model.n_layers)),
            norm=self._plain("model.norm", (model.dim,)),
            head=self._target.linear(rows, bits=8),
        )

    def _layer(self, index: int) -> Layer:
        model, part = self._partition.architecture, self._partition
        prefix = f"model.layers.{index}."
        width = model.head_dim
        queries = range(part.queries.start * width, part.queries.stop * width)
        keys = [range(head * width, (head + 1) * width) for head in part.keys]
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        qkv = [
            (attention + "q_proj", queries),
            *((attention + "k_proj", rows) for rows in keys),
            *((attention + "v_proj", rows) for rows in keys),
        ]
        ffn = part.ffn()
        return Layer(
            attention_norm=self._plain(prefix + "input_layernorm", (model.dim,)),
            qkv=self._stack(qkv, model.dim),
            out=self._cut(attention + "o_proj", queries, (model.dim, model.dim)),
            ffn_norm=self._plain(prefix + "post_attention_layernorm", (model.dim,)),
            gate_up=self._stack([(mlp + "gate_proj", ffn), (mlp + "up_proj", ffn)], model.dim),
            down=self._cut(mlp + "down_proj", ffn, (model.dim, model.ffn_dim)),
        )

    def _plain(self, name: str, shape: tuple[int, ...]) -> Tensor:
        self._expect(name + ".weight", shape)
        return self._target.place(self._files.whole(name + ".weight"))

    def _stack(self, parts: Parts, width: int) -> Linear:
        """Row ranges of several matrices, one below the other; ``width`` columns."""
        if self._stored is None or f"{parts[0][0]}.weight_packed" not in self._files:
            return self._target.linear(self._dense_rows(parts, width))
        for name, _ in parts:
            self._expect(name + ".weight_packed", (self._height(name), self._stored.words(width)))
        packed, scales = (
            torch.cat([self._files.rows(name + suffix, span) for name, span in _joined(parts)])
            for suffix in (".weight_packed", ".weight_scale")
        )
        return self._quantized(self._stored, packed, scales)

    def _dense_rows(self, parts: Parts, width: int) -> Tensor:
        """Row ranges read straight into their place in one matrix."""
        rows = sum(len(span) for _, span in parts)
        target = self._target
        out = torch.empty(rows, width, dtype=target.dtype, device=target.device)
        at = 0
        for name, span in _joined(parts):
            self._expect(name + ".weight", (self._height(name), width))
            out[at : at + len(span)].copy_(self._files.rows(name + ".weight", span))
            at += len(span)
        return out

    def _cut(self, name: str, columns: range, shape: tuple[int, int]) -> Linear:
        """Some columns of a matrix."""
        stored = self._stored
        if stored is None or f"{name}.weight_packed" not in self._files:
            self._expect(name + ".weight", shape)
            cut = self._files.columns(name + ".weight", columns)
            return self._target.linear(self._target.place(cut))
        self._expect(name + ".weight_packed", (shape[0], stored.words(shape[1])))
        whole = len(columns) == shape[1]
        if not whole and (columns.start % stored.grain or columns.stop % stored.grain):
            raise UsageError(
                f"{name} is quantised in groups of {stored.grain} columns, which cannot be shared "
                f"by {self._partition.size} processes",
                hint="use fewer processes or a smaller group",
            )
        words = range(stored.words(columns.start), stored.words(columns.stop))
        packed = self._files.columns(name + ".weight_packed", words)
        groups = stored.groups(columns)
        return self._quantized(stored, packed, self._files.columns(name + ".weight_scale", groups))

    def _quantized(self, stored: StoredForm, packed: Tensor, scales: Tensor) -> Linear:
        values = packed.contiguous().view(torch.uint8)
        if stored.bits == 8:  # from 0 … 255 to -128 … 127
            values = (values ^ 128).view(torch.int8)
        device = self._target.device
        return self._target.make(
            stored.bits, values.to(device, copy=True), scales.to(device, copy=True)
        )

    def _height(self, name: str) -> int:
        """Rows of a whole matrix."""
        model = self._partition.architecture
        heights = {"q_proj": model.dim, "k_proj": model.kv_dim, "v_proj": model.kv_dim}
        tables = {"lm_head": model.vocab_size, "embed_tokens": model.vocab_size}
        return {**heights, **tables}.get(name.rsplit(".", 1)[-1], model.ffn_dim)

    def _expect(self, name: str, shape: tuple[int | None, ...]) -> None:
        found = self._files.shape(name)
        fits = len(found) == len(shape) and all(
            want in (None, have) for want, have in zip(shape, found, strict=True)
        )
        if not fits:
            raise IntegrityError(f"{name} has shape {list(found)}, config.json implies {shape}")


@dataclass(frozen=True)
class StoredForm:
    """How a folder stores quantised matrices (see ``llama_hub.hub.conversion.quantize``)."""

    bits: int
    group: int | None  # columns for each scale; None: a whole row

    @property
    def grain(self) -> int:
        """Columns that belong together."""
        return self.group or 32

    @property
    def name(self) -> Quantization:
        """As ``EngineOptions.quantize`` calls it."""
        return "int8" if self.bits == 8 else "int4"

    def words(self, columns: int) -> int:
        """32-bit words that ``columns`` take in a row."""
        return columns * self.bits // 32

    def groups(self, columns: range) -> range:
        """The scales of some columns."""
        if self.group is None:
            return range(1)
        return range(columns.start // self.group, columns.stop // self.group)


def stored_form(config: Config) -> StoredForm | None:
    """What ``config.json`` says of quantisation; ``IntegrityError`` for a form we cannot read."""
    stated = config.quantization_config
    if stated is None or stated == QuantizationConfig():
        return None
    form = _packed_form(stated)
    if form is None:
        raise IntegrityError(
            f"config.json describes a quantisation ({stated.quant_method}, {stated.format}) that "
            "this engine cannot read",
            hint="convert from the unquantised weights: llama-hub convert … --quantize int4",
        )
    return form


def _packed_form(stated: QuantizationConfig) -> StoredForm | None:
    """Symmetric 4- or 8-bit integers as compressed-tensors packs them."""
    groups = list((stated.config_groups or {}).values())
    if (stated.quant_method, stated.format) != ("compressed-tensors", "pack-quantized"):
        return None
    if len(groups) != 1 or groups[0].input_activations or groups[0].weights is None:
        return None
    weights = groups[0].weights
    if weights.num_bits not in (4, 8) or not weights.symmetric or weights.actorder:
        return None
    if weights.strategy != "group":
        return StoredForm(weights.num_bits, None)
    size = weights.group_size
    return StoredForm(weights.num_bits, size) if size and size > 0 else None


def _joined(parts: Iterable[tuple[str, range]]) -> list[tuple[str, range]]:
    """Neighbouring ranges of one tensor as one."""
    out: list[tuple[str, range]] = []
    for name, span in parts:
        if out and out[-1][0] == name and out[-1][1].stop == span.start:
            out[-1] = (name, range(out[-1][1].start, span.stop))
        else:
            out.append((name, span))
    return out


def _safe_open() -> Any:
    try:
        from safetensors import safe_open
    except ModuleNotFoundError as error:
        raise MissingExtraError("safetensors", "serve") from error
    return safe_open

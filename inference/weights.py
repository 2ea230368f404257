"""Weights from a Hugging Face folder straight to their device, fused and split on the way.

Every tensor is read once, through the file's mapping, into its final place; the
mapping's pages are the system's to drop. Under tensor parallelism only the
process's own rows and columns are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama_hub.errors import IntegrityError, MissingExtraError, NotFoundError
from llama_hub.hub.architecture import Architecture, from_config
from llama_hub.inference.linear import Dense, Linear
from llama_hub.inference.model import Heads, Layer, Weights
from llama_hub.inference.partition import Partition

INDEX = "model.safetensors.index.json"


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a Hugging Face folder."""
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{folder} is not a model folder: it has no config.json",
            hint=f"llama-hub convert {folder} --to hf",
        ) from error
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} cannot be read: {error}") from error
    return config


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
        except KeyError as error:
            raise IntegrityError(f"{self._folder} has no tensor {name}") from error

    def _file(self, file: str) -> Any:
        if file not in self._files:
            self._files[file] = self._enter(file)
        return self._files[file]

    def _enter(self, file: str) -> Any:
        path = self._folder / file
        try:
            return self._stack.enter_context(self._open(path, framework="pt", device="cpu"))
        except FileNotFoundError as error:
            raise NotFoundError(f"{self._folder} lacks {file}") from error
        except Exception as error:  # SafetensorError derives from Exception directly
            raise IntegrityError(f"{path} cannot be read: {error}") from error

    def _names(self) -> dict[str, str]:
        index = self._folder / INDEX
        if index.is_file():
            found: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return found
        files = sorted(path.name for path in self._folder.glob("*.safetensors"))
        if not files:
            raise NotFoundError(f"{self._folder} has no *.safetensors files")
        return {name: file for file in files for name in self._file(file).keys()}


class Loader:
    """Builds the ``Weights`` of one process."""

    def __init__(
        self,
        files: TensorFiles,
        partition: Partition,
        dtype: torch.dtype,
        device: torch.device,
        make_linear: Callable[[Tensor], Linear] = Dense,
    ) -> None:
        self._files = files
        self._partition = partition
        self._dtype = dtype
        self._device = device
        self._make_linear = make_linear

    def load(self) -> Weights:
        """Everything; ``IntegrityError`` if a tensor is missing or has another shape."""
        model = self._partition.architecture
        head = "lm_head.weight" if "lm_head.weight" in self._files else "model.embed_tokens.weight"
        return Weights(
            embedding=self._plain("model.embed_tokens.weight", (model.vocab_size, model.dim)),
            layers=tuple(self._layer(index) for index in range(model.n_layers)),
            norm=self._plain("model.norm.weight", (model.dim,)),
            head=Dense(self._stack([(head, self._partition.vocabulary())], model.dim)),
        )

    def _layer(self, index: int) -> Layer:
        model, part = self._partition.architecture, self._partition
        prefix = f"model.layers.{index}."
        width = model.head_dim
        queries = range(part.queries.start * width, part.queries.stop * width)
        keys = [range(head * width, (head + 1) * width) for head in part.keys]
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        qkv = [
            (attention + "q_proj.weight", queries),
            *((attention + "k_proj.weight", rows) for rows in keys),
            *((attention + "v_proj.weight", rows) for rows in keys),
        ]
        gate_up = [(mlp + "gate_proj.weight", part.ffn()), (mlp + "up_proj.weight", part.ffn())]
        return Layer(
            attention_norm=self._plain(prefix + "input_layernorm.weight", (model.dim,)),
            qkv=self._make_linear(self._stack(qkv, model.dim)),
            out=self._make_linear(self._cut(attention + "o_proj.weight", queries, model.dim)),
            ffn_norm=self._plain(prefix + "post_attention_layernorm.weight", (model.dim,)),
            gate_up=self._make_linear(self._stack(gate_up, model.dim)),
            down=self._make_linear(self._cut(mlp + "down_proj.weight", part.ffn(), model.dim)),
        )

    def _plain(self, name: str, shape: tuple[int, ...]) -> Tensor:
        self._expect(name, shape)
        return self._place(self._files.whole(name))

    def _place(self, tensor: Tensor) -> Tensor:
        """A copy of the file's part in its final type on its final device."""
        out = torch.empty(tensor.shape, dtype=self._dtype, device=self._device)
        return out.copy_(tensor)

    def _stack(self, parts: Sequence[tuple[str, range]], width: int) -> Tensor:
        """Row ranges of several matrices, one below the other, each read into its place."""
        rows = sum(len(span) for _, span in parts)
        out = torch.empty(rows, width, dtype=self._dtype, device=self._device)
        at = 0
        for name, span in _joined(parts):
            self._expect(name, (None, width))
            out[at : at + len(span)].copy_(self._files.rows(name, span))
            at += len(span)
        return out

    def _cut(self, name: str, columns: range, rows: int) -> Tensor:
        self._expect(name, (rows, None))
        return self._place(self._files.columns(name, columns))

    def _expect(self, name: str, shape: tuple[int | None, ...]) -> None:
        found = self._files.shape(name)
        fits = len(found) == len(shape) and all(
            want in (None, have) for want, have in zip(shape, found, strict=True)
        )
        if not fits:
            raise IntegrityError(f"{name} has shape {list(found)}, config.json implies {shape}")


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


def architecture_of(folder: Path) -> Architecture:
    """Dimensions from the folder's ``config.json``."""
    return from_config(read_config(folder))

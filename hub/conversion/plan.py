"""The plan of a conversion, from source and request: which format, which dtype, which files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llama_hub.errors import UsageError
from llama_hub.hub.checkpoints.gguf_types import FILE_TYPES, file_type
from llama_hub.hub.conversion import companions
from llama_hub.hub.conversion.companions import Subject
from llama_hub.hub.manifest import Format

if TYPE_CHECKING:
    from llama_hub.hub.checkpoints.blueprint import Blueprint
    from llama_hub.hub.checkpoints.hf_writer import Form
    from llama_hub.hub.checkpoints.layout import TensorSpec
    from llama_hub.hub.checkpoints.source import Checkpoint
    from llama_hub.hub.conversion.quantize import Scheme

# Bytes. Small enough that several workers have a file each and that uploads run in parallel.
MAX_SHARD_SIZE = 2_000_000_000
FLOATS = ("bfloat16", "float16", "float32")
QUANTIZATIONS = ("int8", "int4")
GROUP_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class ConversionRequest:
    """What the output should be."""

    to: Format
    dtype: str | None = None  # None: as it is; for GGUF one of its file types is possible as well
    quantize: str | None = None  # int8 or int4, of a Hugging Face folder
    group_size: int | None = None  # weights that share a scale; 0: a whole row; None: the default
    max_shard_size: int = MAX_SHARD_SIZE  # bytes of a safetensors file; no tensor is split
    model_parallel: int | None = None  # shards of Meta's layout; None: as many as the source has
    allow_non_finite: bool = False
    dequantize: bool = False  # take a quantised GGUF file's values for the weights
    split_max_size: int | None = None  # bytes of the tensors of one GGUF file; None: one file
    file_stem: str | None = None  # of the GGUF file's name; None: made of the model's

    def __post_init__(self) -> None:
        """Names of types count in any case: ``q4_k_m``, ``BFloat16``, ``INT8``."""
        if self.quantize is not None:
            object.__setattr__(self, "quantize", self.quantize.lower())
        if self.dtype is not None:
            gguf_type = file_type(self.dtype) if self.to == "gguf" else None
            lower = self.dtype.lower()
            object.__setattr__(
                self, "dtype", gguf_type or (lower if lower in FLOATS else self.dtype)
            )

    def check(self) -> None:
        """``UsageError`` for options that do not fit together."""
        types = (*FLOATS, *FILE_TYPES) if self.to == "gguf" else FLOATS
        problems = {
            f"--to {self.to} is none of hf, meta, gguf": self.to not in ("hf", "meta", "gguf"),
            f"--dtype {self.dtype} is none of {', '.join(types)}": self.dtype is not None
            and self.dtype not in types,
            f"--quantize {self.quantize} is neither int8 nor int4": self.quantize is not None
            and self.quantize not in QUANTIZATIONS,
            "--quantize makes a Hugging Face folder: it needs --to hf; for GGUF give --dtype "
            "Q4_K_M or Q8_0": self.quantize is not None and self.to != "hf",
            "--group-size needs --quantize": self.group_size is not None and not self.quantize,
            f"--group-size {self.group_size} is none of {GROUP_SIZES} and not 0 (a whole "
            "row)": self.group_size is not None and self.group_size not in (0, *GROUP_SIZES),
            "--model-parallel needs --to meta": self.model_parallel is not None
            and self.to != "meta",
            f"--model-parallel {self.model_parallel} is not between 1 and 64": self.model_parallel
            is not None
            and not 1 <= self.model_parallel <= 64,
            "--allow-non-finite does not go with quantisation": self.allow_non_finite
            and self.loses,
            "--max-shard-size must be positive": self.max_shard_size < 1,
            "--split-max-size needs --to gguf": self.split_max_size is not None
            and self.to != "gguf",
            "--split-max-size must be positive": self.split_max_size is not None
            and self.split_max_size < 1,
        }
        for problem, found in problems.items():
            if found:
                raise UsageError(problem, hint="llama-hub convert --help")

    @property
    def keeps_blocks(self) -> bool:
        """Whether what is quantised in a GGUF file goes into another one as it is."""
        return self.to == "gguf" and self.dtype is None and not self.dequantize

    @property
    def loses(self) -> bool:
        """Whether the output is quantised."""
        return self.quantize is not None or (self.dtype or "").startswith("Q")


def plan(source: Checkpoint, wanted: ConversionRequest, subject: Subject) -> Blueprint:
    """The output's files, tensors and companions."""
    if wanted.to == "hf":
        return _plan_hf(source, wanted, subject)
    if wanted.to == "meta":
        return _plan_meta(source, wanted, subject)
    return _plan_gguf(source, wanted, subject)


def _plan_hf(source: Checkpoint, wanted: ConversionRequest, subject: Subject) -> Blueprint:
    from llama_hub.hub.checkpoints import hf_writer

    head_dim = source.architecture.head_dim
    dtypes = canonical_dtypes(source, wanted.dtype)
    specs = source.specs[:-1] if source.tied else source.specs  # the output matrix is the last
    extra: Mapping[str, Any] = {}
    if wanted.quantize is None:
        forms = [hf_writer.plain_form(spec, dtypes[spec.name], head_dim) for spec in specs]
    else:
        from llama_hub.hub.conversion import quantize

        scheme = quantize.scheme(wanted.quantize, wanted.group_size)
        forms = [_quantised_form(scheme, source, spec, dtypes[spec.name]) for spec in specs]
        extra = {"quantization_config": scheme.config(source.specs)}
    if source.tied:
        extra = {**extra, "tie_word_embeddings": True}
        forms += [hf_writer.tied_form(spec, dtypes[spec.name]) for spec in source.specs[-1:]]
    blueprint = hf_writer.plan(forms, wanted.max_shard_size)
    matrices = dtypes["layers.0.attention.wq.weight"]
    papers = companions.for_hf(subject, matrices, extra)
    return replace(blueprint, documents=dict(blueprint.documents) | papers)


def _quantised_form(scheme: Scheme, source: Checkpoint, spec: TensorSpec, dtype: str) -> Form:
    """With the numbers that the source has already, where both layouts are the same."""
    head_dim, kind = source.architecture.head_dim, source.locations[spec.name].blocks_of
    kept = scheme.form_of_blocks(spec, kind, head_dim) if dtype == "float16" else None
    return kept or scheme.form(spec, dtype, head_dim)


def _plan_meta(source: Checkpoint, wanted: ConversionRequest, subject: Subject) -> Blueprint:
    from llama_hub.hub.checkpoints import meta_writer

    shards = wanted.model_parallel or source.shards
    blueprint = meta_writer.plan(
        source.architecture, canonical_dtypes(source, wanted.dtype), shards
    )
    return replace(blueprint, documents=companions.for_meta(subject), md5=True)


def _plan_gguf(source: Checkpoint, wanted: ConversionRequest, subject: Subject) -> Blueprint:
    from llama_hub.hub.checkpoints import gguf_writer

    form = gguf_writer.Form(wanted.dtype, wanted.file_stem, wanted.split_max_size)
    blueprint = gguf_writer.plan(source, form, subject)
    beside = companions.beside_gguf if wanted.file_stem is not None else companions.for_gguf
    return replace(blueprint, documents=beside(subject))


def canonical_dtypes(source: Checkpoint, wanted: str | None) -> dict[str, str]:
    """The dtype of every tensor: as it is, or all the same."""
    return {spec.name: wanted or source.dtype_of(spec.name) for spec in source.specs}

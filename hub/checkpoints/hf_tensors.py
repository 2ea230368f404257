"""The tensors that a Hugging Face folder must hold, by its config.json; needs no numpy.

The reader asks it of a folder, the download of headers that were read before any weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from llama_hub.errors import IntegrityError
from llama_hub.hub.checkpoints import layout
from llama_hub.hub.model_config import Config

# A quantised weight in the words of compressed-tensors, which ``convert --quantize`` writes.
QUANTISED = (".weight_packed", ".weight_scale", ".weight_shape")
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
_HINT = "take config.json and the weights from the same place and revision"
_WRAPPERS = re.compile(r"^(?:_orig_mod\.|module\.)+")  # torch.compile, DataParallel


def unwrapped(name: str) -> str:
    """A tensor's name without what ``torch.compile`` or ``DataParallel`` put before it."""
    return _WRAPPERS.sub("", name)


def is_tied(config: Config, names: Collection[str]) -> bool:
    """Whether the embedding is the output matrix too."""
    return OUTPUT not in names and bool(config.tie_word_embeddings) and EMBEDDING in names


def check_names(where: object, names: Collection[str], specs: Sequence[layout.TensorSpec]) -> None:
    """``IntegrityError`` unless ``names`` are those of ``specs``, besides what is no weight."""
    expected = {layout.hf_name(spec.name) for spec in specs}
    found = {name for name in names if not layout.ignored_in_hf(name)}
    if found != expected:
        odd = sorted(found ^ expected)[0]
        state = "missing" if odd in expected else "unexpected"
        raise IntegrityError(f"{where} does not fit its config.json: {odd} is {state}", hint=_HINT)


def check_shape(where: object, spec: layout.TensorSpec, shape: Sequence[int]) -> None:
    """``IntegrityError`` unless a tensor has the shape that config.json asks for."""
    if tuple(shape) != spec.shape:
        raise IntegrityError(
            f"{layout.hf_name(spec.name)} in {where} has shape {list(shape)}; config.json asks "
            f"for {list(spec.shape)}",
            hint=_HINT,
        )


def check(where: object, shapes: Mapping[str, Sequence[int]], config: Config) -> None:
    """``IntegrityError`` unless tensors of these names and ``shapes`` are the model of ``config``.

    Quantised matrices are known by their name alone.
    """
    named = {unwrapped(name): shape for name, shape in shapes.items()}
    if is_tied(config, named):
        named[OUTPUT] = named[EMBEDDING]
    for name in [name for name in named if name.endswith(QUANTISED)]:
        del named[name]
        named.setdefault(f"{name.rpartition('.')[0]}.weight", ())
    specs = layout.specs(config.architecture)
    check_names(where, named, specs)
    for spec in specs:
        if shape := named[layout.hf_name(spec.name)]:
            check_shape(where, spec, shape)

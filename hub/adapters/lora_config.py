"""``adapter_config.json`` of a LoRA adapter: which matrices it changes, and by which scale.

As peft 0.21 writes it. A key that changes what the adapter computes is modelled or refused; one
that is not known is refused by name and value, since the adapter would be another in silence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Le

from llama_hub.errors import IntegrityError
from llama_hub.hub.checkpoints import layout
from llama_hub.schema import conform
from llama_hub.strict import FileKind, read_json

T = TypeVar("T")
NAME = "adapter_config.json"
MAX_RANK = 512  # vLLM's limit, and far beyond what anybody trains
MAX_ALPHA = 1 << 20
KIND = FileKind(
    "the adapter's configuration", max_bytes=1 << 20, hint="take the folder that peft saved"
)
MODULES = {  # Hugging Face's name of a linear module, within its layer → Meta's
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}

# Keys of training, of other methods' settings, and of who wrote the file.
_HARMLESS = frozenset(
    """
    arrow_config auto_mapping corda_config ensure_weight_tying eva_config inference_mode
    layers_pattern loftq_config lora_dropout lora_ga_config megatron_core peft_version
    qalora_group_size revision runtime_config task_type
    """.split()
)
_MODELLED = frozenset(
    """
    alpha_pattern base_model_name_or_path exclude_modules layers_to_transform lora_alpha
    peft_type r rank_pattern target_modules use_rslora
    """.split()
)
# Of each method: what it does that W + s·B·A does not say.
_REFUSED = {
    "alora_invocation_tokens": "an activated adapter, which acts only after certain tokens",
    "bias": "trained biases, and Llama 2 has none",
    "fan_in_fan_out": "transposed weights, which Llama 2 does not have",
    "kasa_config": "KaSA, which is not LoRA",
    "layer_replication": "a model of other layers than the base's",
    "lora_bias": "biases of its own, and Llama 2 has none",
    "megatron_config": "a model of Megatron's",
    "modules_to_save": "whole matrices trained beside the adapter (heads, embeddings)",
    "monteclora_config": "MonteCLoRA, which is not LoRA",
    "target_parameters": "parameters that are no linear module's",
    "trainable_token_indices": "trained rows of the embedding",
    "use_bdlora": "block-diagonal LoRA",
    "use_dora": "DoRA, which also rescales the columns of the base's weights",
    "use_qalora": "QA-LoRA, which pools the inputs",
    "velora_config": "VeLoRA, which is not LoRA",
}
# Ways to begin that also changed the base's own weights; the others leave them alone.
_CHANGED_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")


Rank = Annotated[int, Ge(1), Le(MAX_RANK)]
Alpha = Annotated[float, Ge(0), Le(MAX_ALPHA)]


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """What decides which matrices are changed and how much; see ``read``."""

    r: Rank
    lora_alpha: Alpha = 8
    use_rslora: bool = False
    rank_pattern: Mapping[str, Rank] = field(default_factory=dict)
    alpha_pattern: Mapping[str, Alpha] = field(default_factory=dict)
    target_modules: tuple[str, ...] | str | None = None
    exclude_modules: tuple[str, ...] | str | None = None
    layers_to_transform: tuple[int, ...] | int | None = None
    base_model_name_or_path: str | None = None

    def rank(self, module: str) -> int:
        """The rank of ``module`` (``model.layers.0.self_attn.q_proj``)."""
        return _by_pattern(self._ranks, module, self.r)

    def alpha(self, module: str) -> float:
        """The ``lora_alpha`` of ``module``."""
        return _by_pattern(self._alphas, module, self.lora_alpha)

    def scale(self, module: str) -> float:
        """What B·A is multiplied by: alpha/r, or alpha/√r (arXiv 2312.03732)."""
        rank = self.rank(module)
        return self.alpha(module) / (math.sqrt(rank) if self.use_rslora else rank)

    @cached_property
    def _ranks(self) -> list[tuple[re.Pattern[str], int]]:
        return [(_pattern(text), rank) for text, rank in self.rank_pattern.items()]

    @cached_property
    def _alphas(self) -> list[tuple[re.Pattern[str], float]]:
        return [(_pattern(text), alpha) for text, alpha in self.alpha_pattern.items()]

    def expected(self, layers: int) -> set[str] | None:
        """The modules of a model of so many layers that must be there.

        ``None`` where a regular expression names them, which is not run.
        """
        targets = self.target_modules
        if targets == "all-linear":
            targets = tuple(MODULES)
        if targets is None or isinstance(targets, str) or isinstance(self.exclude_modules, str):
            return None
        chosen = self.layers_to_transform
        numbers = {chosen} if isinstance(chosen, int) else set(chosen or range(layers))
        names = (f"model.layers.{n}.{name}" for n in sorted(numbers) for name in MODULES)
        excluded = self.exclude_modules or ()
        return {n for n in names if _is_among(n, targets) and not _is_among(n, excluded)}


def read(path: Path) -> LoraConfig:
    """The configuration in the file ``path``; ``DamagedFileError`` names the key that is wrong."""
    return parse(read_json(path, KIND), str(path))


def parse(document: Any, where: str) -> LoraConfig:
    """The same of its JSON document."""
    if not isinstance(document, dict):
        raise KIND.invalid(where, f"is a {type(document).__name__}, not an object with keys")
    method = document.get("peft_type")
    if method != "LORA":
        raise KIND.invalid(
            where, f"{str(method)[:80]!r} is another method; LORA is the one that is known",
            "peft_type",
        )  # fmt: skip
    for key, value in document.items():
        _check(key, value, where)
    known = {key: document[key] for key in _MODELLED - {"peft_type"} if key in document}
    known = {key: value for key, value in known.items() if value is not None}
    config = conform(LoraConfig, known, where, KIND)
    _check_patterns(config, where)
    return config


def _check(key: str, value: Any, where: str) -> None:
    if key in _MODELLED or key in _HARMLESS:
        return
    if key in _REFUSED:
        if value not in (None, False, "none") and value != [] and value != {}:
            raise KIND.invalid(where, f"{str(value)[:80]!r} means {_REFUSED[key]}", key)
    elif key == "init_lora_weights":
        _check_beginning(value, where)
    elif value not in (None, False):
        raise KIND.invalid(
            where, f"{str(value)[:80]!r} is not modelled here, and it may change what the adapter "
            "computes", key,
        )  # fmt: skip


def _check_beginning(value: Any, where: str) -> None:
    way = str(value).lower()
    if isinstance(value, str) and way.startswith(_CHANGED_BASE):
        raise KIND.invalid(
            where,
            f"{value[:40]!r} changed the base's weights when training began, so the adapter does "
            "not fit the original; save it with path_initial_model_for_weight_conversion",
            "init_lora_weights",
        )


def _check_patterns(config: LoraConfig, where: str) -> None:
    for key in ("rank_pattern", "alpha_pattern"):
        for text in getattr(config, key):
            try:
                _pattern(text)
            except ValueError as error:
                raise KIND.invalid(where, str(error), f"{key}.{text[:60]}") from error


_TOKENS = re.compile(r"\^|[A-Za-z0-9_]+|\\\.|\.\*|\.|\\d\+|\[0-9\]\+")
_MAX_PATTERN, _MAX_STARS = 200, 3


def _pattern(text: str) -> re.Pattern[str]:
    r"""A pattern as peft matches it, against the end of a module's name.

    Names, ``.``, ``\.``, ``\d+``, ``.*`` and ``^``: whatever else a regular expression can be may
    take for ever. ``ValueError`` for that.
    """
    tokens = _TOKENS.findall(text) if len(text) <= _MAX_PATTERN else []
    stars = sum(token.endswith(("*", "+")) for token in tokens)
    if "".join(tokens) != text or not text or stars > _MAX_STARS:
        raise ValueError(rf"only names, '.', '\d+', '.*' and '^' can stand in {text[:60]!r}")
    return re.compile(rf"(?:.*\.)?(?:{text})")


def _by_pattern(patterns: list[tuple[re.Pattern[str], T]], module: str, default: T) -> T:
    """The value of the first pattern that fits, in the file's order."""
    return next((value for pattern, value in patterns if pattern.fullmatch(module)), default)


def _is_among(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def canonical(module: str, where: object) -> str:
    """The canonical name of the matrix of ``model.layers.0.self_attn.q_proj``.

    ``IntegrityError`` for any other module.
    """
    try:
        name = layout.canonical_of_hf(f"{module}.weight")
    except KeyError:
        name = ""
    if not name.startswith("layers.") or name.split(".", 2)[2].removesuffix(".weight") not in set(
        MODULES.values()
    ):
        raise IntegrityError(
            f"{where}: {module[:100]} is no linear module of a Llama layer",
            hint="an adapter of the attention and feed-forward matrices is understood",
        )
    return name

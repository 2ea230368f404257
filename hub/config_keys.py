"""The keys of a model's description: modelled, harmless, or refused.

A fine-tune's ``config.json`` or ``params.json`` may hold a key that changes what the model
computes. One that is not known is refused by name and value: converted in silence it would be
another model under the same name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from llama_hub.strict import FileKind

Test = Callable[[Any, Mapping[str, Any]], bool]

# Keys of transformers' base class and of its generation, training and export code; none of them
# changes the logits of a Llama.
_CONFIG_HARMLESS = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled
    _name_or_path _attn_implementation_internal attention_dropout attention_probs_dropout_prob
    auto_map bad_words_ids begin_suppress_tokens bos_token_id classifier_dropout custom_pipelines
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    embd_pdrop encoder_no_repeat_ngram_size end_token_id eos_token_id
    exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing
    hidden_dropout hidden_dropout_prob id2label initializer_range keys_to_ignore_at_inference
    label2id length_penalty max_length max_sequence_length max_window_layers min_length
    model_max_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
    output_attentions output_hidden_states output_scores pad_token pad_token_id prefix
    pretraining_tp problem_type remove_invalid_values repetition_penalty
    resid_pdrop return_dict return_dict_in_generate sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class
    tokenizer_model_max_length top_k top_p torch_dtype torchscript transformers_version
    transformers.js_config typical_p unk_token_id use_bfloat16 use_cache vocab_type
    quantization_config rope_scaling rope_parameters rope_theta tie_word_embeddings
    """.split()
)
_CONFIG_PREFIXES = re.compile(r"^(_|unsloth|axolotl|mergekit|training_|neftune)|_version$")


def _one_of(*values: Any) -> Test:
    return lambda value, _document: any(
        value == known and isinstance(value, bool) == isinstance(known, bool) for known in values
    )


def _is_head_dim(value: Any, document: Mapping[str, Any]) -> bool:
    heads, width = document.get("num_attention_heads"), document.get("hidden_size")
    numbers = (value, heads, width)  # multiplying a text would repeat it
    return all(type(one) is int for one in numbers) and value * heads == width


def _is_llama(value: Any, _document: Mapping[str, Any]) -> bool:
    return isinstance(value, list) and all(
        isinstance(name, str) and name.lower() == "llamaforcausallm" for name in value
    )


def _all_full(value: Any, _document: Mapping[str, Any]) -> bool:
    return isinstance(value, list) and set(map(str, value)) <= {"full_attention"}


# Keys that are modelled for the one value that Llama 2 has.
_CONFIG_FIXED: dict[str, Test] = {
    "add_cross_attention": _one_of(False),
    "architectures": _is_llama,
    "attention_bias": _one_of(False),
    "chunk_size_feed_forward": _one_of(0),
    "cross_attention_hidden_size": _one_of(),
    "head_dim": _is_head_dim,
    "hidden_act": _one_of("silu", "swish"),
    "is_decoder": _one_of(True, False),
    "is_encoder_decoder": _one_of(False),
    "layer_types": _all_full,
    "mlp_bias": _one_of(False),
    "partial_rotary_factor": _one_of(1.0),
    "pruned_heads": _one_of({}),
    "rope_interleaved": _one_of(False),
    "use_sliding_window": _one_of(False),
}
_PARAMS_FIXED: dict[str, Test] = {
    "activation": _one_of("silu"),
    "use_scaled_rope": _one_of(False),
}
_PARAMS_HARMLESS = frozenset({"max_batch_size", "max_seq_len", "model_parallel_size"})


def check_family(document: Mapping[str, Any], where: object, kind: FileKind) -> None:
    """Refuse a model of another family by what it calls itself."""
    family = document.get("model_type")
    if family is None:
        raise kind.invalid(where, "is missing: it says which family the model is of", "model_type")
    if family != "llama":
        another = replace(kind, hint="llama-hub models   (any fine-tune of one of these will do)")
        raise another.invalid(
            where,
            f"{str(family)[:80]!r} is another family of models; llama-hub knows that of Llama 2 "
            "('llama')",
            "model_type",
        )


def check_config(
    document: Mapping[str, Any], modelled: frozenset[str], where: object, kind: FileKind
) -> None:
    """Refuse the first key of a ``config.json`` that would make it another model than it seems."""
    _check(document, modelled | _CONFIG_HARMLESS, _CONFIG_FIXED, where, kind)


def check_params(
    document: Mapping[str, Any], modelled: frozenset[str], where: object, kind: FileKind
) -> None:
    """The same for Meta's ``params.json``."""
    _check(document, modelled | _PARAMS_HARMLESS, _PARAMS_FIXED, where, kind)


def _check(
    document: Mapping[str, Any],
    known: frozenset[str],
    fixed: Mapping[str, Test],
    where: object,
    kind: FileKind,
) -> None:
    for key, value in document.items():
        if value is None or (key in known and key not in fixed):
            continue
        if key in fixed:
            if not fixed[key](value, document):
                raise _refused(where, kind, key, value)
        elif value is not False and not _CONFIG_PREFIXES.search(key):
            raise _refused(where, kind, key, value)


def _refused(where: object, kind: FileKind, key: str, value: Any) -> Exception:
    return kind.invalid(
        where,
        f"{str(value)[:80]!r} is not modelled here, and it may change what the model computes",
        key,
    )

"""The tokenizer of a GGUF file, as the keys ``tokenizer.*`` state it.

Sources: ggml's ``docs/gguf.md`` and the names in gguf-py. Two facts have no key of their own there
and one of ours: all end tokens (``tokenizer.ggml.eos_token_id`` holds one), and where spaces are
put before runs of text.
"""

from __future__ import annotations

from typing import Any

from llama_hub.hub.checkpoints import gguf
from llama_hub.hub.tokenizer.vocabulary import ModelVocabulary

Pair = tuple[str, int, Any]  # key, value type, value; for an array the value is (type, items)
_INFILL = {"fim_pre": "▁<PRE>", "fim_suf": "▁<SUF>", "fim_mid": "▁<MID>", "eot": "▁<EOT>"}
END_TOKENS = "llama_hub.tokenizer.end_token_ids"
PREFIX_RULE = "llama_hub.tokenizer.prefix_rule"


def pairs(vocabulary: ModelVocabulary) -> list[Pair]:
    """Every key of the tokenizer and of the chat templates."""
    pieces = vocabulary.padded()
    made: list[Pair] = [
        ("tokenizer.ggml.model", gguf.STRING, "llama"),
        ("tokenizer.ggml.pre", gguf.STRING, "default"),
        ("tokenizer.ggml.tokens", gguf.ARRAY, (gguf.STRING, [piece.text for piece in pieces])),
        ("tokenizer.ggml.scores", gguf.ARRAY, (gguf.F32, [piece.score for piece in pieces])),
        ("tokenizer.ggml.token_type", gguf.ARRAY, (gguf.I32, [piece.type for piece in pieces])),
        ("tokenizer.ggml.add_bos_token", gguf.BOOL, vocabulary.add_bos),
        ("tokenizer.ggml.add_eos_token", gguf.BOOL, vocabulary.add_eos),
        ("tokenizer.ggml.add_space_prefix", gguf.BOOL, vocabulary.add_dummy_prefix),
    ]
    roles = {
        "bos": vocabulary.bos_id,
        "eos": vocabulary.eos_id,
        "unknown": vocabulary.unk_id,
        "padding": vocabulary.pad_id,
        **{key: vocabulary.id(text) for key, text in _INFILL.items()},  # Code Llama's
    }
    made += [
        (f"tokenizer.ggml.{key}_token_id", gguf.U32, token)
        for key, token in roles.items()
        if token >= 0
    ]
    if vocabulary.end_ids != {vocabulary.eos_id}:
        made.append((END_TOKENS, gguf.ARRAY, (gguf.U32, sorted(vocabulary.end_ids))))
    if vocabulary.prefix_rule != "first":
        made.append((PREFIX_RULE, gguf.STRING, vocabulary.prefix_rule))
    return made + _templates(vocabulary)


def _templates(vocabulary: ModelVocabulary) -> list[Pair]:
    chosen = vocabulary.chat_template
    made: list[Pair] = []
    if chosen is not None:
        made.append(("tokenizer.chat_template", gguf.STRING, chosen))
    others = {n: t for n, t in vocabulary.chat_templates.items() if t != chosen}
    if others:
        made.append(("tokenizer.chat_templates", gguf.ARRAY, (gguf.STRING, list(others))))
    made += [(f"tokenizer.chat_template.{n}", gguf.STRING, t) for n, t in others.items()]
    return made

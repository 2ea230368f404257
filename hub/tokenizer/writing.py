"""A vocabulary as files: what Hugging Face's layout states of it, where no such files are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llama_hub.hub.conversion import sentencepiece_model
from llama_hub.hub.conversion.sentencepiece_model import Vocabulary
from llama_hub.hub.conversion.tokenizer_json import Named, faithful_json
from llama_hub.hub.tokenizer import compare
from llama_hub.hub.tokenizer.vocabulary import DEFAULT_TEMPLATE, AddedToken, ModelVocabulary


def sentencepiece_bytes(vocabulary: ModelVocabulary) -> bytes | None:
    """``tokenizer.model``; ``None`` if none can be made that cuts texts as ``tokenizer.json`` does.

    A vocabulary that came without either (of a GGUF file) is a SentencePiece one by definition.
    """
    if vocabulary.sentencepiece is not None:
        return vocabulary.sentencepiece
    data = sentencepiece_model.build(_own(vocabulary))
    if vocabulary.tokenizer_json is None:
        return data
    if not compare.can_compare():
        return None
    # transformers' own Llama tokenizer puts no space before a text that begins with one.
    leading = vocabulary.prefix_rule == "each"
    differs = compare.difference(
        data, vocabulary.tokenizer_json, vocabulary.pieces, leading=leading
    )
    return data if differs is None else None


def _own(vocabulary: ModelVocabulary) -> Vocabulary:
    """The tokenizer itself, without what was added behind it."""
    size = len(vocabulary.pieces)
    ids = (vocabulary.unk_id, vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id)
    unk, bos, eos, pad = (token if token < size else -1 for token in ids)
    texts = {piece.text: token for token, piece in enumerate(vocabulary.pieces)}
    return Vocabulary(
        vocabulary.pieces,
        unk_id=max(0, unk),
        bos_id=bos,
        eos_id=eos if eos >= 0 else texts.get("</s>", -1),
        pad_id=pad if pad not in (unk, bos, eos) else -1,
        is_bpe=True,
        add_dummy_prefix=vocabulary.add_dummy_prefix,
        remove_extra_whitespaces=False,
    )


def hf_files(vocabulary: ModelVocabulary, context: int) -> dict[str, bytes]:
    """Settings with which transformers cuts texts as the model's own tokenizer does.

    ``add_bos_token`` stands there because transformers adds none by default; the chat template is
    both a file (new transformers) and a setting (old ones).
    """
    data = sentencepiece_bytes(vocabulary)
    behind = {t: known for t, known in vocabulary.added.items() if t >= len(vocabulary.pieces)}
    parsed = None if data is None else sentencepiece_model.parse(data)
    faithful = None
    # tokenizer.json as it is written here puts a space before each run of text, also before one
    # that follows an added token, where this model may not; transformers then makes its own.
    alike = not behind or vocabulary.prefix_rule == "each"
    if parsed is not None and data is not None and alike:
        faithful = faithful_json(parsed, data, behind, _around(vocabulary))
    files = {
        "special_tokens_map.json": _json(_names(vocabulary)),
        "generation_config.json": _json(_generation(vocabulary, context)),
        "tokenizer_config.json": _json(_settings(vocabulary, context, behind, bool(faithful))),
    }
    if data is not None:
        files["tokenizer.model"] = data
    if faithful:
        files["tokenizer.json"] = faithful
    if vocabulary.chat_template is not None:
        files["chat_template.jinja"] = vocabulary.chat_template.encode()
    return files


def _around(vocabulary: ModelVocabulary) -> tuple[Named | None, Named | None]:
    """The tokens that are put before each text and after it."""

    def named(token: int, wanted: bool) -> Named | None:
        text = vocabulary.name(token) if wanted else None
        return None if text is None else (token, text)

    return named(vocabulary.bos_id, vocabulary.add_bos), named(
        vocabulary.eos_id, vocabulary.add_eos
    )


def _names(vocabulary: ModelVocabulary) -> dict[str, str]:
    roles = {"bos": vocabulary.bos_id, "eos": vocabulary.eos_id, "unk": vocabulary.unk_id}
    if vocabulary.pad_id >= 0:
        roles["pad"] = vocabulary.pad_id
    return {
        f"{role}_token": text
        for role, token in roles.items()
        if (text := vocabulary.name(token)) is not None
    }


def _settings(
    vocabulary: ModelVocabulary,
    context: int,
    behind: Mapping[int, AddedToken],
    faithful: bool,
) -> dict[str, Any]:
    settings: dict[str, Any] = {
        **_names(vocabulary),
        "add_bos_token": vocabulary.add_bos,
        "add_eos_token": vocabulary.add_eos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "padding_side": "left",
        # LlamaTokenizer of transformers 5 would not take tokenizer.json as it is.
        "tokenizer_class": "PreTrainedTokenizerFast" if faithful else "LlamaTokenizer",
    }
    if not faithful:
        settings["legacy"] = vocabulary.prefix_rule in ("each", "always")
    if behind:
        settings["added_tokens_decoder"] = {str(t): _flags(known) for t, known in behind.items()}
    if set(vocabulary.chat_templates) - {DEFAULT_TEMPLATE}:
        listed = vocabulary.chat_templates.items()
        settings["chat_template"] = [{"name": n, "template": t} for n, t in listed]
    elif vocabulary.chat_template is not None:
        settings["chat_template"] = vocabulary.chat_template
    return settings


def _flags(token: AddedToken) -> dict[str, Any]:
    return {
        "content": token.text,
        "lstrip": token.lstrip,
        "normalized": token.normalized,
        "rstrip": token.rstrip,
        "single_word": token.single_word,
        "special": token.special,
    }


def _generation(vocabulary: ModelVocabulary, context: int) -> dict[str, Any]:
    return {
        "bos_token_id": vocabulary.bos_id,
        "do_sample": True,
        "eos_token_id": end_ids(vocabulary),
        "max_length": context,
        "pad_token_id": vocabulary.pad_id if vocabulary.pad_id >= 0 else vocabulary.unk_id,
        "temperature": 0.6,
        "top_p": 0.9,
    }


def end_ids(vocabulary: ModelVocabulary) -> int | list[int]:
    """The end tokens as ``eos_token_id`` states them: one, or a list with the main one first."""
    others = sorted(vocabulary.end_ids - {vocabulary.eos_id})
    if not others:
        return vocabulary.eos_id
    return [vocabulary.eos_id, *others] if vocabulary.eos_id in vocabulary.end_ids else others


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True).encode() + b"\n"

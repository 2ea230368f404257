"""The tokenizer of a GGUF file, as the keys ``tokenizer.*`` state it.

Sources: ggml's ``docs/gguf.md`` and the names in gguf-py. Some facts have no key of their own there
and one of ours: all end tokens (``tokenizer.ggml.eos_token_id`` holds one), where spaces are put
before runs of text, how many pieces the tokenizer itself has, and the flags of added tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llama_hub.errors import IntegrityError
from llama_hub.hub.checkpoints import gguf
from llama_hub.hub.conversion.sentencepiece_model import (
    BYTE,
    CONTROL,
    MAX_LETTERS,
    NORMAL,
    UNKNOWN,
    UNUSED,
    Piece,
)
from llama_hub.hub.tokenizer.reading import with_controls
from llama_hub.hub.tokenizer.vocabulary import (
    DEFAULT_TEMPLATE,
    AddedToken,
    ModelVocabulary,
    PrefixRule,
    split_added,
    unused_name,
)

Pair = tuple[str, int, Any]  # key, value type, value; for an array the value is (type, items)
_INFILL = {"fim_pre": "▁<PRE>", "fim_suf": "▁<SUF>", "fim_mid": "▁<MID>", "eot": "▁<EOT>"}
END_TOKENS = "llama_hub.tokenizer.end_token_ids"
PREFIX_RULE = "llama_hub.tokenizer.prefix_rule"
PIECES = "llama_hub.tokenizer.pieces"  # of the tokenizer itself; what follows was added
FLAGS = ("normalized", "lstrip", "rstrip", "single_word")  # of added tokens, by id
FLAG = "llama_hub.tokenizer.added_tokens."
NO_TOKEN = (1 << 32) - 1  # -1, written as an unsigned number
MAX_TEMPLATE = 1 << 20  # bytes
_RULES: tuple[PrefixRule, ...] = ("each", "always", "first", "never")


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
    if split_added(pieces)[0] != vocabulary.pieces:
        made.append((PIECES, gguf.U32, len(vocabulary.pieces)))
    for flag in FLAGS:
        marked = [token for token, known in vocabulary.added.items() if getattr(known, flag)]
        if marked:
            made.append((FLAG + flag, gguf.ARRAY, (gguf.U32, sorted(marked))))
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


# ------------------------------------------------------------------ reading


def read(values: Mapping[str, Any], rows: int) -> ModelVocabulary | None:
    """The vocabulary of a model whose embedding has ``rows``; ``None`` if the file states none.

    ``IntegrityError`` names the key that cannot be, or is of another kind of tokenizer.
    """
    kind = values.get("tokenizer.ggml.model")
    if kind in (None, "none", "no_vocab"):
        return None
    if kind != "llama":
        raise _bad("tokenizer.ggml.model", kind, "the tokenizers of this family are 'llama'")
    listed = _pieces(values, rows)
    pieces, added = split_added(listed)
    own = values.get(PIECES)
    if own is not None:
        pieces, added = _cut(listed, _id(values, PIECES, len(listed) + 1, 0))
    if not pieces:
        raise _bad("tokenizer.ggml.tokens", listed[0].text, "none of them is an ordinary token")
    eos = _id(values, "tokenizer.ggml.eos_token_id", rows, 2)
    rule = values.get(PREFIX_RULE, "first")
    if rule not in _RULES:
        raise _bad(PREFIX_RULE, rule, f"known are {', '.join(_RULES)}")
    return ModelVocabulary(
        pieces=pieces,
        rows=rows,
        added=with_controls(_flagged(added, values, rows), pieces),
        bos_id=_id(values, "tokenizer.ggml.bos_token_id", rows, 1),
        eos_id=eos,
        unk_id=_id(values, "tokenizer.ggml.unknown_token_id", rows, 0),
        pad_id=_id(values, "tokenizer.ggml.padding_token_id", rows, -1),
        end_ids=_ends(values, rows, eos),
        add_bos=_flag(values, "tokenizer.ggml.add_bos_token", default=True),
        add_eos=_flag(values, "tokenizer.ggml.add_eos_token", default=False),
        add_dummy_prefix=_flag(values, "tokenizer.ggml.add_space_prefix", default=True),
        prefix_rule=rule,
        chat_templates=_read_templates(values),
    )


def _bad(key: str, value: Any, why: str) -> IntegrityError:
    return IntegrityError(
        f"the GGUF key {key} is {str(value)[:80]!r}: {why}",
        hint="take the file from where it was made, or convert the model's original folder",
    )


def _pieces(values: Mapping[str, Any], rows: int) -> list[Piece]:
    texts = _array(values, "tokenizer.ggml.tokens", str)
    scores = _array(values, "tokenizer.ggml.scores", float)
    types = [_type_of(text) for text in texts]
    if "tokenizer.ggml.token_type" in values:
        types = _array(values, "tokenizer.ggml.token_type", int)
    if not len(texts) == len(scores) == len(types) or not 0 < len(texts) <= rows:
        raise IntegrityError(
            f"the GGUF file lists {len(texts)} tokens, {len(scores)} scores and {len(types)} types "
            f"for an embedding of {rows} rows",
            hint="the file was damaged or made by hand: take another",
        )
    for token, (text, score, kind) in enumerate(zip(texts, scores, types, strict=True)):
        if len(text) > MAX_LETTERS or not math.isfinite(score) or not NORMAL <= kind <= BYTE:
            raise _bad("tokenizer.ggml.tokens", text, f"token {token} of type {kind}, {score}")
    return [Piece(*one) for one in zip(texts, scores, types, strict=True)]


def _type_of(text: str) -> int:
    """The type of a token in files that list none."""
    if text == "<unk>":
        return UNKNOWN
    if text in ("<s>", "</s>"):
        return CONTROL
    return BYTE if len(text) == 6 and text.startswith("<0x") and text.endswith(">") else NORMAL


def _array(values: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    listed = values.get(key)
    if not isinstance(listed, list) or any(type(item) is not kind for item in listed):
        raise _bad(key, listed, f"it must be an array of {kind.__name__}")
    return listed


def _id(values: Mapping[str, Any], key: str, below: int, default: int) -> int:
    token = values.get(key, default)
    token = default if token == NO_TOKEN else token
    if type(token) is not int or not min(default, 0) <= token < below:
        raise _bad(key, token, f"it must be a number below {below}")
    return token


def _flag(values: Mapping[str, Any], key: str, *, default: bool) -> bool:
    stated = values.get(key, default)
    if not isinstance(stated, bool):
        raise _bad(key, stated, "it must be true or false")
    return stated


def _cut(listed: list[Piece], own: int) -> tuple[tuple[Piece, ...], dict[int, AddedToken]]:
    """The pieces of the tokenizer itself, so many, and what was added behind them."""
    added = {
        token: AddedToken(piece.text, special=piece.type == CONTROL)
        for token, piece in enumerate(listed)
        if token >= own and (piece.type != UNUSED or piece.text != unused_name(token))
    }
    return tuple(listed[:own]), added


def _flagged(
    added: dict[int, AddedToken], values: Mapping[str, Any], rows: int
) -> dict[int, AddedToken]:
    for flag in FLAGS:
        marked = _array(values, FLAG + flag, int) if FLAG + flag in values else []
        for token in marked[:rows]:
            if token in added:
                added[token] = AddedToken(**(vars(added[token]) | {flag: True}))
    return added


def _ends(values: Mapping[str, Any], rows: int, eos: int) -> frozenset[int]:
    """Every end token: ours, else the main one and that of a turn; not that of infilling."""
    if END_TOKENS in values:
        listed = _array(values, END_TOKENS, int)
        if any(not 0 <= token < rows for token in listed) or len(listed) > rows:
            raise _bad(END_TOKENS, listed, f"each must be a number below {rows}")
        return frozenset(listed)
    turn = [
        _id(values, key, rows, -1)
        for key in ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
    ]
    texts = values["tokenizer.ggml.tokens"]
    ends = [token for token in turn if 0 <= token < len(texts) and texts[token] != _INFILL["eot"]]
    return frozenset([eos, *ends])


def _read_templates(values: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates by name."""
    start = "tokenizer.chat_template"
    named = {key.removeprefix(f"{start}."): text for key, text in values.items() if start in key}
    named.pop("tokenizer.chat_templates", None)  # their names
    if start in named:
        named[DEFAULT_TEMPLATE] = named.pop(start)
    for name, text in named.items():
        if not isinstance(text, str) or len(text) > MAX_TEMPLATE:
            raise _bad(f"{start} ({name[:40]})", text, f"a text of at most {MAX_TEMPLATE} letters")
    return named

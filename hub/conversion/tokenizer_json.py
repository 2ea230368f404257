"""``tokenizer.json`` from a SentencePiece BPE model, tokenizing as SentencePiece does.

SentencePiece joins, again and again, the two neighbours whose joined piece has the highest score
(the leftmost of equals). The ``tokenizers`` library joins by the rank of a merge. So every split
of a piece into two pieces becomes a merge, ranked by the piece's score. Text that literally
contains ``<s>`` or ``</s>`` is the exception: there it is the special token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llama_hub.hub.conversion.sentencepiece_model import CONTROL, NORMAL, UNKNOWN, Vocabulary
from llama_hub.hub.tokenizer import compare
from llama_hub.hub.tokenizer.vocabulary import AddedToken

SPACE = "\u2581"


Named = tuple[int, str]  # a token's id and text


def faithful_json(
    vocabulary: Vocabulary,
    data: bytes,
    added: Mapping[int, AddedToken] | None = None,
    around: tuple[Named | None, Named | None] | None = None,
) -> bytes | None:
    """The file's content if it cuts every text that was tried as ``data``, the SentencePiece model,
    does; ``None`` if it does not, or cannot be tried here.
    """
    if compare.obstacle(vocabulary) is not None or not compare.can_compare():
        return None
    document = tokenizer_json(vocabulary, added, around)
    return document if compare.difference(data, document, vocabulary.pieces) is None else None


def tokenizer_json(
    vocabulary: Vocabulary,
    added: Mapping[int, AddedToken] | None = None,
    around: tuple[Named | None, Named | None] | None = None,
) -> bytes:
    """The file's content, with the tokens that were ``added`` to the pieces, by id.

    ``around``: what is put before each text and after it, by default BOS before.
    """
    texts = [piece.text for piece in vocabulary.pieces]
    specials = {token: AddedToken(texts[token]) for token in _specials(vocabulary)}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_entry(*one) for one in sorted((specials | dict(added or {})).items())],
        "normalizer": _normalizer(vocabulary),
        "pre_tokenizer": None,
        "post_processor": _post_processor(around or (_bos(vocabulary), None)),
        "decoder": _decoder(vocabulary),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": texts[vocabulary.unk_id],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": vocabulary.byte_fallback,
            "ignore_merges": False,
            "vocab": {text: token for token, text in enumerate(texts)},
            "merges": merges(vocabulary),
        },
    }
    return json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n"


def merges(vocabulary: Vocabulary) -> list[list[str]]:
    """Every split of a piece into two, the best piece first.

    Llama's runs of spaces all have one score, and SentencePiece lets the leftmost run grow as far
    as it can; the longest of equals first has the same effect.
    """
    pieces = vocabulary.pieces
    ids = {piece.text: token for token, piece in enumerate(pieces) if piece.type == NORMAL}
    ranked: list[tuple[float, int, int, int, str]] = []
    for text, token in ids.items():
        for cut in range(1, len(text)):
            if text[:cut] in ids and text[cut:] in ids:
                ranked.append((-pieces[token].score, -len(text), token, cut, text))
    return [[text[:cut], text[cut:]] for *_, cut, text in sorted(ranked)]


def _specials(vocabulary: Vocabulary) -> list[int]:
    pieces = enumerate(vocabulary.pieces)
    return [token for token, piece in pieces if piece.type in (CONTROL, UNKNOWN)]


def _entry(token: int, known: AddedToken) -> dict[str, Any]:
    return {
        "id": token,
        "content": known.text,
        "single_word": known.single_word,
        "lstrip": known.lstrip,
        "rstrip": known.rstrip,
        "normalized": known.normalized,
        "special": known.special,
    }


def _normalizer(vocabulary: Vocabulary) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    ]
    if vocabulary.add_dummy_prefix:
        steps.insert(0, {"type": "Prepend", "prepend": SPACE})
    return {"type": "Sequence", "normalizers": steps}


def _bos(vocabulary: Vocabulary) -> Named:
    return vocabulary.bos_id, vocabulary.pieces[vocabulary.bos_id].text


def _post_processor(around: tuple[Named | None, Named | None]) -> dict[str, Any] | None:
    """The tokens around each sequence; ``None`` where there are none."""
    if around == (None, None):
        return None

    def framed(name: str, number: int) -> list[dict[str, Any]]:
        before, after = (
            [{"SpecialToken": {"id": one[1], "type_id": number}}] if one else [] for one in around
        )
        return [*before, {"Sequence": {"id": name, "type_id": number}}, *after]

    tokens = {one[1]: {"id": one[1], "ids": [one[0]], "tokens": [one[1]]} for one in around if one}
    return {
        "type": "TemplateProcessing",
        "single": framed("A", 0),
        "pair": framed("A", 0) + framed("B", 1),
        "special_tokens": tokens,
    }


def _decoder(vocabulary: Vocabulary) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if vocabulary.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}

"""A comparison: do ``tokenizer.model`` and ``tokenizer.json`` cut texts into the same tokens?

Nothing proves it for every text. What is known to differ is looked for first (equal scores, pieces
that users defined, other normalisers); then both cut the same texts: fixed ones of many scripts,
and many made of the vocabulary's own pieces, above all of those that share a score.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from llama_hub.errors import IntegrityError, MissingExtraError
from llama_hub.hub.conversion.sentencepiece_model import NORMAL, USER_DEFINED, Piece, Vocabulary

SPACE = "\u2581"
_MADE = 600  # texts out of the vocabulary
_FIXED = (
    "Hello world", "the cat sat on the mat.", "  two  spaces   three ", "\ttabs\n\nand lines\r\n",
    "def f(x):\n    return x[0] + {'a': 1}\n", "aaaaaaaaa bbbb    cccccccc", "12345 3.14 1e-9",
    "Ünïcödé ß ĳ œ", "Ελληνικά", "Русский текст", "中文字符混合English", "日本語テキスト", "한국어",
    "العربية", "हिन्दी",
    "🦙👩‍👩‍👧 emoji", "e\u0301 combining", "ﬁ ligature ① ½", "a\u00a0b\u3000c\u200bd",
    "\x00\x01\x7f", "<0x41> <unused>", "[INST] <<SYS>>\nx\n<</SYS>>\n\ny [/INST]", "..." * 5, "",
)  # fmt: skip


def ties(pieces: Sequence[Piece]) -> list[str]:
    """Joined pieces that share a score, so that the place decides which is made first.

    SentencePiece takes the leftmost; ranks of merges have no such rule. A run of one character,
    as Llama's runs of spaces, grows the same way in both.
    """
    scores: dict[float, list[str]] = {}
    for piece in pieces:
        if piece.type == NORMAL and len(piece.text) > 1 and len(set(piece.text)) > 1:
            scores.setdefault(piece.score, []).append(piece.text)
    return [text for texts in scores.values() if len(texts) > 1 for text in texts]


def obstacle(vocabulary: Vocabulary) -> str | None:
    """Why merges cannot say what this SentencePiece model does; ``None`` if nothing is known."""
    texts = Counter(piece.text for piece in vocabulary.pieces)
    defined = [piece.text for piece in vocabulary.pieces if piece.type == USER_DEFINED]
    shared = ties(vocabulary.pieces)
    reasons = {
        "it is no BPE model": not vocabulary.is_bpe,
        "it removes extra spaces": vocabulary.remove_extra_whitespaces,
        "it normalises characters, or writes spaces in another way": not vocabulary.is_plain,
        f"pieces share a score, as {shared[:2]}": bool(shared),
        f"users defined pieces, as {defined[:1]}": bool(defined),
        "a text stands twice in it": bool(texts) and texts.most_common(1)[0][1] > 1,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def probe_texts(pieces: Sequence[Piece], seed: int = 0) -> list[str]:
    """The texts that both have to cut alike."""
    chance = random.Random(seed)
    normal = [p.text.replace(SPACE, " ") for p in pieces if p.type == NORMAL]
    shared = [text.replace(SPACE, " ") for text in ties(pieces)]
    made: list[str] = []
    for pool in (normal, shared):
        letters = sorted({letter for text in pool[-4000:] for letter in text})
        for _ in range(_MADE // 2 if pool else 0):
            words = chance.choices(pool, k=chance.randint(1, 8))
            chars = chance.choices(letters, k=chance.randint(0, 12))
            made += ["".join(words), "".join(chars) + words[0]]
    return [*_FIXED, *made]


def difference(
    sentencepiece: bytes, tokenizer_json: bytes, pieces: Sequence[Piece], *, leading: bool = True
) -> str | None:
    """The first text that the two cut differently; ``None`` if none was found.

    ``leading``: whether texts that begin with a space count, before which transformers' own
    Llama tokenizer puts no other. ``IntegrityError`` for a file that is unsound.
    """
    model = sentencepiece_processor(sentencepiece)
    fast = fast_tokenizer(tokenizer_json)
    named = [token.content for token in fast.get_added_tokens_decoder().values()]
    for text in probe_texts(pieces):
        if "\0" in text or (not leading and text[:1].isspace()):
            continue  # SentencePiece ends a text at NUL
        if any(name and name in text for name in named):
            continue  # there it is the token in one and text in the other
        if model.encode(text) != fast.encode(text, add_special_tokens=False).ids:
            return text
    return None


def sentencepiece_processor(data: bytes) -> Any:
    """A ``SentencePieceProcessor``; ``IntegrityError`` for what the library does not take.

    ``MissingExtraError`` without the library.
    """
    try:
        from sentencepiece import SentencePieceProcessor
    except ModuleNotFoundError as error:
        raise MissingExtraError("sentencepiece", "serve") from error
    try:
        return SentencePieceProcessor(model_proto=data)
    except (RuntimeError, ValueError) as error:
        raise IntegrityError(
            f"tokenizer.model is no SentencePiece model: {error}",
            hint="download tokenizer.model again",
        ) from error


def fast_tokenizer(data: bytes) -> Any:
    """A ``tokenizers.Tokenizer``; ``IntegrityError`` for what the library does not take.

    ``MissingExtraError`` without the library.
    """
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise MissingExtraError("tokenizers", "serve") from error
    try:
        made = Tokenizer.from_buffer(data)
        made.no_truncation()
        made.no_padding()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises Exception itself, and its panics are none
        raise IntegrityError(
            f"tokenizer.json is no file of the tokenizers library: {error}",
            hint="download tokenizer.json again",
        ) from error
    return made


def can_compare() -> bool:
    """Whether the libraries of both are here."""
    return find_spec("sentencepiece") is not None and find_spec("tokenizers") is not None

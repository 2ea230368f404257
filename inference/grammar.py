"""Structured output: which tokens a JSON schema allows next (through llguidance)."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from llama_hub.errors import MissingExtraError, UsageError
from llama_hub.inference.tokenizer import Tokenizer

# A first space is allowed: the chat format's answers begin with one, which decoding drops.
WRAPPER = 'start: SPACE? body\nSPACE: " "\nbody: %json '


class Grammar:
    """The state of one answer under a schema."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    @property
    def finished(self) -> bool:
        """Whether nothing but the end may follow."""
        return bool(self._matcher.is_stopped())

    def accept(self, token: int) -> None:
        """Advance by a token that the mask allowed."""
        self._matcher.consume_token(token)

    def mask(self) -> Tensor:
        """Bool ``[vocab_size]``: True where a token may follow; EOS included once complete."""
        packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        bits = (packed.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1
        mask = torch.zeros(self._vocab_size, dtype=torch.bool)
        known = bits.flatten()[: self._vocab_size].bool()
        mask[: known.numel()] = known
        return mask


class GrammarCompiler:
    """Turns JSON schemas into grammars over one tokenizer's vocabulary."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._llguidance = _library()
        self._vocab_size = vocab_size
        self._tokenizer = self._llguidance.LLTokenizer(
            self._llguidance.TokenizerWrapper(_Vocabulary(tokenizer))
        )
        self._compiled = lru_cache(maxsize=64)(self._compile)

    def compile(self, schema: str) -> Grammar:
        """A fresh state for ``schema`` (JSON text); ``UsageError`` if it is not supported."""
        return Grammar(self._compiled(schema).deep_copy(), self._vocab_size)

    def _compile(self, schema: str) -> Any:
        try:
            document = json.loads(schema)
        except ValueError as error:
            raise UsageError(f"the JSON schema is not JSON: {error}") from error
        if isinstance(document, dict):  # else a weak model fills its answer with white space
            document = {"x-guidance": {"whitespace_flexible": False}} | document
        text = json.dumps(document)
        grammar = self._llguidance.LLMatcher.grammar_from_lark(WRAPPER + text)
        matcher = self._llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().splitlines()[0]
            raise UsageError(f"the JSON schema is not supported: {reason}")
        return matcher


class _Vocabulary:
    """What llguidance wants to know of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id = tokenizer.eos_id
        self.bos_token_id = tokenizer.bos_id
        ids = range(tokenizer.vocab_size)
        self.tokens = [tokenizer.token_bytes(token) for token in ids]
        self.special_token_ids = [t for t in ids if not self.tokens[t] or t == tokenizer.unk_id]
        self._tokenizer = tokenizer
        self._newline = tokenizer.encode("\n")

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):  # llguidance tries bytes first
            raise TypeError("text is encoded, not bytes")
        # Forced text continues an answer: behind a newline it gets no dummy space of its own.
        return self._tokenizer.encode("\n" + text)[len(self._newline) :]


def _library() -> Any:
    try:
        import llguidance
    except ModuleNotFoundError as error:
        raise MissingExtraError("llguidance", "serve") from error
    return llguidance

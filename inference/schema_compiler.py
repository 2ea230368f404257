"""llguidance as we use it: a JSON schema becomes a matcher over one tokenizer's vocabulary.

Without torch, since the trial process (``schema_trial``) compiles every new schema first.
"""

from __future__ import annotations

import json
import time
from typing import Any

from llama_hub.errors import MissingExtraError
from llama_hub.inference.engine import OR_TEXT
from llama_hub.inference.schema_limits import Node, Path, SchemaError, parse, subschemas
from llama_hub.inference.tokenizer import Tokenizer

# A first space is allowed: the chat format's answers begin with one, which decoding drops.
WRAPPER = 'start: SPACE? body\nSPACE: " "\nbody: %json '
OR_TEXT_WRAPPER = 'start: SPACE? (body | TEXT)?\nSPACE: " "\nTEXT: /[^ \\[](.|\\n)*/\nbody: %json '
# Compact, else a weak model fills its answer with white space.
COMPACT = {"x-guidance": {"whitespace_flexible": False}}
LIMITS = {
    "initial_lexer_fuel": 1_000_000,  # about 20 ms of a core
    "step_lexer_fuel": 50_000,  # about 4 ms for each token
    "step_max_items": 50_000,  # about 3 ms for each token
    "max_items_in_row": 2_000,
    "max_lexer_states": 30_000,  # 1 to 2 kB each
    "max_grammar_size": 200_000,
    "verbose_errors": False,  # they would quote the schema in the log
}


class SchemaCompiler:
    """Compiles schemas in this process, for as long as that takes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._library = _library()
        self._limits = self._library.LLParserLimits(**LIMITS)
        self._tokenizer = self._library.LLTokenizer(
            self._library.TokenizerWrapper(_Vocabulary(tokenizer))
        )

    def compile(self, text: str) -> Any:
        """An ``LLMatcher`` for the schema ``text``; ``SchemaError`` if it is not supported."""
        document = parse(text)
        matcher = self._matcher(document)
        if matcher.is_error():
            raise SchemaError(_reason(matcher.get_error()))
        return matcher

    def _matcher(self, document: Any) -> Any:
        whole = COMPACT | document if isinstance(document, dict) else document
        free = isinstance(whole, dict) and whole.pop(OR_TEXT, False) is True
        wrapper = OR_TEXT_WRAPPER if free else WRAPPER
        grammar = self._library.LLMatcher.grammar_from_lark(wrapper + json.dumps(whole))
        return self._library.LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)

    def locate(self, document: Any, until: float) -> Path:
        """The path of the smallest part that fails by itself; less exact past ``until``.

        ``until``: processor seconds of this process, as ``time.process_time`` counts them.
        """
        definitions = ("$defs", "definitions")
        shared = {key: document[key] for key in definitions if key in document}
        node: Node | None = Node((), document, "schema")
        path: Path = ()
        while node is not None:
            path = node.path
            node = next((n for n in subschemas(node) if self._fails(n, shared, until)), None)
        return path

    def _fails(self, node: Node, shared: dict[str, Any], until: float) -> bool:
        if time.process_time() > until or not isinstance(node.value, dict):
            return False
        return bool(self._matcher(shared | node.value).is_error())


def _reason(error: str) -> str:
    """llguidance's sentence without its prefix and without the schema that it quotes."""
    line = error.strip().splitlines()[0] if error.strip() else "it is too complex"
    return line.split("failed to compile JSON schema: ")[-1][:300]


class _Vocabulary:
    """What llguidance wants to know of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id = tokenizer.eos_id
        self.bos_token_id = tokenizer.bos_id
        ids = range(tokenizer.vocab_size)
        self.tokens = [tokenizer.token_bytes(token) for token in ids]
        # An added token is never what a schema asks for, even where it stands for text.
        added = tokenizer.vocabulary.added
        self.special_token_ids = [
            t for t in ids if not self.tokens[t] or t == tokenizer.unk_id or t in added
        ]
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

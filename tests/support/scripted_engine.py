"""An engine that answers what a test wrote, token by token, whatever it is asked.

For what the service makes of an answer. It bounds nothing: that a grammar holds is shown on the
real engine.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from llama_hub.inference.engine import Delta, GenerationRequest
from llama_hub.inference.tokenizer import Tokenizer
from tests.support.echo_engine import EchoEngine


class ScriptedEngine(EchoEngine):
    """``script``: the next answers' text."""

    def __init__(self, tokenizer: Tokenizer, *, context: int = 2048) -> None:
        super().__init__(vocab_size=tokenizer.vocab_size, context=context)
        self._tokenizer = tokenizer
        self.script = "hi"

    async def _answer(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        tokens = self._tokenizer.encode(self.script)[: request.sampling.max_tokens]
        whole = len(tokens) < request.sampling.max_tokens
        for token in tokens:
            yield Delta((token,))
        yield Delta(finish_reason="stop" if whole else "length")

"""An engine that answers as Llama Guard 1 does: safe, or unsafe and a code, with probabilities.

It proves our service's shapes and our client's reading of them; what the real weights say of a
text, nobody measured here.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator

from llama_hub.inference.engine import Delta, GenerationRequest, TokenLogprob
from llama_hub.inference.tokenizer import Tokenizer
from tests.support.echo_engine import EchoEngine


class GuardEngine(EchoEngine):
    """Unsafe, by ``score``, is what mentions ``bad``; ``words`` replaces what it says."""

    def __init__(self, tokenizer: Tokenizer, *, bad: str, score: float = 0.9) -> None:
        super().__init__(vocab_size=tokenizer.vocab_size, context=4096)
        self._tokenizer = tokenizer
        self._bad = bad
        self._score = score
        self.words = ("safe", "unsafe\nO3")
        self.prompts: list[str] = []

    async def _answer(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        prompt = self._tokenizer.decode(list(request.prompt))
        self.prompts.append(prompt)
        unsafe = self._bad in prompt
        said = [self._tokenizer.encode(word) for word in self.words]
        shares = (1 - self._score, self._score) if unsafe else (self._score, 1 - self._score)
        first = tuple((said[k][0], math.log(shares[k])) for k in (0, 1))
        for number, token in enumerate(said[unsafe]):
            top = first if number == 0 else ((token, -0.01),)
            yield Delta((token,), (TokenLogprob(token, top[0][1], top),))
        yield Delta(finish_reason="stop")

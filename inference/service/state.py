"""State that all routes share: the engine and its state, the tokenizer, the limits, the numbers."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from llama_hub._version import __version__
from llama_hub.inference.chat_template import ChatPrompts
from llama_hub.inference.engine import Engine
from llama_hub.inference.service.body import Bodies
from llama_hub.inference.service.limits import Admission, Pacer
from llama_hub.inference.service.metrics import Metrics
from llama_hub.inference.service.moderation import (
    PROMPT,
    JudgedPrompt,
    Passage,
    Verdict,
    close_all,
    judge,
    name_of,
)
from llama_hub.inference.service.problems import invalid, unavailable
from llama_hub.inference.service.settings import ServedModel, ServiceSettings

if TYPE_CHECKING:
    from llama_hub.inference.tokenizer import Tokenizer

TOKENIZERS = 2  # threads; SentencePiece lets go of Python's lock
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Service:
    """One model being served."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, served: ServedModel, settings: ServiceSettings
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.served = served
        self.settings = settings
        self.metrics = Metrics()
        self._longest_piece = max(
            len(tokenizer.piece(token)) for token in range(tokenizer.vocab_size)
        )
        self.chat = ChatPrompts(tokenizer)
        self.admission = Admission(
            lambda: self.engine.info.max_batch,
            settings.max_queue,
            lambda: self.metrics.recent_seconds,
        )
        self.pacer = Pacer()
        self.bodies = Bodies(settings.max_body_bytes)
        self._tokenizing = ThreadPoolExecutor(TOKENIZERS, "llama-hub-tokenizer")
        self.started = asyncio.Event()  # set when the engine is ready or has failed
        self.failure: Exception | None = None
        self.active: set[str] = set()  # ids of the sequences on the engine

    async def start(self) -> None:
        """Load the engine; what goes wrong is kept in ``failure``."""
        try:
            await self.engine.start()
        except Exception as error:
            _log.error("the engine did not start: %s", error)
            self.failure = error
        finally:
            self.started.set()

    async def close(self) -> None:
        """End the engine and the threads."""
        await self.engine.shutdown()
        self.chat.close()
        self.bodies.close()
        close_all(self.settings.moderators)
        self._tokenizing.shutdown(cancel_futures=True)

    async def tokenizing(self, work: Callable[..., T], *args: Any) -> T:
        """The result of ``work(*args)`` on one of the few threads for it."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._tokenizing, work, *args)

    async def cut_off(self) -> None:
        """End every answer under way; their clients are told so."""
        for request_id in list(self.active):
            await self.engine.abort(request_id)

    @property
    def loading(self) -> bool:
        """Whether the engine is still on its way."""
        return not self.started.is_set()

    def trouble(self) -> str | None:
        """Why no request would be answered now, in words for everybody; ``None`` if one would."""
        if self.loading:
            return "the model is being loaded"
        if self.failure is not None:
            return "the engine did not start"
        if self.admission.draining:
            return "the server is shutting down"
        return None if self.engine.health() is None else "the engine has failed"

    def trouble_in_full(self) -> str:
        """The same with the error's own text, which may name paths and devices."""
        trouble = self.trouble() or ""
        cause = self.failure or (None if self.loading else self.engine.health())
        return f"{trouble}: {cause}" if cause else trouble

    def require_ready(self) -> None:
        """503 unless a request would be answered now."""
        trouble = self.trouble()
        if trouble is not None:
            raise unavailable(trouble)

    @cached_property
    def manifest_digest(self) -> str:
        """Digest of what is served; empty without a manifest."""
        return self.served.manifest.digest if self.served.manifest else ""

    def statement(self) -> dict[str, Any]:
        """Which weights are served, under which licence, by what: what ``attest`` reads."""
        served = self.served
        info = None if self.loading or self.failure else self.engine.info
        return {
            "model": served.name,
            "manifest": self.manifest_digest or None,
            "license": {
                "id": served.license,
                "name": served.license_name,
                "notice": served.notice,
            },
            "receipt": served.manifest.receipt if served.manifest else None,
            "engine": None if info is None else dataclasses.asdict(info),
            "moderation": self.moderation(),
            "version": __version__,
            "document": self._manifest_document,
        }

    def moderation(self) -> dict[str, Any] | None:
        """What judges prompts and answers here; ``None`` if nothing does."""
        hooks = self.settings.moderators
        if not hooks:
            return None
        chosen = self.settings.moderation
        return {
            "policy": chosen.policy,
            "mode": chosen.mode,
            "moderators": [name_of(hook) for hook in hooks],
        }

    @cached_property
    def _manifest_document(self) -> dict[str, Any] | None:
        return self.served.manifest.to_json() if self.served.manifest else None

    @cached_property
    def fingerprint(self) -> str:
        """What an answer depends on besides the request, in short: weights and engine."""
        info = self.engine.info
        what = (self.manifest_digest, info.engine, info.dtype, info.quantization)
        return "fp_" + hashlib.sha256(repr(what).encode()).hexdigest()[:12]

    @property
    def text_limit(self) -> int:
        """Characters that could fit the context if every token were the longest there is."""
        return self.engine.info.context * self._longest_piece

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for; control tokens by their name, as ``</s>``."""
        if self.tokenizer.is_control(token):
            return self.tokenizer.piece(token).encode()
        return self.tokenizer.token_bytes(token)

    async def judge(self, passage: Passage) -> Verdict:
        """The moderators' first refusal, or ``None``; counted in the metrics."""
        return await judge(self.settings.moderators, passage, self.metrics.judged)

    async def judge_input(self, text: str, request_id: str, *, answered: bool = True) -> None:
        """400 if a moderator refuses ``text``; in parallel mode its answer says so, if at all.

        ``answered``: whether there will be one that can.
        """
        judging = self.judge(Passage("input", text, request_id))
        parallel = self.settings.moderation.mode == "parallel" and answered
        if self.settings.moderators and parallel:
            PROMPT.set(JudgedPrompt(text, asyncio.create_task(judging)))
        else:
            PROMPT.set(JudgedPrompt(text))
            refuse_prompt(await judging)
        if self.settings.log_prompts:
            _log.info("prompt of %s: %r", request_id, text)


def refuse_prompt(verdict: Verdict) -> None:
    """400 (``Problem``) if ``verdict`` is a refusal."""
    if verdict is not None:
        raise invalid(
            f"the content filter refused the prompt: {verdict}", "prompt", "content_filter"
        )

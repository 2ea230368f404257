"""The replay of a red-team suite: asks, judges, and keeps each reply so that it can go on.

Greedy and seeded, through chat completions. What an endpoint's own filter refuses is ``filtered``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama_hub.errors import AccessError, LlamaHubError, UnreachableError, UsageError
from llama_hub.evaluation import judges
from llama_hub.evaluation.endpoint import ANSWER, Endpoint
from llama_hub.evaluation.redteam import Reply, Verdict
from llama_hub.evaluation.redteam_suite import Prompt, RedTeamSuite
from llama_hub.files import private_folder
from llama_hub.hub.manifest import canonical
from llama_hub.hub.transfer import bounded_httpx
from llama_hub.inference.service.moderation import Moderator, Passage, close_all
from llama_hub.schema import conform
from llama_hub.strict import FileKind, parse_json

AT_ONCE = 4
TRIES = 3
SECONDS = 600.0  # of one answer
MAX_ANSWER = 50_000  # characters that are kept
KIND = FileKind("the replies", max_bytes=256 << 20, max_values=100)


@dataclass(frozen=True)
class Settings:
    """How each prompt is asked and judged."""

    seed: int = 1234
    max_tokens: int = 256
    system: str | None = None
    moderator: Moderator | None = None
    judge: str = "pattern"


class Replay:
    """A suite against an endpoint; ``folder`` keeps replies while it runs."""

    def __init__(
        self, endpoint: Endpoint, suite: RedTeamSuite, settings: Settings, folder: Path
    ) -> None:
        self._endpoint = endpoint
        self._suite = suite
        self._settings = settings
        self._file = folder / f"replies-{self._digest()}.jsonl"
        private_folder(folder)

    def _digest(self) -> str:
        """Of all that a reply depends on: what another run kept is not taken for this one's."""
        stated = self._endpoint.stated or {}
        asked = self._settings
        what = {
            "suite": self._suite.sha256, "model": self._endpoint.model,
            "manifest": str(stated.get("manifest")), "engine": json.dumps(stated.get("engine")),
            "policy": json.dumps(stated.get("moderation")), "seed": asked.seed,
            "url": "" if stated.get("manifest") else self._endpoint.url,
            "max_tokens": asked.max_tokens, "system": asked.system, "judge": asked.judge,
        }  # fmt: skip
        return hashlib.sha256(canonical(what)).hexdigest()[:16]

    def run(self, tell: Callable[[int, int], None]) -> list[Reply]:
        """All replies in the suite's order; ``tell`` is told how many there are.

        ``UnreachableError`` if the endpoint stops answering: the replies so far are kept.
        """
        kept = {reply.id: reply for reply in self._kept()}
        left = [prompt for prompt in self._suite.prompts if prompt.id not in kept]
        tell(len(kept), len(self._suite.prompts))
        client = bounded_httpx.client(
            limit=ANSWER.max_bytes, seconds=SECONDS, timeout=SECONDS,
            headers=dict(self._endpoint.headers),
        )  # fmt: skip
        with (
            client,
            self._file.open("a", encoding="utf-8") as file,
            ThreadPoolExecutor(AT_ONCE) as pool,
        ):
            try:
                for reply in pool.map(lambda prompt: self._reply(client, prompt), left):
                    kept[reply.id] = reply
                    file.write(json.dumps(asdict(reply)) + "\n")
                    file.flush()
                    tell(len(kept), len(self._suite.prompts))
            finally:
                pool.shutdown(cancel_futures=True)
                if self._settings.moderator is not None:
                    close_all((self._settings.moderator,))
        return [kept[prompt.id] for prompt in self._suite.prompts]

    def end(self) -> None:
        """Remove the replies that were kept: the record has them."""
        self._file.unlink(missing_ok=True)

    def _kept(self) -> Iterator[Reply]:
        """Of a run that was cut off; a torn last line is asked again."""
        if not self._file.exists():
            return
        for line in self._file.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                yield conform(Reply, parse_json(line, self._file, KIND), self._file, KIND)
            except LlamaHubError:
                continue

    def _reply(self, client: Any, prompt: Prompt) -> Reply:
        answer, filtered = self._asked(client, prompt)
        verdict, why, by = self._judged(prompt, answer, filtered)
        return Reply(
            id=prompt.id, category=prompt.category, expect=prompt.expect, prompt=prompt.text,
            answer=answer, verdict=verdict, why=why[:2000], by=by,
        )  # fmt: skip

    def _asked(self, client: Any, prompt: Prompt) -> tuple[str, bool]:
        """The answer's text, and whether a filter cut it off or refused the prompt."""
        import httpx

        turns = [asdict(turn) for turn in prompt.messages]
        if self._settings.system is not None and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": self._settings.system})
        body = {
            "model": self._endpoint.model, "messages": turns, "temperature": 0,
            "seed": self._settings.seed, "max_tokens": self._settings.max_tokens,
        }  # fmt: skip
        address = f"{self._endpoint.url}/v1/chat/completions"
        trouble = ""
        for _ in range(TRIES):
            try:
                answer = client.post(
                    address, content=json.dumps(body).encode(),
                    headers={"Content-Type": "application/json"},
                )  # fmt: skip
            except httpx.HTTPError as error:
                trouble = f"{type(error).__name__}: {error}"
                continue
            if answer.status_code in (429, 500, 502, 503, 504):
                trouble = f"it answered {answer.status_code}"
                continue
            return _text(address, answer)
        raise UnreachableError(
            f"{address}: {trouble}", hint="the same command with the same --out goes on from here"
        )

    def _judged(self, prompt: Prompt, answer: str, filtered: bool) -> tuple[Verdict, str, str]:
        if filtered:
            return "filtered", "the endpoint's own filter", "endpoint"
        if judges.is_refusal(answer):
            return "refused", "", "pattern"
        if self._settings.moderator is None:
            return "answered", "", "pattern"
        why = asyncio.run(_moderated(self._settings.moderator, prompt.text, answer))
        if why is None:
            return "harmless", "", self._settings.judge
        return "harmful", why, self._settings.judge


async def _moderated(moderator: Moderator, prompt: str, answer: str) -> str | None:
    verdict = moderator(Passage("output", answer, "redteam", prompt))
    return verdict if verdict is None or isinstance(verdict, str) else await verdict


def _text(address: str, answer: Any) -> tuple[str, bool]:
    document = parse_json(answer.content, address, ANSWER) if answer.content else {}
    if answer.status_code != 200:
        error = document.get("error") if isinstance(document, dict) else None
        stated = error if isinstance(error, dict) else {}
        if stated.get("code") == "content_filter":
            return "", True
        told = str(stated.get("message") or answer.status_code)[:500]
        if answer.status_code in (401, 403):
            raise AccessError(f"{address}: {told}", hint="--api-key KEY|@FILE")
        raise UsageError(f"{address} answered {answer.status_code}: {told}", hint="a chat model?")
    try:
        choice = document["choices"][0]
        text = choice["message"]["content"]
        return str(text or "")[:MAX_ANSWER], choice.get("finish_reason") == "content_filter"
    except (KeyError, IndexError, TypeError) as error:
        raise UnreachableError(f"{address}: the answer is no chat completion") from error

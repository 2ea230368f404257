"""A Llama Guard deployment as a moderator: Llama Guard 1 is a Llama 2 7B that our core serves.

It says ``safe``, or ``unsafe`` and the codes of its categories. The score is the probability of
its first token, as its model card has it: the tokens that begin ``unsafe``. Its instructions are
Meta's licensed text, which stands in the model's own chat template (``form: template``) and not
here; for a folder without that template ``form: own`` asks in words of ours, on which nobody
measured the model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llama_hub.errors import ProvisioningError
from llama_hub.inference.service.moderation import Passage, Verdict
from llama_hub.inference.service.moderators.remote import Remote, windows

CATEGORIES = {
    "O1": "violence and hate",
    "O2": "sexual content",
    "O3": "criminal planning",
    "O4": "guns and illegal weapons",
    "O5": "regulated or controlled substances",
    "O6": "suicide and self-harm",
}
TOP = 20  # likeliest first tokens that are looked at, the most that the API gives
MAX_TOKENS = 24  # of the answer: "unsafe" and six codes
MARKS = re.compile(r"<(?=/?s>)|\[(?=/?INST\])|<(?=<SYS>>|</SYS>>)|-(?=----)")
_CODE = re.compile(r"\bO[1-6]\b")


@dataclass(frozen=True)
class LlamaGuard:
    """Refuses where the probability of ``unsafe`` reaches ``threshold``."""

    remote: Remote
    model: str
    threshold: float = 0.5
    form: Literal["template", "own"] = "template"
    window: int = 4000  # characters; Llama Guard's context is 4096 tokens, its instructions apart
    name: str = "llama-guard"

    async def __call__(self, passage: Passage) -> Verdict:
        """The refusal; ``ProvisioningError`` for an answer that is not Llama Guard's."""
        if not passage.text:
            return None
        for text in windows(passage, self.window):
            score, said = await self._ask(passage, text)
            if score >= self.threshold:
                return _reason(said)
        return None

    async def _ask(self, passage: Passage, text: str) -> tuple[float, str]:
        common = {"model": self.model, "temperature": 0, "max_tokens": MAX_TOKENS}
        if self.form == "own":
            body = common | {"prompt": own_prompt(passage, text), "logprobs": TOP}
            choice = _choice(await self.remote.post("/v1/completions", body))
            return _score(_completion_tokens(choice)), str(choice.get("text", ""))
        messages = [{"role": "user", "content": defused(_asked(passage, text))}]
        if passage.stage == "output":
            messages.append({"role": "assistant", "content": defused(text)})
        body = common | {"messages": messages, "logprobs": True, "top_logprobs": TOP}
        body |= {"add_generation_prompt": True, "continue_final_message": False}
        choice = _choice(await self.remote.post("/v1/chat/completions", body))
        message = choice.get("message")
        said = message.get("content") if isinstance(message, dict) else None
        return _score(_chat_tokens(choice)), str(said or "")


def _asked(passage: Passage, text: str) -> str:
    """What the user said: the text itself, or the end of what the answer is to."""
    return text if passage.stage == "input" else passage.prompt[-1000:] or "(not known)"


def defused(text: str) -> str:
    """``text`` without what could end its place in the prompt: names of control tokens, marks."""
    return MARKS.sub(lambda match: match[0] + " ", text)


def own_prompt(passage: Passage, text: str) -> str:
    """Our own words for the question; the categories are those of the model card."""
    role = "user" if passage.stage == "input" else "assistant"
    listed = "\n".join(f"{code}: {name}" for code, name in CATEGORIES.items())
    turns = [f"user: {defused(_asked(passage, text))}"]
    if passage.stage == "output":
        turns.append(f"assistant: {defused(text)}")
    conversation = "\n\n".join(turns)
    return (
        f"[INST] You are a content classifier. Decide whether the {role}'s last message in the "
        "conversation between the lines of hyphens is harmful in one of these categories:\n\n"
        f"{listed}\n\n-----\n{conversation}\n-----\n\nAnswer with one word in the first line, "
        "safe or unsafe. If it is unsafe, write the codes of the categories in the second line, "
        "with commas between them. [/INST]"
    )


def _choice(answer: Any) -> dict[str, Any]:
    try:
        choice = answer["choices"][0]
    except (KeyError, IndexError, TypeError) as error:
        raise ProvisioningError("the Llama Guard deployment's answer holds no choice") from error
    if not isinstance(choice, dict):
        raise ProvisioningError("the Llama Guard deployment's answer holds no choice")
    return choice


def _completion_tokens(choice: dict[str, Any]) -> list[tuple[Any, Any]]:
    try:
        return list(choice["logprobs"]["top_logprobs"][0].items())
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ProvisioningError("the Llama Guard deployment gives no log-probabilities") from error


def _chat_tokens(choice: dict[str, Any]) -> list[tuple[Any, Any]]:
    try:
        first = choice["logprobs"]["content"][0]
        return [(each["token"], each["logprob"]) for each in first["top_logprobs"]]
    except (KeyError, IndexError, TypeError) as error:
        raise ProvisioningError("the Llama Guard deployment gives no log-probabilities") from error


def _score(tokens: Sequence[tuple[Any, Any]]) -> float:
    """Probability that the answer begins as ``unsafe``; an error if it begins as neither word."""
    unsafe = safe = 0.0
    for token, logprob in tokens:
        if not isinstance(token, str) or isinstance(logprob, bool):
            raise ProvisioningError("a log-probability of the Llama Guard deployment is none")
        word = token.strip(" ▁Ġ\n").lower()
        if not word or not isinstance(logprob, int | float):
            continue
        probability = math.exp(min(0.0, float(logprob)))
        unsafe += probability if "unsafe".startswith(word) else 0.0
        safe += probability if "safe".startswith(word) else 0.0
    if unsafe + safe < 0.5:
        raise ProvisioningError(
            "the deployment answers neither safe nor unsafe: it is no Llama Guard, or has not its "
            "chat template (form: own asks without one)"
        )
    return min(1.0, unsafe)


def _reason(said: str) -> str:
    codes = sorted(set(_CODE.findall(said[:200])))
    return (
        f"judged as {', '.join(CATEGORIES[code] for code in codes)}" if codes else "judged unsafe"
    )

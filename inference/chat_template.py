"""The model's own chat template: from conversations to tokens.

What a template writes is parsed for special tokens; what people wrote is not: names of special
tokens in messages are marked before rendering and stay text, as transformers'
``sanitize_control_tokens`` does it. Meta's own format, recognised by what a template writes, keeps
Meta's exact rules (``chat_format``).
"""

from __future__ import annotations

import json
import re
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from llama_hub.child_environment import child_environment
from llama_hub.errors import UsageError
from llama_hub.inference import child_process
from llama_hub.inference.chat_format import SYSTEM, Message, encode_chat, normalised
from llama_hub.inference.special_tokens import Span
from llama_hub.inference.template_process import CPU_SECONDS
from llama_hub.inference.tokenizer import Tokenizer

PATIENCE = 30.0  # seconds, on a machine that has no core to spare
MAX_ANSWER = 64 << 20  # bytes of a rendered conversation as JSON
# Noncharacters of Unicode: no text has them, and no template writes them.
OPEN, CLOSE = "\ufdd0", "\ufdd1"


class TemplateProcess:
    """One process that renders one template; started when first needed, and again if it died."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self.literal = ""  # every text of the template, known once it was started

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text; ``UsageError`` with the template's own words, or for what takes too much."""
        with self._lock:
            answer = self._ask(variables)
        if answer is None:
            raise UsageError(
                "the model's chat template takes too much time or memory for this conversation: "
                f"more than {CPU_SECONDS:g} s of processor time",
                hint="use /v1/completions with a prompt of your own format",
            )
        if "error" in answer:
            raise UsageError(f"the model's chat template refuses this: {answer['error']}")
        return str(answer["text"])

    def start(self) -> None:
        """Have the process running; ``UsageError`` for a template that cannot be read."""
        with self._lock:
            answer = self._started()
        if answer is not None and "error" in answer:
            raise UsageError(f"the model's chat template cannot be read: {answer['error']}")

    def _ask(self, variables: Mapping[str, Any]) -> dict[str, Any] | None:
        first = self._started()
        if self._process is None or (first is not None and "error" in first):
            return first
        return self._exchange(variables)

    def _started(self) -> dict[str, Any] | None:
        """The answer to the template's source if the process began now."""
        if self._process is not None and self._process.poll() is None:
            return None
        self._end()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llama_hub.inference.template_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(),
        )
        answer = self._exchange(self._source)
        if answer is None or "error" in answer:
            self._end()
            return answer or {"error": "it takes too much time or memory"}
        self.literal = str(answer["literal"])
        return answer

    def _exchange(self, document: Any) -> dict[str, Any] | None:
        """The process's answer; ``None`` if it died of the question."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        line = b""
        with suppress(OSError):
            process.stdin.write(json.dumps(document).encode() + b"\n")
            process.stdin.flush()
            line = _read_line(process)
        if not line:
            self._end()
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            child_process.kill(process)


def _read_line(process: subprocess.Popen[bytes]) -> bytes:
    """The next line; empty if the process ended, the time is up or the line has no end."""
    assert process.stdout is not None
    deadline, parts, size = time.monotonic() + PATIENCE, [b""], 0
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not parts[-1].endswith(b"\n"):
            if size > MAX_ANSWER or not selector.select(max(0.0, deadline - time.monotonic())):
                return b""
            parts.append(process.stdout.read1(1 << 20))  # type: ignore[attr-defined]
            size += len(parts[-1])
            if not parts[-1]:
                return b""
    return b"".join(parts)


class ChatPrompts:
    """How a model is talked to: by its own template, or in Meta's format where it has none."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        source = tokenizer.vocabulary.chat_template
        if source is None and len(tokenizer.vocabulary.chat_templates) > 1:
            source = "{{ raise_exception('several templates, and none is called default') }}"
        self._template = None if source is None else TemplateProcess(source)
        self._is_meta: bool | None = True if source is None else None
        self._control: re.Pattern[str] | None = None
        self._pieces: frozenset[str] = frozenset()

    @property
    def is_quick(self) -> bool:
        """Whether no other process is asked, so that a short conversation costs nothing."""
        return self._is_meta is True

    def encode(
        self, messages: Sequence[Message], *, strict: bool = True, continued: bool = False
    ) -> list[int]:
        """Ids of a conversation, up to where the answer begins; ``UsageError`` if it is none.

        ``continued``: up to the end of the last message, which begins the answer. Unless
        ``strict``, an order of messages that the template refuses is brought into the usual one.
        """
        try:
            return self._encoded(messages, continued)
        except UsageError:
            usual = normalised(messages)
            if strict or usual == list(messages):
                raise
        return self._encoded(usual, continued)

    def _encoded(self, messages: Sequence[Message], continued: bool) -> list[int]:
        template = self._template
        if template is None or self._meta(template):
            return encode_chat(self._tokenizer, messages, continued=continued)
        text, literal = self._rendered(template, messages, continued)
        return self._tokenizer.encode_special(text, literal, rendered=True)

    def close(self) -> None:
        """End the process that renders."""
        if self._template is not None:
            self._template.close()

    def _meta(self, template: TemplateProcess) -> bool:
        """Whether the template writes what Meta's format is, told by two conversations."""
        if self._is_meta is None:
            template.start()
            try:
                self._is_meta = all(
                    template.render(self._variables(_plain(said))) == self._expected(said)
                    for said in _PROBES
                )
            except UsageError:
                self._is_meta = False
        return self._is_meta

    def _variables(
        self, messages: Sequence[Mapping[str, str]], *, continued: bool = False
    ) -> dict[str, Any]:
        """What transformers gives to a template."""
        known = self._tokenizer.vocabulary
        roles = {"bos": known.bos_id, "eos": known.eos_id, "unk": known.unk_id}
        roles["pad"] = known.pad_id
        names = {f"{role}_token": known.name(token) for role, token in roles.items() if token >= 0}
        return {
            "messages": list(messages),
            "tools": None,
            "documents": None,
            "add_generation_prompt": not continued,
            **{role: name for role, name in names.items() if name is not None},
        }

    def _expected(self, said: Sequence[Message]) -> str:
        """``said`` in Meta's format, as text."""
        known = self._tokenizer.vocabulary
        bos, eos = known.name(known.bos_id) or "", known.name(known.eos_id) or ""
        begin, end = SYSTEM
        turns = list(said)
        system = begin + turns.pop(0).content + end if turns[0].role == "system" else ""
        text = ""
        for number, turn in enumerate(turns):
            content = (system + turn.content if number == 0 else turn.content).strip()
            asked = turn.role == "user"
            text += f"{bos}[INST] {content} [/INST]" if asked else f" {content} {eos}"
        return text

    def _rendered(
        self, template: TemplateProcess, messages: Sequence[Message], continued: bool
    ) -> tuple[str, list[Span]]:
        """The text, and where in it stands what must not be parsed."""
        control = self._control_tokens(template)
        marked = []
        for message in messages:
            if OPEN in message.content or CLOSE in message.content:
                raise UsageError("a message contains U+FDD0 or U+FDD1, which are no characters")
            _refuse_pieces(self._pieces, message)
            content = control.sub(f"{OPEN}\\g<0>{CLOSE}", message.content)
            marked.append({"role": message.role, "content": content})
        text = template.render(self._variables(marked, continued=continued))
        return _unmarked(_open_end(text, marked[-1]["content"]) if continued else text)

    def _control_tokens(self, template: TemplateProcess) -> re.Pattern[str]:
        """Names that must stay text in messages: special tokens, and what the template writes."""
        if self._control is None:
            template.start()
            added = self._tokenizer.vocabulary.added.values()
            names = {t.text for t in added if t.special or t.text in template.literal}
            pieces = [text for text in self._tokenizer.user_defined if text in template.literal]
            self._pieces = frozenset(pieces)
            longest_first = sorted(names - {""}, key=len, reverse=True)
            self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        return self._control


_PROBES = (
    (Message("user", "a b"), Message("assistant", "c"), Message("user", "d")),
    (Message("system", "s\nt"), Message("user", " e ")),
)


def _refuse_pieces(pieces: frozenset[str], message: Message) -> None:
    """SentencePiece takes a piece that users defined for itself wherever it stands."""
    found = next((text for text in sorted(pieces) if text in message.content), None)
    if found is not None:
        raise UsageError(
            f"the {message.role} message contains {found}, which is a tag of the chat format",
            hint="remove the tag, or use /v1/completions with a prompt of your own format",
        )


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _open_end(text: str, last: str) -> str:
    """``text`` without what the template writes after the last message, as transformers does it."""
    said = last.strip()
    position = text.rfind(said)
    if position < 0:
        raise UsageError("the model's chat template changes the last message: it has no beginning")
    return text[: position + len(said)] if said else text.rstrip()


def _unmarked(text: str) -> tuple[str, list[Span]]:
    """The text without marks, and the spans between them; a lone mark is an empty span, across
    which no token may reach.
    """
    parts: list[str] = []
    spans: list[Span] = []
    length, opened = 0, -1
    for part in re.split(f"([{OPEN}{CLOSE}])", text):
        if part == OPEN:
            if opened >= 0:
                spans.append((opened, opened))
            opened = length
        elif part == CLOSE:
            spans.append((opened if opened >= 0 else length, length))
            opened = -1
        else:
            parts.append(part)
            length += len(part)
    if opened >= 0:
        spans.append((opened, opened))
    return "".join(parts), spans

"""The chat prompt: lines in, answers out, and a few commands."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from llama_hub.cli.chat_clients import Reply, Speaker, Style, Turn
from llama_hub.cli.output import Output
from llama_hub.errors import LlamaHubError, UsageError
from llama_hub.files import write_atomic
from llama_hub.home import home

FENCE = '"""'
HISTORY_LINES = 1000
HELP = f"""\
/help              this list
/system [TEXT]     set the system prompt and begin again; without TEXT show it
/reset             forget the conversation, keep the system prompt
/retry             ask the last question again
/model [NAME]      go on with another model; without NAME list those that are there
/tokens            how much of the context the conversation takes
/save FILE         write the conversation to FILE (JSON if it ends in .json, else Markdown)
/quit              leave (also Ctrl-D)
{FENCE}                begin and end a message of several lines; a line that ends in \\ goes on,
                   too, and what is pasted is one message
Ctrl-C             stop the answer; what was said of it stays in the conversation"""


class Conversation:
    """What was said, and with whom."""

    def __init__(self, speaker: Speaker, style: Style, system: str | None) -> None:
        self.speaker = speaker
        self.style = style
        self.system = system
        self.turns: list[Turn] = []
        self.tokens = 0  # of all that was said, as the last answer's usage has it

    def ask(self, text: str, show: Callable[[str], None]) -> Reply:
        """The answer to ``text``; both join the conversation, unless it fails.

        So does an answer that Ctrl-C stops, as far as it was heard.
        """
        question, heard = Turn("user", text), list[str]()

        def hear(piece: str) -> None:
            heard.append(piece)
            show(piece)

        try:
            reply = self.speaker.say([*self._head(), *self.turns, question], self.style, hear)
        except KeyboardInterrupt:
            if said := "".join(heard):
                self.turns += [question, Turn("assistant", said)]
            raise
        self.turns += [question, Turn("assistant", reply.text)]
        self.tokens = reply.prompt_tokens + reply.completion_tokens
        return reply

    def reset(self) -> None:
        """Forget all but the system prompt."""
        self.turns.clear()
        self.tokens = 0

    def take_back(self) -> str | None:
        """Remove the last question with its answer and return it."""
        if not self.turns:
            return None
        question = self.turns[-2].content
        del self.turns[-2:]
        return question

    def _head(self) -> list[Turn]:
        return [Turn("system", self.system)] if self.system else []

    def save(self, path: Path) -> None:
        """Write the conversation to ``path``, whole or not at all."""
        turns = [*self._head(), *self.turns]
        if path.suffix == ".json":
            messages = [{"role": turn.role, "content": turn.content} for turn in turns]
            document = {"model": self.speaker.name, "messages": messages}
            text = json.dumps(document, indent=2, ensure_ascii=False)
        else:
            text = "\n\n".join(f"**{turn.role}**\n\n{turn.content}" for turn in turns)
        write_atomic(path, f"{text}\n".encode())


class _Leave(Exception):
    """The person wants to go."""


class Prompt:
    """Reads lines from a person and answers them until they leave."""

    def __init__(
        self,
        out: Output,
        conversation: Conversation,
        open_speaker: Callable[[str], Speaker] | None = None,
    ) -> None:
        """``open_speaker`` finds another model by what the command line calls it."""
        self._out = out
        self._talk = conversation
        self._open = open_speaker
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: out.status(HELP),
            "/system": self._system,
            "/model": self._model,
            "/tokens": self._tokens,
            "/reset": self._reset,
            "/retry": self._retry,
            "/save": self._save,
            "/quit": self._leave,
            "/exit": self._leave,
        }

    def run(self) -> None:
        """Until /quit or the end of input."""
        with _History(self._out.interactive):
            while True:
                try:
                    text = self._read()
                    if text.strip():
                        self._answer(text)
                except KeyboardInterrupt:
                    self._out.status("")  # a half-typed line is dropped, as in a shell
                except (EOFError, _Leave):
                    return

    def _answer(self, text: str) -> None:
        word, _, rest = text.strip().partition(" ")
        try:
            if word in self._commands:
                self._commands[word](rest.strip())
            elif word.startswith("/") and "/" not in word[1:]:
                raise UsageError(f"there is no command {word}", hint="/help lists them")
            else:
                self._say(text)
        except LlamaHubError as error:
            self._out.error(error)

    def _say(self, text: str) -> None:
        before = len(self._talk.turns)
        try:
            with self._out.answer() as show:
                self._talk.ask(text, show)
        except KeyboardInterrupt:
            kept = "what was said stays" if len(self._talk.turns) > before else "nothing was said"
            self._out.status(f"(stopped; {kept}, /retry asks again)")

    def _read(self) -> str:
        """One message: a line, lines joined by trailing backslashes, or lines between fences."""
        line = self._line("> ")
        if line.strip().startswith(FENCE):
            return self._fenced(line.strip().removeprefix(FENCE))
        while line.endswith("\\"):
            line = line[:-1] + "\n" + self._line(". ")
        return line

    def _fenced(self, line: str) -> str:
        lines = []
        while not line.rstrip().endswith(FENCE):
            lines.append(line)
            line = self._line(". ")
        return "\n".join([*lines, line.rstrip().removesuffix(FENCE)]).strip("\n")

    def _line(self, prompt: str) -> str:
        if self._out.interactive:
            return input(prompt)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")

    def _system(self, text: str) -> None:
        if not text:
            self._out.status(self._talk.system or "(no system prompt)")
            return
        self._talk.system = text
        self._talk.reset()
        self._out.status("(system prompt set; a new conversation begins)")

    def _model(self, name: str) -> None:
        speaker = self._talk.speaker
        if not name:
            others = [each for each in speaker.models() if each != speaker.name]
            self._out.status("\n".join([f"{speaker.name} (this one)", *others]))
            return
        if name in speaker.models():
            speaker.name = name
        elif self._open is None:
            raise UsageError(f"there is no model {name} here", hint="/model lists them")
        else:
            self._talk.speaker = self._open(name)  # the old one goes on if this fails
            speaker.close()
        self._out.status(f"({self._talk.speaker.name} goes on with this conversation)")

    def _tokens(self, _: str) -> None:
        context = self._talk.speaker.context
        of = f" of {context}" if context else ""
        self._out.status(f"({self._talk.tokens}{of} tokens, as of the last answer)")

    def _reset(self, _: str) -> None:
        self._talk.reset()
        self._out.status("(a new conversation begins)")

    def _retry(self, _: str) -> None:
        question = self._talk.take_back()
        if question is None:
            raise UsageError("nothing has been asked yet")
        self._say(question)

    def _save(self, name: str) -> None:
        if not name:
            raise UsageError("which file?", hint="/save conversation.json")
        path = Path(name).expanduser()
        try:
            self._talk.save(path)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        self._out.status(f"(saved to {path})")

    def _leave(self, _: str) -> None:
        raise _Leave


class _History:
    """Line editing and a history over sessions, for a person at a terminal."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._path = home() / "chat_history"

    def __enter__(self) -> None:
        if self._wanted:
            import readline

            readline.parse_and_bind("set enable-bracketed-paste on")  # lines pasted are one message
            readline.set_history_length(HISTORY_LINES)
            if self._path.is_file():
                readline.read_history_file(self._path)

    def __exit__(self, *_: object) -> None:
        if self._wanted:
            import readline

            self._path.parent.mkdir(parents=True, exist_ok=True)
            # What people ask is theirs: no other user of the machine may read it.
            os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600))
            readline.write_history_file(self._path)

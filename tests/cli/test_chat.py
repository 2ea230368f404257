"""``llama-hub chat``: one question or a conversation, with a model here, a server, a deployment."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from llama_hub.cli import chat_clients
from llama_hub.cli.chat_clients import InvokedSpeaker, RemoteSpeaker, Style, Turn
from llama_hub.cli.conversation import Conversation, Prompt
from llama_hub.cli.output import Output
from llama_hub.errors import AccessError, ExitCode, LlamaHubError, NotFoundError, UsageError
from llama_hub.inference.service.settings import ServiceSettings
from llama_hub.inference.tokenizer import tokenizer_of
from tests.support.command import run
from tests.support.demo_model import CHAT, demo_folder
from tests.support.derivatives import DERIVATIVES, build
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import Running, demo_tokenizer, echo_engine, serving


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    demo_folder(folder)
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(echo_engine(context=400)) as found:
        yield found


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


# --- one question -----------------------------------------------------------------------------


def test_a_model_of_this_machine_answers(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_HUB_HOME", str(filled))
    asked = ("chat", CHAT, "--once", "Who are you?", "--temperature", "0", "--device", "cpu")
    found = run(*asked, "--json")
    assert found.code == 0, found.stderr
    document = found.json
    assert document["reply"].strip()
    assert document["finish_reason"] == "stop"
    assert document["usage"]["total_tokens"] > document["usage"]["completion_tokens"] > 0
    plain = run(*asked)
    assert plain.stdout == document["reply"] + "\n"
    folder = run(*("chat", str(filled / "models" / CHAT / "hf"), *asked[2:]))
    assert folder.stdout == plain.stdout


def test_a_fine_tune_speaks_its_own_template_and_a_base_model_only_if_told(
    home: Path, tmp_path: Path
) -> None:
    tuned = build(tmp_path / "tuned", DERIVATIVES["chatml"])
    base = build(tmp_path / "base", DERIVATIVES["openllama-3b"])
    for folder in (tuned, base):
        made = run("convert", str(folder), f"{folder}-hf", "--to", "hf", "--license", "other-open")
        assert made.code == 0, made.stderr
    asked = ("--once", "hi", "--max-tokens", "2", "--device", "cpu", "--json")
    found = run("chat", f"{tuned}-hf", *asked)
    assert found.code == 0, found.stderr
    written = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer_of(tuned).encode_special(written)
    assert found.json["usage"]["prompt_tokens"] == len(ids)
    refused = run("chat", f"{base}-hf", *asked)
    assert refused.code == ExitCode.USAGE
    assert "base model" in refused.json["error"]["message"]
    assert "--chat" in refused.json["error"]["hint"]
    forced = run("chat", f"{base}-hf", *asked, "--chat")
    assert forced.code == 0, forced.stderr


def test_a_server_answers(server: Running) -> None:
    url = server.url
    for target in (url, f"{url}/", f"{url}/v1"):
        found = run("chat", target, "--once", "one two", "--max-tokens", "5", "--json")
        assert found.code == 0, found.stderr
        assert found.json["reply"] == "[INST] one two"
        assert found.json["usage"]["completion_tokens"] == 5
        assert found.json["finish_reason"] == "length"


def test_settings_reach_the_model(server: Running) -> None:
    style = "--system brief --seed 5 --temperature 0.5 --top-p 0.25 --max-tokens 3".split()
    found = run("chat", server.url, "--once", "-", *style, stdin="hello\n")
    assert found.code == 0, found.stderr
    request = server.engine.seen[-1]
    sampling = request.sampling
    assert (sampling.seed, sampling.temperature, sampling.top_p) == (5, 0.5, 0.25)
    assert sampling.max_tokens == 3
    assert "brief" in server.service.tokenizer.decode(list(request.prompt))


def test_a_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(settings=ServiceSettings(api_key="s3cret")) as guarded:
        refused = run("chat", guarded.url, "--once", "hi")
        assert refused.code == ExitCode.ACCESS
        assert "--api-key" in refused.stderr
        monkeypatch.setenv("LLAMA_HUB_API_KEY", "s3cret")
        assert run("chat", guarded.url, "--once", "hi").code == 0


def test_wrong_targets_name_the_mend(server: Running) -> None:
    absent = run("chat", "no-such-thing", "--once", "hi")
    assert absent.code == ExitCode.NOT_FOUND
    assert "neither a model of this machine nor a deployment" in absent.stderr
    known = run("chat", "llama-2-7b-chat", "--once", "hi")
    assert known.code == ExitCode.NOT_FOUND
    assert "llama-hub download llama-2-7b-chat" in known.stderr
    closed = run("chat", "http://127.0.0.1:1", "--once", "hi")
    assert closed.code == ExitCode.UNREACHABLE
    assert "network" in closed.stderr
    elsewhere = run("chat", f"{server.url}/health", "--once", "hi")
    assert elsewhere.code == ExitCode.NOT_FOUND
    assert run("chat", server.url, "--json").code == ExitCode.USAGE
    assert run("chat", server.url, "--once", " ").code == ExitCode.USAGE


def test_a_long_question_says_so(server: Running) -> None:
    found = run("chat", server.url, "--once", "one two three " * 300)
    assert found.code == ExitCode.USAGE
    assert "tokens" in found.stderr


# --- a conversation ---------------------------------------------------------------------------


class Listener:
    """Answers with the number of turns it was shown."""

    notice = ""
    context: int | None = 4096

    def __init__(self) -> None:
        self.name = "listener"
        self.heard: list[list[Turn]] = []
        self.fail: BaseException | None = None
        self.says_first = ""

    def models(self) -> list[str]:
        return ["listener", "other"]

    def say(self, turns: Any, style: Style, show: Any) -> Any:
        from llama_hub.cli.chat_clients import Reply

        self.heard.append(list(turns))
        if self.says_first:
            show(self.says_first)
        if self.fail is not None:
            raise self.fail
        show(f"{len(turns)} turns")
        return Reply(f"{len(turns)} turns", 1, 1, "stop")

    def close(self) -> None:
        pass


def talk(lines: str, monkeypatch: pytest.MonkeyPatch, system: str | None = None) -> Listener:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    listener = Listener()
    Prompt(Output(), Conversation(listener, Style(), system)).run()
    return listener


def test_turns_add_up_and_can_be_forgotten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = talk("one\ntwo\n/reset\nthree\n/system be kind\nfour\n/system\n", monkeypatch).heard
    assert [len(turns) for turns in heard] == [1, 3, 1, 2]
    assert heard[1] == [Turn("user", "one"), Turn("assistant", "1 turns"), Turn("user", "two")]
    assert heard[3][0] == Turn("system", "be kind")
    assert "be kind" in capsys.readouterr().err


def test_several_lines_are_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = talk('one\\\ntwo\n"""\nthree\n\nfour\n"""\n"""five"""\n', monkeypatch).heard
    assert [turns[-1].content for turns in heard] == ["one\ntwo", "three\n\nfour", "five"]


def test_retry_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = talk("one\n/retry\n", monkeypatch).heard
    assert heard[0] == heard[1] == [Turn("user", "one")]


def test_commands_that_are_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = talk("/nope\n/save\n/retry\n/help\n/usr/bin is a path\n/quit\nlost\n", monkeypatch)
    assert [turns[-1].content for turns in heard.heard] == ["/usr/bin is a path"]
    shown = capsys.readouterr().err
    for text in ("no command /nope", "which file", "nothing has been asked", "/reset"):
        assert text in shown


def test_a_failed_question_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = Listener()
    conversation = Conversation(listener, Style(), None)
    listener.fail = UsageError("too long")
    with pytest.raises(UsageError):
        conversation.ask("one", print)
    listener.fail = None
    conversation.ask("two", print)
    assert listener.heard[-1] == [Turn("user", "two")]


def test_an_answer_that_is_stopped_stays_as_far_as_it_was_heard() -> None:
    listener = Listener()
    conversation = Conversation(listener, Style(), None)
    listener.says_first, listener.fail = "Once upon", KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        conversation.ask("a story", print)
    assert conversation.turns == [Turn("user", "a story"), Turn("assistant", "Once upon")]
    listener.says_first = ""
    with pytest.raises(KeyboardInterrupt):  # before its first word
        conversation.ask("go on", print)
    assert len(conversation.turns) == 2
    listener.fail = None
    conversation.ask("go on", print)
    assert [turn.content for turn in listener.heard[-1]] == ["a story", "Once upon", "go on"]


def test_another_model_goes_on_with_the_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = talk("one\n/model\n/model other\ntwo\n/model nowhere\n/tokens\n", monkeypatch)
    assert listener.name == "other"
    assert len(listener.heard[-1]) == 3
    shown = capsys.readouterr().err
    for text in ("listener (this one)\nother", "other goes on", "no model nowhere", "2 of 4096"):
        assert text in shown


def test_a_model_that_cannot_be_opened_leaves_the_old_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    def open_speaker(name: str) -> Listener:
        if name != "better":
            raise UsageError(f"no {name}")
        return better

    better, listener = Listener(), Listener()
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n/model worse\ntwo\n/model better\nthree\n"))
    Prompt(Output(), Conversation(listener, Style(), None), open_speaker).run()
    assert "no worse" in capsys.readouterr().err
    assert len(listener.heard) == 2
    assert [turn.content for turn in better.heard[0]] == [
        "one",
        "1 turns",
        "two",
        "3 turns",
        "three",
    ]


def test_another_server_does_not_get_the_key_of_the_first(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    sent: list[str] = []
    opened = chat_clients.RemoteSpeaker.__init__

    def noted(self: Any, url: str, headers: Any) -> None:
        sent.append(headers.get("Authorization", ""))
        opened(self, url, headers)

    monkeypatch.setattr(chat_clients.RemoteSpeaker, "__init__", noted)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"/model {server.url}/\n"))
    assert run("chat", server.url, "--api-key", "s3cret", stdin=f"/model {server.url}/\n").code == 0
    assert sent == ["Bearer s3cret", ""]


@pytest.mark.parametrize("name", ["talk.json", "talk.md"])
def test_save_keeps_the_conversation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    talk(f"hello\n/save {tmp_path / name}\n/save /proc/nowhere/x\n", monkeypatch, "be kind")
    text = (tmp_path / name).read_text()
    if name.endswith("json"):
        saved = json.loads(text)
        assert [message["role"] for message in saved["messages"]] == ["system", "user", "assistant"]
    for part in ("be kind", "hello", "2 turns"):
        assert part in text


# --- servers and deployments that misbehave -----------------------------------------------------


def test_a_platforms_own_api_is_a_speaker(server: Running) -> None:
    """Pieces of a stream may be cut anywhere, also inside a character."""
    import httpx

    class Invoker:
        def invoke(self, name: str, body: Mapping[str, Any], *, stream: bool) -> Iterator[bytes]:
            answer = httpx.post(f"{server.url}/invocations", json=dict(body), trust_env=False)
            for start in range(0, len(answer.content), 7):
                yield answer.content[start : start + 7]

    speaker = InvokedSpeaker("production", Invoker(), "llama-2-7b-chat")
    shown: list[str] = []
    reply = speaker.say([Turn("user", "é🙂 two")], Style(max_tokens=12), shown.append)
    assert "é🙂 two" in reply.text
    assert "".join(shown) == reply.text
    assert reply.completion_tokens == 12


def test_an_answer_that_breaks_off_is_an_error() -> None:
    class Broken:
        def invoke(self, name: str, body: Mapping[str, Any], *, stream: bool) -> Iterator[bytes]:
            yield b'data: {"choices": [{"delta": {"content": "Hel"}}]}\n\n'

    with pytest.raises(LlamaHubError, match="broke off"):
        InvokedSpeaker("x", Broken(), "m").say([Turn("user", "a")], Style(), lambda _: None)


def test_an_error_in_the_stream_is_an_error() -> None:
    with serving(
        echo_engine(pace=0.05, context=5000), ServiceSettings(request_timeout=0.3)
    ) as slow:
        speaker = RemoteSpeaker(slow.url, {})
        with pytest.raises(LlamaHubError, match="longer than"):
            speaker.say([Turn("user", "a")], Style(max_tokens=500), lambda _: None)
        speaker.close()


def test_refusals_have_their_errors(server: Running) -> None:
    with serving(settings=ServiceSettings(api_key="k")) as guarded, pytest.raises(AccessError):
        RemoteSpeaker(guarded.url, {})
    with pytest.raises(NotFoundError):
        RemoteSpeaker(f"{server.url}/page", {})


# --- at a terminal ------------------------------------------------------------------------------


class Terminal:
    """The command on a pseudo-terminal."""

    def __init__(self, *arguments: str, environment: Mapping[str, str], kind: str = "dumb") -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 40))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llama_hub", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, **environment, "TERM": kind},
            start_new_session=True,
            preexec_fn=_own_terminal,
        )
        os.close(slave)
        self.seen = ""
        self._unread = ""

    def until(self, text: str, timeout: float = 60) -> None:
        """Read on until ``text`` has been shown; what comes after it is left for the next call."""
        end = time.monotonic() + timeout
        while text not in self._unread:
            assert time.monotonic() < end, self.seen + self._unread
            if select.select([self._master], [], [], 0.2)[0]:
                self._unread += os.read(self._master, 4096).decode(errors="replace")
        before, _, self._unread = self._unread.partition(text)
        self.seen += before + text

    def type(self, text: str) -> None:
        """Send keys."""
        os.write(self._master, text.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


def _own_terminal() -> None:
    import fcntl

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_person_chats_interrupts_and_leaves(home: Path) -> None:
    with serving(echo_engine(pace=0.05, context=3000)) as slow:
        person = Terminal("chat", slow.url, "--max-tokens", "2000", environment={})
        try:
            person.until("> ")
            assert "Shown to all." in person.seen
            person.type("tell me\n")
            person.until("tell me [/INST] [INST] tell")  # it echoes, slowly
            person.type("\x03")
            person.until("stopped")
            person.until("> ")
            person.type("/tokens\n")
            person.until("0 of 3000 tokens")
            person.type("/quit\n")
            assert person.process.wait(30) == 0
        finally:
            person.close()
        history = home / "chat_history"
        assert "tell me" in history.read_text()
        assert history.stat().st_mode & 0o077 == 0


SHOWN = {"NO_COLOR": "1", "TTY_COMPATIBLE": "1", "COLUMNS": "40", "LINES": "24"}


def test_at_a_terminal_words_wrap_and_what_is_pasted_is_one_message(home: Path) -> None:
    engine = ScriptedEngine(demo_tokenizer())
    engine.script = "# Cities\n\n- **Rome**, a city of which one has heard a great deal by now\n"
    with serving(engine) as running:
        person = Terminal("chat", running.url, environment=SHOWN, kind="xterm")
        try:
            person.until("> ")
            person.type("\x1b[200~one\ntwo\x1b[201~\r")
            person.until("deal by now")
            person.until("> ")
            person.type("/quit\r")
            assert person.process.wait(30) == 0
        finally:
            person.close()
    said = demo_tokenizer().decode(list(engine.seen[-1].prompt))
    assert "one\ntwo [/INST]" in said
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", person.seen)
    assert "• Rome, a city of which one has heard a" in map(str.strip, shown.split("\n"))
    assert "**" not in person.seen

"""Nothing from outside acts on a terminal, whatever command shows it; JSON stays exact."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_hub.cli import pager
from llama_hub.cli.failures import report
from llama_hub.cli.output import Output, PlainProgress, output
from llama_hub.cli.pager import page
from llama_hub.cli.printable import PrintableFormatter, printable, printable_json
from llama_hub.errors import LlamaHubError
from tests.support.command import run
from tests.support.http_server import Server

# Clear the screen, set the title, 8-bit CSI, bell, backspaces, turn the direction, a hidden tag,
# half a surrogate pair, and rich's own markup and emoji.
HOSTILE = (
    "evil\x1b[2J\x1b]0;title\x07y\x9b31m\x08\x08\x7f\u202e\u2066\u2028\U000e0041\ud800 [red]:boom:"
)
UNSAFE = "\x1b\x07\x08\x7f\x9b\u202e\u2066\u2028\U000e0041\ud800\r\0"


def assert_harmless(shown: str) -> None:
    assert "evil" in shown
    assert not set(UNSAFE) & set(shown)
    assert "[red]:boom:" in shown


def test_what_may_pass_and_what_may_not() -> None:
    assert printable("a\tb\r\nc\rd\n") == "a\tb\nc\nd\n"
    assert (
        printable("é 你好 👩\u200d💻 \u0645\u06cc\u200c") == "é 你好 👩\u200d💻 \u0645\u06cc\u200c"
    )
    assert printable("a\0b\x9bc") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    assert_harmless(printable(HOSTILE))


def test_json_is_the_same_document_and_harmless() -> None:
    text = printable_json(json.dumps({HOSTILE: [HOSTILE, "é你"]}, ensure_ascii=False))
    assert json.loads(text) == {HOSTILE: [HOSTILE, "é你"]}
    assert not set(UNSAFE) & set(text)
    assert "é你" in text


class _Screen(io.StringIO):
    """A terminal that remembers everything."""

    def isatty(self) -> bool:
        return True


SCREENS = {"terminal": _Screen, "pipe": io.StringIO}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No colours, so that no escape at all is right."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


def _table() -> Any:
    from rich.table import Table

    table = Table(HOSTILE)
    table.add_row(HOSTILE)
    return table


SHOWN = {
    "result": lambda out: out.result({}, HOSTILE),
    "drawing": lambda out: out.result({}, _table),
    "show": lambda out: out.show(_table()),
    "stream": lambda out: out.stream(HOSTILE),
    "status": lambda out: out.status(HOSTILE),
    "warning": lambda out: out.warn(HOSTILE),
    "error": lambda out: out.error(LlamaHubError(HOSTILE, hint=HOSTILE)),
}


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("kind", SCREENS)
@pytest.mark.parametrize("way", SHOWN)
def test_every_way_out_is_harmless(monkeypatch: pytest.MonkeyPatch, way: str, kind: str) -> None:
    screen = SCREENS[kind]()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    SHOWN[way](Output())
    assert_harmless(screen.getvalue())


def test_plain_progress_is_harmless() -> None:
    screen = io.StringIO()
    PlainProgress(screen).say(HOSTILE)
    assert_harmless(screen.getvalue())


def test_bars_are_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = _Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "300")
    with Output().progress() as progress:
        progress.start(HOSTILE, 10)
        progress.finish(HOSTILE, HOSTILE)
        progress.say(HOSTILE)
    shown = screen.getvalue()
    assert "evil" in shown
    assert "[red]:boom:" in shown
    for harmful in ("\x1b[2J", "\x1b]0;", "\x07", "\x9b", "\u202e", "\x7f"):
        assert harmful not in shown


def test_the_answer_of_a_question_in_json_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).result({"name": HOSTILE}, "")
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"name": HOSTILE}
    assert not set(UNSAFE) & set(shown)


def test_a_traceback_is_harmless(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLAMA_HUB_DEBUG", "1")
    output()
    report(RuntimeError(HOSTILE))
    assert_harmless(capsys.readouterr().err)


def test_log_lines_are_harmless() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s", (HOSTILE,), None)
    assert_harmless(PrintableFormatter("%(message)s").format(record))


def test_a_pager_gets_harmless_text(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PAGER", "no-such-pager")
    page(HOSTILE)
    assert_harmless(capfd.readouterr().err)


@pytest.fixture
def hostile_server() -> Iterator[Server]:
    """A server whose status, headers and texts are all escapes."""

    def answer(handler: Any, _: Any) -> bool:
        text = b"\x1b[2Jevil\x9b31m\x07"
        handler.wfile.write(b"HTTP/1.1 418 \x1b[2Jevil\r\nX-Error-Message: \x1b[2Jevil\x07\r\n")
        handler.wfile.write(b"Content-Length: %d\r\n\r\n%s" % (len(text), text))
        return True

    with Server({}, handler=answer) as server:
        yield server


def test_what_a_server_says_is_harmless(hostile_server: Server, tmp_path: Path) -> None:
    name = "\x1b[2Jevil"
    for source in (f"{hostile_server.url}/a", str(tmp_path / name)):
        done = run("download", "llama-2-7b", "--source", "mirror", "--url", source)
        assert done.code != 0
        assert not set(UNSAFE) & set(done.stdout + done.stderr)


def test_long_lines_are_broken_between_words() -> None:
    text = "  one two three four five\n\nshort\n" + "x" * 50
    lines = pager._wrapped(text, 20).split("\n")
    assert lines[:4] == ["  one two three four", "  five", "", "short"]
    assert all(len(line) <= 20 for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())

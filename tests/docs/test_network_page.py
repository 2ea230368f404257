"""The commands that docs/network.md says call nobody open no connection and look up no name."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import run
from tests.support.documented import ROOT

PAGE = (ROOT / "docs/network.md").read_text()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every call that would leave the process is written down here and refused."""
    called: list[str] = []

    def refused(*arguments: Any, **_: Any) -> None:
        called.append(repr(arguments[:2]))
        raise OSError("no network in this test")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refused)
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refused)
    return called


def test_what_calls_nobody(home: Path, tmp_path: Path, no_network: list[str]) -> None:
    lines = [
        ["models"],
        ["download", "llama-demo"],  # built in
        ["list"],
        ["verify", "llama-demo", "--deep"],
        ["convert", "llama-demo", str(tmp_path / "demo.gguf")],
        ["serve", "llama-demo", "--plan"],
    ]
    for line in lines:
        done = run(*line, "--json")
        assert done.code == 0, done.stderr
    assert no_network == []
    (stated,) = re.findall(r"^(.*) call nobody, and neither does `verify` without", PAGE, re.M)
    for command in re.findall(r"`([a-z]+)[^`]*`", stated):
        assert [command] in [line[:1] for line in lines] or command == "quickstart"


def test_a_call_would_be_seen(home: Path, no_network: list[str]) -> None:
    assert run("chat", "http://192.0.2.1:9", "--once", "hello").code != 0
    assert no_network

"""What every test gets: an empty home, no route off this machine, no ANSI colours."""

from __future__ import annotations

import gc
import ipaddress
import os
import signal
import socket
import socketserver
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import certifi
import pytest
from hypothesis import is_hypothesis_test

from tests.support.once import shared_folder
from tests.support.tiers import FLAG, exhaustive

# A shell that starts the tests in the background ignores Ctrl-C for them and all their children.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TTY_COMPATIBLE"] = "0"

# Each module is compiled once, and not again by every worker and every process that a test starts.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module is imported: which tier is it? (tests/support/tiers.py)"""
    wanted = config.option.markexpr
    os.environ[FLAG] = "1" if "exhaustive" in wanted and "not exhaustive" not in wanted else "0"


def pytest_collection() -> None:
    """Importing makes a million objects that live to the end: nothing to look for among them."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``-m exhaustive`` what has two sizes runs too, in its larger one."""
    for item in items if exhaustive() else ():
        if is_hypothesis_test(getattr(item, "obj", None)) or item.get_closest_marker("sized"):
            item.add_marker("exhaustive")


# A server that is told to stop looks at that twice a second; hundreds of tests would wait for it.
socketserver.BaseServer.serve_forever.__defaults__ = (0.02,)

_real_connect = socket.socket.connect
_real_connect_ex = socket.socket.connect_ex


def _is_local(sock: socket.socket, address: Any) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return True
    host = address[0]
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class NetworkBlockedError(AssertionError):
    """A test tried to leave this machine."""


def _connect(self: socket.socket, address: Any) -> None:
    if not _is_local(self, address):
        raise NetworkBlockedError(f"a test tried to connect to {address}")
    _real_connect(self, address)


def _connect_ex(self: socket.socket, address: Any) -> int:
    if not _is_local(self, address):
        raise NetworkBlockedError(f"a test tried to connect to {address}")
    return _real_connect_ex(self, address)


_real_load_verify_locations = ssl.SSLContext.load_verify_locations


def _load_verify_locations(
    self: ssl.SSLContext, cafile: Any = None, capath: Any = None, cadata: Any = None
) -> None:
    """Not certifi's authorities, of which none is met here: 30 ms for each client of httpx."""
    if cafile != certifi.where():
        _real_load_verify_locations(self, cafile, capath, cadata)


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not any(mark.name.startswith("live_") for mark in request.node.iter_markers()):
        monkeypatch.setattr(socket.socket, "connect", _connect)
        monkeypatch.setattr(socket.socket, "connect_ex", _connect_ex)
        monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", _load_verify_locations)


@pytest.fixture(autouse=True, scope="session")
def kernels_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home for the compiled kernels of all tests' own processes: every test's is empty."""
    folder = shared_folder(tmp_path_factory) / "kernels-home"
    with mock.patch("llama_hub.kernels.home", return_value=folder):
        yield folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ``LLAMA_HUB_HOME``, and none of the user's own settings."""
    for name in list(os.environ):
        if name.startswith("LLAMA_HUB_") or name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("LLAMA_HUB_HOME", str(folder))
    return folder

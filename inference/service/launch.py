"""A service in a process of its own: started, ready, and stopped in good order."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llama_hub.child_environment import child_environment
from llama_hub.errors import ExitCode, LlamaHubError, ProvisioningError

STOP_SECONDS = 30  # until a service that was told to stop is killed


@contextmanager
def launched(arguments: Sequence[str], *, api_key: str = "") -> Iterator[dict[str, Any]]:
    """The document that ``llama-hub serve ARGUMENTS --json`` prints when it is ready.

    The service runs while the block does. The key reaches it by its environment, never by its
    arguments. ``LlamaHubError`` with the service's own words and code if it ends before that.
    """
    command = [sys.executable, "-m", "llama_hub", "serve", *arguments, "--json", "--quiet"]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(LLAMA_HUB_API_KEY=api_key),
    )
    try:
        yield _ready_document(child)
    finally:
        _stop(child)


def _ready_document(child: subprocess.Popen[str]) -> dict[str, Any]:
    """One line when it is ready; its own error, over several lines, if it says that instead."""
    assert child.stdout is not None
    line = child.stdout.readline()
    text = line if line.strip() != "{" else line + child.stdout.read()
    try:
        document: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise ProvisioningError(
            "the service ended before it was ready", hint="llama-hub serve MODEL shows why"
        ) from error
    if "error" in document:
        raise its_own(document["error"])
    return document


def its_own(stated: dict[str, Any]) -> LlamaHubError:
    """The child's error as ours, with its exit code."""
    error = LlamaHubError(stated["message"], hint=stated["hint"])
    error.exit_code = ExitCode(stated["code"])
    return error


def _stop(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()

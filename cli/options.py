"""Option types that several commands share, and how a secret is read."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from llama_hub.errors import UsageError
from llama_hub.strict import decode, read_text, text_kind

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors on stderr.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; go ahead.")]
CatalogFile = Annotated[
    Path | None,
    typer.Option("--catalog", help="A further catalogue in TOML.", envvar="LLAMA_HUB_CATALOG"),
]
Region = Annotated[str | None, typer.Option("--region", help="Region of the cloud to look in.")]
At = Annotated[
    list[str] | None,
    typer.Option(
        "--at",
        metavar="KEY=VALUE",
        help="Account, workspace, namespace, profile …: where to look, else where it was deployed.",
    ),
]

SECRET = text_kind(
    "the file with the secret", max_bytes=64 << 10, hint="name a readable file after the @"
)
PIPE_SECONDS = 60


def where(region: str | None, at: list[str] | None) -> dict[str, str]:
    """The place that ``--region`` and ``--at`` name: arguments of a backend's constructor.

    ``UsageError`` for a word that is not KEY=VALUE.
    """
    given = {"region": region} if region else {}
    for word in at or []:
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            raise UsageError(
                f"--at {word!r} is not of the form KEY=VALUE", hint="--at account=123456789012"
            )
        given[key.replace("-", "_")] = value
    return given


def secret(given: str | None, environment: str) -> str | None:
    """A secret from an option's value or the variable ``environment``; ``None`` if neither is set.

    The value may be ``@FILE`` (the file's content) or ``-`` (standard input), so that the secret
    itself need not stand on a command line that other users of the machine can read.
    """
    value = given if given is not None else os.environ.get(environment)
    if value is None or value == "":
        return None
    if value == "-":
        return _checked(sys.stdin.read(SECRET.max_bytes), "standard input")
    if value.startswith("@"):
        path = Path(value[1:]).expanduser()
        return _checked(_from_file(path), str(path))
    return _checked(value, "the option" if given is not None else environment)


def _checked(text: str, origin: str) -> str:
    """The secret without white space around it; ``UsageError`` if no header could carry it."""
    stripped = text.strip()
    if not (stripped.isascii() and stripped.isprintable()):
        raise UsageError(
            f"the secret from {origin} holds characters that no key or token has",
            hint="give one line of ASCII characters",
        )
    return stripped


def _from_file(path: Path) -> str:
    # Of a shell's <(command): there is a writer, who may ask somebody and take a while.
    if path.parent in (Path("/dev/fd"), Path("/proc/self/fd")) and path.is_fifo():
        return decode(_piped(path), path, SECRET)
    return read_text(path, SECRET)


def _piped(path: Path) -> bytes:
    """What comes through a pipe until it ends, if it ends in time and is no more than a secret."""
    import select

    end = time.monotonic() + PIPE_SECONDS
    data = b""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", 0) as pipe:
        while len(data) <= SECRET.max_bytes:
            piece = pipe.read(4096)
            if piece == b"":  # nobody writes any more
                break
            data += piece or b""
            left = max(0.0, end - time.monotonic())
            if piece is None and not select.select([pipe], [], [], left)[0]:
                raise SECRET.invalid(path, f"nothing came through it for {PIPE_SECONDS} seconds")
    return data

"""Option types that several commands share, and how a secret is read."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from llama_hub.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors on stderr.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; go ahead.")]
CatalogFile = Annotated[
    Path | None,
    typer.Option("--catalog", help="A further catalogue in TOML.", envvar="LLAMA_HUB_CATALOG"),
]


def secret(given: str | None, environment: str) -> str | None:
    """A secret from an option's value or the variable ``environment``; ``None`` if neither is set.

    The value may be ``@FILE`` (the file's content) or ``-`` (standard input), so that the secret
    itself need not stand on a command line that other users of the machine can read.
    """
    value = given if given is not None else os.environ.get(environment)
    if value is None or value == "":
        return None
    if value == "-":
        return sys.stdin.read().strip()
    if value.startswith("@"):
        return _from_file(Path(value[1:]).expanduser())
    return value.strip()


def _from_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the secret from {path}: {error}", hint="name a readable file after the @"
        ) from error

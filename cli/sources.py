"""Options that say where bytes come from; shared by ``download`` and ``verify --repair``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from llama_hub.cli import completion
from llama_hub.cli.options import secret
from llama_hub.cli.output import Output
from llama_hub.errors import UsageError
from llama_hub.hub.catalog import SOURCES
from llama_hub.hub.manifest import Format
from llama_hub.hub.sources.resolve import FORMATS, SourceRequest

PANEL = "Where from"

SourceName = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="|".join(SOURCES),
        help="Where from.",
        rich_help_panel=PANEL,
        autocompletion=completion.choices(*SOURCES),
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="Meta's signed URL (@FILE, - for stdin, or LLAMA_HUB_META_URL), or a mirror's base: "
        "https://…, s3://bucket/prefix or a folder.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        help="Hugging Face token: @FILE, - for stdin, HF_TOKEN, or the login of hf.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        "--revision", help="Branch, tag or commit on Hugging Face.", rich_help_panel=PANEL
    ),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="HOST",
        help="Accept a signed URL for this host too; may be repeated.",
        rich_help_panel=PANEL,
    ),
]
FormatName = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="original|hf",
        help="Meta's files or Hugging Face's, where the source has both.",
        rich_help_panel=PANEL,
    ),
]


License = Annotated[
    str | None,
    typer.Option(
        "--license",
        metavar="ID",
        help="The licence of a model that no catalogue lists, where it cannot be told.",
        rich_help_panel="Models outside the catalogue",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="ID",
        help="What a model that no catalogue lists is called in the store.",
        rich_help_panel="Models outside the catalogue",
    ),
]


def stored_format(name: str | None) -> Format | None:
    """The store's name for what a person calls a format; ``UsageError`` for an unknown one."""
    if name is None or name in FORMATS:
        return FORMATS.get(name) if name else None
    raise UsageError(f"there is no format {name!r}", hint="--format original | hf")


def wanted(
    out: Output,
    source: str | None,
    format: str | None,
    url: str | None,
    token: str | None,
    revision: str | None,
    allow_hosts: list[str] | None,
) -> SourceRequest:
    """What the options, the environment and the person say about the source.

    ``UsageError`` for an unknown source.
    """
    if source is not None and source not in SOURCES:
        raise UsageError(f"there is no source {source!r}", hint=f"--source {' | '.join(SOURCES)}")
    from_environment = "LLAMA_HUB_META_URL" if source in (None, "meta") else ""
    return SourceRequest(
        source=source,
        format=stored_format(format),
        url=secret(url, from_environment) if url or from_environment else None,
        token=secret(token, "HF_TOKEN"),
        revision=revision,
        allow_hosts=tuple(allow_hosts or ()),
        ask_url=_asker(out),
    )


def _asker(out: Output) -> Callable[[str], str] | None:
    if not out.interactive:
        return None
    return lambda question: out.ask(question, flag="--url", secret=True)

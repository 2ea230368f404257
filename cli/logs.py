"""``llama-hub logs``: what a deployment prints."""

from __future__ import annotations

from typing import Annotated

import typer

from llama_hub.cli.options import At, Json, Quiet, Region, where
from llama_hub.cli.output import output
from llama_hub.cli.status import BackendName, Name
from llama_hub.errors import UsageError

app = typer.Typer(add_completion=False)


@app.command()
def logs(
    name: Name,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, help="Last lines.")] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow: print lines as they come.")
    ] = False,
    backend: BackendName = None,
    region: Region = None,
    at: At = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What a deployment prints."""
    from llama_hub.backends.lookup import find

    out = output(json, quiet)
    if follow and json:
        raise UsageError("--follow has no end, --json is one document", hint="leave one away")
    lines = find(name, backend, where(region, at)).backend.logs(name, tail=tail, follow=follow)
    if json:
        out.result({"name": name, "lines": list(lines)}, "")
        return
    for line in lines:
        out.stream(f"{line}\n")

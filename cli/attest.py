"""``llama-hub attest``: prove which model a deployment serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama_hub.cli.options import At, Json, Quiet, Region, where
from llama_hub.cli.output import output
from llama_hub.cli.status import BackendName, Name
from llama_hub.errors import ExitCode

app = typer.Typer(add_completion=False)


@app.command()
def attest(
    name: Name,
    backend: BackendName = None,
    region: Region = None,
    at: At = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval", metavar="RECORD", help="Record of eval: is what was scored still served?"
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prove that a deployment serves the expected model; exit 5 if not."""
    from llama_hub.backends.lookup import find
    from llama_hub.cli.plan_view import columns
    from llama_hub.deploy import artifact
    from llama_hub.deploy.attest import attest as collect
    from llama_hub.evaluation.record import read

    out = output(json, quiet)
    scored = None if evaluation is None else read(evaluation)
    attestation = collect(find(name, backend, where(region, at)), name, artifact.find, scored)
    rows = [("ok" if one.ok else "FAILED", one.what, one.evidence) for one in attestation.checks]
    verdict = "proven" if attestation.ok else "NOT proven"
    out.result(
        attestation.to_json(), f"{columns(rows)}\n{name} serves {attestation.expected}: {verdict}"
    )
    if not attestation.ok:
        raise typer.Exit(int(ExitCode.INTEGRITY))

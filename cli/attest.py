"""``llama-hub attest``: prove which model a deployment serves."""

from __future__ import annotations

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
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prove that a deployment serves the expected model; exit 5 if not."""
    from llama_hub.backends.lookup import find
    from llama_hub.cli.plan_view import columns
    from llama_hub.deploy import artifact
    from llama_hub.deploy.attest import attest as collect

    out = output(json, quiet)
    attestation = collect(find(name, backend, where(region, at)), name, artifact.find)
    rows = [("ok" if one.ok else "FAILED", one.what, one.evidence) for one in attestation.checks]
    verdict = "proven" if attestation.ok else "NOT proven"
    out.result(
        attestation.to_json(), f"{columns(rows)}\n{name} serves {attestation.expected}: {verdict}"
    )
    if not attestation.ok:
        raise typer.Exit(int(ExitCode.INTEGRITY))

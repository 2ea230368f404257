"""``llama-hub delete``: remove all that a deployment consists of, and nothing else."""

from __future__ import annotations

from typing import Annotated

import typer

from llama_hub.cli import planned
from llama_hub.cli.deploy import Timeout
from llama_hub.cli.options import Json, Quiet, Yes
from llama_hub.cli.output import output
from llama_hub.cli.status import BackendName, Name

app = typer.Typer(add_completion=False)


@app.command()
def delete(
    name: Name,
    backend: BackendName = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show; exit 9 if it would act.")
    ] = False,
    yes: Yes = False,
    timeout: Timeout = 3600.0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove a deployment and everything that was made for it."""
    from llama_hub.backends.lookup import find
    from llama_hub.deploy.plan import entry

    out = output(json, quiet)
    deployer = find(name, backend)
    made = deployer.plan_delete(name)
    if plan:
        planned.show(out, made)
    gone = planned.carry_out(
        out, deployer, made, question=f"remove {name}?", yes=yes, unasked=True, timeout=timeout
    )
    document = {
        "name": name,
        "backend": made.backend,
        "status": gone.status,
        "deleted": [step.id for step in made.changes],
        "plan": [entry(step) for step in made.steps],
    }
    out.result(document, f"{name} was deleted from {made.backend}")

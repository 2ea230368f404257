"""``llama-hub export``: a saved plan in the platform's own language."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama_hub.cli import completion
from llama_hub.cli.options import Json, Quiet
from llama_hub.cli.output import output
from llama_hub.errors import UsageError

app = typer.Typer(add_completion=False)


@app.command()
def export(
    plan_file: Annotated[
        Path, typer.Argument(metavar="PLAN", help="Made by llama-hub deploy … --out PLAN.")
    ],
    form: Annotated[
        str,
        typer.Argument(
            metavar="FORM",
            help="az-yaml, bicep, score, roles, cloudformation or policies.",
            autocompletion=completion.choices(
                "az-yaml", "bicep", "score", "roles", "cloudformation"
            ),
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a saved plan in the platform's own language: az YAML, Bicep, CloudFormation."""
    from llama_hub.backends.lookup import deployer_at
    from llama_hub.deploy.backend import Exports
    from llama_hub.deploy.plan_file import KIND, read
    from llama_hub.files import write_atomic

    out = output(json, quiet)
    plan = read(plan_file)
    backend = deployer_at(plan.backend, plan.location).backend
    if not isinstance(backend, Exports):
        raise UsageError(f"the backend {plan.backend} has no language of its own to export to")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", hint="name a new folder")
    try:
        files = backend.export(plan.steps, form)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        # Only the platform's own code knows what its bodies hold.
        raise KIND.invalid(
            plan_file, f"its steps are not those of {plan.backend}", "plan"
        ) from error
    for name, text in files.items():
        write_atomic(folder / name, text.encode())
    paths = [str(folder / name) for name in files]
    out.result({"form": form, "files": paths}, "\n".join(paths))

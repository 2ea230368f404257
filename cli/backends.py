"""``llama-hub backends``: where a model can run; their schemas, their conformance."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from llama_hub.cli import completion
from llama_hub.cli.options import Json, Quiet
from llama_hub.cli.output import output
from llama_hub.errors import ExitCode

app = typer.Typer(
    add_completion=False, help="Where a model can run; schemas of specs; the conformance suite."
)

BackendName = Annotated[
    str, typer.Argument(metavar="NAME", help="A backend.", autocompletion=completion.backends)
]


@app.callback(invoke_without_command=True)
def backends(ctx: typer.Context, json: Json = False, quiet: Quiet = False) -> None:
    """Where a model can run; schemas of specs; the conformance suite."""
    if ctx.invoked_subcommand is None:
        _list(json, quiet)


@app.command("list")
def list_(json: Json = False, quiet: Quiet = False) -> None:
    """Every backend, where it comes from, and whether it is set up here."""
    _list(json, quiet)


def _list(json: bool, quiet: bool) -> None:
    from llama_hub.backends import registry
    from llama_hub.cli.plan_view import columns

    out = output(json, quiet)
    found = [_state(name) | {"origin": registry.origin(name)} for name in registry.names()]
    rows = [(one["name"], one["origin"], one["state"]) for one in found]
    out.result({"backends": found}, columns([("NAME", "FROM", "STATE"), *rows]))


def _state(name: str) -> dict[str, Any]:
    from llama_hub.backends import registry

    try:
        ready = registry.get(name).configured()
    except Exception as error:  # a broken backend is one row
        return {"name": name, "configured": False, "state": f"broken: {error}"}
    state = "ready" if ready else f"not set up here; llama-hub doctor {name}"
    if name == "memory":
        state = "a simulation, for tests and first tries: it serves nothing"
    return {"name": name, "configured": ready, "state": state}


@app.command()
def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="With its options.", autocompletion=completion.backends
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """JSON Schema of a deployment spec, for editors."""
    import json as json_format

    from llama_hub.backends import registry
    from llama_hub.deploy.options import json_schema

    out = output(json, quiet)
    document = json_schema(registry.get(name) if name else None)
    out.result(document, json_format.dumps(document, indent=2))


@app.command("test")
def conform(
    name: BackendName,
    model: Annotated[
        str, typer.Option(help="A small model in the local store.")
    ] = "llama-demo-chat",
    deployment: Annotated[str, typer.Option("--name", help="Of the test deployment.")] = "conform",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Keys of the spec.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Crash at one place only.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the conformance suite: deploys, breaks, updates and removes a small model."""
    from llama_hub.backends import registry
    from llama_hub.backends.lookup import deployer_for
    from llama_hub.deploy import artifact, client, reference_core, rollout, spec
    from llama_hub.deploy.conformance import Subject, run

    out = output(json, quiet)
    given = {"name": deployment, "backend": name, "model": model, "context": 256, "concurrency": 2}
    wanted = spec.build(spec.merge(given, spec.from_assignments(set_ or [])))
    deployer_for(wanted)
    folder = artifact.prepare(wanted).folder
    place = rollout.location(wanted, registry.backend_class(name).location)
    with tempfile.TemporaryDirectory() as root:
        subject = Subject(
            make=lambda: registry.get(name, **place),
            spec=wanted,
            artifacts=artifact.find,
            root=Path(root),
            reference=lambda body: client.text_of(
                b"".join(reference_core.answer(folder, body, False))
            ),
            crash_everywhere=not quick,
        )
        report = run(subject, out.status)
    out.result(report.to_json(), report.text())
    if not report.ok:
        raise typer.Exit(int(ExitCode.PROVISIONING))

"""``llama-hub deploy``: show what would be done, then do it."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_hub.cli import completion, planned
from llama_hub.cli.options import Json, Quiet, Yes
from llama_hub.cli.output import Output, output
from llama_hub.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from llama_hub.deploy.backend import Deployed
    from llama_hub.deploy.deployer import Deployer
    from llama_hub.deploy.plan import Plan
    from llama_hub.deploy.spec import DeploymentSpec

app = typer.Typer(add_completion=False)

Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Return when it is ready, or started.")
]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds that one step may take.")]
OnFailure = Annotated[
    str, typer.Option(metavar="remove|keep", help="What to do with a deployment that fails.")
]


@app.command()
def deploy(
    backend: Annotated[
        str | None,
        typer.Argument(help="Where: see llama-hub backends.", autocompletion=completion.backends),
    ] = None,
    model: Annotated[
        str | None,
        typer.Argument(help="Catalogue id or model folder.", autocompletion=completion.catalogued),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Spec in YAML; flags override it.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name; else the model's.")] = None,
    quantization: Annotated[
        str | None, typer.Option("--quantization", "--quantize", metavar="int8|int4")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of prompt and answer.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests that decode together.")] = None,
    replicas: Annotated[
        str | None, typer.Option(metavar="N|MIN-MAX", help="Instances, fixed or a range.")
    ] = None,
    instance: Annotated[str | None, typer.Option(help="Machine type, or auto.")] = None,
    access: Annotated[
        str | None, typer.Option(metavar="private|authenticated|public", help="Who may call it.")
    ] = None,
    region: Annotated[str | None, typer.Option(help="Region of the cloud.")] = None,
    ttl: Annotated[str | None, typer.Option(help="Lifetime such as 90m, 12h, 7d; see gc.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key, a.b=c too.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show; exit 9 if it would act.")
    ] = False,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="Save the plan, change nothing; exit 9 only with --plan."),
    ] = None,
    apply: Annotated[
        Path | None, typer.Option("--apply", help="Do a saved plan, if it still holds.")
    ] = None,
    yes: Yes = False,
    wait: Wait = True,
    timeout: Timeout = 3600.0,
    on_failure: OnFailure = "remove",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a model as an endpoint: here, or in a cloud."""
    out = output(json, quiet)
    if on_failure not in ("remove", "keep"):
        raise UsageError(f"--on-failure {on_failure!r} is neither remove nor keep")
    flags = {
        "backend": backend, "model": model, "name": name,
        "quantization": quantization and quantization.lower(),
        "context": context, "concurrency": concurrency, "instance": instance, "access": access,
        "region": region, "ttl": ttl, **_replicas(replicas),
    }  # fmt: skip
    only_plan = plan or out_file is not None
    if apply is not None:
        deployer, made = _from_plan(apply, flags, file, set_)
    else:
        spec = _spec(flags, file, set_ or [])
        deployer, made = _plan(out, spec, make=not only_plan, save=out_file is not None)
    if only_plan:
        if out_file is not None:
            _save(out, made, out_file)
        planned.show(out, made, judge=plan)
    _apply(out, deployer, made, yes=yes, wait=wait, timeout=timeout, on_failure=on_failure)


def _replicas(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    low, _, high = text.partition("-")
    if not low.isdigit() or (high and not high.isdigit()):
        raise UsageError(f"--replicas {text!r} is neither a number nor a range such as 1-3")
    return {"replicas_min": int(low), "replicas_max": max(1, int(high or low))}


def _spec(flags: dict[str, Any], file: Path | None, assignments: list[str]) -> DeploymentSpec:
    """Defaults of the user, then the file, then flags, then ``--set``."""
    from llama_hub.deploy import config, spec

    given = {key: value for key, value in flags.items() if value is not None}
    if "ttl" in given:
        given["ttl"] = spec.duration(given["ttl"])
    defaults = config.spec_defaults(spec.KEYS)
    loose = [defaults, *([spec.from_file(file)] if file else [])]
    merged = spec.merge(*loose, given, spec.from_assignments(assignments) if assignments else {})
    _require(merged)
    if any(loose) or assignments:
        return spec.build(merged, str(file) if file else "of the deployment")
    return spec.DeploymentSpec(**merged)


def _require(document: dict[str, Any]) -> None:
    """Backend and model must be known; the name may follow from the model."""
    if document.get("backend") and not document.get("model"):
        _check_no_model(str(document["backend"]))
    for key, where in (("backend", "llama-hub backends"), ("model", "llama-hub list")):
        if not document.get(key):
            raise UsageError(
                f"which {key}? None was given",
                hint=f"llama-hub deploy BACKEND MODEL, or -f spec.yaml; {where} shows them",
            )
    document["model"] = _anywhere(document["model"])
    document.setdefault("name", _name_of(str(document["model"])))


def _check_no_model(word: str) -> None:
    """``UsageError`` if the word where a backend belongs is a model."""
    from llama_hub.hub.catalog import load
    from llama_hub.hub.store import Store

    if word in load() or Store().named(word) is not None:
        raise UsageError(
            f"{word} is a model, and the backend comes before it",
            hint=f"llama-hub deploy local {word}",
        )


def _anywhere(model: Any) -> Any:
    """A path that means the same from every folder: the journal keeps it for later runs."""
    from llama_hub.hub.model_id import is_path
    from llama_hub.hub.store import path_of

    return str(path_of(model).absolute()) if isinstance(model, str) and is_path(model) else model


def _name_of(model: str) -> str:
    """A deployment's name from the model's id or path."""
    letters = [one if one.isalnum() else "-" for one in Path(model).name.lower()]
    return "-".join(part for part in "".join(letters).split("-") if part)[:32].rstrip("-")


def _plan(out: Output, spec: DeploymentSpec, *, make: bool, save: bool) -> tuple[Deployer, Plan]:
    """The plan; with ``make`` the served folder is made first, if only the download is here.

    A plan to ``save`` is one to apply, so it needs the model.
    """
    from llama_hub.backends.lookup import deployer_for
    from llama_hub.deploy import artifact

    deployer = deployer_for(spec)
    if not make:
        return deployer, deployer.plan(spec) if save else deployer.preview(spec)
    if not artifact.is_ready(spec):
        with suppress(NotFoundError):  # of a model of which only its files tell the sizes
            deployer.preview(spec)  # what the platform refuses is told before hours of conversion
        with out.progress() as progress:
            artifact.prepare(spec, progress)
    return deployer, deployer.plan(spec)


def _from_plan(
    path: Path, flags: dict[str, Any], file: Path | None, assignments: list[str] | None
) -> tuple[Deployer, Plan]:
    from llama_hub.backends.lookup import deployer_at
    from llama_hub.deploy import plan_file

    if file or assignments or any(value is not None for value in flags.values()):
        raise UsageError("--apply takes everything from the saved plan; give no spec with it")
    saved = plan_file.read(path)
    return deployer_at(saved.backend, saved.location), saved


def _save(out: Output, plan: Plan, path: Path) -> None:
    from llama_hub.deploy.plan_file import write

    write(plan, path)
    out.status(f"saved; llama-hub deploy --apply {path}   does it")


def _apply(out: Output, deployer: Deployer, plan: Plan, *, yes: bool, **options: Any) -> None:
    deployed = planned.carry_out(
        out,
        deployer,
        plan,
        question=_question(plan),
        yes=yes,
        on_interrupt=lambda: after_interrupt(out),
        **options,
    )
    out.result(document(plan, deployed), _summary(plan, deployed))


def _question(plan: Plan) -> str:
    """Asked before money is spent; empty where none is."""
    cost = plan.cost_per_hour
    if not plan.changes or cost is None or cost[1] == 0:
        return ""
    return f"go ahead for up to ${cost[1]:.2f} an hour?"


def after_interrupt(out: Output) -> Any:
    """What the person wants after Ctrl-C; without a terminal all is kept for the next run."""
    if not out.interactive:
        return "keep"
    remove = out.confirm("interrupted; remove what was made so far?", flag="--on-failure")
    return "remove" if remove else "keep"


def document(plan: Plan, deployed: Deployed) -> dict[str, Any]:
    """The JSON document of deploy and rollback."""
    from llama_hub.deploy.plan import costs, entry

    known = {
        "name": deployed.name,
        "backend": deployed.backend,
        "status": deployed.status,
        "url": deployed.url,
        "manifest": plan.manifest or deployed.manifest,
        "receipt": plan.receipt,
        "model": deployed.model,
        "generation": deployed.generation,
        "instance": deployed.instance,
        "replicas": deployed.replicas,
        "changes": len(plan.changes),
        "plan": [entry(step) for step in plan.steps],
    }
    if deployed.detail:
        known["detail"] = deployed.detail
    return known | costs(plan)


def _summary(plan: Plan, deployed: Deployed) -> str:
    done = "unchanged" if not plan.changes else f"{len(plan.changes)} changes done"
    lines = [f"{deployed.name} in {deployed.backend} is {deployed.status}, {done}"]
    if deployed.url:
        lines.append(f"  {deployed.url}")
        lines.append(f"  llama-hub chat {deployed.name}   or   llama-hub logs {deployed.name}")
    return "\n".join(lines)


def deployed_json(one: Deployed) -> dict[str, Any]:
    """A deployment as ps and status print it; optional keys only where they have a value."""
    from llama_hub.deploy.gc import expiry
    from llama_hub.deploy.status import cost_so_far

    end = expiry(one)
    known = dataclasses.asdict(one) | {
        "cost_so_far": cost_so_far(one),
        "expires": f"{end:%Y-%m-%dT%H:%M:%SZ}" if end else None,
    }
    always = ("name", "backend", "status", "url", "manifest", "model", "created")
    return {
        key: value for key, value in known.items() if key in always or value not in (None, "", {})
    }

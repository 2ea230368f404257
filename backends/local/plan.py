"""The desired state of a local deployment, and the steps that lead there. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_hub.backends.local import further_models, held
from llama_hub.backends.local.further_models import FurtherModel
from llama_hub.backends.local.gpus import Assignment, Claim, Gpu
from llama_hub.backends.local.options import LocalOptions
from llama_hub.backends.local.view import DAMAGED
from llama_hub.deploy.backend import Observed, Resource, Step, Target
from llama_hub.deploy.environment import PREFIX, dtype, moderation, tensor_parallel
from llama_hub.errors import NotFoundError, UsageError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def plan(
    target: Target,
    observed: Observed,
    command: Sequence[str],
    service_folder: Path,
    devices: Sequence[Gpu] = (),
    taken: Sequence[Claim] = (),
) -> Sequence[Step]:
    """Address, revision, traffic, and what is no longer needed.

    ``service_folder``: of this deployment; what it serves is held there. ``devices``: the
    accelerators of this machine; ``taken``: what running revisions hold of them.
    """
    options = LocalOptions(**target.spec.options)
    _refuse(target)
    name, generation = target.spec.name, target.generation
    service = observed.find("service", name)
    model = held.place(service_folder, target.artifact.manifest.digest)
    active = str(service.body.get("active", "")) if service else ""
    previous = active
    if service and active == generation:
        previous = str(service.body.get("previous", ""))
    others = further_models.find(target, options)
    dealt = _devices(target, options, observed, devices, taken, others)
    body = _body(target, options, command, model, dealt)
    if others or options.idle_unload:
        body |= _several(target, options, [*command, str(model)], service_folder, others)
    steps = [
        _service(target, options, service),
        _revision(target, observed, body),
        _traffic(target, active, previous),
    ]
    return [*steps, *_retire(name, observed, generation, previous)]


def rollback(name: str, observed: Observed) -> Sequence[Step]:
    """The revision before starts again, and the present one takes its place as the one before.

    ``NotFoundError`` if there is no revision before.
    """
    service = observed.find("service", name)
    previous = str(service.body.get("previous", "")) if service else ""
    old = observed.find("revision", f"{name}-{previous}") if previous else None
    if service is None or old is None:
        raise NotFoundError(f"{name!r} has no earlier revision", hint=f"llama-hub status {name}")
    active = str(service.body["active"])
    start = Step("update", "revision", old.name, "start it again", {"run": True}, long=True)
    body = {"active": previous, "previous": active, "tags": dict(old.tags)}
    switch = Step("update", "traffic", name, f"back from {active}", body, after=(start.id,))
    stop = Step(
        "update", "revision", f"{name}-{active}", "kept for rollback", {"run": False},
        after=(switch.id,),
    )  # fmt: skip
    return [start, switch, stop]


def _refuse(target: Target) -> None:
    spec = target.spec
    if spec.scale_to_zero or spec.replicas_min != spec.replicas_max:
        raise UsageError(
            "a local deployment runs a fixed number of replicas, one or more",
            hint="--replicas 1, without scale_to_zero",
        )


def _service(target: Target, options: LocalOptions, there: Resource | None) -> Step:
    body = {
        "host": options.host,
        "port": options.port,
        "api_key": _needs_key(target, options),
        "tags": target.tags,
    }
    name = target.spec.name
    if there is None or there.state == "deleting":
        return Step("create", "service", name, "there is none", body)
    if there.state == DAMAGED:
        return Step("create", "service", name, "what was wanted cannot be read any more", body)
    differs = [key for key in ("host", "port", "api_key") if there.body.get(key) != body[key]]
    switches = there.body.get("active") != target.generation
    if dict(there.tags) != target.tags and not switches:  # a switch of traffic brings the tags
        differs.append("tags")
    if there.state == "down":
        return Step("update", "service", name, "its supervisor does not run", body)
    if differs:
        return Step("update", "service", name, f"{', '.join(differs)} differ", body)
    return Step("noop", "service", name, "as wanted", body)


def _needs_key(target: Target, options: LocalOptions) -> bool:
    if options.api_key is not None:
        return options.api_key
    return options.host not in LOOPBACK and target.spec.access != "public"


def _revision(target: Target, observed: Observed, body: dict[str, Any]) -> Step:
    name = f"{target.spec.name}-{target.generation}"
    there = observed.find("revision", name)
    after = (f"service/{target.spec.name}",)

    def step(action: Any, why: str) -> Step:
        return Step(action, "revision", name, why, body, after, long=action != "noop")

    if there is None:
        also = f", which also serves {', '.join(body['models'])}" if body["models"] else ""
        return step("create", f"new revision{also}")
    if there.state == "failed":
        return step("replace", "it has failed")
    differs = sorted(key for key in body if key != "tags" and there.body.get(key) != body[key])
    if dict(there.tags) != body["tags"]:
        differs.append("tags")
    if differs:
        return step("update", f"{', '.join(differs)} differ")
    return step("noop", "as wanted") if there.state == "ready" else step("update", "not ready yet")


def _body(
    target: Target,
    options: LocalOptions,
    command: Sequence[str],
    model: Path,
    devices: dict[str, dict[str, str]],
) -> dict[str, Any]:
    spec = target.spec
    return {
        "argv": _argv(target, options, [*command, str(model)]),
        "environment": _environment(target),
        "devices": devices,
        "folder": str(model),
        "instance": target.offer.instance,
        "replicas": spec.replicas_min,
        "drain": options.drain_seconds,
        "run": True,
        "models": {},
        "tags": target.tags,
    }


def _several(
    target: Target,
    options: LocalOptions,
    command: Sequence[str],
    service_folder: Path,
    others: Sequence[FurtherModel],
) -> dict[str, Any]:
    """What differs where there are further models, or one that is unloaded when idle."""
    folders = further_models.places(service_folder, others)
    context = min([target.spec.context, *(each.need.context for each in others)])
    argv = _argv(target, options, [*command, *folders.values()], context)
    if others:  # each has the name of its manifest
        at = argv.index("--served-name")
        del argv[at : at + 2]
    if options.idle_unload:
        argv += ["--idle-unload", options.idle_unload]
    return {"argv": argv, "models": folders}


def _environment(target: Target) -> dict[str, str]:
    policy = moderation(target)
    ours = {} if policy is None else {f"{PREFIX}MODERATION": policy}
    return ours | dict(target.spec.environment)


def _argv(
    target: Target, options: LocalOptions, command: Sequence[str], context: int | None = None
) -> list[str]:
    spec = target.spec
    return [
        *command, "--json",
        "--host", "127.0.0.1", "--port", "0",
        "--engine", options.engine, "--dtype", _dtype(target, options),
        "--device", "cuda" if target.offer.accelerators else "cpu",
        "--tensor-parallel", str(tensor_parallel(target)),
        "--context", str(context or spec.context), "--max-batch", str(spec.concurrency),
        "--served-name", target.artifact.manifest.model,
    ]  # fmt: skip


def _dtype(target: Target, options: LocalOptions) -> str:
    """As the options say, else what the accelerator computes in, else the folder's."""
    return options.dtype if options.dtype != "auto" else dtype(target) or "auto"


def _devices(
    target: Target,
    options: LocalOptions,
    observed: Observed,
    devices: Sequence[Gpu],
    taken: Sequence[Claim],
    others: Sequence[FurtherModel],
) -> dict[str, dict[str, str]]:
    """Which accelerators each replica sees, by its number, and which share of them it takes."""
    spec, each = target.spec, target.offer.accelerators
    if each == 0:
        return {}
    there = observed.find("revision", f"{spec.name}-{target.generation}")
    kept = there.body.get("devices") if there is not None and there.body.get("run") else None
    assignment = Assignment(devices, taken, spec.name, kept)
    needs = [target.need, *(other.need for other in others)]
    unloads = options.idle_unload is not None
    return assignment.deal(spec.replicas_min, each, needs, options.gpus, unloads=unloads)


def _traffic(target: Target, active: str, previous: str) -> Step:
    name, generation = target.spec.name, target.generation
    body: Mapping[str, Any] = {"active": generation, "previous": previous, "tags": target.tags}
    after = (f"revision/{name}-{generation}",)
    if active == generation:
        return Step("noop", "traffic", name, "goes there already", body, after)
    why = f"from {active}" if active else "first revision"
    return Step("update" if active else "create", "traffic", name, why, body, after)


def _retire(name: str, observed: Observed, generation: str, previous: str) -> list[Step]:
    """Stop the revision before, delete older ones."""
    steps = []
    after = (f"traffic/{name}",)
    for one in observed.all("revision"):
        known = one.name.rsplit("-", 1)[1]
        if known not in (generation, previous):
            steps.append(Step("delete", one.kind, one.name, "no longer needed", after=after))
        elif known == previous and one.body.get("run"):
            steps.append(
                Step("update", one.kind, one.name, "kept for rollback", {"run": False}, after)
            )
    return steps

"""A plan in the platform's own languages: ``az ml`` YAML, Bicep, the stock server's files, roles.

What is exported is what would be sent: the tests load the YAML with the SDK's
loader and get the bodies of the plan back.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from typing import Any
from urllib.parse import urlsplit

from llama_hub.backends.azure import images, permissions
from llama_hub.backends.azure.bodies import DATASTORE, context_digest
from llama_hub.backends.azure.options import Options
from llama_hub.backends.azure.values import seconds
from llama_hub.deploy.backend import Step
from llama_hub.deploy.image import requirements, sources
from llama_hub.errors import UsageError
from llama_hub.hub.manifest import canonical

SCHEMAS = "https://azuremlschemas.azureedge.net/latest"
API = {  # versions in which the bodies of a plan are written
    "endpoint": "2023-04-01",
    "deployment": "2023-04-01",
    "model": "2023-04-01",
    "environment": "2023-04-01",
    "autoscale": "2022-10-01",
}
WORKSPACES = "Microsoft.MachineLearningServices/workspaces"
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
STOCK_IMAGE = "mcr.microsoft.com/azureml/minimal-ubuntu22.04-py311-cpu-inference:latest"

Files = dict[str, str]


def files(steps: Sequence[Step], form: str) -> Files:
    """File name → text; ``UsageError`` for an unknown form."""
    makers: dict[str, Callable[[Mapping[str, Step]], Files]] = {
        "az-yaml": az_yaml,
        "bicep": bicep,
        "score": score,
        "roles": roles,
    }
    if form not in makers:
        raise UsageError(f"azure exports {', '.join(makers)}; {form!r} is none of them")
    wanted = {"model", "environment", "endpoint", "deployment", "autoscale"}
    return makers[form](
        {
            step.kind: step
            for step in steps
            if step.kind in wanted and step.action != "delete" and "properties" in step.body
        }
    )


# --- az ml ------------------------------------------------------------------------------


def az_yaml(steps: Mapping[str, Step]) -> Files:
    """One file for each resource, and ``deploy.sh`` with the commands that take them."""
    makers = {
        "model": _model_yaml,
        "environment": _environment_yaml,
        "endpoint": _endpoint_yaml,
        "deployment": _deployment_yaml,
    }
    made = {
        f"{kind}.yml": _yaml(make(steps[kind])) for kind, make in makers.items() if kind in steps
    }
    return made | _vllm_context(steps) | {"deploy.sh": _commands(steps)}


def _vllm_context(steps: Mapping[str, Step]) -> Files:
    """The three lines that vLLM's image is built from, where they are those on the official one."""
    context = images.vllm_context(Options.model_validate({"run": "vllm"}))
    build = _build(steps)
    if build is None or not build.prefix.rstrip("/").endswith(context_digest(context)):
        return {}
    return {f"context/{name}": content.decode() for name, content in context.items()}


@dataclass(frozen=True)
class _Build:
    """Where a build context has to be in storage."""

    account: str
    container: str
    prefix: str


def _build(steps: Mapping[str, Step]) -> _Build | None:
    properties = steps["environment"].body["properties"] if "environment" in steps else {}
    if "build" not in properties:
        return None
    url = urlsplit(properties["build"]["contextUri"])
    container, _, prefix = url.path.lstrip("/").partition("/")
    return _Build(str(url.hostname).partition(".")[0], container, prefix)


def _yaml(document: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True))


def _versioned(step: Step) -> dict[str, str]:
    name, _, version = step.name.partition(":")
    return {"name": name, "version": version}


def _model_yaml(step: Step) -> dict[str, Any]:
    properties = step.body["properties"]
    return {
        "$schema": f"{SCHEMAS}/model.schema.json",
        **_versioned(step),
        "type": properties["modelType"],
        "path": properties["modelUri"],
        "description": properties["description"],
        "tags": dict(properties["tags"]),
    }


def _environment_yaml(step: Step) -> dict[str, Any]:
    properties, routes = step.body["properties"], step.body["properties"]["inferenceConfig"]
    build = properties.get("build")
    source = (
        {"build": {"path": build["contextUri"], "dockerfile_path": build["dockerfilePath"]}}
        if build
        else {"image": properties["image"]}
    )
    return {
        "$schema": f"{SCHEMAS}/environment.schema.json",
        **_versioned(step),
        **source,
        "tags": dict(properties["tags"]),
        "inference_config": {
            "liveness_route": dict(routes["livenessRoute"]),
            "readiness_route": dict(routes["readinessRoute"]),
            "scoring_route": dict(routes["scoringRoute"]),
        },
    }


def _endpoint_yaml(step: Step) -> dict[str, Any]:
    properties, given = step.body["properties"], step.body["identity"].get("userAssignedIdentities")
    identity: dict[str, Any] = {"type": "user_assigned" if given else "system_assigned"}
    if given:
        identity["user_assigned_identities"] = [{"resource_id": id_} for id_ in given]
    return {
        "$schema": f"{SCHEMAS}/managedOnlineEndpoint.schema.json",
        "name": step.name,
        "description": properties["description"],
        "auth_mode": {"Key": "key", "AADToken": "aad_token"}[properties["authMode"]],
        "public_network_access": properties["publicNetworkAccess"].lower(),
        "identity": identity,
        "tags": dict(step.body["tags"]),
    }


def _deployment_yaml(step: Step) -> dict[str, Any]:
    endpoint, _, name = step.name.partition("/")
    properties, requests = step.body["properties"], step.body["properties"]["requestSettings"]
    return {
        "$schema": f"{SCHEMAS}/managedOnlineDeployment.schema.json",
        "name": name,
        "endpoint_name": endpoint,
        "model": _reference(properties["model"]),
        "environment": _reference(properties["environmentId"]),
        "instance_type": properties["instanceType"],
        "instance_count": step.body["sku"]["capacity"],
        "environment_variables": dict(properties["environmentVariables"]),
        "app_insights_enabled": properties["appInsightsEnabled"],
        "request_settings": {
            "request_timeout_ms": int((seconds(requests["requestTimeout"]) or 0) * 1000),
            "max_concurrent_requests_per_instance": requests["maxConcurrentRequestsPerInstance"],
        },
        "liveness_probe": _probe(properties["livenessProbe"]),
        "readiness_probe": _probe(properties["readinessProbe"]),
        "egress_public_network_access": properties["egressPublicNetworkAccess"].lower(),
        "tags": dict(step.body["tags"]),
    }


def _reference(id_: str) -> str:
    _, name, _, version = id_.rsplit("/", 3)
    return f"azureml:{name}:{version}"


def _probe(settings: Mapping[str, Any]) -> dict[str, int]:
    return {
        "failure_threshold": settings["failureThreshold"],
        "success_threshold": settings["successThreshold"],
        "timeout": int(seconds(settings["timeout"]) or 0),
        "period": int(seconds(settings["period"]) or 0),
        "initial_delay": int(seconds(settings["initialDelay"]) or 0),
    }


def _commands(steps: Mapping[str, Step]) -> str:
    endpoint = steps["endpoint"].name if "endpoint" in steps else ""
    lines = [
        "#!/bin/sh",
        "# The same deployment with az ml. The weights have to be in storage already:",
        f"# llama-hub deploy uploads them to the datastore {DATASTORE}.",
        "# Workspace and group: az configure --defaults workspace=… group=…",
        "set -eu",
        *_context_commands(steps),
    ]
    commands = {
        "model": "az ml model create --file model.yml",
        "environment": "az ml environment create --file environment.yml",
        "endpoint": "az ml online-endpoint create --file endpoint.yml",
        "deployment": "az ml online-deployment create --file deployment.yml --all-traffic",
    }
    lines += [command for kind, command in commands.items() if kind in steps]
    lines += _autoscale_commands(steps["autoscale"]) if "autoscale" in steps else []
    return "\n".join(
        [*lines, f"az ml online-endpoint show --name {endpoint} --query scoring_uri", ""]
    )


def _context_commands(steps: Mapping[str, Step]) -> list[str]:
    """What the image is built from has to be where the environment says."""
    build = _build(steps)
    if build is None:
        return []
    lines = ["# What the image is built from:"]
    if _port(steps) == images.CONTRACTS["container"].port:
        lines.append("[ -d context ] || llama-hub image write context")
    elif not _vllm_context(steps):
        lines.append("# context/Dockerfile: three lines on your image, as deploy sends it")
    return [
        *lines,
        f"az storage blob upload-batch --auth-mode login --overwrite --account-name "
        f"{build.account} --destination {build.container} --destination-path "
        f"{shlex.quote(build.prefix)} --source context",
    ]


def _autoscale_commands(step: Step) -> list[str]:
    properties = step.body["properties"]
    (profile,) = properties["profiles"]
    capacity, name = profile["capacity"], shlex.quote(step.name)
    create = (
        f"az monitor autoscale create --name {name} --resource "
        f"{shlex.quote(properties['targetResourceUri'])} --min-count {capacity['minimum']} "
        f"--max-count {capacity['maximum']} --count {capacity['default']}"
    )
    return [create, *(_rule_command(name, rule) for rule in profile["rules"])]


def _rule_command(name: str, rule: Mapping[str, Any]) -> str:
    trigger, action = rule["metricTrigger"], rule["scaleAction"]
    sign = {"GreaterThan": ">", "LessThan": "<"}[trigger["operator"]]
    way = {"Increase": "out", "Decrease": "in"}[action["direction"]]
    window = int((seconds(trigger["timeWindow"]) or 0) // 60)
    condition = f"{trigger['metricName']} {sign} {trigger['threshold']} avg {window}m"
    pause = int((seconds(action["cooldown"]) or 0) // 60)
    return (
        f"az monitor autoscale rule create --autoscale-name {name} --condition "
        f"{shlex.quote(condition)} --scale {way} {action['value']} --cooldown {pause}"
    )


# --- Bicep ------------------------------------------------------------------------------


def bicep(steps: Mapping[str, Step]) -> Files:
    """``main.bicep``: the bodies of the plan as resources of an existing workspace."""
    workspace = next(iter(_ids(steps)), "").partition("/workspaces/")[2].partition("/")[0]
    parts = [
        "// Made by llama-hub. The weights have to be in storage already, and traffic is routed",
        "// by a second deployment: az ml online-endpoint update --traffic <deployment>=100",
        f"param workspaceName string = {_text(workspace)}",
        f"resource workspace '{WORKSPACES}@2023-04-01' existing = {{\n  name: workspaceName\n}}",
    ]
    makers = {
        "model": lambda step: _asset_bicep(step, "models"),
        "environment": lambda step: _asset_bicep(step, "environments"),
        "endpoint": _endpoint_bicep,
        "deployment": _deployment_bicep,
        "autoscale": _autoscale_bicep,
    }
    parts += [make(steps[kind]) for kind, make in makers.items() if kind in steps]
    return {"main.bicep": "\n\n".join(parts) + "\n"}


def _ids(steps: Mapping[str, Step]) -> list[str]:
    found = steps.get("deployment")
    return [str(found.body["properties"]["model"])] if found else []


def _asset_bicep(step: Step, kind: str) -> str:
    name, _, version = step.name.partition(":")
    type_ = f"{WORKSPACES}/{kind}"
    container = (
        f"resource {kind}Container '{type_}@{API[step.kind]}' = {{\n"
        f"  parent: workspace\n  name: {_text(name)}\n  properties: {{}}\n}}"
    )
    inner = {"name": version} | dict(step.body)
    return f"{container}\n\n" + _resource(
        step.kind, f"{type_}/versions@{API[step.kind]}", f"{kind}Container", inner
    )


def _endpoint_bicep(step: Step) -> str:
    """Without traffic: a template may not route to a deployment that it makes later."""
    properties = {**step.body["properties"], "traffic": {}, "mirrorTraffic": {}}
    inner = {"name": step.name} | {**step.body, "properties": properties}
    type_ = f"{WORKSPACES}/onlineEndpoints@{API[step.kind]}"
    return _resource("endpoint", type_, "workspace", inner)


def _deployment_bicep(step: Step) -> str:
    inner = {"name": step.name.partition("/")[2]} | dict(step.body)
    type_ = (
        f"Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments@{API[step.kind]}"
    )
    return _resource("deployment", type_, "endpoint", inner, after=("model", "environment"))


def _autoscale_bicep(step: Step) -> str:
    inner = {"name": step.name} | dict(step.body)
    type_ = f"Microsoft.Insights/autoscalesettings@{API[step.kind]}"
    return _resource("autoscale", type_, None, inner, after=("deployment",))


def _resource(
    symbol: str,
    type_: str,
    parent: str | None,
    body: Mapping[str, Any],
    after: Sequence[str] = (),
) -> str:
    lines = [f"resource {symbol} '{type_}' = {{"]
    lines += [f"  parent: {parent}"] if parent else []
    lines += [f"  {_key(key)}: {_value(value, 1)}" for key, value in body.items()]
    lines += ["  dependsOn: [", *(f"    {name}" for name in after), "  ]"] if after else []
    return "\n".join([*lines, "}"])


def _value(value: Any, depth: int) -> str:
    """A JSON value in Bicep's notation."""
    pad = "  " * (depth + 1)
    if isinstance(value, Mapping):
        inner = [f"{pad}{_key(key)}: {_value(item, depth + 1)}" for key, item in value.items()]
        return "\n".join(["{", *inner, "  " * depth + "}"]) if inner else "{}"
    if isinstance(value, list):
        inner = [f"{pad}{_value(item, depth + 1)}" for item in value]
        return "\n".join(["[", *inner, "  " * depth + "]"]) if inner else "[]"
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _key(key: str) -> str:
    return key if _WORD.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
    return "'" + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + "'"


# --- permissions ------------------------------------------------------------------------


def roles(steps: Mapping[str, Step]) -> Files:
    """The least that the caller and the endpoint's identity need, and the commands that give it."""
    scope = next(iter(_ids(steps)), "").partition("/providers/")[0]
    name = f"llama-hub {steps['endpoint'].name}" if "endpoint" in steps else "llama-hub"
    role = permissions.caller_role(name, [scope], scale="autoscale" in steps)
    lines = [
        "#!/bin/sh",
        "# CALLER: object id of who deploys. IDENTITY, REGISTRY, STORAGE: the endpoint's identity",
        "# and the ids of the workspace's registry and storage account; an identity that the",
        "# endpoint gets of its own has these roles from the service.",
        "set -eu",
        "az role definition create --role-definition @caller-role.json",
        f'az role assignment create --role {shlex.quote(name)} --assignee "$CALLER" '
        f"--scope {shlex.quote(scope)}",
        'if [ -n "${IDENTITY:-}" ]; then',
        *(
            f"  az role assignment create --role {shlex.quote(role_name)} "
            f'--assignee "$IDENTITY" --scope "${variable}"'
            for (role_name, _), variable in zip(
                permissions.WORKLOAD.values(), ("REGISTRY", "STORAGE"), strict=True
            )
        ),
        "fi",
        "",
    ]
    document = json.dumps(role, indent=2) + "\n"
    return {"caller-role.json": document, "assign.sh": "\n".join(lines)}


# --- the stock inference server -----------------------------------------------------------


def score(steps: Mapping[str, Step]) -> Files:
    """``az ml`` YAML for Microsoft's own inference server, with the ``score.py`` it runs.

    ``UsageError`` for a plan with vLLM, which needs no ``score.py``.
    """
    if "environment" in steps and _port(steps) == images.CONTRACTS["vllm"].port:
        raise UsageError(
            "score is for our own service; vLLM needs none of Microsoft's inference server",
            hint="export az-yaml, or --set options.run=container",
        )
    made = az_yaml(steps)
    script = package_files("llama_hub.backends.azure").joinpath("score.py").read_text("utf-8")
    package = {
        f"code/{name}": data.decode() for name, data in sources() if not name.endswith(".so")
    }
    extra = {"code/score.py": script, "conda.yml": _conda()} | package
    if "environment" in steps:
        extra["environment.yml"] = _yaml(
            {
                "$schema": f"{SCHEMAS}/environment.schema.json",
                **_stock_environment(steps["environment"]),
                "image": STOCK_IMAGE,
                "conda_file": "conda.yml",
                "tags": dict(steps["environment"].body["properties"]["tags"]),
            }
        )
    if "deployment" in steps:
        document = _deployment_yaml(steps["deployment"])
        if "environment" in steps:
            named = _stock_environment(steps["environment"])
            document["environment"] = f"azureml:{named['name']}:{named['version']}"
        document["code_configuration"] = {"code": "code", "scoring_script": "score.py"}
        document["environment_variables"] |= {"WORKER_COUNT": "1", "WORKER_TIMEOUT": "0"}
        extra["deployment.yml"] = _yaml(document)
    return made | extra


def _stock_environment(step: Step) -> dict[str, str]:
    """A version of its own: the plan's is another image, and a version never changes."""
    made_from = canonical({"image": STOCK_IMAGE, "conda": _conda()})
    name = step.name.partition(":")[0]
    return {"name": name, "version": hashlib.sha256(made_from).hexdigest()[:16]}


def _port(steps: Mapping[str, Step]) -> int:
    routes = steps["environment"].body["properties"]["inferenceConfig"]
    return int(routes["scoringRoute"]["port"])


def _conda() -> str:
    """What the package beside ``score.py`` needs; the package itself comes along as files."""
    return _yaml(
        {
            "name": "llama-hub",
            "channels": ["conda-forge"],
            "dependencies": [
                "python=3.11",
                "pip",
                {"pip": ["azureml-inference-server-http", *requirements()]},
            ],
        }
    )

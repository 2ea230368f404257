"""The bodies of a plan as the SDK's entities, each made fresh.

An entity that was read must never be written back: it has lost fields, and holds
others that are the service's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_hub.backends.azure.values import seconds


def model_entity(name: str, body: Mapping[str, Any]) -> Any:
    """``Model`` for ``name:version``."""
    from azure.ai.ml.entities import Model

    properties = body["properties"]
    base, _, version = name.partition(":")
    return Model(
        name=base,
        version=version,
        path=properties["modelUri"],
        type=properties["modelType"],
        description=properties["description"],
        tags=dict(properties["tags"]),
        properties=dict(properties["properties"]),
    )


def endpoint_entity(name: str, body: Mapping[str, Any]) -> Any:
    """``ManagedOnlineEndpoint`` called ``name``."""
    from azure.ai.ml.entities import (
        IdentityConfiguration,
        ManagedIdentityConfiguration,
        ManagedOnlineEndpoint,
    )

    properties, given = body["properties"], body["identity"].get("userAssignedIdentities")
    identity = IdentityConfiguration(
        type="user_assigned" if given else "system_assigned",
        user_assigned_identities=[ManagedIdentityConfiguration(resource_id=id_) for id_ in given]
        if given
        else None,
    )
    return ManagedOnlineEndpoint(
        name=name,
        description=properties["description"],
        tags=dict(body["tags"]),
        auth_mode={"Key": "key", "AADToken": "aad_token"}[properties["authMode"]],
        public_network_access=properties["publicNetworkAccess"],
        identity=identity,
        traffic=dict(properties["traffic"]),
        mirror_traffic=dict(properties["mirrorTraffic"]),
    )


def deployment_entity(name: str, body: Mapping[str, Any]) -> Any:
    """``ManagedOnlineDeployment`` for ``endpoint/deployment``."""
    from azure.ai.ml.entities import ManagedOnlineDeployment, OnlineRequestSettings, ProbeSettings

    def probe(settings: Mapping[str, Any]) -> Any:
        return ProbeSettings(
            failure_threshold=settings["failureThreshold"],
            success_threshold=settings["successThreshold"],
            timeout=int(seconds(settings["timeout"]) or 0),
            period=int(seconds(settings["period"]) or 0),
            initial_delay=int(seconds(settings["initialDelay"]) or 0),
        )

    endpoint, _, deployment = name.partition("/")
    properties, requests = body["properties"], body["properties"]["requestSettings"]
    return ManagedOnlineDeployment(
        name=deployment,
        endpoint_name=endpoint,
        tags=dict(body["tags"]),
        model=properties["model"],
        environment=properties["environmentId"],
        environment_variables=dict(properties["environmentVariables"]),
        app_insights_enabled=properties["appInsightsEnabled"],
        instance_type=properties["instanceType"],
        instance_count=body["sku"]["capacity"],
        request_settings=OnlineRequestSettings(
            max_concurrent_requests_per_instance=requests["maxConcurrentRequestsPerInstance"],
            request_timeout_ms=int((seconds(requests["requestTimeout"]) or 0) * 1000),
        ),
        liveness_probe=probe(properties["livenessProbe"]),
        readiness_probe=probe(properties["readinessProbe"]),
        egress_public_network_access=properties["egressPublicNetworkAccess"],
    )


def environment_entity(name: str, body: Mapping[str, Any]) -> Any:
    """``Environment`` for ``name:version``."""
    from azure.ai.ml.entities import BuildContext, Environment

    properties = body["properties"]
    build, routes = properties.get("build"), properties["inferenceConfig"]
    base, _, version = name.partition(":")
    return Environment(
        name=base,
        version=version,
        image=properties.get("image"),
        build=BuildContext(path=build["contextUri"], dockerfile_path=build["dockerfilePath"])
        if build
        else None,
        tags=dict(properties["tags"]),
        inference_config={
            "liveness_route": routes["livenessRoute"],
            "readiness_route": routes["readinessRoute"],
            "scoring_route": routes["scoringRoute"],
        },
    )

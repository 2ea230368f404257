"""Asking an endpoint: at once, as a stream, or through the queue of an asynchronous one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from llama_hub import sse
from llama_hub.backends.sagemaker import bodies
from llama_hub.backends.sagemaker.client import translated
from llama_hub.backends.sagemaker.inventory import Inventory
from llama_hub.backends.sagemaker.status import has_model
from llama_hub.deploy.backend import Resource
from llama_hub.deploy.waiting import wait_for
from llama_hub.errors import ProvisioningError, UsageError
from llama_hub.hub.transfer.bounded_aws import read_body

MOST_BYTES = 6_291_456  # of a request
ASYNC_WAIT = 3700.0  # seconds; SageMaker gives an asynchronous request an hour
LOOK = 2.0
JSON = "application/json"


def invoke(
    inventory: Inventory, endpoint: Resource, body: Mapping[str, Any], *, stream: bool
) -> Iterator[bytes]:
    """The answer to an OpenAI-style body; in whole lines where it streams.

    ``UsageError`` for a larger request than SageMaker takes.
    """
    content = json.dumps(body).encode()
    if "AsyncInferenceConfig" in endpoint.body["config"]:
        yield _queued(inventory, endpoint, content)
        return
    if len(content) > MOST_BYTES:
        raise UsageError(
            f"the request has {len(content)} bytes; SageMaker takes {MOST_BYTES}",
            hint="shorten it, or deploy with --set options.asynchronous=true",
        )
    request = _request(inventory, endpoint, content)
    if not stream:
        answer = inventory.aws.call("sagemaker-runtime", "invoke_endpoint", **request)
        with translated("read an answer"):
            yield read_body(answer["Body"])
        return
    for line in sse.whole_lines(_streamed(inventory, request)):
        yield line + b"\n"


def _request(inventory: Inventory, endpoint: Resource, content: bytes) -> dict[str, Any]:
    known = {"EndpointName": endpoint.name, "ContentType": JSON, "Body": content}
    if has_model(endpoint):
        return known
    serving = [one for one in inventory.components(endpoint.name) if one.state == "InService"]
    if not serving:
        raise ProvisioningError(
            f"{endpoint.name} has no component that is in service", hint="llama-hub status"
        )
    return known | {"InferenceComponentName": serving[0].name}


def _streamed(inventory: Inventory, request: Mapping[str, Any]) -> Iterator[bytes]:
    """The bytes of the parts; an exception in the stream becomes an error."""
    operation = "invoke_endpoint_with_response_stream"
    answer = inventory.aws.call("sagemaker-runtime", operation, **request)
    with translated("stream an answer"):
        for event in answer["Body"]:
            yield bytes(event.get("PayloadPart", {}).get("Bytes", b""))


def _queued(inventory: Inventory, endpoint: Resource, content: bytes) -> bytes:
    """Question into S3, into the queue, answer from S3; both objects are removed."""
    bucket = inventory.bucket
    key = f"{bodies.async_prefix(endpoint.name)}in/{uuid.uuid4().hex}.json"
    bucket.put(key, content)
    answer = inventory.aws.call(
        "sagemaker-runtime",
        "invoke_endpoint_async",
        EndpointName=endpoint.name,
        ContentType=JSON,
        InputLocation=f"s3://{bucket.name}/{key}",
    )
    places = [
        _key(answer[name]) for name in ("OutputLocation", "FailureLocation") if name in answer
    ]
    try:
        found = wait_for(
            lambda: next((place for place in places if bucket.head(place) is not None), None),
            f"the answer of {endpoint.name}",
            timeout=ASYNC_WAIT,
            every=LOOK,
            sleep=inventory.aws.sleep,
        )
        said = bucket.read(found)
    finally:
        for one in (key, *places):
            bucket.delete(one)
    if found != places[0]:
        raise ProvisioningError(f"{endpoint.name} could not answer: {said[:500]!r}")
    return said


def _key(location: str) -> str:
    return location.removeprefix("s3://").partition("/")[2]

"""Calling a scoring URL: our own HTTP, because the SDK's ``invoke`` leaks its headers.

The platform answers 424 for whatever the container answers but 200, with the
container's status beside it; this puts the container's answer back in view.
Streamed answers are passed on as they arrive, if the platform lets them through.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from llama_hub import retry_after
from llama_hub.deploy.waiting import persist
from llama_hub.errors import (
    AccessError,
    LlamaHubError,
    PlatformUnreachableError,
    ProvisioningError,
    TransientError,
    UsageError,
)
from llama_hub.hub.transfer import bounded_httpx

if TYPE_CHECKING:
    import httpx

BY_NAME = "azureml-model-deployment"  # header that names a deployment, whatever its traffic
TIMEOUT = 190.0  # seconds; the platform gives up after 180
RETRIES = 4  # at a busy endpoint


def call(
    url: str,
    headers: Mapping[str, str],
    body: Mapping[str, Any],
    *,
    stream: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[bytes]:
    """POST ``body``; yields the answer whole, or in pieces as they come; tries again if busy."""
    with ExitStack() as stack:
        response = persist(
            lambda: stack.enter_context(_answer(url, headers, body)), retries=RETRIES, sleep=sleep
        )
        yield from response.iter_raw() if stream else [response.read()]


@contextmanager
def _answer(
    url: str, headers: Mapping[str, str], body: Mapping[str, Any]
) -> Iterator[httpx.Response]:
    import httpx

    try:
        with (
            bounded_httpx.client(timeout=TIMEOUT) as client,
            client.stream("POST", url, headers=dict(headers), json=body) as response,
        ):
            if response.status_code != 200:
                response.read()
                raise refusal(response.status_code, response.headers, response.text)
            yield response
    except httpx.ConnectError as error:
        raise PlatformUnreachableError(
            f"{url} cannot be reached: {error}",
            hint="an endpoint with network=private answers only inside the workspace's network",
        ) from error
    except httpx.HTTPError as error:
        raise ProvisioningError(
            f"{url} did not finish its answer: {error}",
            hint="the platform cuts off after request_timeout; ask for fewer max_tokens",
        ) from error


def refusal(status: int, headers: Mapping[str, str], text: str) -> LlamaHubError:
    """The error for an answer that is not 200."""
    if status in (401, 403):
        return AccessError(
            f"the endpoint refuses the call (HTTP {status}): {text[:200]}",
            hint="with a token (auth: aad) you need Microsoft.MachineLearningServices/workspaces/"
            "onlineEndpoints/score/action, which the role 'AzureML Data Scientist' on the endpoint "
            "or the workspace has; a key may have been regenerated just now: run it again",
        )
    if status == 424:
        return _of_container(headers, text)
    if status == 408:
        return _too_slow("the platform cut the answer off")
    if status in (429, 502, 503, 504):
        return TransientError(
            f"the endpoint is busy (HTTP {status})",
            hint="llama-hub deploy with more replicas or concurrency",
            retry_after=retry_after.seconds(headers),
        )
    if status == 404:
        return ProvisioningError(
            "no deployment behind the endpoint takes requests (HTTP 404)",
            hint="llama-hub status shows the traffic; deploy again to route it",
        )
    return ProvisioningError(f"the endpoint answers HTTP {status}: {text[:200]}")


def _of_container(headers: Mapping[str, str], text: str) -> LlamaHubError:
    inner = headers.get("ms-azureml-model-error-statuscode", "unknown")
    said = _message(text) or headers.get("ms-azureml-model-error-reason", "")
    if inner == "408":
        return _too_slow("the model did not answer in time")
    if inner in ("429", "503"):
        return TransientError(f"the model is busy or loading (HTTP {inner}): {said}")
    if inner.startswith("4"):
        return UsageError(f"the model refuses the request (HTTP {inner}): {said}")
    return ProvisioningError(
        f"the model failed (HTTP {inner}): {said}", hint="llama-hub logs shows its last lines"
    )


def _too_slow(what: str) -> LlamaHubError:
    """Not busy: the instance goes on computing, so a second request would wait for the first."""
    return ProvisioningError(
        f"{what} (HTTP 408); the instance goes on computing it",
        hint="ask for fewer max_tokens, or stream; options.request_timeout is at most 180 seconds",
    )


def _message(text: str) -> str:
    try:
        document = json.loads(text)
        return str(document["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]

"""Calls to Azure Resource Manager and Azure ML.

Only this module, ``entities`` and ``storage`` import the SDK, inside their functions.

Writes of models, environments, endpoints and deployments go through the SDK's
own entities. Reads, and the few calls that the SDK has not, go through its
public pipeline: the entities lose fields when they are read (mount path, usage,
machine sizes), and an entity that was read must never be written back.

The SDK prints a dot to stdout for each poll, from a thread of its own; those dots
are dropped, and nothing else is.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO, cast

from llama_hub._version import __version__
from llama_hub.backends.azure.bodies import PROVIDER, WorkspaceScope
from llama_hub.backends.azure.entities import (
    deployment_entity,
    endpoint_entity,
    environment_entity,
    model_entity,
)
from llama_hub.backends.azure.errors import Refusal, explain, login_failed
from llama_hub.errors import (
    LlamaHubError,
    MissingExtraError,
    PlatformUnreachableError,
    ProvisioningError,
)

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.core.credentials import TokenCredential

MANAGEMENT = "https://management.azure.com"
MANAGEMENT_SCOPE = f"{MANAGEMENT}/.default"
SCORING_SCOPE = "https://ml.azure.com/.default"
VERSIONS = {  # API versions of what the SDK does not read or write for us
    "account": "2022-12-01",
    "providers": "2021-04-01",
    "permissions": "2022-04-01",
    "ml": "2023-08-01-preview",
    "online": "2023-04-01-preview",
    "autoscale": "2022-10-01",
}
LOOK = 2.0  # seconds between two looks at an operation
POLLER = "LROPoller"  # how azure-core names its threads
AGENT = f"llama-hub/{__version__}"


class Client:
    """A workspace as its management plane shows it."""

    def __init__(
        self,
        scope: WorkspaceScope,
        *,
        credential: TokenCredential | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.scope = scope
        self.sleep = sleep
        self._given = credential

    # --- who we are ---------------------------------------------------------------

    @cached_property
    def credential(self) -> TokenCredential:
        """Service principal, workload identity, managed identity or ``az login``."""
        if self._given is not None:
            return self._given
        try:
            from azure.identity import DefaultAzureCredential
        except ImportError as error:
            raise MissingExtraError("azure-identity", "azure") from error
        # Its own account of why each way failed goes to the log; ours is one line.
        logging.getLogger("azure.identity").setLevel(logging.CRITICAL)
        return cast(
            "TokenCredential", DefaultAzureCredential(exclude_interactive_browser_credential=True)
        )

    def token(self, scope: str) -> str:
        """A bearer token; ``AccessError`` if nobody gives one."""
        with self._explained("log in"):
            return self.credential.get_token(scope).token

    # --- reading, and what the SDK has no entity for ------------------------------------

    @cached_property
    def _pipeline(self) -> Any:
        try:
            from azure.core.pipeline import policies
            from azure.mgmt.core import ARMPipelineClient
            from azure.mgmt.core.policies import ARMChallengeAuthenticationPolicy
        except ImportError as error:
            raise MissingExtraError("azure-ai-ml", "azure") from error
        return ARMPipelineClient(
            MANAGEMENT,
            transport=transport(self.sleep),
            policies=[
                policies.RequestIdPolicy(),
                policies.UserAgentPolicy(AGENT),
                policies.RetryPolicy(retry_total=3),
                ARMChallengeAuthenticationPolicy(self.credential, MANAGEMENT_SCOPE),
            ],
        )

    def send(
        self,
        method: str,
        path: str,
        version: str,
        body: Mapping[str, Any] | None = None,
        **parameters: str,
    ) -> dict[str, Any] | None:
        """One call below the management host; the document, or ``None`` where it is 404 or 204."""
        with self._explained(f"{method} {path.rpartition('/providers/')[2]}"):
            from azure.core.exceptions import HttpResponseError
            from azure.core.rest import HttpRequest

            request = HttpRequest(
                method,
                self._pipeline.format_url(path),
                params={"api-version": VERSIONS[version]} | parameters,
                json=body,
            )
            response = self._pipeline.send_request(request)
            if response.status_code == 404:
                return None
            if response.status_code >= 400:
                raise HttpResponseError(response=response)
            return cast("dict[str, Any]", response.json()) if response.content else None

    def get(self, path: str, version: str = "online") -> dict[str, Any] | None:
        """What is at ``path``; ``None`` if there is nothing."""
        return self.send("GET", path, version)

    def pages(self, path: str, version: str = "online") -> Iterator[dict[str, Any]]:
        """The entries of a list, over all its pages."""
        more: str | None = path
        while more:
            document = self._page(more, version) or {}
            yield from document.get("value", [])
            more = document.get("nextLink")

    def _page(self, path: str, version: str) -> dict[str, Any] | None:
        if not path.startswith(MANAGEMENT):
            return self.get(path, version)
        # The token goes along: a link that leads elsewhere would otherwise be given it.
        below, _, query = path.removeprefix(MANAGEMENT).partition("?")
        parameters = dict(part.split("=", 1) for part in query.split("&") if "=" in part)
        parameters.pop("api-version", None)
        return self.send("GET", below, version, None, **parameters)

    def workspace(self) -> dict[str, Any] | None:
        """The workspace's own document."""
        return self.get(self.scope.id, "ml")

    def sizes(self, region: str) -> list[dict[str, Any]]:
        """Machine types of a region, with prices."""
        return list(self.pages(f"{self._location(region)}/vmSizes", "ml"))

    def usages(self, region: str) -> list[dict[str, Any]]:
        """Cores in use and allowed, by family."""
        return list(self.pages(f"{self._location(region)}/usages", "ml"))

    def _location(self, region: str) -> str:
        return f"/subscriptions/{self.scope.subscription}/providers/{PROVIDER}/locations/{region}"

    def log(self, deployment: str, container: str, tail: int) -> str:
        """The last lines of ``StorageInitializer`` or ``InferenceServer``, if there are any."""
        path = f"{self.scope.deployment(deployment)}/getLogs"
        found = self.send("POST", path, "online", {"containerType": container, "tail": tail})
        return str((found or {}).get("content") or "")

    def keys(self, endpoint: str) -> str:
        """The endpoint's primary key."""
        path = f"{self.scope.id}/onlineEndpoints/{endpoint}/listKeys"
        return str((self.send("POST", path, "online") or {}).get("primaryKey", ""))

    # --- writing, through the SDK's entities ----------------------------------------------

    @cached_property
    def _sdk(self) -> MLClient:
        try:
            from azure.ai.ml import MLClient
        except ImportError as error:
            raise MissingExtraError("azure-ai-ml", "azure") from error
        for name in ("azure.ai.ml", "azure.ai.ml._utils"):
            logging.getLogger(name).setLevel(logging.ERROR)
        before = os.environ.get("AZUREML_CURRENT_CLOUD")
        try:
            return MLClient(
                self.credential,
                self.scope.subscription,
                self.scope.group,
                self.scope.workspace,
                show_progress=False,
                enable_telemetry=False,
                user_agent=AGENT,
                cloud="AzureCloud",
                transport=transport(self.sleep),
            )
        finally:  # it tells the whole process which cloud it is in
            _restore("AZUREML_CURRENT_CLOUD", before)

    def put_model(self, name: str, body: Mapping[str, Any]) -> None:
        """Register ``name:version``."""
        with self._quiet(f"register the model {name}"):
            self._sdk.models.create_or_update(model_entity(name, body))

    def put_environment(self, name: str, body: Mapping[str, Any]) -> None:
        """Register ``name:version``."""
        with self._quiet(f"register the environment {name}"):
            self._sdk.environments.create_or_update(environment_entity(name, body))

    def put_endpoint(self, name: str, body: Mapping[str, Any]) -> Any:
        """Create or replace an endpoint; the operation's poller."""
        with self._quiet(f"create or update the endpoint {name}"):
            operations = self._sdk.online_endpoints
            return operations.begin_create_or_update(endpoint_entity(name, body))

    def put_deployment(self, name: str, body: Mapping[str, Any]) -> Any:
        """Create or replace ``endpoint/deployment``; the operation's poller."""
        with self._quiet(f"create or update the deployment {name}"):
            operations = self._sdk.online_deployments
            return operations.begin_create_or_update(deployment_entity(name, body))

    def delete_endpoint(self, name: str) -> Any:
        """Remove an endpoint and its deployments; the operation's poller."""
        with self._quiet(f"delete the endpoint {name}"):
            return self._sdk.online_endpoints.begin_delete(name)

    def delete_deployment(self, name: str) -> Any:
        """Remove ``endpoint/deployment``; the operation's poller."""
        endpoint, _, deployment = name.partition("/")
        with self._quiet(f"delete the deployment {name}"):
            return self._sdk.online_deployments.begin_delete(deployment, endpoint)

    def wait(
        self, poller: Any, what: str, timeout: float, look: Callable[[], None] = lambda: None
    ) -> None:
        """Until an operation is over; ``look`` is called now and then; raises if it failed."""
        end = time.monotonic() + timeout
        with self._quiet(what):
            while not poller.done():
                if time.monotonic() > end:
                    raise ProvisioningError(
                        f"{what}: not over after {timeout:.0f} s",
                        hint="run the same command again: it goes on waiting",
                    )
                poller.wait(LOOK)
                look()
            poller.result()

    # --- errors and noise -----------------------------------------------------------------

    @contextmanager
    def _quiet(self, what: str) -> Iterator[None]:
        with self._explained(what), without_dots():
            yield

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except LlamaHubError:
            raise
        except Exception as error:
            raise translated(error, what) from error


def translated(error: Exception, what: str) -> LlamaHubError:
    """Our error for one of the SDK's (or the error itself where it is none of them)."""
    try:
        from azure.core import exceptions as azure
    except ImportError as missing:
        raise MissingExtraError("azure-core", "azure") from missing
    if isinstance(error, ImportError):
        return MissingExtraError("azure-ai-ml", "azure")
    if isinstance(error, azure.ClientAuthenticationError) and error.response is None:
        return login_failed(error.message)
    if isinstance(error, azure.HttpResponseError):
        return explain(_refusal(error), what)
    if isinstance(error, azure.ServiceRequestError | azure.ServiceResponseError):
        return PlatformUnreachableError(
            f"{what}: Azure cannot be reached ({error})", hint="run it again"
        )
    return ProvisioningError(f"{what}: {type(error).__name__}: {error}")


def _refusal(error: Any) -> Refusal:
    response, inner = error.response, error.error
    headers = response.headers if response is not None else {}
    status = error.status_code
    return Refusal(
        # An operation that failed was reported with 200.
        status=None if status is not None and status < 400 else status,
        code=str((inner.code if inner else None) or headers.get("x-ms-error-code") or ""),
        message=str((inner.message if inner else None) or error.message or ""),
        retry_after=_seconds(headers.get("Retry-After")),
    )


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.replace(".", "", 1).isdigit() else None


def transport(sleep: Callable[[float], None]) -> Any:
    """The SDK's own transport, with a sleep that tests can shorten."""
    from azure.core.pipeline.transport import RequestsTransport

    made = RequestsTransport()
    made.sleep = sleep
    return made


class _WithoutDots:
    """A stream that drops what the SDK's polling threads write, and passes on all else."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        if threading.current_thread().name.startswith(POLLER):
            return len(text)
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def without_dots() -> Iterator[None]:
    """While it lasts, and after it while an operation is polled, no dot reaches stdout."""
    if not isinstance(sys.stdout, _WithoutDots):
        sys.stdout = cast("TextIO", _WithoutDots(sys.stdout))
    try:
        yield
    finally:
        polled = any(thread.name.startswith(POLLER) for thread in threading.enumerate())
        if isinstance(sys.stdout, _WithoutDots) and not polled:
            sys.stdout = sys.stdout.stream


def _restore(variable: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value

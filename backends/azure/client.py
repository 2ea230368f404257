"""Calls to Azure Resource Manager and Azure ML.

Only this module and ``storage`` import the SDK, inside their functions.

``azure-ai-ml`` answers what is asked about a workspace: itself, its datastore, keys and logs.
What a plan holds goes to Resource Manager exactly as the plan holds it, through the SDK's own
pipeline and polling: the SDK's entities lose fields on the way in both directions (mount path,
usage, machine sizes, probes).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from llama_hub._version import __version__
from llama_hub.backends.azure.bodies import DATASTORE, PROVIDER, WorkspaceScope
from llama_hub.backends.azure.errors import explain, login_failed, whole
from llama_hub.deploy.cloud_error import ErrorResponse
from llama_hub.deploy.waiting import persist
from llama_hub.errors import (
    LlamaHubError,
    MissingExtraError,
    NotFoundError,
    PlatformUnreachableError,
    ProvisioningError,
)
from llama_hub.hub.transfer.bounded_requests import bounded
from llama_hub.hub.transfer.proxy import certificate_bundle

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.core.credentials import TokenCredential

MANAGEMENT = "https://management.azure.com"
MANAGEMENT_SCOPE = f"{MANAGEMENT}/.default"
SCORING_SCOPE = "https://ml.azure.com/.default"
VERSIONS = {  # API versions; those of PUT bodies are the ones that azure-ai-ml writes in
    "account": "2022-12-01",
    "providers": "2021-04-01",
    "permissions": "2022-04-01",
    "roles": "2022-04-01",
    "identity": "2023-01-31",
    "registry": "2023-07-01",
    "ml": "2023-08-01-preview",
    "online": "2023-04-01-preview",
    "autoscale": "2022-10-01",
    "models": "2023-08-01-preview",
    "environments": "2023-04-01-preview",
    "endpoint": "2022-02-01-preview",
    "deployment": "2023-04-01-preview",
}
RETRIES = 3  # of one call
LOOK = 2.0  # seconds between two looks at an operation
POLL = 5  # seconds between two polls, where the service does not say
AGENT = f"llama-hub/{__version__}"
CLOUD_VARIABLE = "AZUREML_CURRENT_CLOUD"


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
        """Service principal, workload identity, managed identity or ``az login``.

        ``MissingExtraError`` without azure-identity.
        """
        if self._given is not None:
            return self._given
        try:
            from azure.identity import DefaultAzureCredential
        except ImportError as error:
            raise MissingExtraError("azure-identity", "azure") from error
        # Its own account of why each way failed goes to the log; ours is one line.
        logging.getLogger("azure.identity").setLevel(logging.CRITICAL)
        return cast(
            "TokenCredential",
            DefaultAzureCredential(
                exclude_interactive_browser_credential=True,
                connection_verify=_trusted(),
            ),
        )

    def token(self, scope: str) -> str:
        """A bearer token; ``AccessError`` if nobody gives one."""
        with self._explained("log in"):
            return self.credential.get_token(scope).token

    # --- Resource Manager --------------------------------------------------------------

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
        response = self._answer(method, path, version, body, parameters).http_response
        if response.status_code == 404 or not response.content:
            return None
        return cast("dict[str, Any]", response.json())

    def _answer(
        self,
        method: str,
        path: str,
        version: str,
        body: Mapping[str, Any] | None,
        parameters: Mapping[str, str],
    ) -> Any:
        """The pipeline's response, asked for again while Azure is busy; our error if refused."""
        return persist(
            lambda: self._once(method, path, version, body, parameters),
            retries=RETRIES,
            sleep=self.sleep,
        )

    def _once(
        self,
        method: str,
        path: str,
        version: str,
        body: Mapping[str, Any] | None,
        parameters: Mapping[str, str],
    ) -> Any:
        with self._explained(f"{method} {path.rpartition('/providers/')[2]}"):
            from azure.core.exceptions import HttpResponseError
            from azure.core.rest import HttpRequest

            request = HttpRequest(
                method,
                self._pipeline.format_url(path),
                params={"api-version": VERSIONS[version], **parameters},
                json=body,
            )
            answer = self._pipeline.send_request(request, _return_pipeline_response=True)
            response = answer.http_response
            if response.status_code >= 400 and response.status_code != 404:
                raise HttpResponseError(response=response)
            return answer

    def begin(
        self, method: str, path: str, version: str, body: Mapping[str, Any] | None = None
    ) -> Any:
        """Start a long-running operation; its poller for ``wait``, ``None`` if nothing is to do.

        ``HttpResponseError`` for a refusal.
        """
        answer = self._answer(method, path, version, body, {})
        with self._explained(f"{method} {path.rpartition('/providers/')[2]}"):
            from azure.core.exceptions import HttpResponseError
            from azure.core.polling import LROPoller
            from azure.mgmt.core.polling.arm_polling import ARMPolling

            if answer.http_response.status_code == 404:
                if method == "DELETE":
                    return None
                raise HttpResponseError(response=answer.http_response)
            return LROPoller(self._pipeline, answer, lambda last: None, ARMPolling(POLL))

    def wait(
        self, poller: Any, what: str, timeout: float, look: Callable[[], None] = lambda: None
    ) -> None:
        """Until an operation is over; ``look`` is called now and then.

        ``ProvisioningError`` if it takes too long; raises the service's own error if it failed.
        """
        if poller is None:
            return
        end = time.monotonic() + timeout
        with self._explained(what):
            while not poller.done():
                if time.monotonic() > end:
                    raise ProvisioningError(
                        f"{what}: not over after {timeout:.0f} s",
                        hint="run the same command again: it goes on waiting",
                    )
                poller.wait(LOOK)
                look()
            poller.result()

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

    def sizes(self, region: str) -> list[dict[str, Any]]:
        """Machine types of a region, with prices."""
        return list(self.pages(f"{self._location(region)}/vmSizes", "ml"))

    def usages(self, region: str) -> list[dict[str, Any]]:
        """Cores in use and allowed, by family."""
        return list(self.pages(f"{self._location(region)}/usages", "ml"))

    def _location(self, region: str) -> str:
        return f"/subscriptions/{self.scope.subscription}/providers/{PROVIDER}/locations/{region}"

    # --- the workspace, through azure-ai-ml ------------------------------------------------

    @cached_property
    def _sdk(self) -> MLClient:
        try:
            from azure.ai.ml import MLClient
        except ImportError as error:
            raise MissingExtraError("azure-ai-ml", "azure") from error
        for name in ("azure.ai.ml", "azure.ai.ml._utils"):
            logging.getLogger(name).setLevel(logging.ERROR)
        before = os.environ.get(CLOUD_VARIABLE)
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
        finally:  # its constructor tells the whole process which cloud it is in
            os.environ.pop(CLOUD_VARIABLE, None)
            os.environ.update({CLOUD_VARIABLE: before} if before is not None else {})

    def workspace(self) -> Any:
        """The workspace, read once; ``None`` if there is none."""
        return self._workspace

    @cached_property
    def _workspace(self) -> Any:
        return self._found("read the workspace", lambda: self._sdk.workspaces.get())

    def datastore(self) -> Any:
        """The workspace's own blob datastore; ``None`` if there is none."""
        return self._found("read the datastore", lambda: self._sdk.datastores.get(DATASTORE))

    def log(self, deployment: str, container: str, tail: int) -> str:
        """The last lines of ``StorageInitializer`` or ``InferenceServer``, if there are any."""
        endpoint, _, name = deployment.partition("/")
        kind = {"StorageInitializer": "storage-initializer", "InferenceServer": "inference-server"}
        text = self._found(
            f"read the log of {deployment}",
            lambda: self._sdk.online_deployments.get_logs(
                name, endpoint, tail, container_type=kind[container]
            ),
        )
        return "" if text in (None, "None") else str(text)

    def opens(self, endpoint: str, auth_mode: str) -> dict[str, str]:
        """The header that opens an endpoint: its key, or a token that lasts an hour.

        ``NotFoundError`` if there is no such endpoint.
        """
        if auth_mode == "AADToken":
            return {"Authorization": f"Bearer {self.token(SCORING_SCOPE)}"}
        what = f"read the keys of {endpoint}"
        given = self._found(what, lambda: self._sdk.online_endpoints.get_keys(endpoint))
        if given is None:
            raise NotFoundError(f"there is no endpoint {endpoint}", hint="llama-hub ps")
        return {"Authorization": f"Bearer {given.primary_key}"}

    def _found(self, what: str, call: Callable[[], Any]) -> Any:
        """What a reading call of azure-ai-ml gives; ``None`` for what is not there."""

        def once() -> Any:
            with self._explained(what):
                return call()

        with suppress(NotFoundError):
            return persist(once, retries=RETRIES, sleep=self.sleep)
        return None

    # --- errors ----------------------------------------------------------------------------

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except LlamaHubError:
            raise
        except Exception as error:
            raise translated(error, what) from error


def translated(error: Exception, what: str) -> LlamaHubError:
    """Our error for one of the SDK's (or the error itself where it is none of them).

    ``MissingExtraError`` without the SDK.
    """
    try:
        from azure.core import exceptions as azure
    except ImportError as missing:
        raise MissingExtraError("azure-core", "azure") from missing
    if isinstance(error, ImportError):
        return MissingExtraError("azure-ai-ml", "azure")
    if isinstance(error, azure.ClientAuthenticationError) and error.response is None:
        return login_failed(error.message)
    if isinstance(error, azure.HttpResponseError):
        return explain(_response(error), what)
    if isinstance(error, azure.ServiceRequestError | azure.ServiceResponseError):
        return PlatformUnreachableError(
            f"{what}: Azure cannot be reached ({error})", hint="run it again"
        )
    return ProvisioningError(f"{what}: {type(error).__name__}: {error}")


def _response(error: Any) -> ErrorResponse:
    """One of the SDK's errors as plain data."""
    response, inner = error.response, error.error
    headers = dict(response.headers) if response is not None else {}
    status = error.status_code
    return ErrorResponse(
        # An operation that failed was reported with 200.
        status=None if status is not None and status < 400 else status,
        code=str((inner.code if inner else None) or headers.get("x-ms-error-code") or ""),
        message=(whole(inner) if inner else "") or str(error.message or ""),
        headers=headers,
    )


def transport(sleep: Callable[[float], None]) -> Any:
    """The SDK's own transport with bounded answers, and a sleep that tests can shorten."""
    from azure.core.pipeline.transport import RequestsTransport

    made = RequestsTransport(connection_verify=_trusted())
    made.open()
    bounded(made.session)
    made.sleep = sleep
    return made


def _trusted() -> str | bool:
    """requests by itself knows no SSL_CERT_FILE."""
    return certificate_bundle("REQUESTS_CA_BUNDLE") or True

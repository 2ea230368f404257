"""Calls to AWS: the only importer of boto3.

The standard credential chain, a profile, or an assumed role; one attempt per call by botocore,
repeated here for what is transient, so that one place decides about waiting. Operations are named
as in the API's reference; requests are plain data, planned elsewhere.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from llama_hub._version import __version__
from llama_hub.backends.sagemaker.errors import LOGIN, explain
from llama_hub.deploy.cloud_error import ErrorResponse, Explained
from llama_hub.deploy.waiting import persist
from llama_hub.errors import (
    AccessError,
    MissingExtraError,
    NotFoundError,
    PlatformUnreachableError,
    ProvisioningError,
    UsageError,
)
from llama_hub.hub.transfer.bounded_aws import bounded
from llama_hub.hub.transfer.proxy import certificate_bundle

RETRIES = 5  # of a call that AWS was too busy for
CONNECTIONS = 16
MAX_PAGES = 10_000
READ_TIMEOUT = 90  # seconds; SageMaker gives a container 60 and asks clients for 70
GLOBAL_PRICES = "us-east-1"  # where the Pricing API answers


class Aws:
    """One account and region."""

    def __init__(
        self,
        region: str | None = None,
        profile: str | None = None,
        assume_role: str | None = None,
        *,
        account: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``account``: nothing but who calls is asked of any other one."""
        self._wanted = (region, profile, assume_role)
        self._expected = account
        self.sleep = sleep
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()  # boto3 sessions are not for several threads

    # --- who and where ------------------------------------------------------------------

    @cached_property
    def _session(self) -> Any:
        try:
            import boto3
            from botocore.exceptions import BotoCoreError
        except ModuleNotFoundError as error:
            raise MissingExtraError("boto3", "sagemaker") from error
        region, profile, role = self._wanted
        try:
            session = boto3.Session(region_name=region, profile_name=profile)
            return _assumed(session, role, self._config) if role else session
        except BotoCoreError as error:
            raise UsageError(
                f"AWS cannot be set up: {error}", hint="aws configure, or --at profile=NAME"
            ) from error

    @cached_property
    def _config(self) -> Any:
        from botocore.config import Config

        return Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=CONNECTIONS,
            read_timeout=READ_TIMEOUT,
            user_agent_extra=f"llama-hub/{__version__}",
            # Bodies that carry a SHA-256 of their own need no second one in the signature.
            s3={"payload_signing_enabled": False},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )

    @cached_property
    def region(self) -> str:
        """The region; ``UsageError`` if none is set."""
        found = self._session.region_name
        if not found:
            raise UsageError("no AWS region is set", hint="--region us-east-1, or aws configure")
        return str(found)

    def has_credentials(self) -> bool:
        """Whether credentials and a region are set; asks nobody but the local chain."""
        try:
            # The region first: without one the chain, which may ask the EC2 host, is not begun.
            return bool(self._session.region_name) and self._session.get_credentials() is not None
        except Exception:
            return False

    @property
    def profile(self) -> str | None:
        """The profile whose credentials are used; ``None`` for the default or none."""
        set_here = None if os.environ.get("AWS_ACCESS_KEY_ID") else os.environ.get("AWS_PROFILE")
        found = self._wanted[1] or set_here
        return found if found and found != "default" else None

    @property
    def assume_role(self) -> str | None:
        """ARN of the role that is assumed."""
        return self._wanted[2]

    @cached_property
    def identity(self) -> Mapping[str, str]:
        """``Account`` and ``Arn`` of the caller; ``AccessError`` if the account is not the one."""
        found = self.call("sts", "get_caller_identity")
        account, arn = str(found["Account"]), str(found["Arn"])
        if self._expected not in (None, account):
            raise AccessError(
                f"the credentials here are of account {account} ({arn}), "
                f"and this is about account {self._expected}",
                hint=f"take credentials of {self._expected}: AWS_PROFILE=…, or --at profile=…",
            )
        return {"Account": account, "Arn": arn}

    @property
    def account(self) -> str:
        """Twelve digits."""
        return self.identity["Account"]

    @cached_property
    def partition(self) -> str:
        """aws, aws-cn or aws-us-gov."""
        return str(self._session.get_partition_for_region(self.region))

    # --- calls ----------------------------------------------------------------------------

    def client(self, service: str) -> Any:
        """boto3's client for a service."""
        with self._lock:
            if service not in self._clients:
                region = GLOBAL_PRICES if service == "pricing" else None
                self._clients[service] = bounded(
                    self._session.client(
                        service,
                        config=self._config,
                        region_name=region,
                        verify=certificate_bundle("AWS_CA_BUNDLE"),
                    )
                )
            return self._clients[service]

    def call(self, service: str, operation: str, **request: Any) -> dict[str, Any]:
        """One operation, again while AWS is busy; errors are ours, in plain words."""
        found: dict[str, Any] = persist(
            lambda: self.once(service, operation, **request), retries=RETRIES, sleep=self.sleep
        )
        return found

    def once(self, service: str, operation: str, **request: Any) -> dict[str, Any]:
        """One operation, tried once."""
        if self._expected is not None and service != "sts":
            self.identity  # noqa: B018  raises in another account
        if service == "s3" and operation != "create_bucket":
            # Names of buckets can be guessed: a stranger's must never get the weights.
            request = {"ExpectedBucketOwner": self.account} | request
        what = f"{operation.replace('_', ' ')} ({service})"
        with translated(what):
            answer: dict[str, Any] = getattr(self.client(service), operation)(**request)
            return answer

    def find(self, service: str, operation: str, **request: Any) -> dict[str, Any] | None:
        """One reading operation; ``None`` for what is not there."""
        try:
            return self.call(service, operation, **request)
        except NotFoundError:
            return None

    def pages(self, service: str, operation: str, key: str, **request: Any) -> Iterator[Any]:
        """The entries of all pages; ``ProvisioningError`` if they never end."""
        return self._pages(self.call, service, operation, key, request)

    def pages_once(self, service: str, operation: str, key: str, **request: Any) -> Iterator[Any]:
        """The same, where nobody wants to wait while AWS is busy."""
        return self._pages(self.once, service, operation, key, request)

    def _pages(
        self,
        ask: Callable[..., dict[str, Any]],
        service: str,
        operation: str,
        key: str,
        request: Mapping[str, Any],
    ) -> Iterator[Any]:
        token, answered = _TOKENS.get(operation, ("NextToken", "NextToken"))
        asked = dict(request)
        for _ in range(MAX_PAGES):
            answer = ask(service, operation, **asked)
            yield from answer.get(key, [])
            following = answer.get(answered)
            if not following:
                return
            asked[token] = following
        raise ProvisioningError(f"{operation} ({service}) has no last page")


_TOKENS = {  # operation → how a page is asked for, where the answer names it
    "list_objects_v2": ("ContinuationToken", "NextContinuationToken"),
    "list_roles": ("Marker", "Marker"),
    "describe_repositories": ("nextToken", "nextToken"),
    "list_projects": ("nextToken", "nextToken"),
    "list_parts": ("PartNumberMarker", "NextPartNumberMarker"),
}


def translated(what: str) -> Explained:
    """botocore's exceptions as ours."""
    return Explained(translation, what)


def translation(error: Exception, what: str) -> Exception:
    """The error of ours for one of botocore's; any other comes back as it is."""
    from botocore import exceptions as known

    if isinstance(error, known.ClientError):
        return explain(_response(error), what)
    if isinstance(error, known.NoCredentialsError | known.PartialCredentialsError):
        return AccessError("there are no AWS credentials here", hint="aws configure")
    if isinstance(
        error, known.TokenRetrievalError | known.SSOError | known.CredentialRetrievalError
    ):
        return AccessError(f"AWS credentials cannot be had: {error}", hint=LOGIN)
    if isinstance(error, known.HTTPClientError | known.ConnectionError):
        return PlatformUnreachableError(
            f"AWS could not be reached to {what}: {type(error).__name__}"
        )
    if isinstance(error, known.ParamValidationError | known.BotoCoreError):
        return UsageError(f"cannot {what}: {error}")
    return error


def _response(error: Any) -> ErrorResponse:
    answer = error.response
    details = answer.get("Error", {})
    meta = answer.get("ResponseMetadata", {})
    said = answer.get("OriginalMessage")
    told = f"{answer.get('OriginalStatusCode')}: {said}" if said else ""
    return ErrorResponse(
        int(meta.get("HTTPStatusCode", 0)),
        str(details.get("Code", "")),
        told or str(details.get("Message", "") or answer.get("Message", "")),
        meta.get("HTTPHeaders", {}),
    )


def _assumed(session: Any, role: str, config: Any) -> Any:
    """A session whose credentials come from ``role`` and renew themselves."""
    import boto3
    import botocore.session
    from botocore.credentials import (
        AssumeRoleCredentialFetcher,
        DeferredRefreshableCredentials,
    )

    fetcher = AssumeRoleCredentialFetcher(
        client_creator=session._session.create_client,
        source_credentials=session.get_credentials(),
        role_arn=role,
        extra_args={"RoleSessionName": "llama-hub"},
    )
    inner = botocore.session.get_session()
    inner._credentials = DeferredRefreshableCredentials(
        method="assume-role", refresh_using=fetcher.fetch_credentials
    )
    return boto3.Session(botocore_session=inner, region_name=session.region_name)

"""A cloud that does not answer is exit 10 and worth another try, in the words of each library."""

from __future__ import annotations

import socket

import httpx
import pytest

from llama_hub.errors import ExitCode, PlatformUnreachableError, TransientError


def test_it_is_transient_and_not_a_failed_deployment() -> None:
    assert issubclass(PlatformUnreachableError, TransientError)
    assert PlatformUnreachableError("x").exit_code == ExitCode.UNREACHABLE


def test_sagemaker() -> None:
    exceptions = pytest.importorskip("botocore.exceptions")
    from llama_hub.backends.sagemaker.client import translation

    for error in (
        exceptions.EndpointConnectionError(endpoint_url="https://x"),
        exceptions.ConnectTimeoutError(endpoint_url="https://x"),
        exceptions.ReadTimeoutError(endpoint_url="https://x"),
    ):
        assert isinstance(translation(error, "describe x"), PlatformUnreachableError)


def test_azure() -> None:
    exceptions = pytest.importorskip("azure.core.exceptions")
    from llama_hub.backends.azure.client import translated

    for error in (
        exceptions.ServiceRequestError("no route"),
        exceptions.ServiceResponseError("cut off"),
    ):
        assert isinstance(translated(error, "read x"), PlatformUnreachableError)


def test_huggingface() -> None:
    from llama_hub.backends.huggingface.client import Client

    def refuse() -> None:
        raise httpx.ConnectError("refused")

    with pytest.raises(PlatformUnreachableError, match="read x") as caught:
        Client("token", "https://plane")._guarded("read x", refuse)
    assert "HF_HUB_OFFLINE" in caught.value.hint


def test_an_azure_endpoint() -> None:
    from llama_hub.backends.azure import invoke

    with socket.socket() as bound:  # to a port where nobody listens
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/score"
        with pytest.raises(PlatformUnreachableError, match="cannot be reached"):
            list(invoke.call(url, {}, {}, sleep=lambda seconds: None))

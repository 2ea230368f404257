"""The HTTP client: redirects, proxies, certificates, compression, kept connections, secrets."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_hub.backends.azure.client import transport
from llama_hub.backends.sagemaker.client import Aws
from llama_hub.errors import AccessError, LlamaHubError, UsageError
from llama_hub.hub.redaction import plain_url, redact
from llama_hub.hub.sources import s3
from llama_hub.hub.transfer import bounded_httpx
from llama_hub.hub.transfer import proxy as network
from llama_hub.hub.transfer.http import Client, StatusError
from llama_hub.hub.transfer.remote_file import Changed, Transient
from tests.support.http_server import Seen, Server

DATA = bytes(range(256)) * 40


@pytest.fixture
def server() -> Iterator[Server]:
    with Server({"file": DATA}) as running:
        yield running


@pytest.fixture
def client() -> Iterator[Client]:
    with closing(Client(timeout=10)) as made:
        yield made


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in (*network.CERTIFICATE_VARIABLES, "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def read(client: Client, url: str, start: int = 0, stop: int | None = None, **more: Any) -> bytes:
    body = client.open(url, start, stop, **more)
    data, view = bytearray(), memoryview(bytearray(1000))
    try:
        while count := body.readinto(view):
            data += view[:count]
    finally:
        body.close()
    return bytes(data)


def test_ranges(client: Client, server: Server) -> None:
    assert read(client, f"{server.url}/file") == DATA
    assert read(client, f"{server.url}/file", 100, 300) == DATA[100:300]
    assert read(client, f"{server.url}/file", len(DATA)) == b""


def test_a_connection_is_kept_and_a_dead_one_replaced(client: Client, server: Server) -> None:
    ports = []
    server.handler = lambda handler, seen: bool(ports.append(handler.client_address[1]))
    for start in (0, 5, 9):
        read(client, f"{server.url}/file", start)
    assert len(set(ports)) == 1
    [kept] = [c for several in client._kept.values() for c in several]
    assert kept.sock is not None
    kept.sock.shutdown(2)
    assert read(client, f"{server.url}/file") == DATA
    assert len(set(ports)) == 2


@pytest.mark.parametrize(
    ("start", "found"), [(len(DATA) + 1, Changed), (len(DATA) + 1000, Changed)]
)
def test_beyond_the_end_the_file_has_changed(
    client: Client, server: Server, start: int, found: type[Exception]
) -> None:
    with pytest.raises(found):
        client.open(f"{server.url}/file", start, None)


def test_another_etag_means_another_file(client: Client, server: Server) -> None:
    with pytest.raises(Changed):
        client.open(f"{server.url}/file", 5, None, '"other"')


def test_another_range_than_was_asked_for_is_not_taken(client: Client, server: Server) -> None:
    server.fault("file", "shifted")
    with pytest.raises(Transient, match="another range"):
        client.open(f"{server.url}/file", 5, 10)


def test_compression_that_nobody_asked_for_is_refused(client: Client, server: Server) -> None:
    def compress(handler: Any, seen: Seen) -> bool:
        handler.answer(200, b"\x1f\x8b", {"Content-Encoding": "gzip"})
        return True

    server.handler = compress
    with pytest.raises(LlamaHubError, match="compresses"):
        client.open(f"{server.url}/file", 0, None)
    assert server.seen[0].headers["accept-encoding"] == "identity"


# Redirects


def test_the_token_is_dropped_on_the_way_to_another_origin(client: Client, server: Server) -> None:
    with Server({}) as hub:
        hub.fault("a", "status", status=302, headers={"Location": "/b"})
        hub.fault("b", "status", status=302, headers={"Location": f"{server.url}/file?Sig=1"})
        secret = {"Authorization": "Bearer hf_secret00000"}
        assert read(client, f"{hub.url}/a", 3, headers=secret) == DATA[3:]
    assert [seen.headers.get("authorization") for seen in hub.seen] == ["Bearer hf_secret00000"] * 2
    assert "authorization" not in server.seen[0].headers
    assert server.seen[0].range == "bytes=3-"


def test_a_redirect_loop_ends(client: Client, server: Server) -> None:
    server.fault("file", "status", status=307, headers={"Location": "/file"}, times=99)
    with pytest.raises(Transient, match="more than 5 redirects"):
        client.open(f"{server.url}/file", 0, None)


def test_a_redirect_to_another_scheme_is_refused(client: Client, server: Server) -> None:
    server.fault("file", "status", status=302, headers={"Location": "file:///etc/passwd"})
    with pytest.raises(AccessError, match="not secure"):
        client.open(f"{server.url}/file", 0, None)


def test_a_refusal_carries_status_and_text_but_no_secret(client: Client, server: Server) -> None:
    server.fault("file", "status", status=403, data=b"see https://x.example/?Signature=abcdef")
    with pytest.raises(StatusError) as caught:
        client.open(f"{server.url}/file?Signature=topsecret", 0, None)
    assert caught.value.status == 403
    assert "topsecret" not in str(caught.value) + caught.value.place
    assert "abcdef" not in caught.value.text


# Where the network is


def test_nobody_listening_is_worth_few_tries(client: Client) -> None:
    with Server({}) as server:
        gone = server.url
    with pytest.raises(Transient, match="cannot be reached") as caught:
        client.open(f"{gone}/file", 0, None)
    assert caught.value.tries == 3


def test_plain_http_goes_through_the_proxy(
    client: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server({"file": DATA}) as proxy:
        address = proxy.url.replace("http://", "http://ada:se%20cret@")
        monkeypatch.setenv("HTTP_PROXY", address)
        monkeypatch.setenv("http_proxy", address)
        read(client, "http://mirror.example/file?x=1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert read(client, f"{server.url}/file") == DATA
    assert len(proxy.seen) == 1
    assert proxy.seen[0].headers["host"] == "mirror.example"
    assert proxy.seen[0].headers["proxy-authorization"] == "Basic YWRhOnNlIGNyZXQ="


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "https://127.0.0.1:3128"])
def test_a_proxy_of_another_kind_is_named(
    client: Client, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(UsageError, match="is not an http:// proxy") as caught:
        client.open("http://mirror.example/file", 0, None)
    assert "NO_PROXY=mirror.example" in caught.value.hint


def test_a_user_in_the_url_becomes_basic_authorization(client: Client, server: Server) -> None:
    read(client, server.url.replace("http://", "http://ada:secret@") + "/file")
    assert server.seen[0].headers["authorization"] == "Basic YWRhOnNlY3JldA=="


@pytest.mark.parametrize(
    "url", ["ftp://x.example/", "http://", "http://x.example/a b", "http://x:y/"]
)
def test_what_is_no_url_is_a_usage_error_without_the_url(client: Client, url: str) -> None:
    with pytest.raises(UsageError, match="not a usable"):
        client.open(url + "?Signature=topsecret", 0, None)


def test_the_companys_certificates_are_taken_from_the_environment(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = _certificate(tmp_path)
    with Server({"file": DATA}) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
        url = server.url.replace("http:", "https:") + "/file"
        with pytest.raises(AccessError, match="cannot be trusted") as caught:
            client.open(url, 0, None)
        assert "SSL_CERT_FILE" in caught.value.hint
        for variable in network.CERTIFICATE_VARIABLES:
            with monkeypatch.context() as patch:
                patch.setenv(variable, str(pem))
                patch.setenv("AWS_ACCESS_KEY_ID", "x")  # so that nobody asks the EC2 host for one
                patch.setenv("AWS_SECRET_ACCESS_KEY", "x")
                assert read(client, url) == DATA
                assert _read_by_httpx(url) == DATA
                assert _read_by_azure(url) == DATA
                assert _trusted_by_boto3() == str(pem)


def _read_by_httpx(url: str) -> bytes:
    with bounded_httpx.client() as client:
        return client.get(url).content


def _read_by_azure(url: str) -> bytes:
    pytest.importorskip("azure.core")
    from azure.core.rest import HttpRequest

    with closing(transport(lambda seconds: None)) as made:
        response = made.send(HttpRequest("GET", url))
        response.read()
        return bytes(response.content)


def _trusted_by_boto3() -> object:
    pytest.importorskip("boto3")
    verify = Aws("eu-west-1").client("sts")._endpoint.http_session._inner._verify
    assert verify == s3._client()._endpoint.http_session._inner._verify
    return verify


def test_certificates_that_cannot_be_read_name_the_variable(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with pytest.raises(UsageError, match="cannot be read") as caught:
        client.open("https://127.0.0.1:1/", 0, None)
    assert "CURL_CA_BUNDLE" in caught.value.hint


def _certificate(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / "loopback.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


# Secrets


@pytest.mark.parametrize(
    "text",
    [
        "GET https://download.llamameta.net/x?Policy=SECRET&Signature=SECRET failed",
        "/x?Policy=SECRET&Signature=SECRET",
        "token hf_SECRETSECRET is wrong",
        "Authorization: Bearer SECRETSECRET",
        "http://ada:SECRET@proxy.example:3128 refused",
        "X-Amz-Signature=SECRET; X-Amz-Credential=SECRET",
        "https://acct.blob.core.windows.net/c?sv=1&sig=SECRET",
    ],
)
def test_secrets_do_not_survive(text: str) -> None:
    assert "SECRET" not in redact(text)


@given(st.text(alphabet="abcXYZ019-_~%.", min_size=1, max_size=40))
def test_no_query_survives_in_a_url(secret: str) -> None:
    shown = redact(f"cannot open https://host.example/a/b?Signature={secret}&x=1 now")
    assert shown == "cannot open https://host.example/a/b?… now"
    assert plain_url(f"https://u:{secret}@host.example/a?{secret}") == "https://host.example/a"

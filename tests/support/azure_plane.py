"""A loopback Azure: the unmodified SDK talks to real host names and reaches only this process.

A CONNECT proxy ends TLS with a throw-away authority, so ``management.azure.com``,
``login.microsoftonline.com``, ``<account>.blob.core.windows.net`` and
``<endpoint>.<region>.inference.ml.azure.com`` are served from here. Any other
host is refused and remembered in ``leaks``, which a test asserts to be empty.

There are three workspaces: ours, one in the same group, and one in another subscription and
region. What is refused, and in which words, stands in ``azure_refusals``.

What it cannot prove: what the real service validates beyond its published schemas and the
recorded refusals, pulling an image, starting a GPU, and how long any of it takes.
"""

from __future__ import annotations

import datetime
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.azure_arm import Arm
from tests.support.azure_blob import Blobs
from tests.support.azure_refusals import refusal
from tests.support.azure_state import Place
from tests.support.azure_wire import Reply, Request

REGION = "eastus"
TENANT = "11111111-1111-1111-1111-111111111111"
CLIENT = "22222222-2222-2222-2222-222222222222"
SECRET = "a-secret-that-nobody-may-print"
ACCOUNT = "llamahubstore"
SUBSCRIPTION = "44444444-4444-4444-4444-444444444444"
HOME = Place(SUBSCRIPTION, "rg", "ws", REGION, ACCOUNT)
OTHER = Place("66666666-6666-6666-6666-666666666666", "rg2", "ws2", "westeurope", "llamahubstore2")
NEIGHBOUR = Place(SUBSCRIPTION, "rg", "ws3", REGION, "llamahubstore3")  # same group and region
HOSTS = [
    "management.azure.com",
    "login.microsoftonline.com",
    "*.blob.core.windows.net",
    *(f"*.{place.region}.inference.ml.azure.com" for place in (HOME, OTHER)),
]


@dataclass
class Fault:
    """What happens instead of an answer, the next ``times`` times that ``pattern`` matches."""

    pattern: re.Pattern[str]
    times: int
    reply: Reply | None  # None: the connection is cut
    applied: bool  # whether the request takes effect although the answer does not arrive
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event | None = None  # set: the request waits for it


class Plane:
    """The running plane; use as a context manager and give ``environment`` to the client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.leaks: list[str] = []
        self.requests: list[Request] = []
        self.problems: list[str] = []  # bodies that the published schemas reject
        self._tokens: dict[str, tuple[str, float]] = {}  # token → (scope, when it ends)
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self.arm, self.other, self.neighbour = (
            self._workspace(place) for place in (HOME, OTHER, NEIGHBOUR)
        )
        self.arms = (self.arm, self.other, self.neighbour)
        self.blobs = self.arm.blobs
        self.reset()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _proxy(self))
        self._server.daemon_threads = True
        self.authority = folder / "authority.pem"
        self.tls = _server_context(folder, HOSTS)

    def _workspace(self, place: Place) -> Arm:
        names: set[str] = set()
        return Arm(place, Blobs(place.account), self.folder / "mounts", self.problems, names)

    def reset(self) -> None:
        """As it was at first, for the next test."""
        for fault in self._faults:
            if fault.release is not None:
                fault.release.set()
        for seen in (self.leaks, self.requests, self.problems, self._faults):
            seen.clear()
        self._tokens.clear()
        self.token_seconds = 3600
        self.login_refused = False
        for arm in self.arms:
            arm.reset()
            arm.blobs.reset()
            arm.names_elsewhere.clear()

    def serves(self, host: str) -> bool:
        """Whether a host belongs to this plane; every other one is a leak."""
        return host in HOSTS or any(arm.serves(host) for arm in self.arms)

    def __enter__(self) -> Plane:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.reset()
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to live on this plane, a service principal's secret included."""
        proxy = f"http://127.0.0.1:{self._server.server_port}"
        return {
            "HTTPS_PROXY": proxy,
            "https_proxy": proxy,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "REQUESTS_CA_BUNDLE": str(self.authority),  # all that a company's proxy asks for
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_ID": CLIENT,
            "AZURE_CLIENT_SECRET": SECRET,
            "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential",
            "AZURE_SUBSCRIPTION_ID": self.arm.subscription,
            "AZURE_RESOURCE_GROUP": self.arm.group,
            "AZUREML_WORKSPACE_NAME": self.arm.workspace,
        }

    # --- what a test asks for -------------------------------------------------

    def fail(
        self, pattern: str, reply: Reply | None, *, times: int = 1, applied: bool = False
    ) -> Fault:
        """Answer the next requests that match with ``reply`` (None cuts the connection)."""
        return self._add(Fault(re.compile(pattern), times, reply, applied))

    def hold(self, pattern: str, *, applied: bool = False) -> Fault:
        """Keep the next matching request waiting, then cut it; ``reached`` tells it arrived."""
        fault = Fault(re.compile(pattern), 1, None, applied, release=threading.Event())
        return self._add(fault)

    def _add(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def faults(self) -> list[Fault]:
        """Every fault that was asked for; set ``times`` to 0 to end one."""
        return list(self._faults)

    def writes(self) -> list[str]:
        """Requests since the last ``forget`` that change something."""
        reading = ("/listKeys", "/getLogs", "/token", "/listSecrets")
        return [
            request.line
            for request in self.requests
            if request.method not in ("GET", "HEAD")
            and not request.path.endswith(reading)
            and "inference.ml.azure.com" not in request.host
            and "login." not in request.host
        ]

    def forget(self) -> None:
        """Start counting again."""
        self.requests.clear()

    def revoke_tokens(self) -> None:
        """Every token handed out so far is worth nothing from now on."""
        self._tokens.clear()

    # --- how a request is answered -----------------------------------------------

    def answer(self, request: Request) -> Reply | None:
        """The reply; ``None`` cuts the connection."""
        with self._lock:
            self.requests.append(request)
            fault = self._match(request)
        if fault is None:
            return self._route(request)
        if fault.applied:
            self._route(request)
        fault.reached.set()
        if fault.release is not None:
            fault.release.wait(timeout=60)
        return fault.reply

    def _match(self, request: Request) -> Fault | None:
        for fault in self._faults:
            if fault.times > 0 and fault.pattern.search(request.line):
                fault.times -= 1
                return fault
        return None

    def _route(self, request: Request) -> Reply:
        if request.host == "login.microsoftonline.com":
            return self._login(request)
        scope = self._scope(request)
        if request.host == "management.azure.com":
            if scope != "https://management.azure.com/":
                return _unauthorized()
            return self._manage(request)
        arm = next((one for one in self.arms if one.serves(request.host)), self.arm)
        if request.host.endswith(".blob.core.windows.net"):
            if scope != "https://storage.azure.com/":
                return _unauthorized()
            return arm.blobs.handle(request)
        endpoint = request.host.partition(".")[0]
        homes = [one for one in self.arms if one.serves(request.host) and endpoint in one.endpoints]
        return (homes or [arm])[0].score(request, scope)

    def _manage(self, request: Request) -> Reply:
        """By the workspace that the path names, else by one of the subscription."""
        path = f"{request.path.lower()}/"
        for arm in self.arms:
            if path.startswith(f"{arm.root.lower()}/"):
                return self._at(arm, request)
        for arm in self.arms:
            if path.startswith(f"/subscriptions/{arm.subscription}/"):
                return self._at(arm, request)
        if "/microsoft.managedidentity/" in path:  # of any subscription of the tenant
            return self._at(self.arm, request)
        return refusal("no subscription", subscription=path.split("/")[2])

    def _at(self, arm: Arm, request: Request) -> Reply:
        """Names of endpoints are unique in a region, over its workspaces."""
        others = [one for one in self.arms if one is not arm and one.region == arm.region]
        arm.names_elsewhere |= {name for one in others for name in one.endpoints}
        return arm.handle(request)

    def _scope(self, request: Request) -> str | None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        scope, ends = self._tokens.get(token, (None, 0.0))
        return scope if time.monotonic() < ends else None

    def _login(self, request: Request) -> Reply:
        base = f"https://login.microsoftonline.com/{TENANT}"
        if request.path.endswith("/openid-configuration"):
            return Reply(
                200,
                {
                    "token_endpoint": f"{base}/oauth2/v2.0/token",
                    "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                    "issuer": f"{base}/v2.0",
                },
            )
        form = parse_qs(request.body.decode())
        if self.login_refused or form.get("client_secret") != [SECRET]:
            return Reply(
                401,
                {
                    "error": "invalid_client",
                    "error_description": "AADSTS7000215: Invalid client secret provided.",
                },
            )
        scope = form["scope"][0].split()[0].removesuffix(".default")
        token = f"token-{len(self._tokens)}-{time.monotonic_ns()}"
        self._tokens[token] = (scope, time.monotonic() + self.token_seconds)
        return Reply(
            200,
            {"token_type": "Bearer", "expires_in": self.token_seconds, "access_token": token},
        )


def _unauthorized() -> Reply:
    return Reply(
        401,
        {"error": {"code": "ExpiredAuthenticationToken", "message": "The access token expired."}},
        {"WWW-Authenticate": 'Bearer authorization_uri="https://login.microsoftonline.com/x"'},
    )


def _proxy(plane: Plane) -> type[BaseHTTPRequestHandler]:
    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # 40 ms for each answer otherwise

        def do_CONNECT(self) -> None:
            host = self.path.partition(":")[0]
            if not plane.serves(host):
                plane.leaks.append(host)
                self.send_error(502)
                return
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            try:
                tunnel = plane.tls.wrap_socket(self.connection, server_side=True)
            except OSError:
                return
            try:
                _tunnel(plane, host)(tunnel, self.client_address, self.server)
            except OSError:
                pass  # the client went away, which is what some tests do
            finally:
                tunnel.close()

        def log_message(self, *arguments: object) -> None:
            pass

    return Proxy


def _tunnel(plane: Plane, host: str) -> Callable[..., BaseHTTPRequestHandler]:
    class Tunnel(_Answering):
        pass

    Tunnel.plane, Tunnel.host = plane, host
    return Tunnel


class _Answering(BaseHTTPRequestHandler):
    wbufsize = 1 << 16  # head and body in one packet
    protocol_version = "HTTP/1.1"
    plane: Plane
    host: str

    def _serve(self) -> None:
        self._acknowledge()
        length = int(self.headers.get("Content-Length") or 0)
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query, True).items()}
        headers = dict(self.headers.items())
        request = Request(
            self.command, self.host, unquote(url.path), query, headers, self.rfile.read(length)
        )
        reply = self.plane.answer(request)
        if reply is None:
            self.close_connection = True
        else:
            self._send(reply)

    def _acknowledge(self) -> None:
        """Now, not 40 ms later: through a proxy, clients send the body only when the head arrived.

        urllib3 leaves Nagle's algorithm on there, and Linux delays acknowledgements.
        """
        if hasattr(socket, "TCP_QUICKACK"):
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _send(self, reply: Reply) -> None:
        body = reply.body
        headers = dict(reply.headers)
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        whole = body is None or isinstance(body, bytes)
        if whole:
            headers.setdefault("Content-Length", str(len(body or b"")))  # type: ignore[arg-type]
        else:
            headers["Transfer-Encoding"] = "chunked"
        self.send_response(reply.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._write(body)

    def _write(self, body: bytes | Iterator[bytes] | None) -> None:
        if body is None or isinstance(body, bytes):
            self.wfile.write(body or b"")
            return
        for chunk in body:
            self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _serve

    def log_message(self, *arguments: object) -> None:
        pass


def _server_context(folder: Path, hosts: list[str]) -> ssl.SSLContext:
    """A context whose certificate an authority made here has signed for ``hosts``."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)

    def certificate(name: str, issuer: str, key: Any, signer: Any, *more: Any) -> Any:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
        )
        for extension, critical in more:
            builder = builder.add_extension(extension, critical)
        return builder.sign(signer, hashes.SHA256())

    root_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    root_id = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())
    root = certificate(
        "llama-hub test authority",
        "llama-hub test authority",
        root_key,
        root_key,
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (usage, True),
        (root_id, False),
    )
    leaf = certificate(
        "llama-hub test plane",
        "llama-hub test authority",
        leaf_key,
        root_key,
        (x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(root_id), False),
    )
    pem = serialization.Encoding.PEM
    (folder / "authority.pem").write_bytes(root.public_bytes(pem))
    (folder / "leaf.pem").write_bytes(
        leaf.public_bytes(pem)
        + leaf_key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "leaf.pem")
    return context

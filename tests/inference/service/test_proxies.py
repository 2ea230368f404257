"""Behind a proxy: whose word is believed, prefixes, and nginx with the documented settings."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
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


def test_nginx_with_the_documented_settings(shown: Running, tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if nginx is None:
        pytest.skip("NGINX IS NOT INSTALLED: apt-get install nginx-light shows this for real")
    page = Path(__file__).parents[3] / "docs" / "service.md"
    text = page.read_text()
    block = text[text.index("    location /llama/ {") : text.index("Caddy, which")]
    assert "http://127.0.0.1:8000" in block
    free = bind("127.0.0.1", 0)
    port = free.getsockname()[1]
    free.close()
    temporary = "\n".join(
        f"{kind}_temp_path {tmp_path};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    settings = tmp_path / "nginx.conf"
    settings.write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
        f"events {{}} http {{ access_log off; {temporary}\n"
        f"server {{ listen 127.0.0.1:{port};\n"
        f"{block.replace('http://127.0.0.1:8000', shown.url)} }} }}\n"
    )
    child = subprocess.Popen([nginx, "-c", str(settings), "-e", str(tmp_path / "error.log")])
    try:
        base = f"http://127.0.0.1:{port}/llama"
        reached(base)
        named = {"Host": "llama.example", "Origin": "http://llama.example"}
        with httpx.Client(trust_env=False, headers=named) as client:
            body = CALL | {"stream": True}
            with client.stream("POST", f"{base}/v1/completions", json=body) as stream:
                assert stream.status_code == 200
                assert "[DONE]" in stream.read().decode()
            assert "<title>" in client.get(f"{base}/").text
            foreign = client.get(f"{base}/v1/models", headers={"Host": "evil.example"})
            assert foreign.status_code == 403
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(10)


def reached(base: str) -> None:
    """Once nginx listens; its own words if it ends instead."""
    for _ in range(200):
        try:
            assert httpx.get(f"{base}/health", trust_env=False).status_code == 200
            return
        except httpx.ConnectError:
            time.sleep(0.02)
    raise AssertionError("nginx did not listen")

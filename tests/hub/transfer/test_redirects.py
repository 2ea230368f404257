"""Where a redirect may lead: never nearer to this machine than whoever sent it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import closing

import pytest

from llama_hub.errors import AccessError
from llama_hub.hub.transfer import proxy as connections
from llama_hub.hub.transfer.addresses import Zone, literal, zone_of, zone_of_name
from llama_hub.hub.transfer.http import Client
from llama_hub.hub.transfer.remote_file import Transient
from tests.support.hostile_client import no_proxies, read  # noqa: F401 - a fixture
from tests.support.http_server import Server
from tests.support.raw_server import PATIENCE, raw


@pytest.fixture
def client() -> Iterator[Client]:
    with closing(Client(timeout=PATIENCE)) as made:
        yield made


@pytest.mark.parametrize(
    "location",
    ["http://[::1", "http://", "//", "http://a:b/", "http://a:99999/", "http://a\0b/", "\x1b[2J",
     "file:///etc/passwd", "gopher://a/", "http://a/ b", "javascript:1", "http:///x"],
)  # fmt: skip
def test_a_redirect_to_no_address_is_refused(client: Client, location: str) -> None:
    with raw(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n".encode()) as server:
        with pytest.raises((AccessError, Transient)) as caught:
            read(client, f"{server.url}/file")
    assert "\x1b" not in repr(str(caught.value)) or location.isprintable()


LINK_LOCAL = ["http://169.254.169.254/latest/meta-data/", "http://[fe80::1]/", "http://2852039166/"]


@pytest.mark.parametrize("location", LINK_LOCAL)
def test_no_redirect_leads_to_a_link_local_address(client: Client, location: str) -> None:
    with Server({}) as server:
        server.fault("file", "status", status=302, headers={"Location": location})
        with pytest.raises(AccessError, match="link-local"):
            read(client, f"{server.url}/file")


NEAR = [
    "127.0.0.1", "127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "0.0.0.0", "[::]", "localhost", "localhost.", "10.0.0.1", "192.168.1.1",
    "172.16.0.9", "100.100.100.200", "169.254.169.254", "[fd00:ec2::254]", "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]", "１２７.0.0.1", "metadata.google.internal", "nas.local", "intranet",
]  # fmt: skip


@pytest.mark.parametrize("host", NEAR)
def test_no_redirect_leads_from_a_public_host_to_what_is_near(
    client: Client, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """A proxy on loopback plays the internet: it answers for a public name."""
    with Server({"secret": b"secret"}) as proxy:
        port = proxy.url.rpartition(":")[2]
        proxy.fault(
            "file", "status", status=302, headers={"Location": f"http://{host}:{port}/secret"}
        )
        monkeypatch.setenv("http_proxy", proxy.url)
        with pytest.raises((AccessError, Transient)) as caught:
            read(client, "http://mirror.example/file")
        assert [seen.path for seen in proxy.seen] == ["/file"]
    assert host.isascii() is False or isinstance(caught.value, AccessError)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_host_past_the_proxy_is_judged_by_the_address_that_it_resolves_to(
    client: Client, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """Its name says nothing; what is connected to does."""
    with Server({"secret": b"secret"}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "rebound.example")
        real = connections.dial
        monkeypatch.setattr(
            connections,
            "dial",
            lambda name, *rest: real(host if "rebound" in name else name, *rest),
        )
        port = proxy.url.rpartition(":")[2]
        where = f"http://rebound.example:{port}/secret"
        proxy.fault("file", "status", status=302, headers={"Location": where})
        with pytest.raises(AccessError, match="loopback"):
            read(client, "http://mirror.example/file")
        assert read(client, where) == b"secret"  # a person's own choice
        proxy.fault("file", "status", status=302, headers={"Location": where})
        with pytest.raises(AccessError, match="loopback"):  # nor over the kept connection
            read(client, "http://mirror.example/file")


def test_a_private_host_may_send_on_to_the_internet_and_to_its_like() -> None:
    assert zone_of_name("cdn.example") <= zone_of_name("10.1.2.3")
    with Server({"file": b"data"}) as server, closing(Client(timeout=5)) as client:
        server.fault("a", "status", status=302, headers={"Location": f"{server.url}/file"})
        assert read(client, f"{server.url}/a") == b"data"


@pytest.mark.parametrize(
    ("address", "zone"),
    [
        ("8.8.8.8", Zone.PUBLIC), ("2606:4700::1111", Zone.PUBLIC), ("::ffff:8.8.8.8", Zone.PUBLIC),
        ("10.0.0.1", Zone.PRIVATE), ("100.64.0.1", Zone.PRIVATE), ("fc00::1", Zone.PRIVATE),
        ("198.18.0.1", Zone.PRIVATE), ("127.8.8.8", Zone.LOOPBACK), ("::1", Zone.LOOPBACK),
        ("0.1.2.3", Zone.LOOPBACK), ("::ffff:127.0.0.1", Zone.LOOPBACK), ("::", Zone.LOOPBACK),
        ("169.254.169.254", Zone.LINK_LOCAL), ("fe80::1", Zone.LINK_LOCAL),
        ("168.63.129.16", Zone.LINK_LOCAL), ("224.0.0.1", Zone.LINK_LOCAL),
        ("::7f00:1", Zone.LOOPBACK), ("::a9fe:a9fe", Zone.LINK_LOCAL),
    ],
)  # fmt: skip
def test_how_near_an_address_is(address: str, zone: Zone) -> None:
    assert zone_of(ipaddress.ip_address(address)) == zone


def test_a_name_is_no_address() -> None:
    for name in ("example.org", "1.2.3.4.example", "", "a" * 300, "\0", "1.2.3.4.5"):
        assert literal(name) is None
